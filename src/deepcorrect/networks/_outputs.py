"""What a network returns, read as logits, N x classes; found out on a loader's first images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepcorrect.data import SWITCH, checks_wanted
from deepcorrect.networks._classifier import (
    DISTRIBUTED,
    Wrapper,
    logits_of,
    preprocessing_of,
    trainable_parameters,
    unparallel,
)
from deepcorrect.runtime import (
    InputError,
    device_of,
    exact_float32,
    forked_random,
    inference,
    note_once,
    to_device,
)

Kind = Literal["logits", "probabilities", "class probabilities", "one logit", "one probability"]

PROBED = 16
"""The number of a loader's first images that a network is tried on."""

SUM_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
SUM_TOLERANCE_16_BITS = 1e-2
"""How far the sum of an image's probabilities may be from 1, by their type."""

TOTALS = (1.0, 100.0)
"""What probabilities sum to: 1, or 100 where they are percentages. A constant factor leaves the
logits' differences, and so all results, as they are."""

CHANGE_TOLERANCE = 5e-3
CHANGE_TOLERANCE_16_BITS = 5e-2
"""The accepted difference between two answers to the same images as a fraction of the answers'
range. Sums in another order differ by about 1e-5 in float32, and by 1e-2 in 16 bits."""

UNBOUNDED = frozenset({"Addmm", "Mm", "Convolution", "LogSoftmax"})
"""Operations whose results are not probabilities, whatever they look like."""

SIGMOIDS = frozenset({"Sigmoid", "Hardsigmoid"})
RESHAPING = frozenset(
    {"View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Alias", "Clone", "ToCopy", "Select"}
    | {"Slice", "Transpose", "T", "Permute", "Expand"}
)
"""Operations that change no value."""

NOTES: dict[Kind, str] = {
    "probabilities": "the network returns probabilities (it ends in a softmax): their logarithm is "
    "taken as the logits",
    "class probabilities": "the network returns a probability per class (it ends in a sigmoid): "
    "the sigmoid is taken off, and each image is taken to have one class",
    "one logit": "the network returns one value per image: it is taken as the logit of class 1 "
    "against class 0",
    "one probability": "the network returns one value per image, of a sigmoid: it is taken "
    "as the probability of class 1 against class 0",
}


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype in SUM_TOLERANCE else values.float()


def _log(values: Tensor) -> Tensor:
    return _wide(values).clamp_min(torch.finfo(torch.float32).tiny).log()


CONVERSIONS: dict[Kind, Callable[[Tensor], Tensor]] = {
    "logits": lambda rows: rows,
    "probabilities": _log,
    "class probabilities": lambda rows: torch.logit(_wide(rows), eps=1e-7),
    "one logit": lambda rows: torch.cat([torch.zeros_like(rows), rows], 1),
    "one probability": lambda rows: _log(torch.cat([1 - _wide(rows), _wide(rows)], 1)),
}


@dataclass(frozen=True)
class Reading:
    """How a network's output is read as logits.

    Attributes:
        plain: Whether the output is a tensor N x classes, or N x 1.
        kind: What the values are.
    """

    plain: bool
    kind: Kind

    def of(self, model: nn.Module) -> nn.Module:
        """A model that returns logits: `model` itself if it does, else a wrapper around it."""
        model = unparallel(model, DISTRIBUTED)
        return model if self.plain and self.kind == "logits" else Logits(model, self)


class Logits(Wrapper):
    """A network whose output is read as logits, N x classes.

    Args:
        network: The network, wrapped or bare.
        reading: How its output is read.
    """

    def __init__(self, network: nn.Module, reading: Reading) -> None:
        super().__init__()
        self.network = network
        self.reading = reading
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits, N x classes, of what the network inside takes."""
        output = self.network(images)
        if torch.compiler.is_compiling():  # whose batch size is a symbol
            rows = _tensor_in(output).reshape(images.shape[0], -1)
        else:
            rows = output_rows(output, len(images))
        return CONVERSIONS[self.reading.kind](rows)

    def untouched(self) -> nn.Module:
        """Returns the network without corrections, its output read in the same way."""
        inside = self.network.untouched() if isinstance(self.network, Wrapper) else self.network
        return Logits(inside, self.reading)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of the network inside that training changes."""
        return trainable_parameters(self.network)


def as_logits(model: nn.Module, images: Tensor) -> nn.Module:
    """The model, or a wrapper whose output is logits where the model's own is not.

    See `read_outputs`.

    Example:
        >>> import torch
        >>> from deepcorrect.networks import as_logits
        >>> _ = torch.manual_seed(0)
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> images = torch.rand(4, 3, 8, 8)
        >>> as_logits(network, images) is network
        True
        >>> ends_in_softmax = torch.nn.Sequential(*network, torch.nn.Softmax(1))
        >>> logits = as_logits(ends_in_softmax, images)(images)
        >>> torch.allclose(logits, network(images).log_softmax(1), atol=1e-5)
        True
    """
    return read_outputs(model, images).of(model)


