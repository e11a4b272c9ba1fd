"""How the names in a weights file fit a network: the prefix to strip, and what is left over."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

State = Mapping[str, Tensor]
Rename = Callable[[State, nn.Module], State]
"""Converts the names in a source's older or foreign files to the network's names."""

TRANSPARENT = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Wrappers that add a part to the names anywhere, but change nothing else."""
COUNTERS = ("num_batches_tracked",)
"""Tensors that inference does not read, and that older files lack."""
SPARE = ("total_ops", "total_params", "n_averaged")
"""What tools that count operations or average weights leave among the tensors."""

NOT_YET = (UninitializedParameter, UninitializedBuffer)
FOREIGN = LookupError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError
"""What a source's conversion raises for another network's file."""


@dataclass(frozen=True, eq=False)
class Fit:
    """How a state dict fits a network, once a prefix is stripped from its names.

    Attributes:
        prefix: The prefix, such as `module.`; empty if the names are taken as they are.
        state: The tensors under the network's names.
        missing: The network's tensors that the state lacks.
        surplus: The state's tensors under the prefix that have no place in the network.
        shapes: The network's tensors whose shapes differ.
        outside: The names in the file that do not begin with the prefix.
        error: What PyTorch says of tensors that it cannot copy; empty if it can.
    """

    prefix: str
    state: State
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    shapes: tuple[str, ...]
    outside: tuple[str, ...]
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether every tensor of the network is there, in its shape."""
        return not (self.missing or self.shapes or self.error)

    @property
    def exact(self) -> bool:
        """Whether besides no tensor under the prefix is left over."""
        return self.complete and not self.surplus

    def numbers(self, own: Mapping[str, Any]) -> list[str]:
        """The single numbers at the top of the state that are not the network's."""
        return [n for n, tensor in self.state.items() if n not in own and _is_number(n, tensor)]


def fits(network: nn.Module, state: State, rename: Rename | None) -> list[Fit]:
    """How a state dict fits with each prefix that it may have: complete ones, or the best alone.

    Args:
        network: The network, which is not changed.
        state: The state dict, its names as in the file.
        rename: Tried with each prefix if no names fit without it.
    """
    shell, own = _shell(network), network.state_dict()
    readings = [
        reading
        for prefix in _prefixes(state, own)
        for reading in _readings(_stripped(state, prefix), own, prefix)
    ]
    tried = [_fit(shell, own, reading, prefix, state) for prefix, reading in readings]
    found = [fit for fit in tried if fit.complete]
    if not any(fit.exact for fit in found) and rename is not None:
        for prefix, reading in readings:
            # for another network's file this fails, and the best plain reading is explained
            with contextlib.suppress(*FOREIGN):
                fit = _fit(shell, own, rename(reading, network), prefix, state)
                if fit.exact:
                    return [fit]
    found.sort(key=lambda fit: not fit.exact)
    # several readings of the same tensors are one
    different = {_tensors_of(own, fit): fit for fit in reversed(found)}
    found = [fit for fit in found if fit in different.values()]
    return found or [min(tried, key=lambda fit: len(fit.missing) + len(fit.shapes))]


def _tensors_of(own: Mapping[str, Any], fit: Fit) -> frozenset[int]:
    used = {id(fit.state[name]) for name in own if name in fit.state}
    return frozenset(used or map(id, fit.state.values()))


def load_fit(network: nn.Module, fit: Fit) -> str:
    """Loads the tensors; PyTorch's own rules, such as a module's hooks, apply.

    Returns:
        What PyTorch says of tensors that it cannot copy; empty if all are loaded.
    """
    return _load(network, fit.state)[2]


def _prefixes(state: State, own: Mapping[str, Any]) -> list[str]:
    """The prefixes after which many names are the network's, and those that all names have."""
    known = {_plain(name) for name in own} | set(own)
    count: Counter[str] = Counter({"": 0})
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            rest = ".".join(parts[start:])
            if rest in known or _plain(rest) in known:
                count[".".join([*parts[:start], ""]) if start else ""] += 1
    common = _common_prefixes(state)
    frequent = [prefix for prefix, times in count.most_common(32) if 2 * times >= len(own)]
    return list(dict.fromkeys(["", *frequent, *common]))


