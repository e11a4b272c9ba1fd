"""Accuracy over distortions and levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deepcorrect.adapter import AdaptedModel
from deepcorrect.classifier import preprocessing_of
from deepcorrect.computing import Precision, autocast, device_of, inference, placed
from deepcorrect.cost import Costs
from deepcorrect.data import UNLABELLED, Batches, check_labels, count_of, no_images
from deepcorrect.distortions import Distortion, parse_all, seeds_for
from deepcorrect.errors import InputError
from deepcorrect.progress import progress

Target = Literal["labels", "prediction"]
"""What is right: the true class, or the class that the untouched network gives the clean image."""

CALIBRATION_BINS = 15


@runtime_checkable
class TestTimeSystem(Protocol):
    """A system that is told what is coming: it sees one distortion and level after the other."""

    def begin(self, distortion: Distortion | None, level: float) -> None:
        """Called before the images of each distortion and level; None before the clean ones."""
        ...


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

    distortion: Distortion
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
                "levels": list(curve.distortion.levels or ()),
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


class _Tally:
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


def evaluate(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int = 0,
    precision: Precision = "float32",
    task: str = "evaluation",
    target: Target | None = None,
    reference: nn.Module | None = None,
) -> Grid:
    """Measures top-1 and top-5 accuracy on clean images and at every level of every distortion.

    The noise depends on the seed, the level and an image's number in the loader alone, not on the
    batch size, so systems evaluated with the same images and seed see the same distorted ones.
    Without labels, agreement takes the place of accuracy: the class that the untouched network
    gives the clean image is right.

    Args:
        model: takes images in [0, 1]; runs in inference mode where it is. A `TestTimeSystem` gets
            all images of one level, then all of the next.
        loader: batches of (images, labels), in a fixed order.
        distortions: specs such as `gaussian_blur` or `awgn:10,20`; without levels, the paper's
            grid for the input size.
        seed: of the noise.
        precision: `bfloat16` runs faster and less exactly.
        task: what the progress line says.
        target: `labels` or `prediction`; with the latter no label is read. None takes the labels,
            and the prediction where no image of the first batch has one.
        reference: the untouched network; None takes the one that an `AdaptedModel` corrects, or
            the model itself.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.
    """
    device = device_of(model)
    grid = parse_all(distortions, _pixels(model, loader))
    cells: list[tuple[Distortion | None, float]] = [(None, 0.0)]
    cells += [(kind, level) for kind in grid for level in kind.levels or ()]
    tallies = [_Tally() for _ in cells]
    told = isinstance(model, TestTimeSystem)
    rows = range(len(cells))
    with (
        inference(model),
        torch.no_grad(),
        autocast(device, precision),
        progress(task, count_of(loader)) as step,
    ):
        for together in [[row] for row in rows] if told else [list(rows)]:
            if told:
                model.begin(*cells[together[0]])
            for images, truth in _filled(loader):
                here, labels = placed(images, device), truth.to(device)
                target = target or _target_of(truth)
                if target == "prediction":
                    labels = _untouched(model, reference, here).argmax(1)
                for row in together:
                    kind, level = cells[row]
                    shown = here
                    if kind is not None:
                        number = tallies[row].images
                        seeds = seeds_for(seed, kind.name, level, first=number, count=len(images))
                        shown = placed(kind(here, level, seeds), device)
                    tallies[row].add(model(shown), labels)
                    step(len(images) / len(cells))
    if not tallies[0].images:
        raise no_images(loader, "to evaluate on")
    clean, *distorted = (tally.accuracy() for tally in tallies)
    curves: dict[str, Curve] = {}
    for kind in grid:
        count = len(kind.levels or ())
        curves[kind.name] = Curve(kind, tuple(distorted[:count]), clean)
        distorted = distorted[count:]
    return Grid(curves, clean.images, clean, target or "labels")


def _target_of(labels: Tensor) -> Target:
    """What can be right for a batch."""
    return "prediction" if bool((labels == UNLABELLED).all()) else "labels"


def _untouched(model: nn.Module, reference: nn.Module | None, images: Tensor) -> Tensor:
    """The untouched network's logits for clean images.

    Raises:
        InputError: the model adapts itself while it answers, and no reference was given.
    """
    if reference is not None:
        with inference(reference):
            return reference(images)
    if isinstance(model, TestTimeSystem):
        raise InputError(
            "a system that adapts itself at test time cannot say what the untouched network "
            "answers: give that network as `reference`"
        )
    if isinstance(model, AdaptedModel):
        with model.disabled():
            return model(images)
    return model(images)


def evaluate_stored(
    model: nn.Module,
    parts: Mapping[str, Mapping[float, Callable[[], Batches]]],
    clean: Batches | None = None,
    precision: Precision = "float32",
    task: str = "evaluation",
) -> Grid:
    """Measures top-1 and top-5 accuracy on every level of a set of distorted copies.

    Args:
        model: takes images in [0, 1]; runs in inference mode where it is.
        parts: by distortion and level, a function that opens batches of (images, labels).
        clean: the undistorted images, likewise; None where there are none.
        precision: `bfloat16` runs faster and less exactly.
        task: what the progress line says.

    Raises:
        InputError: a label is not accepted, or a level has no image.
    """
    curves: dict[str, Curve] = {}
    before = None
    total = sum(map(len, parts.values())) + (clean is not None)
    with (
        inference(model),
        torch.no_grad(),
        autocast(device_of(model), precision),
        progress(task, total, "sets") as step,
    ):
        if clean is not None:
            before = _accuracy(model, None, 0.0, clean, step)
        for name, by_level in parts.items():
            kind = Distortion(name, tuple(by_level), clip=True, quantize=True)
            cells = [
                _accuracy(model, kind, level, opened(), step) for level, opened in by_level.items()
            ]
            curves[name] = Curve(kind, tuple(cells), before)
    images = min((cell.images for curve in curves.values() for cell in curve.cells), default=0)
    return Grid(curves, images, before)


def _accuracy(
    model: nn.Module,
    kind: Distortion | None,
    level: float,
    loader: Batches,
    step: Callable[[float], None],
) -> Accuracy:
    """Accuracy on one loader, whose images are as they are to be seen."""
    device, total, tally = device_of(model), count_of(loader), _Tally()
    if isinstance(model, TestTimeSystem):
        model.begin(kind, level)
    for images, labels in _filled(loader):
        tally.add(model(placed(images, device)), labels.to(device))
        step(len(images) / max(total, 1))
    if not tally.images:
        raise no_images(loader, "to evaluate on")
    return tally.accuracy()


def _filled(loader: Batches) -> Iterable[tuple[Tensor, Tensor]]:
    """The batches that hold an image: of some all may be bad."""
    return ((images, labels) for images, labels in loader if len(images))


def _pixels(model: nn.Module, loader: Batches) -> int:
    """Side of the model's input in pixels; for a bare network, of the loader's first images."""
    known = preprocessing_of(model)
    if known is not None:
        return known.input_size
    for images, _ in _filled(loader):
        return min(images.shape[-2:])
    raise no_images(loader, "to evaluate on")


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
