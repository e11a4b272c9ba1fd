"""A network beside the corrected one, on the same distorted images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.data import Batches, Target
from deepcorrect.distortions import DistortedCache, Distortion, LevelledDistortion
from deepcorrect.evaluation._evaluate import grid_of, measure
from deepcorrect.evaluation._results import Grid
from deepcorrect.runtime import Precision

DEVIATIONS = 1.96
"""The standard errors on each side of a 95 % interval."""


@dataclass(frozen=True)
class Comparison:
    """The accuracy of two networks on the same images.

    Attributes:
        before: The accuracies of the first network.
        after: The accuracies of the second network.
        gain: The difference of the mean top-1 accuracies, over clean images and all levels.
        interval: Half of the width of its 95 % confidence interval, from the differences on the
            single images.
        clean_interval: The same for the accuracies on clean images.
    """

    before: Grid
    after: Grid
    gain: float
    interval: float
    clean_interval: float

    @property
    def clean_gain(self) -> float:
        """The difference of the accuracies on clean images."""
        return self.after.clean_top1 - self.before.clean_top1

    def to_json(self) -> dict[str, Any]:
        """The comparison as the notes of an adapter hold it, and its model card shows it."""
        return {
            "images": self.after.images,
            "target": self.after.target,
            "baseline": self.before.to_json(),
            "corrected": self.after.to_json(),
            "gain": self.gain,
            "interval": self.interval,
        }


def compare(
    before: nn.Module,
    after: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int = 0,
    precision: Precision = "float32",
    task: str = "comparison",
    target: Target | None = None,
) -> Comparison:
    """Measures two networks on clean images and at every level of every distortion.

    Both see the same distorted images, which are made once if they fit into memory. The interval is
    that of paired differences, and is therefore smaller than those of the two accuracies.

    Args:
        before: The untouched network, whose answers to the clean images are the target if the
            images have no labels.
        after: The corrected network, on the same device.
        loader: Batches of (images, labels), in a fixed order.
        distortions: Distortion specs, as in `evaluate`.
        seed: The seed of the noise.
        precision: The data type of the computation, as in `evaluate`.
        task: The description on the progress line.
        target: What counts as right, as in `evaluate`.

    Raises:
        InputError: A distortion or a label is not accepted, or there is no image.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.evaluation import compare
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> found = compare(network, network, [(torch.rand(4, 3, 8, 8), torch.arange(4))], "awgn:9")
        >>> found.gain, found.interval
        (0.0, 0.0)
    """
    cache = DistortedCache()
    kinds, first, target = measure(
        *(before, loader, distortions, seed, precision, f"{task}: before", target, None, cache)
    )
    _, second, _ = measure(
        *(after, loader, distortions, seed, precision, f"{task}: after", target, before, cache)
    )
    old, new = (torch.stack([each.right for each in cells]).double() for cells in (first, second))
    changes = new - old
    mean = _weights(kinds) @ changes
    return Comparison(
        grid_of(kinds, first, target),
        grid_of(kinds, second, target),
        float(mean.mean()),
        mean_interval(mean),
        mean_interval(changes[0]),
    )


def mean_interval(differences: Tensor) -> float:
    """Half of the width of the 95 % confidence interval of a mean, from values (N,)."""
    spread = float(differences.std()) if len(differences) > 1 else 0.0
    return DEVIATIONS * spread / math.sqrt(len(differences))


def _weights(kinds: Sequence[LevelledDistortion]) -> Tensor:
    """The weight of each cell in `Grid.mean_top1`, the clean one first."""
    share = 1 / len(kinds)
    under = [share / (1 + len(kind.levels)) for kind in kinds for _ in kind.levels]
    return torch.tensor([1 - sum(under), *under], dtype=torch.float64)
