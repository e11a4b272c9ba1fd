"""Test images that do not come sorted: every batch has images of all distortions and levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.data import ImageSet, loader, read_batches
from deepcorrect.distortions import CLEAN, LevelledDistortion, cells_of, level_rows
from deepcorrect.evaluation import TestTimeSystem
from deepcorrect.networks import logits_of
from deepcorrect.runtime import Precision, autocast, device_of, inference, progress


def mixed(
    model: nn.Module,
    images: ImageSet,
    kinds: Sequence[LevelledDistortion],
    seed: int = 0,
    size: int = 250,
    precision: Precision = "float32",
    task: str = "mixed",
) -> dict[str, Any]:
    """Top-1 accuracy on a stream in which each image comes once clean and once at every level.

    The order is drawn with the seed. The distorted images are those that `evaluate` shows with this
    seed, so a network that does not adapt has the same accuracy as sorted, and differences are
    those of the order. A system that adapts is reset at the beginning and never again: nobody says
    when a distortion begins.

    Args:
        model: the system.
        images: the test images, which are held in memory.
        kinds: the distortions.
        seed: of the order and of the noise.
        size: how many images come together.
        precision: as for `evaluate`.
        task: the name in the progress line.

    Returns:
        `clean`, and for each distortion `top1` by level and `mean`, over clean and all levels.
    """
    pixels, labels = _in_memory(images)
    cells = [CLEAN, *cells_of(kinds)]
    order = torch.randperm(len(cells) * len(pixels), generator=torch.Generator().manual_seed(seed))
    right = torch.zeros(len(cells))
    device = device_of(model)
    if isinstance(model, TestTimeSystem):
        model.start_level(*CLEAN)
    with (
        inference(model),
        torch.no_grad(),
        autocast(device, precision),
        progress(task, len(order)) as step,
    ):
        for some in order.split(size):
            rows, numbers = some // len(pixels), some % len(pixels)
            shown = torch.empty(len(some), *pixels.shape[1:])
            for row in rows.unique().tolist():
                mine = rows == row
                which = numbers[mine]
                shown[mine] = cells[row].show(pixels[which], seed, which.tolist())
            answers = logits_of(model, shown.to(device)).argmax(1).cpu()
            right.index_add_(0, rows, (answers == labels[numbers]).float())
            step(len(some))
    shares = (right / len(pixels)).tolist()
    found: dict[str, Any] = {"clean": round(shares[0], 4)}
    for kind, at in level_rows(kinds).items():
        top1 = shares[1 + at.start : 1 + at.stop]
        mean = (shares[0] + sum(top1)) / (1 + len(top1))
        found[kind] = {"top1": [round(each, 4) for each in top1], "mean": round(mean, 4)}
    return found


def _in_memory(images: ImageSet) -> tuple[Tensor, Tensor]:
    """All images, N x C x H x W, and their labels."""
    batches = list(read_batches(loader(images, 250)))
    return torch.cat([shown for shown, _ in batches]), torch.cat([each for _, each in batches])
