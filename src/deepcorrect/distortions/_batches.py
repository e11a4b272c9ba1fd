"""One way for a batch: each image of a loader as it looks under each distortion and level.

Evaluation, validation, ranking, analyses, stored sets and a report's examples distort images here,
so an image has the same noise everywhere: its own seed is a function of the seed that was given,
the distortion, the level and the image's number, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deepcorrect.data import (
    Batches,
    check_repeatable,
    count_of,
    every_nth,
    no_images,
    read_batches,
)
from deepcorrect.distortions._distortion import LevelledDistortion
from deepcorrect.runtime import (
    agree,
    note_once,
    process_count,
    process_index,
    seed_of,
    to_device,
)

NO_BATCH = -1
"""What a process says in place of its batch's size when its share of a loader has ended."""


class Cell(NamedTuple):
    """One cell of a grid: a distortion at one level, or the clean images.

    Attributes:
        distortion: None for the clean images.
        level: of the distortion; 0 for the clean images.
    """

    distortion: LevelledDistortion | None
    level: float

    def show(self, clean: Tensor, seed: int, numbers: Iterable[int]) -> Tensor:
        """Images as they look in this cell.

        Args:
            clean: N x C x H x W in [0, 1], on any device.
            seed: of the noise.
            numbers: each image's number in its set, counted from 0.

        Returns:
            The distorted images, on the same device; `clean` itself in the clean cell.
        """
        if self.distortion is None:
            return clean
        parts = (seed, self.distortion.name, self.level)
        seeds = torch.tensor([seed_of(*parts, number) for number in numbers], dtype=torch.int64)
        return to_device(self.distortion(clean, self.level, seeds), clean.device)


CLEAN = Cell(None, 0.0)
"""The cell of the undistorted images."""


def cells_of(distortions: Iterable[LevelledDistortion]) -> list[Cell]:
    """Every level of every distortion, one after the other.

    Example:
        >>> from deepcorrect.distortions import cells_of, parse_all
        >>> cells = cells_of(parse_all(["gaussian_blur:1,2", "awgn:20"], pixels=32))
        >>> [(cell.distortion.name, cell.level) for cell in cells]
        [('gaussian_blur', 1.0), ('gaussian_blur', 2.0), ('awgn', 20.0)]
    """
    return [Cell(each, level) for each in distortions for level in each.levels]


def level_rows(distortions: Iterable[LevelledDistortion]) -> dict[str, slice]:
    """Where each distortion's levels stand among the rows of `cells_of`, by its name.

    Example:
        >>> from deepcorrect.distortions import level_rows, parse_all
        >>> level_rows(parse_all(["gaussian_blur:1,2", "awgn:20"], pixels=32))
        {'gaussian_blur': slice(0, 2, None), 'awgn': slice(2, 3, None)}
    """
    rows: dict[str, slice] = {}
    start = 0
    for distortion in distortions:
        rows[distortion.name] = slice(start, start + len(distortion.levels))
        start += len(distortion.levels)
    return rows


class NumberedBatch(NamedTuple):
    """A batch of clean images and the place of its first image in the loader.

    Attributes:
        images: N x C x H x W in [0, 1], N at least 1, where the loader put them.
        labels: (N,).
        first: the number of the first image, counted from 0.
    """

    images: Tensor
    labels: Tensor
    first: int


def numbered_batches(
    loader: Batches, purpose: str, *, once: bool = False
) -> Iterator[NumberedBatch]:
    """The batches of a loader that hold an image, with the number of their first image.

    A batch is empty where none of its images could be decoded.

    Args:
        loader: batches of (images, labels), in a fixed order.
        purpose: what the images are for, as an error says it: `to evaluate on`.
        once: whether nothing else reads the loader, which may then be an iterator.

    Raises:
        InputError: the loader had no image at all, its first are not in [0, 1], or it can be read
            only once.
    """
    if not once:
        check_repeatable(loader, probe=False)
    first = 0
    for images, labels in read_batches(loader):
        if len(images):
            yield NumberedBatch(images, labels, first)
            first += len(images)
    if not first:
        raise no_images(loader, purpose)
    _say_what_is_dropped(loader, first)


