"""Accuracies by distortion and level, and how they are counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepcorrect.data import Target, check_labels
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.networks import Costs, without_meaning
from deepcorrect.runtime import InputError, gathered, process_count, total

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a network on one set of images; all values are shares, 0 to 1.

    Attributes:
        images: their number.
        top1, top5: the share of images whose label is the first answer, or among the first five.
        ece: the expected calibration error: the mean distance between confidence and accuracy over
            15 bins of confidence of equal width, (0, 1/15] to (14/15, 1], weighted by their images
            (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3).
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
        cells: one per level.
        clean: on the undistorted images; None if there were none.
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
        """The paper's average: the mean over clean images, if there were any, and all levels."""
        return self._mean(lambda cell: cell.top1)

    @property
    def mean_ece(self) -> float:
        """The mean calibration error over the same cells."""
        return self._mean(lambda cell: cell.ece)

    def _mean(self, value: Callable[[Accuracy], float]) -> float:
        cells = (*((self.clean,) if self.clean else ()), *self.cells)
        return sum(map(value, cells)) / len(cells)


@dataclass(frozen=True)
class Grid:
    """Accuracy by distortion and level (see `evaluate`).

    Attributes:
        curves: one per distortion, by its name.
        images: the number of images; each value is of at least as many.
        clean: on the undistorted images; None if there were none.
        target: what counted as right: `labels`, or `prediction` for the answers of the untouched
            network to the clean images, where all shares are of agreement.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> grid = dc.evaluate(network, [(torch.rand(4, 3, 8, 8), torch.arange(4))], "awgn:10,20")
        >>> grid.curves["awgn"].distortion.levels
        (10.0, 20.0)
        >>> 0 <= grid.mean_top1 <= 1
        True
    """

    curves: dict[str, Curve]
    images: int
    clean: Accuracy | None
    target: Target = "labels"

    @property
    def clean_top1(self) -> float:
        """On the undistorted images; NaN if there were none."""
        return self.clean.top1 if self.clean else math.nan

    @property
    def clean_top5(self) -> float:
        """On the undistorted images; NaN if there were none."""
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


class _Answers(NamedTuple):
    """What is counted of the answers to some images, each (images,), on the network's device.

    Attributes:
        labels: the true classes.
        broken: whether the answer has no meaning.
        first: whether the first answer is right.
        fifth: whether one of the first five is.
        sure: the confidence of the first.
    """

    labels: Tensor
    broken: Tensor
    first: Tensor
    fifth: Tensor
    sure: Tensor


READ_AT_ONCE = 64
"""How many batches a GPU answers before it is waited for, and what it found is read."""


class Tally:
    """Counts of one distortion and level, filled batch by batch.

    On a GPU, many batches are read at once, so that an error of one is raised later, at the latest
    where the counts are asked for.
    """

    def __init__(self) -> None:
        self.images = self._classes = 0
        self._unread: list[tuple[int, _Answers]] = []
        self._hits = torch.zeros(2, dtype=torch.long)
        self._right: dict[int, Tensor] = {}  # by the number of the batch's first image
        self._bins = torch.zeros(2, CALIBRATION_BINS, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor, first: int) -> None:
        """Counts a batch: logits N x classes, labels N.

        Args:
            logits: N x classes.
            labels: (N,).
            first: the number of the first image, counted from 0.

        Raises:
            InputError: a label is not one of the classes, or an answer is NaN.
        """
        broken, self._classes = without_meaning(logits), logits.shape[1]
        shares, order = logits.float().softmax(1).topk(min(5, logits.shape[1]), dim=1)
        right = order == labels[:, None]
        found = _Answers(labels, broken, right[:, 0], right.any(1), shares[:, 0])
        self._unread.append((first, found))
        self.images += len(labels)
        if logits.device.type == "cpu" or len(self._unread) == READ_AT_ONCE:
            self._read()

    def _read(self) -> None:
        """Counts what was found since it was last read."""
        if not self._unread:
            return
        sizes = [len(found.labels) for _, found in self._unread]
        columns = zip(*(found for _, found in self._unread), strict=True)
        labels, broken, first, fifth, sure = (torch.cat(each).cpu() for each in columns)
        places = [place for place, _ in self._unread]
        self._unread = []
        check_labels(labels, self._classes)
        if bool(broken.any()):
            numbers = [range(place, place + n) for place, n in zip(places, sizes, strict=True)]
            image = [*chain(*numbers)][int(broken.int().argmax())]
            raise InputError(
                f"the network's answer to image {image} (counted from 0) is NaN, so that no class "
                "is right or wrong: look at this image and at the network's weights, and compute "
                "in float32"
            )
        self._hits += torch.stack([first.sum(), fifth.sum()])
        sure = sure.double()
        place = (sure * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
        self._bins[0].index_add_(0, place, sure)
        self._bins[1].index_add_(0, place, first.double())
        self._right |= zip(places, first.split(sizes), strict=True)

    @property
    def right(self) -> Tensor:
        """Whether the first answer to each image is right, (images,) bool."""
        self._read()
        return torch.cat([self._right[first] for first in sorted(self._right)])

    def share(self) -> None:
        """Adds what the other processes counted, so that all hold the same."""
        self._read()
        if process_count() == 1:
            return
        self.images = int(total(torch.tensor(self.images)))
        self._hits, self._bins = total(self._hits), total(self._bins)
        self._right = {
            first: right for each in gathered(self._right) for first, right in each.items()
        }

    def accuracy(self) -> Accuracy:
        """The counts as shares of the images."""
        self._read()
        first, fifth = (self._hits.double() / self.images).tolist()
        error = (self._bins[0] - self._bins[1]).abs().sum() / self.images
        return Accuracy(self.images, first, fifth, float(error))


def system_record(
    grid: Grid, cost: Costs, *, trained: bool, images_seen: int, seconds: float
) -> dict[str, Any]:
    """The record of one system in `results.json` and in the output of `evaluate --json`.

    Args:
        grid: its accuracies.
        cost: its costs.
        trained: whether its trainable parameters were trained; those of the baseline were not.
        images_seen: the number of training images, repeats counted.
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
