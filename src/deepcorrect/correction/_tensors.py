"""The tensors of an adapter: their shapes, checked before any is made, and their values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepcorrect.correction._config import AdapterConfig
from deepcorrect.correction._units import CorrectionUnit
from deepcorrect.runtime import InputError

Shapes = Mapping[str, tuple[int, ...]]
OWN_WEIGHTS = "weights."
VARIANCES = "running_var"


def check_shapes(config: AdapterConfig, given: Shapes) -> None:
    """Checks the tensors in a file against the units of a configuration, which are not made.

    Args:
        config: The configuration.
        given: The shapes of the file's tensors by name.

    Raises:
        InputError: A tensor is missing, left over, or of another shape.
    """
    for site, entry in config.sites.items():
        if entry.unit is None:
            continue
        start = f"{site}/"
        shapes = {
            name.removeprefix(start): shape
            for name, shape in given.items()
            if name.startswith(start) and not name.startswith(f"{start}{OWN_WEIGHTS}")
        }
        with torch.device("meta"):  # tensors with shapes and without values
            unit = CorrectionUnit(len(entry.filters), entry.unit)
        expected = {name: tuple(each.shape) for name, each in unit.state_dict().items()}
        check_names(expected, shapes, start)
        for name, shape in shapes.items():
            if shape != expected[name]:
                raise _shape(f"{start}{name}", shape, expected[name])


def check_names(expected: Mapping[str, object], given: Mapping[str, object], start: str) -> None:
    """Checks that the names of tensors are those that an adapter has.

    Raises:
        InputError: A tensor is missing or left over.
    """
    odd = sorted(f"{start}{name}" for name in expected.keys() ^ given.keys())[:4]
    if odd:
        raise InputError(f"the adapter's tensors do not match its units: {', '.join(odd)}")


def check_values(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Checks that tensors can take the place of an adapter's, before any of them does.

    Args:
        own: The adapter's tensors by name.
        given: Those to take their place, some or all.

    Raises:
        InputError: A tensor has another shape or another kind of numbers, is not finite in the type
            of the adapter's, or is a variance below zero.
    """
    for name in own.keys() & given.keys():
        mine, value = own[name], given[name]
        if mine.shape != value.shape:
            raise _shape(name, tuple(value.shape), tuple(mine.shape))
        if value.is_complex() or value.is_floating_point() != mine.is_floating_point():
            raise InputError(
                f"adapter tensor {name!r} has {_kind(value)} values, but its unit needs "
                f"{_kind(mine)}"
            )
        if not mine.is_floating_point():
            continue
        cast = value.detach().to(mine.dtype)
        if not bool(cast.isfinite().all()):
            raise InputError(
                f"adapter tensor {name!r} has values that are NaN or infinite in {_kind(mine)}: "
                "the training that wrote it may have diverged"
            )
        if name.endswith(VARIANCES) and bool((cast < 0).any()):
            raise InputError(f"adapter tensor {name!r} has negative values, which no variance has")


def _shape(name: str, given: tuple[int, ...], needed: tuple[int, ...]) -> InputError:
    return InputError(f"adapter tensor {name!r} has shape {given}, but its unit needs {needed}")


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
