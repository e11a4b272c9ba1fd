"""Raising a gate's thresholds to where the correction helps.

A gate that is fitted to tell distorted images from clean ones also sends slightly distorted images
to the corrected network, which the untouched network often answers better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from deepcorrect.correction._fit_gate import images_read
from deepcorrect.correction._gate import Gate, GateConfig
from deepcorrect.correction._gated_model import GatedModel
from deepcorrect.data import Batches, count_of
from deepcorrect.distortions import (
    CLEAN,
    Distortion,
    cells_of,
    distorted_batches,
    numbered_batches,
    parse_all,
)
from deepcorrect.networks import as_logits, input_size_of, logits_of
from deepcorrect.runtime import InputError, device_of, inference, progress

PURPOSE = "to raise a gate with"
LEAST_GAIN = 1e-9
"""Gains in all that differ by less are the same but for rounding."""


def raise_gate(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int = 0,
) -> GateConfig:
    """Raises the thresholds of a trained network's gate to where the correction helps.

    For each image, clean and at each level of all distortions, it compares the probability that the
    untouched and the corrected network give to the untouched network's answer to the clean image.
    The thresholds of the kinds of distortions then rise to where the images that are still
    corrected gain most in all. No labels are needed. Take images that the correction was not
    trained on, as similar as can be to those that it will see.

    Args:
        adapted: The trained network, or a `GatedCopy`, with a gate.
        loader: Batches of (clean images N x C x H x W in [0, 1], labels), in a fixed order. Labels
            are ignored.
        distortions: Distortion specs, as in `fit`.
        seed: The seed of the noise.

    Returns:
        The gate with its new biases, which is also set on `adapted`.

    Raises:
        InputError: There is no gate, or a distortion or an image is not accepted.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        ... )
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> batches = [(torch.rand(8, 3, 16, 16), torch.zeros(8)) for _ in range(2)]
        >>> gate = dc.fit_gate(adapted, batches, ["awgn:20"], false_alarms=0.25)
        >>> dc.raise_gate(adapted, batches, ["awgn:20"]) == gate  # untrained units lose nothing
        True
    """
    (found,) = gate_answers(adapted, loader, distortions, seed)
    gate = raised(adapted, gain_and_rises(found)[1])
    adapted.set_gate(gate)
    return gate


def raised(adapted: GatedModel, rises: Tensor) -> GateConfig:
    """The network's gate with higher thresholds."""
    gate = _gate_of(adapted).config
    biases = tuple(bias - rise for bias, rise in zip(gate.biases, rises.tolist(), strict=True))
    return gate.model_copy(update={"biases": biases})


@dataclass(frozen=True)
class GateAnswers:
    """What a gate and both networks say of images.

    The right answer is the untouched network's to the clean image.

    Attributes:
        scores: The gate's, cells x N x kinds.
        before: The probability that the untouched network gives to the right answer, cells x N.
        after: The probability that the corrected network gives to it, cells x N.
        right_before: Whether the untouched network gives it, cells x N.
        right_after: Whether the corrected network gives it, cells x N.
    """

    scores: Tensor
    before: Tensor
    after: Tensor
    right_before: Tensor
    right_after: Tensor


def gain_and_rises(found: GateAnswers) -> tuple[float, Tensor]:
    """How much the thresholds rise, and what the images gain that are still corrected."""
    scores, gains = found.scores.flatten(0, 1), (found.after - found.before).double().flatten()
    rises = _rises(scores, gains)
    return float(gains[(scores > rises).any(1)].sum()), rises


