"""A copy of a network that shares its parameters and buffers, with some modules replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Replace = Callable[[nn.Module], nn.Module]
"""Copy of a module -> what takes its place."""


class Replacement(nn.Module):
    """A module that takes the place of another, which it holds.

    Code that looks at the other's attributes (its weight, its stride) finds them here.

    Args:
        site: the module whose place it takes.
    """

    def __init__(self, site: nn.Module) -> None:
        super().__init__()
        self.site = site
        self.training = False

    def __getattr__(self, name: str) -> Any:
        """The attribute of the module whose place this takes, where this has none of its own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_modules" not in self.__dict__ or "site" not in self._modules:
                raise  # while it is made, copied or unpickled
            return getattr(self._modules["site"], name)


def original(module: nn.Module) -> nn.Module:
    """The module itself, or the one whose place it takes."""
    while isinstance(module, Replacement):
        module = module.site
    return module


def shared_copy(
    network: nn.Module, replace: Mapping[nn.Module, Replace] | None = None
) -> tuple[nn.Module, dict[nn.Module, nn.Module]]:
    """Copies a network's modules, but not its tensors, and replaces some of the modules.

    Each copied module holds the very dictionaries of parameters and buffers of its original. So
    the copy follows the original through `.to`, `load_state_dict` and optimiser steps, takes no
    memory of its own, and has its own hooks, flags and training mode (it is in inference mode).
    Every reference to a replaced module, also from a list or a bound method, leads to what replaces
    it. Attributes that cannot be copied, and TorchScript modules, are shared.

    Args:
        network: any module; it is not changed.
        replace: for each module to replace, what makes the replacement from the module's copy.
            Modules inside may be replaced, too.

    Returns:
        The copy, and for each module of the network what stands in its place.

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
    """Every module once, parents first; those inside TorchScript modules are not looked at."""
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
    """Every tensor that a module holds, registered or not."""
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            yield from (*module.parameters(), *module.buffers())
            continue
        held = (*module._parameters.values(), *module._buffers.values(), *module.__dict__.values())
        yield from (value for value in held if isinstance(value, Tensor))


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # locks, files, C++ objects: deepcopy fails at them in many ways
        return value
