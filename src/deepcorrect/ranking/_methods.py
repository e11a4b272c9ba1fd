"""Ranking methods. Each scores one batch at one level; `rank` streams over batches and levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from deepcorrect.sites import Replay


class Pair(NamedTuple):
    """A batch seen twice.

    Attributes:
        clean: each site's output on the clean images, N x C x H x W.
        distorted: the pass on the distorted images, which can be re-run from any site.
        labels: the true classes, (N,).
        generator: for methods that draw.
    """

    clean: dict[str, Tensor]
    distorted: Replay
    labels: Tensor
    generator: torch.Generator


Score = Callable[[Pair, str], Tensor]


@dataclass(frozen=True)
class Method:
    """A ranking method.

    Attributes:
        score: (pair, site) -> for each of the site's filters the sum of its priority over the
            batch's images, (filters,).
        summary: one line for `deepcorrect list methods`.
    """

    score: Score
    summary: str


METHODS: dict[str, Method] = {}


ScoreT = TypeVar("ScoreT", bound=Score)


def register(name: str, summary: str) -> Callable[[ScoreT], ScoreT]:
    """Adds a scoring function to `METHODS`."""

    def add(score: ScoreT) -> ScoreT:
        METHODS[name] = Method(score, summary)
        return score

    return add


@register("swap", "the paper's: top-1 accuracy gained when the filter's clean output is swapped in")
def swap(pair: Pair, site: str) -> Tensor:
    """The paper's correction priority (section III): images right after the swap, minus before."""
    before = _correct(pair.distorted.logits, pair.labels)
    return _swapped(pair, site, lambda logits: (_correct(logits, pair.labels) - before).sum())


@register("swap_logprob", "as swap, on the log-probability of the true class instead of accuracy")
def swap_logprob(pair: Pair, site: str) -> Tensor:
    """Log-probability of the label after the swap, minus before, summed over the images."""
    before = _log_probability(pair.distorted.logits, pair.labels)
    return _swapped(
        pair, site, lambda logits: (_log_probability(logits, pair.labels) - before).sum()
    )


@register("path", "integrated gradients from the distorted to the clean output, 4 steps a site")
def path(pair: Pair, site: str, steps: int = 4) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) of the label's log-probability.

    With d and c the site's distorted and clean outputs, filter i scores the inner product of
    c_i - d_i with the mean gradient at d + a (c - d), a at the midpoints of `steps` intervals.
    All filters of the site come out of the same passes; they sum to the gain of swapping all.
    """
    distorted, clean = pair.distorted.maps[site].float(), pair.clean[site].float()
    difference = clean - distorted
    total = torch.zeros_like(difference)
    for step in range(steps):
        point = (distorted + (step + 0.5) / steps * difference).requires_grad_()
        with torch.enable_grad():
            logits = pair.distorted.from_site(site, point)
            gain = _log_probability(logits, pair.labels).sum()
        total += torch.autograd.grad(gain, point)[0]
    return (total * difference).sum((0, 2, 3)).double() / steps


@register("random", "random numbers: the control")
def random(pair: Pair, site: str) -> Tensor:
    """Uniform numbers, the same whatever the network does."""
    filters = pair.clean[site].shape[1]
    return torch.rand(filters, generator=pair.generator, dtype=torch.float64) * len(pair.labels)


def _swapped(pair: Pair, site: str, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """`measure` of the logits, for each filter with that filter's clean output swapped in."""
    distorted, clean = pair.distorted.maps[site], pair.clean[site]
    gains = torch.zeros(distorted.shape[1], dtype=torch.float64)
    changed = (distorted != clean).any(3).any(2).any(0)
    for index in changed.nonzero().flatten().tolist():
        maps = distorted.clone()
        maps[:, index] = clean[:, index]
        gains[index] = float(measure(pair.distorted.from_site(site, maps)))
    return gains


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).double()


def _log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = torch.log_softmax(logits.float(), 1).gather(1, labels[:, None])
    return chosen.squeeze(1).double()
