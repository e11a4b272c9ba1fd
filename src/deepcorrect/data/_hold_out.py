"""Holding back a part of a loader's images."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from deepcorrect.data._loader import Batches, Loader
from deepcorrect.data._reading import read_batches
from deepcorrect.runtime import InputError


def hold_out(batches: Batches, share: float, seed: int = 0) -> tuple[Batches, Batches]:
    """Divides a loader's images at random into those to work with and those held back.

    Args:
        batches: A DataLoader over a set that is read by index, or a list of batches.
        share: The share of the images to hold back, above 0 and below 1; at least one image.
        seed: The seed of the choice.

    Returns:
        A loader of the other images, which shuffles if the given one does, and one of the images
        held back, in a fixed order.

    Raises:
        InputError: The images cannot be divided: they are a stream, or the loader has a sampler of
            its own.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from deepcorrect.data import hold_out
        >>> images = TensorDataset(torch.rand(10, 3, 8, 8), torch.arange(10))
        >>> some, held_back = hold_out(DataLoader(images, batch_size=4), share=0.2)
        >>> sum(len(labels) for _, labels in some), [len(labels) for _, labels in held_back]
        (8, [2])
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(batches, list | tuple):
        return _divided(list(read_batches(batches)), share, generator)
    if isinstance(batches, DataLoader) and not isinstance(batches.dataset, IterableDataset):
        data: Any = batches.dataset
        order = torch.randperm(len(data), generator=generator).tolist()
        count = _count(len(order), share)
        return _part(batches, sorted(order[count:])), _part(
            batches, sorted(order[:count]), last=True
        )
    raise InputError(
        f"some images must be held back to measure on, but a {type(batches).__name__} cannot be "
        "divided: give validation= (other images), a DataLoader over a set that is read by index, "
        "or a list of batches"
    )


def _count(images: int, share: float) -> int:
    if images < 2:
        raise InputError(f"{images} image cannot be divided: give more, or give validation=")
    return min(images - 1, max(1, round(share * images)))


def _part(batches: DataLoader[Any], rows: list[int], *, last: bool = False) -> Batches:
    """The loader on some of its images; `last` for a fixed order and every image."""
    sampler = batches.sampler
    shuffles = isinstance(sampler, RandomSampler)
    if batches.batch_size is None or not (shuffles or isinstance(sampler, SequentialSampler)):
        raise InputError(
            "some images must be held back to measure on, but the loader has a sampler of its own: "
            "give validation= (other images)"
        )
    make = Loader if isinstance(batches, Loader) else DataLoader
    # images that cannot be read are counted by the whole set
    return make(
        Subset(batches.dataset, rows),
        batches.batch_size,
        shuffle=shuffles and not last,
        num_workers=batches.num_workers,
        collate_fn=batches.collate_fn,
        pin_memory=batches.pin_memory,
        drop_last=batches.drop_last and not last,
        worker_init_fn=batches.worker_init_fn,
    )


def _divided(batches: list[Any], share: float, generator: torch.Generator) -> tuple[Any, Any]:
    """Divides the rows of all batches of a list."""
    sizes = [len(images) for images, _ in batches]
    total = sum(sizes)
    held = torch.zeros(total, dtype=torch.bool)
    held[torch.randperm(total, generator=generator)[: _count(total, share)]] = True
    parts: tuple[list[Any], list[Any]] = [], []
    for batch, mask in zip(batches, held.split(sizes), strict=True):
        for part, rows in zip(parts, (~mask, mask), strict=True):
            if rows.any():
                part.append(tuple(value[rows] for value in batch))
    return parts
