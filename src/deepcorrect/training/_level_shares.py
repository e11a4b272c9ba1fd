"""How often training shows each level of each distortion."""

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
        network: the untouched network, which returns logits; it may be None for uniform levels.
        loader: see `shares_by_loss`, as are the others.
        grid: the distortions, with their levels.
        settings: how to train.
        seed: of the training.
        device: where the network is.

    Returns:
        The shares; None for levels that are drawn uniformly.
    """
    if network is None or settings.levels == "uniform":
        return None
    return from_main(
        lambda: shares_by_loss(network, loader, grid, seed, device, settings.precision)
    )


def shares_by_loss(
    network: nn.Module,
    loader: Batches,
    grid: Sequence[LevelledDistortion],
    seed: int,
    device: torch.device,
    precision: Precision,
) -> Tensor:
    """A share for each level, proportional to what the network loses there.

    That is the mean drop of the probability of its own answer to the clean image, so that no label
    is needed. If nothing is lost at any level, all have the same share.

    Args:
        network: the untouched network, which returns logits.
        loader: batches of (clean images N x C x H x W in [0, 1], labels), of which some are taken.
        grid: the distortions, with their levels.
        seed: of the images that are taken, and of the noise.
        device: where the network is.
        precision: as for `fit`.

    Returns:
        The shares of all levels of the first distortion, then of the next; their sum is 1.
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
    lost = lost.clamp(min=0)
    return lost / lost.sum() if lost.any() else torch.full_like(lost, 1 / len(lost))


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
