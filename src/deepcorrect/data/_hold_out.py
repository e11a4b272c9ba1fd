"""A random part of a loader's images: to hold back, or to work with alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from deepcorrect.data._loader import Batches, Loader, count_of, how_it_reads
from deepcorrect.data._reading import read_batches
from deepcorrect.runtime import InputError, check_seed


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
    generator = torch.Generator().manual_seed(check_seed(seed))
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


def random_part(batches: Batches, images: int, seed: int = 0) -> Batches:
    """A loader of at most so many of another loader's images, chosen at random, in a fixed order.

    Args:
        batches: Any loader in a fixed order. A loader that is not divided by index, such as one of
            a stream, is read whole for each pass.
        images: The largest number of images, at least 1.
        seed: The seed of the choice.

    Returns:
        The given loader if it has no more images.

    Example:
        >>> import torch
        >>> from deepcorrect.data import random_part
        >>> batches = [(torch.rand(4, 3, 8, 8), torch.arange(4) + 4 * i) for i in range(5)]
        >>> [labels.tolist() for _, labels in random_part(batches, images=3)]
        [[4, 5, 13]]
    """
    if isinstance(batches, list | tuple):
        batches = list(read_batches(batches))
    total = count_of(batches) or sum(len(each) for each, _ in read_batches(batches))
    if total <= images:
        return batches
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    chosen = order[:images].sort().values
    if isinstance(batches, DataLoader) and can_hold_out(batches):
        return _part(batches, chosen.tolist(), last=True)
    return _Chosen(batches, torch.zeros(total, dtype=torch.bool).index_fill(0, chosen, True))


class _Chosen:
    """The chosen images of a loader, in batches that are about as large as the loader's."""

    def __init__(self, batches: Batches, chosen: Tensor) -> None:
        self.batches, self.chosen = batches, chosen

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, held, parts = 0, 0, list[tuple[Tensor, Tensor]]()
        for images, labels in read_batches(self.batches):
            rows = self.chosen[first : first + len(images)].nonzero().flatten()
            first += len(images)
            if len(rows):
                parts.append((images[rows], labels[rows]))
                held += len(rows)
            if held >= len(images) and parts:
                yield _joined(parts)
                held, parts = 0, []
        if parts:
            yield _joined(parts)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def can_hold_out(batches: Batches) -> bool:
    """Whether `hold_out` can divide a loader's images: it is a list, or reads a set by index in an
    order that does not matter.

    Example:
        >>> from deepcorrect.data import can_hold_out
        >>> can_hold_out([]), can_hold_out(iter([]))
        (True, False)
    """
    if not isinstance(batches, DataLoader):
        return isinstance(batches, list | tuple)
    plain = isinstance(batches.sampler, RandomSampler | SequentialSampler)
    streams = isinstance(batches.dataset, IterableDataset)
    return plain and not streams and batches.batch_size is not None


def smaller_batches(batches: Batches, size: int) -> Batches:
    """A loader of the same images in batches of at most so many.

    Args:
        batches: Any loader. One that `hold_out` cannot divide is returned unchanged, as is a
            DataLoader whose batches are no larger.
        size: The largest number of images in a batch, at least 1.

    Returns:
        The loader, which shuffles if the given one does. The batches of a list are cut into parts
        that are as equal as possible.

    Example:
        >>> import torch
        >>> from deepcorrect.data import smaller_batches
        >>> batches = [(torch.rand(n, 3, 8, 8), torch.arange(n)) for n in (9, 2)]
        >>> [len(labels) for _, labels in smaller_batches(batches, 4)]
        [3, 3, 3, 2]
    """
    if isinstance(batches, DataLoader):
        if not can_hold_out(batches) or (batches.batch_size or 0) <= size:
            return batches
        return _loader(batches, batches.dataset, size)
    if not can_hold_out(batches):
        return batches
    return [
        pair
        for images, labels in read_batches(batches)
        for pair in zip(
            *(each.tensor_split(-(-len(images) // size)) for each in (images, labels)), strict=True
        )
        if len(images)
    ]


def _count(images: int, share: float) -> int:
    if images < 2:
        raise InputError(f"{images} image cannot be divided: give more, or give validation=")
    return min(images - 1, max(1, round(share * images)))


def _part(batches: DataLoader[Any], rows: list[int], *, last: bool = False) -> Batches:
    """The loader on some of its images; `last` for a fixed order and every image."""
    if not can_hold_out(batches):
        raise InputError(
            "some images must be held back to measure on, but the loader has a sampler of its own: "
            "give validation= (other images)"
        )
    return _loader(batches, Subset(batches.dataset, rows), batches.batch_size, in_order=last)


def _loader(
    batches: DataLoader[Any], images: Any, size: int | None, *, in_order: bool = False
) -> Batches:
    """A loader like another one, of other images or with batches of another size.

    With `in_order`, it does not shuffle and leaves no image out.
    """
    shuffles = isinstance(batches.sampler, RandomSampler)
    make: Any = Loader if isinstance(batches, Loader) else DataLoader
    # images that cannot be read are counted by the whole set
    return make(
        images,
        size,
        shuffle=shuffles and not in_order,
        drop_last=batches.drop_last and not in_order,
        **how_it_reads(batches),
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
