"""Accuracy over distortions and levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deepcorrect.data import UNLABELLED, Batches, count_of, no_images
from deepcorrect.distortions import Distortion, LevelledDistortion, parse_all
from deepcorrect.evaluation._results import Accuracy, Curve, Grid, Tally, Target
from deepcorrect.networks import Wrapper, preprocessing_of
from deepcorrect.runtime import (
    InputError,
    Precision,
    autocast,
    device_of,
    inference,
    progress,
    seeds_for,
    to_device,
)


@runtime_checkable
class TestTimeSystem(Protocol):
    """A system that is told what is coming: it sees one distortion and level after the other."""

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        """Called before the images of each distortion and level; None before the clean ones."""
        ...


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
    cells: list[tuple[LevelledDistortion | None, float]] = [(None, 0.0)]
    cells += [(kind, level) for kind in grid for level in kind.levels]
    tallies = [Tally() for _ in cells]
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
                model.start_level(*cells[together[0]])
            for images, truth in _filled(loader):
                here, labels = to_device(images, device), truth.to(device)
                target = target or _target_of(truth)
                if target == "prediction":
                    labels = _untouched(model, reference, here).argmax(1)
                for row in together:
                    kind, level = cells[row]
                    shown = here
                    if kind is not None:
                        number = tallies[row].images
                        seeds = seeds_for(seed, kind.name, level, first=number, count=len(images))
                        shown = to_device(kind(here, level, seeds), device)
                    tallies[row].add(model(shown), labels)
                    step(len(images) / len(cells))
    if not tallies[0].images:
        raise no_images(loader, "to evaluate on")
    clean, *distorted = (tally.accuracy() for tally in tallies)
    curves: dict[str, Curve] = {}
    for kind in grid:
        count = len(kind.levels)
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
    untouched = model.untouched() if isinstance(model, Wrapper) else model
    with inference(untouched):
        return untouched(images)


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
            kind = LevelledDistortion(name, tuple(by_level), clip=True, quantize=True)
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
    device, total, tally = device_of(model), count_of(loader), Tally()
    if isinstance(model, TestTimeSystem):
        model.start_level(kind, level)
    for images, labels in _filled(loader):
        tally.add(model(to_device(images, device)), labels.to(device))
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