def shared_batches(loader: Batches, purpose: str, *, once: bool = False) -> Iterator[NumberedBatch]:
    """This process's share of `numbered_batches`: with n processes, every n-th batch.

    All processes read their shares at the same time, inside `deepcorrect.runtime.together`. After
    each round of batches they tell each other how many images could be read, so that an image has
    the number that one process would give it.

    Args:
        loader: batches of (images, labels), the same in every process.
        purpose: what the images are for, as an error says it: `to evaluate on`.
        once: whether nothing else reads the loader, which may then be an iterator.

    Raises:
        InputError: as `numbered_batches`.
        OtherProcessError: another process failed or ended.
    """
    count, index = process_count(), process_index()
    if count == 1:
        yield from numbered_batches(loader, purpose, once=once)
        return
    if not once:
        check_repeatable(loader, probe=False)
    own = read_batches(every_nth(loader, index, count))
    seen, ended = 0, False
    while not ended:
        batch = next(own, None)
        sizes = agree(NO_BATCH if batch is None else len(batch.images))
        if batch is not None and len(batch.images):
            before = sum(size for size in sizes[:index] if size > 0)
            yield NumberedBatch(batch.images, batch.labels, seen + before)
        seen += sum(size for size in sizes if size > 0)
        ended = NO_BATCH in sizes
    if not seen:
        raise no_images(loader, purpose)
    _say_what_is_dropped(loader, seen)


def _say_what_is_dropped(loader: Batches, seen: int) -> None:
    """Says that a DataLoader left its last, smaller batch out."""
    left_out = count_of(loader) - seen
    if getattr(loader, "drop_last", False) and 0 < left_out < (loader.batch_size or 1):  # pyright: ignore[reportAttributeAccessIssue]
        note_once(f"the loader leaves {left_out} of {seen + left_out} images out (drop_last=True)")


@dataclass(frozen=True)
class DistortedBatch:
    """A batch as it looks in one cell.

    Attributes:
        images: as shown, N x C x H x W, on the device that was asked for, channels last.
        clean: the same images before the distortion, on the same device.
        labels: (N,), on the same device; -1 for an image without a label.
        cell: the distortion and level; its distortion is None for the clean images.
        row: the cell's place in the list of cells.
        first: the number of the first image, counted from 0 over the loader.
    """

    images: Tensor
    clean: Tensor
    labels: Tensor
    cell: Cell
    row: int
    first: int


@dataclass(frozen=True)
class _Kept:
    """A clean batch, and its images by row; None for the clean images themselves."""

    clean: Tensor
    labels: Tensor
    first: int
    shown: dict[int, Tensor | None]

    @property
    def size(self) -> int:
        """In bytes."""
        shown = sum(images.nbytes for images in self.shown.values() if images is not None)
        return self.clean.nbytes + self.labels.nbytes + shown


class _Source(NamedTuple):
    """Everything that a pass over distorted batches depends on, apart from its loader."""

    cells: tuple[Cell, ...]
    seed: int
    device: torch.device
    by_cell: bool
    shared: bool


class DistortedCache:
    """Keeps the distorted batches of one loader, so that only the first pass makes them.

    Validation shows the same images with the same noise in every epoch, so it is enough to decode
    and distort them once. Batches are kept in the CPU's memory with the type that they have:
    nothing is rounded. Where they take more memory than the limit, none is kept, and every pass
    makes them anew. A pass over another loader, or with other cells or another seed, takes the
    place of what was kept.

    Args:
        limit_bytes: the most memory to take.

    Example:
        >>> import torch
        >>> from deepcorrect.distortions import CLEAN, DistortedCache, cells_of
        >>> from deepcorrect.distortions import distorted_batches, parse_all
        >>> loader = [(torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))]
        >>> cells = [CLEAN, *cells_of(parse_all("awgn:20", pixels=32))]
        >>> cache = DistortedCache(limit_bytes=1_000_000)
        >>> first, again = (list(distorted_batches(loader, cells, cache=cache)) for _ in range(2))
        >>> all(torch.equal(a.images, b.images) for a, b in zip(first, again))
        True
        >>> cache.size == 2 * 4 * 3 * 32 * 32 * 4 + 4 * 8  # floats in two cells, and labels
        True
    """

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        self.limit_bytes = limit_bytes
        self._loader: Batches | None = None
        self._source: _Source | None = None
        self._kept: list[_Kept] = []
        self._is_whole = self._is_too_large = False

    @property
    def size(self) -> int:
        """Bytes that are held now."""
        return sum(kept.size for kept in self._kept)

    def _batches(self, loader: Batches, source: _Source, purpose: str) -> Iterator[DistortedBatch]:
        if self._loader is not loader or self._source != source:
            self._loader, self._source = loader, source
            self._is_whole = self._is_too_large = False
        if self._is_whole:
            return self._read(source)
        batches = _made(loader, source, purpose)
        return batches if self._is_too_large else self._keep(batches, source)

    def _keep(self, batches: Iterator[DistortedBatch], source: _Source) -> Iterator[DistortedBatch]:
        """Yields the batches and keeps them, as long as they stay below the limit."""
        self._kept = []
        clean, size = None, 0
        for batch in batches:
            if not self._is_too_large:
                if batch.clean is not clean:
                    clean = batch.clean
                    self._kept.append(_Kept(clean.cpu(), batch.labels.cpu(), batch.first, {}))
                    size += self._kept[-1].size
                shown = None if batch.images is clean else batch.images.cpu()
                self._kept[-1].shown[batch.row] = shown
                size += 0 if shown is None else shown.nbytes
                if size > self.limit_bytes:
                    self._is_too_large, self._kept = True, []
            yield batch
        if source.shared:  # all processes keep their shares, or none does
            self._is_too_large = any(agree(int(self._is_too_large)))
            self._kept = [] if self._is_too_large else self._kept
        self._is_whole = not self._is_too_large

    def _read(self, source: _Source) -> Iterator[DistortedBatch]:
        for kept in self._kept:
            clean, labels = kept.clean.to(source.device), kept.labels.to(source.device)
            for row, images in kept.shown.items():
                shown = clean if images is None else images.to(source.device)
                yield DistortedBatch(shown, clean, labels, source.cells[row], row, kept.first)


