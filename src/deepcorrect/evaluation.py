"""Accuracy over distortions and levels, and what a network costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepcorrect.adapter import AdaptedModel
from deepcorrect.classifier import Preprocessing, input_size_of
from deepcorrect.computing import Precision, autocast, device_of, inference, placed
from deepcorrect.data import UNLABELLED, Batches, check_labels, count_of, no_images
from deepcorrect.distortions import Distortion, parse_all, seeds_for
from deepcorrect.progress import progress

Target = Literal["labels", "prediction"]
"""What is right: the true class, or the class that the untouched network gives the clean image."""


@dataclass(frozen=True)
class Curve:
    """Accuracy under one distortion. All values are shares of the images, 0 to 1.

    Attributes:
        distortion: with its levels.
        top1: at each level.
        top5: at each level.
        clean_top1: on the undistorted images.
    """

    distortion: Distortion
    top1: tuple[float, ...]
    top5: tuple[float, ...]
    clean_top1: float

    @property
    def mean_top1(self) -> float:
        """The paper's average: over the clean images and every level."""
        return (self.clean_top1 + sum(self.top1)) / (1 + len(self.top1))


@dataclass(frozen=True)
class Grid:
    """Accuracy by distortion and level.

    Attributes:
        curves: one a distortion, by name.
        images: number of images each value is a share of.
        clean_top1, clean_top5: on the undistorted images.
        target: what was right: `labels`; or `prediction`, all shares then being of agreement.
    """

    curves: dict[str, Curve]
    images: int
    clean_top1: float
    clean_top5: float
    target: Target = "labels"

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
                "clean_top1": self.clean_top1,
                "clean_top5": self.clean_top5,
                "mean_top1": curve.mean_top1,
            }
            for name, curve in self.curves.items()
        }


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
        model: takes images in [0, 1]; runs in inference mode where it is.
        loader: batches of (images, labels), in a fixed order.
        distortions: specs such as `gaussian_blur` or `awgn:10,20`; without levels, the paper's
            grid for the input size.
        seed: of the noise.
        precision: `bfloat16` runs faster and less exactly.
        task: what the progress line says.
        target: `labels` or `prediction`; with the latter no label is read. None takes the labels
            where the first batch has one for each image, else the prediction.
        reference: whose predictions; None takes the network that `model` corrects, or `model`.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.
    """
    device = device_of(model)
    cells: list[tuple[Distortion, float]] = []
    grid: tuple[Distortion, ...] = ()
    counts = torch.zeros(0)
    images_seen = 0
    with (
        inference(model),
        torch.no_grad(),
        autocast(device, precision),
        progress(task, count_of(loader)) as step,
    ):
        for images, truth in loader:
            if not len(images):
                continue
            if not grid:
                grid = parse_all(distortions, input_size_of(model, images))
                cells = [(kind, level) for kind in grid for level in kind.levels or ()]
                counts = torch.zeros(len(cells) + 1, 2, dtype=torch.long)
                if target is None:
                    target = "prediction" if bool((truth == UNLABELLED).any()) else "labels"
            here = placed(images, device)
            logits = model(here)
            if target == "labels":
                labels = truth.to(device)
                check_labels(labels, logits.shape[1])
            else:
                labels = _untouched(model, reference, here, logits).argmax(1)
            counts[0] += _hits(logits, labels)
            step(len(images) / (len(cells) + 1))
            for row, (kind, level) in enumerate(cells):
                seeds = seeds_for(seed, kind.name, level, first=images_seen, count=len(images))
                distorted = kind(here, level, seeds)
                counts[row + 1] += _hits(model(placed(distorted, device)), labels)
                step(len(images) / (len(cells) + 1))
            images_seen += len(images)
    if not images_seen:
        raise no_images(loader, "to evaluate on")
    shares = (counts.double() / images_seen).tolist()
    clean_top1, clean_top5 = shares[0]
    curves: dict[str, Curve] = {}
    row = 1
    for kind in grid:
        rows = shares[row : row + len(kind.levels or ())]
        row += len(rows)
        top1, top5 = tuple(r[0] for r in rows), tuple(r[1] for r in rows)
        curves[kind.name] = Curve(kind, top1, top5, clean_top1)
    return Grid(curves, images_seen, clean_top1, clean_top5, target or "labels")


def _untouched(
    model: nn.Module, reference: nn.Module | None, images: Tensor, logits: Tensor
) -> Tensor:
    """The untouched network's logits for clean images, those of `model` being known."""
    if reference is not None:
        with inference(reference):
            return reference(images)
    if isinstance(model, AdaptedModel):
        with model.disabled():
            return model(images)
    return logits


