"""A copy of a network that shares its parameters and buffers, with some modules replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Replace = Callable[[nn.Module], nn.Module]
"""A function of a module's copy that returns the replacement."""


class Replacement(nn.Module):
    """A module that contains another module and takes its place in a network.

    Attributes of the other module (such as its weight or stride) can be read from this one.

    Args:
        site: The module that is replaced.
    """

    def __init__(self, site: nn.Module) -> None:
        super().__init__()
        self.site = site
        self.training = False

    def __getattr__(self, name: str) -> Any:
        """Returns the replaced module's attribute if this module has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_modules" not in self.__dict__ or "site" not in self._modules:
                raise  # during construction, copying or unpickling
            return getattr(self._modules["site"], name)


def original(module: nn.Module) -> nn.Module:
    """The module itself, or the module that it replaces."""
    while isinstance(module, Replacement):
        module = module.site
    return module


def shared_copy(
    network: nn.Module, replace: Mapping[nn.Module, Replace] | None = None
) -> tuple[nn.Module, dict[nn.Module, nn.Module]]:
    """Copies a network's modules, but not its tensors, and replaces some of the modules.

    Each copied module uses the same dictionaries of parameters and buffers as its original. The
    copy therefore follows the original through `.to`, `load_state_dict` and optimiser steps and
    needs no memory for tensors. It has its own hooks, flags and training mode, and is in inference
    mode. Every reference to a replaced module, including those in lists and bound methods, leads to
    its replacement. Attributes that cannot be copied, and TorchScript modules, are shared.

    Args:
        network: Any module. It is not changed.
        replace: For each module to replace, a function from the module's copy to its replacement.
            Modules inside a replaced module may be replaced as well.

    Returns:
        The copy, and the copy or the replacement of each module of the network.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        >>> twin, places = shared_copy(network, {network[0]: Replacement})
        >>> twin[0].weight is network[0].weight, isinstance(twin[0], Replacement)
        (True, True)
    """
    modules = list(_modules(network))
    memo: dict[int, Any] = {id(memo_key): memo_key for memo_key in _tensors(modules)}
    copies: dict[nn.Module, nn.Module] = {}
    places: dict[nn.Module, nn.Module] = {}
    for module in modules:
        scripted = isinstance(module, torch.jit.ScriptModule)
        copies[module] = module if scripted else object.__new__(type(module))
        made = (replace or {}).get(module)
        places[module] = made(copies[module]) if made else copies[module]
        memo[id(module)] = places[module]
    for module, twin in copies.items():
        if twin is module:
            continue
        shared = {"_parameters", "_buffers", *getattr(module, "shared_attributes", ())}
        twin.__dict__.update(
            {
                name: value if name in shared else _copied(value, memo)
                for name, value in module.__dict__.items()
            }
        )
        twin.__dict__["training"] = False
    return places[network], places


def _modules(network: nn.Module) -> Iterator[nn.Module]:
    """Yields every module once, parents first, without those inside TorchScript modules."""
    seen: set[nn.Module] = set()
    waiting = [network]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        yield module
        if not isinstance(module, torch.jit.ScriptModule):
            waiting += reversed([child for child in module._modules.values() if child is not None])


def _tensors(modules: list[nn.Module]) -> Iterator[Tensor]:
    """Yields every tensor of the modules, registered or not."""
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            yield from (*module.parameters(), *module.buffers())
            continue
        values = (
            *module._parameters.values(),
            *module._buffers.values(),
            *module.__dict__.values(),
        )
        yield from (value for value in values if isinstance(value, Tensor))


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # locks, files, C++ objects: deepcopy fails at them in many ways
        return value
