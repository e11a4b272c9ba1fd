"""The ranking methods. Each scores the filters of all sites on one block of images at one level.

`rank` streams over blocks and levels. In the equations, d and c are a site's outputs on the
distorted and on the clean images, and G is the gain: how well the network's answer fits the target
(the log-probability of the true class, unless stated otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from deepcorrect.ranking import _map_similarity
from deepcorrect.ranking._clean_distorted import Pair
from deepcorrect.runtime import generator_for, widened

Score = Callable[[Pair], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Method:
    """A ranking method.

    Attributes:
        score: takes a pair and yields for each site its name and, for each of its filters, the sum
            of the priorities over the block's images, (filters,) in float64 (float32 on devices
            that do not have it).
        summary: one line for `deepcorrect list methods`.
        gains: whether priorities are gains of the network's answer, which are comparable across
            sites.
    """

    score: Score
    summary: str
    gains: bool


METHODS: dict[str, Method] = {}


ScoreT = TypeVar("ScoreT", bound=Score)


def register(name: str, summary: str, *, gains: bool = True) -> Callable[[ScoreT], ScoreT]:
    """Adds a scoring function to `METHODS`."""

    def add(score: ScoreT) -> ScoreT:
        METHODS[name] = Method(score, summary, gains)
        return score

    return add


@register("swap", "the paper's: top-1 accuracy gained when the filter's clean output is swapped in")
def swap(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """The paper's correction priority (section III): the number of images that are classified
    correctly after the swap, minus the number before."""
    classes = pair.clean.classes
    return _swapped(pair, lambda logits, rows: widened(logits.argmax(1) == classes[rows]))


@register("swap_logprob", "as swap, on the log-probability of the true class instead of accuracy")
def swap_logprob(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """The gain after the swap minus the gain before, summed over the images."""
    return _swapped(pair, lambda logits, rows: widened(pair.clean.gain(logits, rows)))


def _swapped(
    pair: Pair, measure: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """`measure` of (logits, images) after the swap of each filter, minus its value before."""
    recorded = pair.distorted
    before = measure(recorded.logits, torch.arange(len(pair.images), device=pair.images.device))
    for site in pair.clean.sites:
        clean = pair.clean.maps[site]
        gains = before.new_zeros(clean.shape[1], *before.shape[1:])
        for images, filters, logits in recorded.swaps(site, clean):
            gains.index_add_(0, filters, measure(logits, images) - before[images])
        yield site, gains


@register("gradient", "first order: the gradient at the distorted output times the difference")
def gradient(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """Attribution patching: the inner product of c_i - d_i with dG/dd_i, for all sites at once."""
    maps, gradients = pair.clean.gradients_on(pair.images, pair.cell)
    for site, clean in pair.clean.maps.items():
        yield site, _inner(gradients[site], clean - maps[site])


@register("conductance", "one path in input space, from the distorted to the clean images, 4 steps")
def conductance(pair: Pair, steps: int = 4) -> Iterator[tuple[str, Tensor]]:
    """Layer conductance (Dhamdhere et al. 2018) by the trapezoid rule, for all sites at once.

    The path runs straight from the distorted to the clean images in `steps` steps; each adds the
    inner product of a filter's change with the mean of the gradients at the step's two ends.
    """
    totals: dict[str, Tensor] = {}
    before = pair.clean.gradients_on(pair.images, pair.cell)
    for step in range(1, steps + 1):  # two passes' maps are in memory beside the clean ones
        if step < steps:
            images = pair.images + step / steps * (pair.clean.images - pair.images)
            after = pair.clean.gradients_on(images, pair.cell)
        else:
            after = pair.clean.maps, pair.clean.gradients
        for site in pair.clean.sites:
            (maps, gradients), (next_maps, next_gradients) = before, after
            mean = (gradients[site] + next_gradients[site]) / 2
            gain = _inner(mean, next_maps[site] - maps[site])
            totals[site] = totals.get(site, torch.zeros_like(gain)) + gain
        before = after
    for site in pair.clean.sites:
        yield site, totals[site]


@register("input_path", "the mean gradient along the path in input space, times the difference")
def input_path(pair: Pair, steps: int = 2) -> Iterator[tuple[str, Tensor]]:
    """As `gradient`, with the mean of the gradients along the straight path in input space.

    They are taken at the midpoints of `steps` steps from the distorted to the clean images, for all
    sites at once.
    """
    difference = pair.clean.images - pair.images
    points = [pair.images + (step + 0.5) / steps * difference for step in range(steps)]
    gradients = [pair.clean.gradients_on(images, pair.cell)[1] for images in points]
    for site, clean in pair.clean.maps.items():
        mean = torch.stack([each[site] for each in gradients]).mean(0)
        yield site, _inner(mean, clean - pair.maps[site])


@register("path", "integrated gradients from the distorted to the clean output, 4 steps per site")
def path(pair: Pair, steps: int = 4) -> Iterator[tuple[str, Tensor]]:
    """Integrated gradients (Sundararajan et al. 2017) of the gain, one site at a time.

    Filter i scores the inner product of c_i - d_i with the mean gradient at d + a (c - d), a at
    the midpoints of `steps` steps. A site's filters sum to the gain of swapping all of them.
    """
    for site, clean in pair.clean.maps.items():
        distorted = pair.distorted.maps[site].float()
        difference = clean.float() - distorted
        total = torch.zeros_like(difference)
        for step in range(steps):
            point = (distorted + (step + 0.5) / steps * difference).requires_grad_()
            with torch.enable_grad():
                gain = pair.clean.gain(pair.distorted.from_site(site, point)).sum()
            total += torch.autograd.grad(gain, point)[0]
        yield site, _inner(total / steps, difference)


@register(
    "change",
    "mean squared change of the filter's output: a control that ignores the answer",
    gains=False,
)
def change(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """The mean over the map of (c_i - d_i) squared."""
    for site, clean in pair.clean.maps.items():
        squares = (clean.float() - pair.maps[site].float()) ** 2
        yield site, widened(squares.mean((2, 3))).sum(0)


@register(
    "psnr",
    "peak signal-to-noise ratio of the filter's output, lowest first: a control",
    gains=False,
)
def psnr(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """Minus the PSNR of d_i relative to c_i in dB (see `ranking.psnr`).

    Where c_i is constant, it is minus the lowest PSNR.
    """
    for site, clean in pair.clean.maps.items():
        ratio = _map_similarity.psnr(clean, pair.maps[site])
        constant = clean.flatten(2).amax(2) == clean.flatten(2).amin(2)
        ratio = ratio.masked_fill(constant, _map_similarity.LOWEST)
        yield site, -widened(ratio).sum(0)


@register("random", "random numbers: the control", gains=False)
def random(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """Uniform random numbers that do not depend on the network."""
    for site, clean in pair.clean.maps.items():
        drawing = generator_for(pair.seed, "random ranking", site)
        numbers = torch.rand(clean.shape[1], generator=drawing, dtype=torch.float64)
        yield site, numbers * len(clean)


def _inner(gradient: Tensor, difference: Tensor) -> Tensor:
    """The inner product of each filter's maps, summed over the images: (filters,)."""
    return widened((gradient.float() * difference.float()).sum((2, 3))).sum(0)
