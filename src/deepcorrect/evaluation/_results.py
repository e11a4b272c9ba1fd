"""Accuracy over distortions and levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepcorrect.data import Target, check_labels
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.networks import Costs

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Accuracy:
    """How a network does on one set of images. Shares are of the images, 0 to 1.

    Attributes:
        images: how many.
        top1, top5: share whose label is first, or among the first five.
        ece: expected calibration error: the mean distance between confidence and accuracy, over 15
            equally wide bins of confidence (Guo et al. 2017, equation 3).
    """

    images: int
    top1: float
    top5: float
    ece: float


@dataclass(frozen=True)
class Curve:
    """Accuracy under one distortion.

    Attributes:
        distortion: with its levels.
        cells: one a level.
        clean: on the undistorted images; None where there were none.
    """

    distortion: LevelledDistortion
    cells: tuple[Accuracy, ...]
    clean: Accuracy | None

    @property
    def top1(self) -> tuple[float, ...]:
        """At each level."""
        return tuple(cell.top1 for cell in self.cells)

    @property
    def top5(self) -> tuple[float, ...]:
        """At each level."""
        return tuple(cell.top5 for cell in self.cells)

    @property
    def mean_top1(self) -> float:
        """The paper's average: over the clean images, where there are some, and every level."""
        return self._mean(lambda cell: cell.top1)

    @property
    def mean_ece(self) -> float:
        """The calibration error, averaged likewise."""
        return self._mean(lambda cell: cell.ece)

    def _mean(self, value: Callable[[Accuracy], float]) -> float:
        cells = (*((self.clean,) if self.clean else ()), *self.cells)
        return sum(map(value, cells)) / len(cells)


@dataclass(frozen=True)
class Grid:
    """Accuracy by distortion and level.

    Attributes:
        curves: one a distortion, by name.
        images: number of images that each value is of at least.
        clean: on the undistorted images; None where there were none.
        target: what was right: `labels`; or `prediction`, all shares then being of agreement.
    """

    curves: dict[str, Curve]
    images: int
    clean: Accuracy | None
    target: Target = "labels"

    @property
    def clean_top1(self) -> float:
        """On the undistorted images; not a number where there were none."""
        return self.clean.top1 if self.clean else math.nan

    @property
    def clean_top5(self) -> float:
        """On the undistorted images; not a number where there were none."""
        return self.clean.top5 if self.clean else math.nan

    @property
    def mean_top1(self) -> float:
        """The mean of the distortions' `mean_top1`."""
        return sum(curve.mean_top1 for curve in self.curves.values()) / len(self.curves)

    def to_json(self) -> dict[str, Any]:
        """The `distortions` part of a system in `results.json`."""
        return {
            name: {
                "levels": list(curve.distortion.levels),
                "clip": curve.distortion.clip,
                "quantize": curve.distortion.quantize,
                "top1": list(curve.top1),
                "top5": list(curve.top5),
                "ece": [cell.ece for cell in curve.cells],
                "clean_top1": self.clean.top1 if self.clean else None,
                "clean_top5": self.clean.top5 if self.clean else None,
                "clean_ece": self.clean.ece if self.clean else None,
                "mean_top1": curve.mean_top1,
                "mean_ece": curve.mean_ece,
            }
            for name, curve in self.curves.items()
        }


class Tally:
    """Counts of one distortion and level, filled batch by batch."""

    def __init__(self) -> None:
        self.images = 0
        self._hits = torch.zeros(2, dtype=torch.long)
        self._bins = torch.zeros(2, CALIBRATION_BINS, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Counts a batch: logits N x classes, labels N."""
        check_labels(labels, logits.shape[1])
        shares, order = logits.float().softmax(1).topk(min(5, logits.shape[1]), dim=1)
        right = order == labels[:, None]
        self._hits += torch.stack([right[:, 0].sum(), right.any(1).sum()]).cpu()
        sure = shares[:, 0].double().cpu()
        place = (sure * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
        self._bins[0].index_add_(0, place, sure)
        self._bins[1].index_add_(0, place, right[:, 0].double().cpu())
        self.images += len(labels)

    def accuracy(self) -> Accuracy:
        """What was counted, as shares."""
        first, fifth = (self._hits.double() / self.images).tolist()
        error = (self._bins[0] - self._bins[1]).abs().sum() / self.images
        return Accuracy(self.images, first, fifth, float(error))


def system_record(
    grid: Grid, cost: Costs, *, trained: bool, images_seen: int, seconds: float
) -> dict[str, Any]:
    """One system as `results.json` and `evaluate --json` give it.

    Args:
        grid: its accuracies.
        cost: its costs.
        trained: whether its trainable parameters were trained; the baseline's were not.
        images_seen: training images it saw, repeats counted.
        seconds: its training time.
    """
    return {
        "trainable_parameters": cost.trainable_parameters if trained else 0,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "images_seen": images_seen,
        "training_seconds": round(seconds, 2),
        "test_images": grid.images,
        "target": grid.target,
        "distortions": grid.to_json(),
    }