def read_outputs(model: nn.Module, images: Tensor) -> Reading:
    """Finds out how a network's output is to be read, with one or two passes of a few images.

    Accepted are tensors N x classes (also N x classes x 1 x 1, N x 1 and N), alone, as the one item
    of a tuple, or as `logits` of a mapping or an object. Probabilities, a sigmoid per class and one
    value per image are converted, with a note. Whether values are probabilities is decided by their
    values for all images, and by the operation that computed them. With
    `DEEPCORRECT_CHECK_IMAGES=0`, values are logits, and only the form is looked at.

    Args:
        model: A network, wrapped or bare. It runs in inference mode.
        images: The first images that it will see, N x C x H x W, on any device.

    Raises:
        InputError: The network does not accept the images, returns something else or NaN, or
            answers differently when it is asked again.
    """
    shown = to_device(images[:PROBED], device_of(model))
    _say_size(model, shown)
    with torch.no_grad(), inference(model), forked_random(shown.device), exact_float32():
        output = logits_of(model, shown)
        rows = output_rows(output, len(shown))
        plain = isinstance(output, Tensor) and output.dim() == 2 and _is_plain_for_one(model, shown)
        if not checks_wanted():
            return Reading(plain, "logits" if rows.shape[1] > 1 else "one logit")
        _check_finite(rows, shown)
        kind = _kind(model, shown, rows)
        _check_repeatable(model, shown, rows)
    if kind in NOTES:
        note_once(NOTES[kind])
    return Reading(plain, kind)


def _is_plain_for_one(model: nn.Module, images: Tensor) -> bool:
    """Whether a single image's answer is 1 x classes: `squeeze` may drop its first dimension."""
    try:
        output = logits_of(model, images[:1])
    except InputError:  # a network may need several images
        return True
    return isinstance(output, Tensor) and output.dim() == 2


def output_rows(output: Any, count: int) -> Tensor:
    """The values, N x classes, in what a network returned for N images.

    Raises:
        InputError: There is not one such tensor.

    Example:
        >>> import torch
        >>> from deepcorrect.networks import output_rows
        >>> output_rows({"logits": torch.zeros(2, 10, 1, 1)}, 2).shape
        torch.Size([2, 10])
    """
    given = _tensor_in(output)
    if given.dim() == 1 and len(given) != count == 1:
        given = given[None]  # the network dropped the dimension of the single image
    elif given.dim() == 1 and len(given) == count:
        given = given[:, None]
    elif given.dim() > 2 and given.shape[2:].numel() == 1:
        given = given.flatten(1)
    if given.dim() != 2 or len(given) != count or not given.shape[1]:
        raise InputError(
            f"the network returns {_described(output)} for {count} images: it must return logits, "
            "N x classes"
        )
    if not given.is_floating_point():
        raise InputError(
            f"the network returns {str(given.dtype).removeprefix('torch.')} numbers, such as the "
            "numbers of classes: it must return logits, N x classes, before any argmax"
        )
    return given


def _tensor_in(output: Any) -> Tensor:
    """The one tensor that can be the logits: alone, in a tuple of one, or named so."""
    given = output
    if isinstance(given, Mapping) and "logits" in given:
        given = given["logits"]
    elif isinstance(given, tuple | list) and len(given) == 1:
        given = given[0]
    elif not isinstance(given, Tensor):
        given = getattr(given, "logits", given)
    if isinstance(given, Tensor):
        return given
    raise InputError(
        f"the network returns {_described(output)}, where logits, N x classes, are needed: wrap it "
        "in a module whose forward returns the logits alone"
    )


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return " x ".join(map(str, output.shape)) or "a single number"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of ({'; '.join(map(_described, output))})"
    return f"a {type(output).__name__}"


def _say_size(model: nn.Module, images: Tensor) -> None:
    """Says that a `Classifier` sees images of another size than its preprocessing gives."""
    known = preprocessing_of(model)
    if known is not None and tuple(images.shape[2:]) != (known.input_size, known.input_size):
        given = " x ".join(map(str, images.shape[2:]))
        note_once(
            f"the loader's images are {given} and the network's input size is {known.input_size}: "
            "they are used as they are"
        )


def without_meaning(rows: Tensor) -> Tensor:
    """Which logits, N x classes, leave no probabilities: NaN, or infinite ones; (N,) bool.

    Minus infinity is a class that is ruled out, unless all are.

    Example:
        >>> import torch
        >>> from deepcorrect.networks import without_meaning
        >>> nan, inf = float("nan"), float("inf")
        >>> without_meaning(torch.tensor([[0, 1], [0, nan], [0, inf], [0, -inf]])).tolist()
        [False, True, True, False]
    """
    return rows.float().log_softmax(1).isnan().any(1)