def distorted_batches(
    loader: Batches,
    cells: Sequence[Cell],
    *,
    seed: int = 0,
    device: torch.device | None = None,
    purpose: str = "to distort",
    by_cell: bool = False,
    shared: bool = False,
    cache: DistortedCache | None = None,
) -> Iterator[DistortedBatch]:
    """Every image of a loader as it looks in every cell, batch by batch.

    The noise depends on the seed, the distortion, the level and the image's number in the loader,
    not on the batch size, the order of the cells or the other cells. Empty batches are left out.

    Args:
        loader: batches of (images N x C x H x W in [0, 1], labels N), in a fixed order.
        cells: `CLEAN`, or what `cells_of` returns, or both.
        seed: of the noise.
        device: where images are distorted and put; None is the CPU.
        purpose: what the images are for, as an error says it: `to evaluate on`.
        by_cell: all batches in the first cell, then all in the second: for a model that must be
            notified before each level. Otherwise every batch is decoded once and shown in all
            cells before the next.
        shared: whether several processes share the images, see `shared_batches`.
        cache: keeps what is made for the next pass over the same loader.

    Yields:
        Batches that say which cell they are in, and the number of their first image. `clean` is
        the same tensor for all cells of a batch.

    Raises:
        InputError: a distortion does not accept the images, or the loader had none.

    Example:
        >>> import torch
        >>> from deepcorrect.distortions import CLEAN, cells_of, distorted_batches, parse_all
        >>> images, labels = torch.rand(6, 3, 32, 32), torch.arange(6)
        >>> loader = list(zip(images.split(4), labels.split(4)))
        >>> cells = [CLEAN, *cells_of(parse_all("awgn:10,20", pixels=32))]
        >>> for batch in distorted_batches(loader, cells, seed=1):
        ...     print(batch.cell.level, batch.first, tuple(batch.images.shape))
        0.0 0 (4, 3, 32, 32)
        10.0 0 (4, 3, 32, 32)
        20.0 0 (4, 3, 32, 32)
        0.0 4 (2, 3, 32, 32)
        10.0 4 (2, 3, 32, 32)
        20.0 4 (2, 3, 32, 32)
    """
    source = _Source(tuple(cells), seed, device or torch.device("cpu"), by_cell, shared)
    if cache is None:
        return _made(loader, source, purpose)
    return cache._batches(loader, source, purpose)


def _made(loader: Batches, source: _Source, purpose: str) -> Iterator[DistortedBatch]:
    rows = range(len(source.cells))
    for at_once in [[row] for row in rows] if source.by_cell else [list(rows)]:
        batches = (shared_batches if source.shared else numbered_batches)(loader, purpose)
        for images, labels, first in batches:
            clean, truth = to_device(images, source.device), labels.to(source.device)
            numbers = range(first, first + len(images))
            for row in at_once:
                cell = source.cells[row]
                shown = cell.show(clean, source.seed, numbers)
                yield DistortedBatch(shown, clean, truth, cell, row, first)