@dataclass(frozen=True)
class StoredGrid:
    """Accuracy on images that were distorted beforehand, by distortion and level.

    Attributes:
        levels, top1, top5: by distortion, one value a level; accuracies are shares, 0 to 1.
        images: number of images that each share is of at least.
        clean_top1, clean_top5: on the undistorted images; None where they were not given.
    """

    levels: dict[str, tuple[float, ...]]
    top1: dict[str, tuple[float, ...]]
    top5: dict[str, tuple[float, ...]]
    images: int
    clean_top1: float | None
    clean_top5: float | None

    def to_json(self) -> dict[str, Any]:
        """The `distortions` part of a system; `mean_top1` is over the levels, and over the clean
        images where there are some."""
        clean = () if self.clean_top1 is None else (self.clean_top1,)
        return {
            name: {
                "levels": list(self.levels[name]),
                "clip": True,
                "quantize": True,
                "top1": list(top1),
                "top5": list(self.top5[name]),
                "clean_top1": self.clean_top1,
                "clean_top5": self.clean_top5,
                "mean_top1": sum((*clean, *top1)) / len((*clean, *top1)),
            }
            for name, top1 in self.top1.items()
        }


def evaluate_stored(
    model: nn.Module,
    parts: Mapping[str, Mapping[float, Callable[[], Batches]]],
    clean: Batches | None = None,
    precision: Precision = "float32",
    task: str = "evaluation",
) -> StoredGrid:
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
    counts: list[int] = []
    levels: dict[str, tuple[float, ...]] = {}
    top1: dict[str, tuple[float, ...]] = {}
    top5: dict[str, tuple[float, ...]] = {}
    before: tuple[float | None, float | None] = (None, None)
    total = sum(map(len, parts.values())) + (clean is not None)
    with (
        inference(model),
        torch.no_grad(),
        autocast(device_of(model), precision),
        progress(task, total, "sets") as step,
    ):
        if clean is not None:
            *_, first, fifth = _accuracy(model, clean, step)
            before = (first, fifth)
        for name, by_level in parts.items():
            found = [_accuracy(model, opened(), step) for opened in by_level.values()]
            counts += [images for images, _, _ in found]
            levels[name] = tuple(by_level)
            top1[name] = tuple(first for _, first, _ in found)
            top5[name] = tuple(fifth for _, _, fifth in found)
    return StoredGrid(levels, top1, top5, min(counts, default=0), *before)


def _accuracy(
    model: nn.Module, loader: Batches, step: Callable[[float], None]
) -> tuple[int, float, float]:
    """Images of one loader, and the shares whose label is first and among the first five."""
    device, total = device_of(model), count_of(loader)
    hits, seen = torch.zeros(2, dtype=torch.long), 0
    for images, truth in loader:
        if not len(images):
            continue
        labels = truth.to(device)
        logits = model(placed(images, device))
        check_labels(labels, logits.shape[1])
        hits += _hits(logits, labels)
        seen += len(images)
        step(len(images) / max(total, 1))
    if not seen:
        raise no_images(loader, "to evaluate on")
    first, fifth = (hits.double() / seen).tolist()
    return seen, first, fifth


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many labels are the first, and among the first five, of the logits: shape (2,)."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([best[:, 0].sum(), best.any(1).sum()]).cpu()


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Attributes:
        parameters: in all, those of an adapter included.
        trainable_parameters: of them, those that training changes.
        multiply_adds: of the convolutions and linear layers, for one image.
    """

    parameters: int
    trainable_parameters: int
    multiply_adds: int


def costs(model: nn.Module, preprocessing: Preprocessing) -> Costs:
    """Counts parameters, and multiply-adds by running one black image."""
    size = preprocessing.input_size
    image = torch.zeros(1, preprocessing.channels, size, size, device=device_of(model))
    parameters = list(model.parameters())
    return Costs(
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=multiply_adds(model, image),
    )


def multiply_adds(model: nn.Module, image: Tensor) -> int:
    """Multiply-adds of the convolutions and linear layers for one image, 1 x C x H x W."""
    total = 0

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal total
        del args
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    handles = [module.register_forward_hook(count, prepend=True) for module in model.modules()]
    try:
        with inference(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return total


def system_record(
    grid: Grid | StoredGrid, cost: Costs, *, trained: bool, images_seen: int, seconds: float
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
        "target": grid.target if isinstance(grid, Grid) else "labels",
        "distortions": grid.to_json(),
    }
