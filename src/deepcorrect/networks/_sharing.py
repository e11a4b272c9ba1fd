"""A copy of a network that shares its parameters and buffers, with some modules replaced."""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import TracingContext

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
        if isinstance(site, nn.Linear | nn.LayerNorm):
            # torch's transformer layers use the weights of these layers without calling them,
            # unless one has a hook
            self.register_forward_hook(_no_change)

    def __getattr__(self, name: str) -> Any:
        """Returns the replaced module's attribute if this module has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_modules" not in self.__dict__ or "site" not in self._modules:
                raise  # during construction, copying or unpickling
            return getattr(self._modules["site"], name)

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class that `isinstance` sees beside this one: that of the replaced module.

        A network may ask what its layers are while it runs. `torch.compile` must see this class,
        as it takes the forward pass of the class that it sees.
        """
        if TracingContext.try_get() is not None:
            return type(self)
        modules = self.__dict__.get("_modules") or {}
        return type(modules["site"]) if modules.get("site") is not None else type(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles this module by its own class."""
        del protocol
        return object.__new__, (type(self),), self.__dict__

    # Python looks these up in the class, not with `__getattr__`

    def __iter__(self) -> Iterator[Any]:
        return iter(self.site)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def __len__(self) -> int:
        return len(self.site)  # pyright: ignore[reportArgumentType]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self.site[key]  # pyright: ignore[reportIndexIssue]

    def __contains__(self, key: Any) -> bool:
        return key in self.site  # pyright: ignore[reportOperatorIssue]


def _no_change(*call: Any) -> None:
    """A forward hook that keeps the output."""


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
    mode. Every reference to a replaced module, including those in lists, bound methods and
    closures, leads to its replacement. Parts that `torch.compile` compiled in place run uncompiled.
    Attributes that cannot be copied, and TorchScript modules, are shared.

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
                if name != "_compiled_call_impl"  # would call the original
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
    """Copies a value as `copy.deepcopy` does, but also functions whose closures lead to modules.

    Of containers with an item that cannot be copied, the other items are copied.
    """
    if id(value) in memo:
        return memo[id(value)]
    kind, twin = type(value), value
    if kind is list:
        memo[id(value)] = twin = []
        twin += [_copied(each, memo) for each in value]
    elif kind in (dict, OrderedDict):
        memo[id(value)] = twin = kind()
        twin.update({_copied(key, memo): _copied(each, memo) for key, each in value.items()})
    elif kind is tuple:
        twin = tuple(_copied(each, memo) for each in value)
    elif kind is partial:
        args, keywords = _copied(value.args, memo), _copied(value.keywords, memo)
        twin = partial(_copied(value.func, memo), *args, **keywords)
    elif kind is MethodType:
        twin = MethodType(_copied(value.__func__, memo), _copied(value.__self__, memo))
    elif kind is weakref.ref:
        twin = weakref.ref(memo[id(value())]) if id(value()) in memo else value
    elif kind is FunctionType:
        twin = _rebound(value, memo)
    else:
        count = len(memo)
        try:
            return copy.deepcopy(value, memo)
        except Exception:  # locks, files, C++ objects: deepcopy fails at them in many ways
            for key in list(memo)[count:]:  # parts that were copied incompletely
                del memo[key]
    return twin


def _rebound(function: FunctionType, memo: dict[int, Any]) -> Callable[..., Any]:
    """A copy of a function whose closure refers to the copies of modules.

    A function that does not lead to a module is returned itself.
    """
    if not _leads_to_module(function, memo, set()):
        return function
    compiled = vars(function).get("_torchdynamo_orig_callable")
    if compiled is not None:
        return _copied(compiled, memo)
    cells = tuple(CellType() for _ in function.__closure__ or ())
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, closure=cells or None
    )
    memo[id(function)] = twin
    for cell, known in zip(cells, function.__closure__ or (), strict=True):
        for content in _contents(known):
            leads = _leads_to_module(content, memo, set())
            cell.cell_contents = _copied(content, memo) if leads else content
    twin.__defaults__ = _copied(function.__defaults__, memo)
    twin.__kwdefaults__ = _copied(function.__kwdefaults__, memo)
    twin.__dict__.update(_copied(vars(function), memo))
    return twin


def _leads_to_module(value: Any, memo: Mapping[int, Any], seen: set[int]) -> bool:
    """Whether a copied module can be reached through functions and containers."""
    if id(value) in seen:
        return False
    seen.add(id(value))
    parts: list[Any] = []
    if isinstance(value, nn.Module):
        return id(value) in memo
    if isinstance(value, FunctionType):
        parts = [each for cell in value.__closure__ or () for each in _contents(cell)]
        parts += [value.__defaults__, value.__kwdefaults__, vars(value)]
    elif isinstance(value, MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, list | tuple | set):
        parts = list(value)
    elif isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, weakref.ref):
        parts = [value()]
    return any(_leads_to_module(part, memo, seen) for part in parts)


def _contents(cell: CellType) -> list[Any]:
    """The content of a closure's cell; empty before the variable is set."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []
