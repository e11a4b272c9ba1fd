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
from deepcorrect.networks import as_logits, input_size_of, logits_of, mean_answers
from deepcorrect.runtime import InputError, Precision, autocast, device_of, inference, progress

PURPOSE = "to raise a gate with"
LEAST_GAIN = 1e-9
"""Gains in all that differ by less are the same but for rounding."""
ACCEPTED_LOSS = 0.005
"""The share of the answers that clean images, or those of a level, may lose by being corrected."""
LOSS = 10.0
"""How many times the images of a level count that loses: where the network is good enough it should
stay as good, and a gate that is raised for the gain in all alone gives away a little of that."""
MOST_ROUNDS = 12
"""How often what counts for an image is doubled, so that its level loses less."""
OVERFLOW = 100
"""An answer whose margin is so many times the median of all margins is an overflow."""
SMOOTHING = 0.15
"""Over how much of a margin an answer turns from wrong to right, in their standard deviations."""


def raise_gate(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int = 0,
    precision: Precision = "float32",
) -> GateConfig:
    """Raises the thresholds of a trained network's gate to where the correction helps.

    For each image, clean and at each level of all distortions, it compares how surely the untouched
    and the corrected network give the untouched network's answer to the clean image: the logistic
    function of the margin by which this answer's logit is above all others, in units of the
    network's own margins. With a gate whose `others` is `mean`, the mean of both networks is in the
    untouched network's place. Probabilities would not do, as one network may be less sure of its
    answers than the other is where both are right as often. The thresholds of the kinds of
    distortions then rise to where the images that are still corrected gain most in all, those of a
    level that loses counted tenfold, and those of no level, nor the clean ones, lose more than half
    a point. No labels are needed. Take images that the correction was not trained on, as similar as
    can be to those that it will see.

    Args:
        adapted: The trained network, or a `GatedCopy`, with a gate.
        loader: Batches of (clean images N x C x H x W in [0, 1], labels), in a fixed order. Labels
            are ignored.
        distortions: Distortion specs, as in `fit`.
        seed: The seed of the noise.
        precision: `bfloat16` runs the networks faster and less exactly.

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
    (found,) = gate_answers(adapted, loader, distortions, seed, precision=precision)
    gate = raised(adapted, rises(found))
    adapted.set_gate(gate)
    return gate


def raised(adapted: GatedModel, by: Tensor) -> GateConfig:
    """The network's gate with higher thresholds."""
    gate = _gate_of(adapted).config
    biases = tuple(bias - rise for bias, rise in zip(gate.biases, by.tolist(), strict=True))
    return gate.model_copy(update={"biases": biases})


@dataclass(frozen=True)
class GateAnswers:
    """What a gate and both networks say of images.

    The right answer is the untouched network's to the clean image.

    Attributes:
        scores: The gate's, cells x N x kinds.
        before: The margins of the right answer if the image is not sent, cells x N.
        after: The margins of the right answer, by the corrected network, cells x N.
    """

    scores: Tensor
    before: Tensor
    after: Tensor

    @property
    def gains(self) -> Tensor:
        """By how much surer the right answer is with the correction, from -1 to 1, cells x N."""
        return _sure(self.after) - _sure(self.before)


def _sure(margins: Tensor) -> Tensor:
    """How surely the right answer is given, from 0 to 1.

    Answers that overflow say nothing of how large the others are.
    """
    usual = margins[margins.isfinite()].double()
    if not len(usual):
        return torch.zeros_like(margins, dtype=torch.float64)
    unit = SMOOTHING * usual[usual.abs() <= OVERFLOW * usual.abs().median()].std(correction=0)
    return torch.sigmoid(margins.double() / unit.clamp_min(torch.finfo(torch.float32).tiny))


def rises(found: GateAnswers, loss: float = LOSS) -> Tensor:
    """How much the thresholds rise for the images that are still corrected to gain most.

    The images of a level that loses anything, or the clean ones, count `loss` times as much. No
    level loses more than `ACCEPTED_LOSS`, and clean images lose less by their standard error: where
    one does, its images count twice as much again, and so on until none does, or `MOST_ROUNDS`
    times.
    """
    scores, gains = found.scores.flatten(0, 1), found.gains
    weights = torch.ones_like(gains[:, :1])
    by = _rises(scores, gains.flatten())
    for _ in range(MOST_ROUNDS):
        kept = gains * (found.scores > by).any(2)
        least = kept.mean(1)
        loses = (least < 0) & (weights[:, 0] < loss)
        least[0] -= kept[0].std(correction=0) / kept.shape[1] ** 0.5
        harmed = (least < -ACCEPTED_LOSS) & ~loses
        if not (loses | harmed).any():
            break
        weights[loses] = loss
        weights[harmed] *= 2
        by = _rises(scores, (weights / weights.max() * gains).flatten())
    return by


def right_and_gain(found: GateAnswers, by: Tensor) -> tuple[int, float]:
    """With thresholds that rise, how many images get the right answer, and how surely they all get
    it, in all."""
    sent = (found.scores > by).any(2)
    right = torch.where(sent, found.after, found.before) >= 0
    surely = torch.where(sent, _sure(found.after), _sure(found.before))
    return int(right.sum()), float(surely.sum())


def margins(logits: Tensor, truth: Tensor) -> Tensor:
    """By how much the right answers' logits are above the largest of the others, (N,).

    Where logits are not numbers, as of a correction that overflows on images that are unlike those
    it was trained on, the right answer is as far behind as can be.

    Args:
        logits: N x classes.
        truth: The right answers, (N,).
    """
    own = truth[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(1)
    return (logits.gather(1, own).flatten() - others).nan_to_num(
        -torch.inf, posinf=torch.inf, neginf=-torch.inf
    )


def gate_answers(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int,
    changes: Sequence[Callable[[], None]] = (lambda: None,),
    read: Callable[[Tensor, Tensor], Tensor] = margins,
    precision: Precision = "float32",
) -> list[GateAnswers]:
    """Reads what a gate may be raised by, of clean images and of all levels of some distortions.

    Args:
        adapted: The trained network with a gate.
        loader: Batches of clean images, as `raise_gate` takes them.
        distortions: Distortion specs. The cells are the clean images, and then each level.
        seed: The seed of the noise.
        changes: Each changes the corrected network, whose answers are then read.
        read: What is read of logits, N x classes, and the right answers, (N,).
        precision: Of the networks.

    Returns:
        The answers with each change.

    Raises:
        InputError: There is no gate, or a distortion or an image is not accepted.
    """
    gate, device = _gate_of(adapted), device_of(adapted)
    means = gate.config.others == "mean"
    first = next(numbered_batches(loader, PURPOSE)).images
    cells = [CLEAN, *cells_of(parse_all(distortions, input_size_of(adapted, first)))]
    found: list[list[list[GateAnswers]]] = [[[] for _ in cells] for _ in changes]
    clean = truth = torch.empty(0)
    network, corrected = (as_logits(each, first.to(device)) for each in (adapted.network, adapted))
    with (
        inference(adapted.network),
        inference(adapted),
        torch.no_grad(),
        autocast(device, precision),
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
                kept = mean_answers(before, after) if means else before
                seen = (scores, *(read(each.float(), truth) for each in (kept, after)))
                answers[batch.row].append(GateAnswers(*(each.cpu() for each in seen)))
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
        best, rise = found[kind]
        if best <= now + LEAST_GAIN or float(rises[kind]) == rise:
            break
        rises[kind] = rise
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
    # what is lost by keeping back the first images, none of them to all of them; of those with one
    # score, all or none
    lost = gains[~sent][order][above].cumsum(0)
    tied = own[above][1:] == own[above][:-1]
    total = lost[-1:].sum()
    lost[:-1][tied] = torch.inf
    lost = torch.cat([lost.new_zeros(1), lost])
    first = int((lost - lost.min() <= LEAST_GAIN).nonzero()[0])
    gained = gains[sent].sum() + total - lost[first]
    return float(gained), float(own[above][first - 1]) if first else 0.0
