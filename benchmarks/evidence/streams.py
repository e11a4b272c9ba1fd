"""Test images under distortions: sorted, or in a stream whose batches have all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.data import ImageSet, loader, read_batches
from deepcorrect.distortions import CLEAN, Cell, LevelledDistortion, cells_of, level_rows
from deepcorrect.evaluation import TestTimeSystem
from deepcorrect.networks import logits_of
from deepcorrect.runtime import Precision, autocast, device_of, inference, progress, to_device


def in_memory(images: ImageSet) -> tuple[Tensor, Tensor]:
    """All images, N x C x H x W in [0, 1], and their labels, (N,)."""
    batches = list(read_batches(loader(images, 250)))
    return torch.cat([shown for shown, _ in batches]), torch.cat([each for _, each in batches])


def right_sorted(
    models: Mapping[str, nn.Module],
    images: tuple[Tensor, Tensor],
    cells: Sequence[Cell],
    seed: int = 0,
    size: int = 250,
    precision: Precision = "float32",
    task: str = "sorted",
) -> dict[str, Tensor]:
    """Which answers are right where images come sorted: all of one cell, then all of the next.

    Each distorted batch is made once and shown to every system, so several cost little more than
    one. A system that adapts is told before each cell.

    Args:
        models: the systems by name.
        images: from `in_memory`.
        cells: the distortions and levels, in their order.
        seed: of the noise, which is that of `evaluate`.
        size: how many images come together.
        precision: as for `evaluate`.
        task: the name in the progress line.

    Returns:
        By system, cells x N bool.
    """
    pixels, labels = images
    right = {name: torch.zeros(len(cells), len(pixels), dtype=torch.bool) for name in models}
    with progress(task, len(cells) * len(pixels)) as step:
        for row, cell in enumerate(cells):
            for model in models.values():
                if isinstance(model, TestTimeSystem):
                    model.start_level(*cell)
            for numbers in torch.arange(len(pixels)).split(size):
                shown = cell.show(pixels[numbers], seed, numbers.tolist())
                for name, model in models.items():
                    answers = _answers(model, shown, precision)
                    right[name][row, numbers] = answers == labels[numbers]
                step(len(numbers))
    return right


def right_mixed(
    model: nn.Module,
    images: tuple[Tensor, Tensor],
    cells: Sequence[Cell],
    seed: int = 0,
    size: int = 250,
    precision: Precision = "float32",
    task: str = "mixed",
) -> Tensor:
    """Which answers are right on a stream in which each image comes once in every cell.

    The order is drawn with the seed. The distorted images are those of `right_sorted`, so a network
    that does not adapt answers them alike, and differences are those of the order. A system that
    adapts is reset at the beginning and never again: nobody says when a distortion begins.

    Args:
        model: the system.
        images: from `in_memory`.
        cells: the distortions and levels.
        seed: of the order and of the noise.
        size: how many images come together.
        precision: as for `evaluate`.
        task: the name in the progress line.

    Returns:
        cells x N bool.
    """
    pixels, labels = images
    order = torch.randperm(len(cells) * len(pixels), generator=torch.Generator().manual_seed(seed))
    right = torch.zeros(len(cells), len(pixels), dtype=torch.bool)
    if isinstance(model, TestTimeSystem):
        model.start_level(*CLEAN)
    with progress(task, len(order)) as step:
        for some in order.split(size):
            rows, numbers = some // len(pixels), some % len(pixels)
            shown = torch.empty(len(some), *pixels.shape[1:])
            for row in rows.unique().tolist():
                mine = rows == row
                which = numbers[mine]
                shown[mine] = cells[row].show(pixels[which], seed, which.tolist())
            right[rows, numbers] = _answers(model, shown, precision) == labels[numbers]
            step(len(some))
    return right


def accuracies(right: Tensor, kinds: Sequence[LevelledDistortion]) -> dict[str, float]:
    """The mean top-1 accuracy of each distortion, over clean images and all levels, and the clean.

    Args:
        right: (1 + levels of all kinds) x N, the clean images first.
        kinds: the distortions.
    """
    shares = right.float().mean(1)
    found = {"clean": round(float(shares[0]), 4)}
    for name, at in level_rows(kinds).items():
        own = torch.cat([shares[:1], shares[1 + at.start : 1 + at.stop]])
        found[name] = round(float(own.mean()), 4)
    return found


def grid_cells(kinds: Sequence[LevelledDistortion]) -> list[Cell]:
    """The clean images, and every level of every distortion."""
    return [CLEAN, *cells_of(kinds)]


def _answers(model: nn.Module, shown: Tensor, precision: Precision) -> Tensor:
    device = device_of(model)
    with inference(model), torch.no_grad(), autocast(device, precision):
        found: Any = logits_of(model, to_device(shown, device))
    return found.argmax(1).cpu()