def _check_finite(rows: Tensor, images: Tensor) -> None:
    """Refuses answers without a meaning: NaN, or infinities that leave no probabilities."""
    broken = without_meaning(rows)
    if not bool(broken.any()):
        return
    first = int(broken.int().argmax())
    if not bool(images[first].isfinite().all()):
        raise InputError(
            f"the loader's image {first} has NaN or infinite values: leave it out, or mend it"
        )
    raise InputError(
        f"the network returns NaN or infinite values for {int(broken.sum())} of the first "
        f"{len(rows)} images: look at its weights, and at its input size, mean and std"
    )


def _kind(model: nn.Module, images: Tensor, rows: Tensor) -> Kind:
    """What the values are, by all of them and by the operation that made them."""
    several = rows.shape[1] > 1
    tolerance = SUM_TOLERANCE.get(rows.dtype, SUM_TOLERANCE_16_BITS)
    wide = rows.cpu().double()  # not every device has float64
    low, high = (float(value) for value in wide.aminmax())
    sums = wide.sum(1)
    if several and low >= 0 and any(_all_near(sums, total, tolerance) for total in TOTALS):
        return "logits" if last_operation(model, images) in UNBOUNDED else "probabilities"
    if low < 0 or high > 1:
        return "logits" if several else "one logit"
    operation = last_operation(model, images)
    if not several:
        if operation in SIGMOIDS or operation == "Softmax":
            return "one probability"
        if operation in UNBOUNDED:
            return "one logit"
        raise InputError(
            "the network returns one value per image, and all are in [0, 1]: it may be a logit or "
            "a probability. Return two values per image: torch.cat([-z, z], 1) / 2 of a logit z, "
            "torch.cat([1 - p, p], 1) of a probability p"
        )
    if operation in SIGMOIDS:
        return "class probabilities"
    if high > low and operation not in UNBOUNDED:  # not the zeros of a network that is not trained
        note_once(
            "the network's outputs are all in [0, 1] and do not sum to 1: they are taken as "
            "logits. If they are probabilities of independent classes, return their logits"
        )
    return "logits"


def _all_near(sums: Tensor, total: float, tolerance: float) -> bool:
    return float((sums / total - 1).abs().max()) <= tolerance


def last_operation(model: nn.Module, images: Tensor) -> str:
    """The operation that computed a network's output, by PyTorch's name: `Softmax`, `Addmm`.

    It is empty if nothing is known, as where the network computes without gradients.
    """
    try:
        with torch.enable_grad():
            output = logits_of(model, images[:1].clone().requires_grad_())
            node = output_rows(output, 1).grad_fn
    except Exception:  # gradients are only evidence here, and a network may have none
        return ""
    while node is not None:
        name = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
        if name not in RESHAPING:
            return name
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def _check_repeatable(model: nn.Module, images: Tensor, rows: Tensor) -> None:
    """Asks again with some of the images: answers must not be random, nor depend on other images.

    Raises:
        InputError: The answers are random.
    """
    some = slice((len(images) + 1) // 2 - 1, None)  # about half, and in another order
    shown = images[some].flip(0)
    if not _differ(rows[some], output_rows(logits_of(model, shown), len(shown)).flip(0)):
        return
    same = output_rows(logits_of(model, images), len(images))
    if not _differ(rows, same):
        note_once(
            "warning: an image's answer depends on its place in the batch or on the other images "
            "of it (as with the batch's own statistics), so figures depend on the batch size"
        )
        return
    changed = int((rows.argmax(1) != same.argmax(1)).sum())
    raise InputError(
        "the network answers differently when it is shown the same images again (by up to "
        f"{float((rows - same).abs().max()):.2g}, and with another class for {changed} of "
        f"{len(rows)} images): it draws random numbers in inference mode, as "
        "torch.nn.functional.dropout does without training=self.training. Every figure would be "
        f"random. If it is meant so, set {SWITCH}=0"
    )


def _differ(rows: Tensor, others: Tensor) -> bool:
    if rows.shape != others.shape:
        return True
    exact = rows.dtype in SUM_TOLERANCE and not torch.is_autocast_enabled(rows.device.type)
    tolerance = CHANGE_TOLERANCE if exact else CHANGE_TOLERANCE_16_BITS
    rows, others = rows.cpu().double(), others.cpu().double()  # not every device has float64
    finite = rows.isfinite() & others.isfinite()
    if not bool(finite.any()):
        return False
    spread = float(rows[finite].abs().max())
    return float((rows - others)[finite].abs().max()) > tolerance * max(spread, 1e-12)
