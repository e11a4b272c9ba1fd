"""The state dicts that a weights file holds, and which of them is taken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepcorrect.models._fit import Fit, Rename, State, fits
from deepcorrect.runtime import InputError, StandIn, console, unknown

PREFERRED = ("state_dict_ema", "model_ema")
"""The averaged weights that timm takes where a checkpoint has them."""
USUAL = ("state_dict", "model", "model_state_dict")
"""The usual names of the one state that a checkpoint holds, in timm's order."""
DEEPEST = 4
LONGEST = 16
"""The longest list in which state dicts are looked for."""
TOP = "."
"""The name of a state that lies at the top of the file, under no key and no prefix."""


@dataclass(frozen=True)
class Held:
    """A state dict in a file, with one way in which its names may be read.

    Attributes:
        key: The keys that lead to the state dict, with dots between them; empty at the top.
        fit: How it fits the network.
    """

    key: str
    fit: Fit

    @property
    def name(self) -> str:
        """The name by which the user chooses this state."""
        return ".".join(filter(None, (self.key, self.fit.prefix.rstrip(".")))) or TOP

    @property
    def rank(self) -> int:
        """The order of choice: timm's averaged weights, other averages, and the usual names."""
        parts = self.name.split(".")
        for rank, known in enumerate(PREFERRED):
            if known in parts:
                return rank
        if any("ema" in re.split(r"[_.\-]", part.lower()) for part in parts):
            return len(PREFERRED)
        for rank, known in enumerate(USUAL, len(PREFERRED) + 1):
            if known == self.key:
                return rank
        return len(PREFERRED) + len(USUAL) + 1

    @property
    def is_main(self) -> bool:
        """Whether most of the state dict's tensors are the network's."""
        outside = len(self.fit.outside)
        return self.fit.exact and (not outside or len(self.fit.state) > outside)


