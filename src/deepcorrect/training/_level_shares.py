"""Which levels of the distortions training shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepcorrect.data import Batches, can_hold_out, random_part, read_batches
from deepcorrect.distortions import LevelledDistortion, cells_of, distorted_batches
from deepcorrect.networks import logits_of
from deepcorrect.runtime import (
    Precision,
    autocast,
    forked_random,
    from_main,
    inference,
    progress,
    seed_of,
    seed_random,
)
from deepcorrect.training._settings import TrainingConfig

SHOWN = 2_000
"""About how many distorted images are looked at, of all levels together."""
IMAGES = (16, 250)
"""The smallest and the largest number of images that they are made of."""

LITTLE = 0.2
"""The share of the largest loss of all levels below which a level costs little."""
PURPOSE = "to train on"


def level_shares(
    network: nn.Module | None,
    loader: Batches,
    grid: Sequence[LevelledDistortion],
    settings: TrainingConfig,
    seed: int,
    device: torch.device,
) -> Tensor | None:
    """The share of each level that the settings ask for, the same in all processes.

    Args:
        network: the untouched network, which returns logits; it may be None for all levels.
        loader: see `shares_of_costly`, as are the others.
        grid: the distortions, with their levels.
        settings: how to train.
        seed: of the training.
        device: where the network is.

    Returns:
        The shares; None for all levels, which are drawn uniformly.
    """
    if network is None or settings.levels == "all":
        return None
    return from_main(
        lambda: shares_of_costly(network, loader, grid, seed, device, settings.precision)
    )


def shares_of_costly(
    network: nn.Module,
    loader: Batches,
    grid: Sequence[LevelledDistortion],
    seed: int,
    device: torch.device,
    precision: Precision,
) -> Tensor:
    """The same share for each level at which the network loses much, and none for the others.

    What it loses is the mean drop of the probability of its own answer to the clean image, so that
    no label is needed. Levels at which it loses less than `LITTLE` of what it loses at the worst
    are those that a gate leaves to the network, whose answers a correction hardly betters.

    Args:
        network: the untouched network, which returns logits.
        loader: batches of (clean images N x C x H x W in [0, 1], labels), of which some are taken.
        grid: the distortions, with their levels.
        seed: of the images that are taken, and of the noise.
        device: where the network is.
        precision: as for `fit`.

    Returns:
        The shares of all levels of the first distortion, then of the next; their sum is 1. If
        nothing is lost anywhere, all are the same.
    """
    cells = cells_of(grid)
    least, most = IMAGES
    count = min(most, max(least, SHOWN // len(cells)))
    lost = torch.zeros(len(cells), dtype=torch.float64)
    clean, answer, sure = torch.empty(0), torch.empty(0), torch.empty(0)
    with (
        forked_random(device),
        inference(network),
        torch.no_grad(),
        autocast(device, precision),
        progress("what each level costs", count * len(cells)) as advance,
    ):
        seed_random(seed_of(seed, "levels"), device)  # of a stream in random order
        some = _some(loader, count, seed)
        for batch in distorted_batches(some, cells, seed=seed, device=device, purpose=PURPOSE):
            if batch.clean is not clean:
                clean = batch.clean
                sure, answer = logits_of(network, clean).float().softmax(1).max(1, keepdim=True)
            shown = logits_of(network, batch.images).float().softmax(1).gather(1, answer)
            lost[batch.row] += (sure - shown).sum().item()
            advance(len(batch.images))
    worst = lost.max().clamp(min=0)
    costly = lost.clamp(min=0) >= LITTLE * worst  # all, if nothing is lost anywhere
    return costly.double() / costly.sum()


def _some(loader: Batches, count: int, seed: int) -> Batches:
    """So many images, chosen at random; the first ones of a stream, which is not read whole."""
    if can_hold_out(loader):
        return random_part(loader, count, seed)
    found: list[tuple[Tensor, Tensor]] = []
    for images, labels in read_batches(loader):
        found.append((images[:count], labels[:count]))
        count -= len(images)
        if count <= 0:
            break
    return found
