"""Accuracy over distortions and levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deepcorrect.data import Batches, Target, check_repeatable, count_of, target_for
from deepcorrect.distortions import (
    CLEAN,
    Cell,
    DistortedCache,
    Distortion,
    LevelledDistortion,
    cells_of,
    distorted_batches,
    level_rows,
    numbered_batches,
    parse_all,
    shared_batches,
)
from deepcorrect.evaluation._results import Accuracy, Curve, Grid, Tally
from deepcorrect.networks import Wrapper, as_logits, logits_of, preprocessing_of
from deepcorrect.runtime import (
    InputError,
    Precision,
    autocast,
    check_seed,
    device_of,
    forked_random,
    inference,
    process_count,
    process_index,
    progress,
    to_device,
    together,
)

PURPOSE = "to evaluate on"


@runtime_checkable
class TestTimeSystem(Protocol):
    """A model that must be notified before each distortion level, as one that adapts itself is.

    It gets all images of one level, then all of the next.
    """

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
    cache: DistortedCache | None = None,
) -> Grid:
    """Measures top-1 and top-5 accuracy on clean images and at every level of every distortion.

    The noise depends on the seed, the level and an image's number in the loader alone, not on the
    batch size, so systems that are evaluated with the same images and seed see the same distorted
    images. Where the target is the prediction, accuracy becomes agreement: the class that the
    untouched network assigns to the clean image counts as right.

    Args:
        model: takes images in [0, 1]; runs in inference mode, on the device that it is on. A
            `TestTimeSystem` gets all images of one level, then all of the next.
        loader: batches of (images, labels), in a fixed order.
        distortions: specs such as `gaussian_blur` or `awgn:10,20`; without levels, the paper's
            grid for the input size.
        seed: of the noise.
        precision: `bfloat16` runs faster and less exactly.
        task: the name of this measurement in the progress line.
        target: `labels` or `prediction`; with the latter no label is read. None takes the labels
            where every image of the first batch has one, else the prediction (see
            `deepcorrect.data.target_for`).
        reference: the untouched network; None takes the one that an `AdaptedModel` corrects, or
            the model itself.
        cache: keeps the distorted images for the next call with the same loader, distortions and
            seed.

    Returns:
        Accuracies as shares of the images, 0 to 1.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> batch = (torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> grid = dc.evaluate(network, [batch], ["gaussian_blur:1,2", "awgn:20"])
        >>> grid.images, sorted(grid.curves), len(grid.curves["gaussian_blur"].top1)
        (4, ['awgn', 'gaussian_blur'], 2)
    """
    kinds, tallies, target = measure(
        *(model, loader, distortions, seed, precision, task, target, reference, cache)
    )
    return grid_of(kinds, tallies, target)


def measure(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int,
    precision: Precision,
    task: str,
    target: Target | None,
    reference: nn.Module | None,
    cache: DistortedCache | None,
) -> tuple[tuple[LevelledDistortion, ...], list[Tally], Target | None]:
    """The distortions, the counts of each cell, the clean one first, and what counted as right.

    See `evaluate` for the arguments.
    """
    seed, device = check_seed(seed), device_of(model)
    is_test_time = isinstance(model, TestTimeSystem)
    clean = truth = torch.empty(0)
    read = compared = None
    with (
        together(),
        inference(model),
        torch.no_grad(),
        autocast(device, precision),
        progress(task, count_of(loader)) as step,
    ):
        grid = parse_all(distortions, pixels_of(model, loader))
        cells = [CLEAN, *cells_of(grid)]
        tallies = [Tally() for _ in cells]
        processes = process_count()
        # a model that adapts to all images of a level sees them in one process
        own = range(process_index(), len(cells), processes) if is_test_time else range(len(cells))
        head = _head(loader, device) if processes > 1 else None
        for batch in distorted_batches(
            loader,
            [cells[row] for row in own],
            seed=seed,
            device=device,
            purpose=PURPOSE,
            by_cell=is_test_time,
            shared=not is_test_time,
            cache=cache,
        ):
            if is_test_time and batch.first == 0:
                model.start_level(*batch.cell)
            if batch.clean is not clean:
                clean, truth = batch.clean, batch.labels
                shown, labels = head or (clean, truth)
                if read is None:  # a model that adapts is not shown images before
                    read = model if is_test_time else as_logits(model, shown)
                target = target or target_for(labels)
                if target == "prediction":
                    compared = compared or as_logits(_untouched(model, reference), shown)
                    with inference(compared):
                        truth = logits_of(compared, clean).argmax(1)
            assert read is not None
            tallies[own[batch.row]].add(logits_of(read, batch.images), truth, batch.first)
            step(len(batch.images) * processes / len(cells))
        if head is not None:  # also where no batch was left for this process
            target = target or target_for(head[1])
        for tally in tallies:
            tally.share()
    return grid, tallies, target


def _head(loader: Batches, device: torch.device) -> tuple[Tensor, Tensor]:
    """The images and labels of the first batch, which settle the same in every process."""
    with forked_random():  # a loader that is opened draws a random number
        images, labels, _ = next(numbered_batches(loader, PURPOSE))
    return to_device(images, device), labels


def grid_of(
    kinds: Sequence[LevelledDistortion], tallies: Sequence[Tally], target: Target | None
) -> Grid:
    """The accuracies of all cells as a grid, from the counts that `measure` returned."""
    clean, *under = (tally.accuracy() for tally in tallies)
    curves = {
        kind.name: Curve(kind, tuple(under[rows]), clean)
        for kind, rows in zip(kinds, level_rows(kinds).values(), strict=True)
    }
    return Grid(curves, clean.images, clean, target or "labels")


def _untouched(model: nn.Module, reference: nn.Module | None) -> nn.Module:
    """The untouched network, whose answers to clean images count as right.

    Raises:
        InputError: the model adapts itself at test time, and no reference was given.
    """
    if reference is not None:
        return reference
    if isinstance(model, TestTimeSystem):
        raise InputError(
            "a system that adapts itself at test time does not have the answers of the untouched "
            "network: give that network as `reference`"
        )
    return model.untouched() if isinstance(model, Wrapper) else model


def evaluate_stored(
    model: nn.Module,
    parts: Mapping[str, Mapping[float, Callable[[], Batches]]],
    clean: Batches | None = None,
    precision: Precision = "float32",
    task: str = "evaluation",
) -> Grid:
    """Measures top-1 and top-5 accuracy on every level of a set of distorted copies.

    Args:
        model: takes images in [0, 1]; runs in inference mode, on the device that it is on.
        parts: by distortion and level, a function that opens batches of (images, labels).
        clean: batches of the undistorted images; None if there are none.
        precision: `bfloat16` runs faster and less exactly.
        task: the name of this measurement in the progress line.

    Raises:
        InputError: a label is not accepted, or a level has no image.
    """
    curves: dict[str, Curve] = {}
    before = None
    total = sum(map(len, parts.values())) + (clean is not None)
    with (
        together(),
        inference(model),
        torch.no_grad(),
        autocast(device_of(model), precision),
        progress(task, total, "sets") as step,
    ):
        if clean is not None:
            before = _accuracy(model, CLEAN, clean, step)
        for name, by_level in parts.items():
            kind = LevelledDistortion(name, tuple(by_level), clip=True, quantize=True)
            cells = [
                _accuracy(model, Cell(kind, level), opened(), step)
                for level, opened in by_level.items()
            ]
            curves[name] = Curve(kind, tuple(cells), before)
    images = min((cell.images for curve in curves.values() for cell in curve.cells), default=0)
    return Grid(curves, images, before)


def _accuracy(
    model: nn.Module, cell: Cell, loader: Batches, step: Callable[[float], None]
) -> Accuracy:
    """Accuracy on one loader, whose images are stored as they look in `cell`."""
    device, count, tally, read = device_of(model), max(count_of(loader), 1), Tally(), None
    adapts = isinstance(model, TestTimeSystem)  # sees all images of a level, in every process
    if adapts:
        model.start_level(*cell)
    batches = (numbered_batches if adapts else shared_batches)(loader, PURPOSE, once=True)
    for images, labels, first in batches:
        if read is None:
            read = model if adapts else as_logits(model, images)
        tally.add(logits_of(read, to_device(images, device)), labels.to(device), first)
        step(len(images) * (1 if adapts else process_count()) / count)
    if not adapts:
        tally.share()
    return tally.accuracy()


def pixels_of(model: nn.Module, loader: Batches) -> int:
    """Side of the model's input in pixels; for a bare network, of the loader's first images."""
    known = preprocessing_of(model)
    if known is not None:
        return known.input_size
    check_repeatable(loader)
    return min(next(numbered_batches(loader, PURPOSE)).images.shape[-2:])
