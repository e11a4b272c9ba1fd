"""The tensors of an adapter: their shapes, checked before any is made, and their values."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from deepcorrect.correction._config import AdapterConfig
from deepcorrect.correction._unit_config import UnitConfig, hidden_width
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
        expected = unit_shapes(entry.unit, len(entry.filters))
        check_names(expected, shapes, start)
        for name, shape in shapes.items():
            if shape != expected[name]:
                raise _shape(f"{start}{name}", shape, expected[name])


def unit_shapes(config: UnitConfig, filters: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a `CorrectionUnit`, which is not made.

    (PyTorch could make it without values, on the device meta, but would take seconds to begin.)

    Args:
        config: The shape of the unit.
        filters: The number of corrected filters.
    """
    width, k = hidden_width(config, filters), config.kernel_size
    kernels = [(1, k), (k, 1)] if config.separable else [(k, k)]
    inputs = 1 if config.depthwise else width
    # the layers of `residual` in their order; None is a ReLU, and a single number a batch norm
    layers: list[int | tuple[int, ...] | None] = [filters] if config.norm_first else []
    layers += [(width, filters, 1, 1), width, None]
    for _ in config.dilations:
        layers += [(width, inputs, *kernel) for kernel in kernels]
        layers += [width, None]
    shapes: dict[str, tuple[int, ...]] = {}
    for place, layer in enumerate(layers):
        if isinstance(layer, int):
            shapes |= _norm_shapes(f"residual.{place}.", layer, affine=True)
        elif layer is not None:
            shapes[f"residual.{place}.weight"] = layer
    last = f"residual.{len(layers)}."
    shapes |= {f"{last}weight": (filters, width, 1, 1), f"{last}bias": (filters,)}
    if config.affine:
        shapes |= {"scale": (filters,), "shift": (filters,)}
    if config.modulation:
        hidden = config.modulation
        answers = 2 * filters + (width if config.hidden_gains else 0)
        shapes |= _norm_shapes("modulation.norm.", 2 * filters, affine=False)
        shapes |= {"modulation.hidden.weight": (hidden, 2 * filters)}
        shapes |= {"modulation.hidden.bias": (hidden,)}
        shapes |= {"modulation.last.weight": (answers, hidden), "modulation.last.bias": (answers,)}
    return shapes


def _norm_shapes(start: str, size: int, *, affine: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of a batch norm's tensors."""
    names = ["running_mean", "running_var", *(["weight", "bias"] if affine else [])]
    shapes: dict[str, tuple[int, ...]] = {f"{start}{name}": (size,) for name in names}
    return {**shapes, f"{start}num_batches_tracked": ()}


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