def _common_prefixes(names: Mapping[str, Any]) -> list[str]:
    """The prefixes, of whole parts, that all the names have: at most four."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1 or len(shared) == 4:
            break
        shared.append((shared[-1] if shared else "") + parts[0] + ".")
    return shared


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in TRANSPARENT)


def _stripped(state: State, prefix: str) -> State:
    """The tensors whose names begin with the prefix, without it; the format's versions likewise."""
    if not prefix:
        return state
    found = OrderedDict(
        (name.removeprefix(prefix), tensor)
        for name, tensor in state.items()
        if name.startswith(prefix)
    )
    versions = getattr(state, "_metadata", None)
    if versions is not None:
        inside = {key + ".": value for key, value in versions.items()}
        found._metadata = {  # pyright: ignore[reportAttributeAccessIssue]
            key.removeprefix(prefix).removesuffix("."): value
            for key, value in inside.items()
            if key.startswith(prefix)
        }
    return found


def _readings(state: State, own: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, State]]:
    """The state under its names; without transparent parts; and under a prefix of the network's."""
    yield prefix, state
    places = {_plain(name): name for name in own}
    if len(places) == len(own) and any(
        part in TRANSPARENT for names in (own, state) for name in names for part in name.split(".")
    ):
        plain = {_plain(name): tensor for name, tensor in state.items()}
        if len(plain) == len(state):
            yield prefix, {places.get(name, name): tensor for name, tensor in plain.items()}
    if not state.keys() & own.keys():
        for added in _common_prefixes(own):
            if not prefix.endswith(added) and any(added + name in own for name in state):
                yield prefix, {added + name: tensor for name, tensor in state.items()}


def _fit(shell: nn.Module, own: Mapping[str, Any], state: State, prefix: str, whole: State) -> Fit:
    missing, surplus, error = _load(shell, state)
    tied = _tied(own, state)
    shapes = tuple(
        name
        for name, tensor in own.items()
        if isinstance(tensor, Tensor)
        and not isinstance(tensor, NOT_YET)
        and isinstance(given := state.get(name), Tensor)
        and given.shape != tensor.shape
    )
    return Fit(
        prefix,
        state,
        tuple(name for name in missing if not name.endswith(COUNTERS) and name not in tied),
        tuple(n for n in surplus if not n.endswith(SPARE) and not _is_number(n, state[n])),
        shapes if error else (),
        tuple(n for n in whole if not n.startswith(prefix) and not n.endswith(SPARE)),
        error,
    )


def _is_number(name: str, tensor: Any) -> bool:
    """Whether an entry is a single number that belongs to no module, such as `epoch`."""
    return "." not in name and isinstance(tensor, Tensor) and not tensor.dim()


def _tied(own: Mapping[str, Any], state: State) -> set[str]:
    """The network's names for tensors that the state has under another of their names."""

    def place(tensor: Tensor) -> tuple[Any, ...]:
        shape, strides = tuple(tensor.shape), tensor.stride()
        return tensor.device, tensor.data_ptr(), tensor.dtype, shape, strides

    tensors = {
        name: place(tensor)
        for name, tensor in own.items()
        if isinstance(tensor, Tensor)
        and not isinstance(tensor, NOT_YET)
        and tensor.numel()
        and not tensor.is_meta
    }
    there = {tensors[name] for name in state if name in tensors}
    return {name for name, where in tensors.items() if where in there}


def _shell(network: nn.Module) -> nn.Module:
    """A copy of the network whose tensors have no values, for trials.

    Loading into it changes nothing, and runs the hooks by which modules accept older names. A
    network that cannot be copied is tried itself.
    """
    memo: dict[int, Any] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        if not isinstance(tensor, NOT_YET):
            empty = tensor.detach().to("meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    try:
        return copy.deepcopy(network, memo)
    except Exception:  # whatever the user's classes raise when they are copied
        return network


def _load(network: nn.Module, state: State) -> tuple[list[str], list[str], str]:
    """Loads a state; the names that PyTorch misses, those that it did not expect, and its error."""
    given = OrderedDict(state)
    # some layers read older files by this version of the format, which safetensors does not store
    versions = getattr(state, "_metadata", None)
    if versions is None:
        versions = getattr(network.state_dict(), "_metadata", None)
    if versions is not None:
        given._metadata = versions  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with warnings.catch_warnings(action="ignore"):  # tensors without values take none
            missing, surplus = network.load_state_dict(given, strict=False)
    except Exception as error:  # a module's own hooks may raise anything
        own = network.state_dict()
        left, spare = [n for n in own if n not in state], [n for n in state if n not in own]
        return left, spare, str(error).strip() or type(error).__name__
    return missing, surplus, ""