def gate_answers(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int,
    changes: Sequence[Callable[[], None]] = (lambda: None,),
) -> list[GateAnswers]:
    """Reads what a gate may be raised by, of clean images and of all levels of some distortions.

    Args:
        adapted: The trained network with a gate.
        loader: Batches of clean images, as `raise_gate` takes them.
        distortions: Distortion specs. The cells are the clean images, and then each level.
        seed: The seed of the noise.
        changes: Each changes the corrected network, whose answers are then read.

    Returns:
        The answers with each change.

    Raises:
        InputError: There is no gate, or a distortion or an image is not accepted.
    """
    gate, device = _gate_of(adapted), device_of(adapted)
    first = next(numbered_batches(loader, PURPOSE)).images
    cells = [CLEAN, *cells_of(parse_all(distortions, input_size_of(adapted, first)))]
    found: list[list[list[GateAnswers]]] = [[[] for _ in cells] for _ in changes]
    clean = truth = torch.empty(0)
    network, corrected = (as_logits(each, first.to(device)) for each in (adapted.network, adapted))
    with (
        inference(adapted.network),
        inference(adapted),
        torch.no_grad(),
        progress("raising the gate", count_of(loader)) as advance,
    ):
        for batch in distorted_batches(loader, cells, seed=seed, device=device, purpose=PURPOSE):
            if batch.clean is not clean:
                clean = batch.clean
                truth = logits_of(network, clean).argmax(1)
            before = logits_of(network, batch.images)
            scores = gate.scores(images_read(adapted, batch.images))
            for change, answers in zip(changes, found, strict=True):
                change()
                with adapted.ungated():
                    after = logits_of(corrected, batch.images)
                answers[batch.row].append(_answers(scores, before, after, truth))
            advance(len(batch.images) / len(cells))
    return [_joined(answers) for answers in found]


def _joined(answers: list[list[GateAnswers]]) -> GateAnswers:
    """The answers to all batches of each cell."""
    return GateAnswers(
        *(
            torch.stack([torch.cat([getattr(each, field.name) for each in row]) for row in answers])
            for field in fields(GateAnswers)
        )
    )


def _gate_of(adapted: GatedModel) -> Gate:
    if adapted.gate is None:
        raise InputError("this network has no gate: fit one first, see fit_gate")
    return adapted.gate


def _answers(scores: Tensor, before: Tensor, after: Tensor, truth: Tensor) -> GateAnswers:
    """The answers to one batch, on the CPU: from scores, N x kinds, and logits, N x classes."""
    logits = (before, after)
    shares = [each.softmax(1).gather(1, truth[:, None]).flatten() for each in logits]
    right = [each.argmax(1) == truth for each in logits]
    return GateAnswers(*(each.cpu() for each in (scores, *shares, *right)))


def _rises(scores: Tensor, gains: Tensor) -> Tensor:
    """How much each kind's threshold rises for the images above any of them to gain most.

    Several kinds may send an image, so that no threshold alone keeps it back. Nothing is sent at
    first; the threshold that then adds most is lowered to where it does, until none adds anything.

    Args:
        scores: N x kinds, of clean and distorted images.
        gains: What each image gains by the correction, (N,).
    """
    rises = scores.amax(0).clamp(min=0)
    while True:
        found = [_best(scores, gains, rises, kind) for kind in range(len(rises))]
        now = gains[(scores > rises).any(1)].sum()
        kind = max(range(len(found)), key=lambda kind: found[kind][0])
        if found[kind][0] <= now + LEAST_GAIN:
            break
        rises[kind] = found[kind][1]
    for kind in range(len(rises)):  # no higher than needed
        rises[kind] = _best(scores, gains, rises, kind)[1]
    return rises


def _best(scores: Tensor, gains: Tensor, rises: Tensor, kind: int) -> tuple[float, float]:
    """What the images gain that are sent at the best threshold of a kind, and how much it rises.

    Of several that are as good it is the lowest.
    """
    others = scores - rises
    others[:, kind] = -torch.inf
    sent = others.amax(1) > 0
    own, order = scores[~sent, kind].sort()
    above = own > 0
    # what is lost by keeping back the first images, none of them to all of them
    lost = gains[~sent][order][above].cumsum(0)
    lost = torch.cat([lost.new_zeros(1), lost])
    first = int((lost - lost.min() <= LEAST_GAIN).nonzero()[0])
    gained = gains[sent].sum() + lost[-1] - lost[first]
    return float(gained), float(own[above][first - 1]) if first else 0.0