def find_states(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """The state dicts in a checkpoint, each with the keys that lead to it.

    A state dict maps names to tensors or arrays; a module's `_extra_state` may be anything, and so
    may what lies beside the tensors (`epoch`) where no state dict lies deeper. The entries of a
    short list have their numbers as keys.
    """
    entries = _entries(value)
    if entries is None or "param_groups" in entries:  # an optimizer's
        return
    tensors = {
        name: entry
        for name, entry in ((name, _as_tensor(entry)) for name, entry in entries.items())
        if isinstance(entry, Tensor) or name.endswith("_extra_state")
    }
    is_whole = isinstance(value, Mapping) and len(tensors) == len(value)
    if is_whole and (tensors or not depth):
        is_same = all(value.get(name) is entry for name, entry in tensors.items())
        yield key, value if is_same else tensors  # which knows the versions of its modules
        return
    is_deeper = False
    if depth < DEEPEST:
        for name, entry in entries.items():
            for found in find_states(entry, f"{key}.{name}" if key else name, depth + 1):
                is_deeper = True
                yield found
    if tensors and not is_deeper and isinstance(value, Mapping):
        yield key, tensors


def _entries(value: Any) -> dict[str, Any] | None:
    """The entries of a mapping or a short list, by names in text; None for anything else."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple) and len(value) <= LONGEST:
        items = enumerate(value)
    else:
        return None
    return {n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n): e for n, e in items}


def _as_tensor(entry: Any) -> Any:
    """An array of numbers as a tensor; anything else as it is."""
    if not isinstance(entry, np.ndarray) or entry.dtype.kind not in "biufc":
        return entry
    return torch.from_numpy(entry.astype(entry.dtype.newbyteorder("="), order="C"))


def choose_state(
    network: nn.Module, value: Any, path: Path, rename: Rename | None, wanted: str | None
) -> Fit:
    """The state dict of a file that fits the network.

    Args:
        network: The network.
        value: The file's content.
        path: The file, for messages.
        rename: Converts a source's older names; see `fits`.
        wanted: The name of the state; None chooses the one that fits, and says which if there are
            several.

    Returns:
        The fit, which is exact; or the best one, for an explanation, if none is.

    Raises:
        InputError: The file holds no state dict, or several that fit and none that is preferred.
    """
    states = list(find_states(value))
    if not states:
        raise InputError(_no_state(path, value))
    held = [Held(key, fit) for key, state in states for fit in fits(network, state, rename)]
    if wanted is not None:
        return _wanted(held, path, wanted).fit
    fitting = [each for each in held if each.is_main and not _is_doubtful(each, held)]
    complete = [each for each in held if each.fit.complete]
    if not fitting:
        if len(complete) > 1:
            raise _undecided(complete, path)
        if complete and complete[0].fit.exact:
            raise _refused_part(network, complete[0], path)
        return min(complete or held, key=lambda each: (not each.fit.complete, *_distance(each))).fit
    _say_nameless(value, path)
    return _preferred(fitting, held, path).fit


def _is_doubtful(each: Held, held: list[Held]) -> bool:
    """Whether the same state dict also has the whole network under another prefix."""
    same = [one for one in held if one.key == each.key and one.fit.complete]
    return len(same) > 1


def _distance(each: Held) -> tuple[int, int]:
    fit = each.fit
    return len(fit.missing) + len(fit.shapes), len(fit.surplus) + len(fit.outside)


def _preferred(fitting: list[Held], held: list[Held], path: Path) -> Held:
    """The state that is taken, after a note if there was a choice."""
    taken = min(fitting, key=lambda each: each.rank)
    equals = [each for each in fitting if each.rank == taken.rank]
    if any(not _equal(each.fit, taken.fit) for each in equals):
        raise _undecided(equals, path)
    others = [each.name for each in fitting if not _equal(each.fit, taken.fit)]
    unfit = [each.name for each in held if each.rank < taken.rank and not each.fit.complete]
    if others or unfit:
        said = [f"{', '.join(others)} would fit, too"] if others else []
        said += [f"{', '.join(unfit)} does not fit"] if unfit else []
        console().print(
            f"{path} holds several states: {taken.name!r} is taken ({'; '.join(said)}); "
            "--state NAME takes another"
        )
    if taken.fit.outside:
        _say_left_out(taken.fit, path)
    return taken


def _say_left_out(fit: Fit, path: Path) -> None:
    shown = ", ".join(fit.outside[:3]) + (", ..." if len(fit.outside) > 3 else "")
    console().print(
        f"{path}: the network's tensors are those under {fit.prefix!r}; "
        f"{len(fit.outside)} others are left out ({shown})"
    )


def _equal(first: Fit, second: Fit) -> bool:
    """Whether two states have the same tensors, as where one is stored under two keys."""
    if first is second:
        return True
    return first.state.keys() == second.state.keys() and all(
        tensor is (other := second.state[name])
        or (
            isinstance(tensor, Tensor)
            and isinstance(other, Tensor)
            and tensor.dtype == other.dtype
            and torch.equal(tensor, other)
        )
        for name, tensor in first.state.items()
    )


def _wanted(held: list[Held], path: Path, wanted: str) -> Held:
    """The state with a name; a name of keys alone stands for the best prefix below them."""
    named = [each for each in held if each.name == wanted]
    named = named or [each for each in held if (each.key or TOP) == wanted]
    if not named:
        raise unknown(f"state of {path}", wanted, dict.fromkeys(each.name for each in held))
    exact = [each for each in named if each.fit.exact]
    if len(exact) > 1:
        raise _undecided(exact, path)
    taken = exact[0] if exact else min(named, key=_distance)
    if exact and taken.fit.outside:
        _say_left_out(taken.fit, path)
    return taken


def _undecided(several: list[Held], path: Path) -> InputError:
    names = sorted(each.name for each in several)
    return InputError(
        f"{path} holds the network's weights {len(names)} times, as {', '.join(names)}: choose one "
        f"with --state {names[-1]} (in Python, state={names[-1]!r})"
    )


def _refused_part(network: nn.Module, held: Held, path: Path) -> InputError:
    fit = held.fit
    return InputError(
        f"{path} holds the weights of another network than this {type(network).__name__}: all of "
        f"this one's names are there under {fit.prefix!r}, but {len(fit.outside)} others are not "
        f"under it. If they are not needed, give --state {held.name} (in Python, "
        f"state={held.name!r})"
    )


def _no_state(path: Path, value: Any) -> str:
    message = (
        f"{path} is not a state dict: it must map parameter names to tensors, "
        f"but holds {_describe(value)}"
    )
    if _holds_key(value, "param_groups"):
        message += ". It may be the state of an optimizer alone: give the network's"
    entries = value.values() if isinstance(value, Mapping) else value
    classes = [each.origin for each in _iterated(entries) if isinstance(each, StandIn)]
    if classes:
        message += (
            f". Its {classes[0]} is not read, because that would run code. If you trust the file, "
            "save its tensors alone where it was made: torch.save(network.state_dict(), FILE)"
        )
    return message


def _holds_key(value: Any, key: str) -> bool:
    """Whether a mapping has a key, or one of the mappings in it has."""
    if not isinstance(value, Mapping):
        return False
    return key in value or any(isinstance(v, Mapping) and key in v for v in value.values())


def _say_nameless(value: Any, path: Path, key: str = "") -> None:
    """Names averaged weights that are stored as a list, without names, and are not read."""
    for name, entry in value.items() if isinstance(value, Mapping) else ():
        within = f"{key}.{name}" if key else str(name)
        if isinstance(entry, Mapping):
            _say_nameless(entry, path, within)
        elif (
            isinstance(entry, list | tuple)
            and len(entry) > 1
            and all(isinstance(each, Tensor) for each in entry)
            and re.search(r"(?:^|[_.])(?:ema|shadow|averaged?|avg|swa)", within.lower())
        ):
            console().print(
                f"{path}: {within} holds averaged weights without names, which are not read. To "
                "use them, copy them into the network where it was made, and save its state dict"
            )


def _iterated(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, Tensor) else []


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if isinstance(entry, StandIn):
                return f"{entry.origin} under {name!r}"
            if not isinstance(name, str) or not isinstance(entry, Tensor):
                return f"{type(entry).__name__} under {name!r}"
    return type(value).__name__
