"""The batches of one training step in several processes, which together are one large batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcorrect.data import Batches, every_nth, read_batches
from deepcorrect.runtime import agree, gathered, process_count, process_index

NO_BATCH = -1
"""What a process says in place of its batch's size when its share of a loader has ended."""


@dataclass(frozen=True)
class Share:
    """This process's part of the images of a step.

    Attributes:
        images: N x C x H x W in [0, 1].
        labels: (N,).
        first: the place of its first image among those of all processes.
        total: the number of images of all processes.
        batches: how many of the loader's batches the step takes.
        is_whole: whether every process has all images of the step.
    """

    images: Tensor
    labels: Tensor
    first: int
    total: int
    batches: int
    is_whole: bool

    @property
    def weight(self) -> float:
        """The weight of this part's mean loss in the mean over all processes' parts."""
        if self.is_whole:
            return 1 / process_count()
        return len(self.images) / self.total


def shares(loader: Batches, done: int) -> Iterator[Share]:
    """This process's part of each step: with n processes, a step takes n of the loader's batches.

    A step of which a process has fewer than two images, as at the end of an epoch, is made by all
    processes with all images, since batch norms need two. What a step with a single image does is
    said in `train_step`.

    Args:
        loader: batches of (images, labels), the same in every process, with a length.
        done: how many of its batches were trained on before. Our own loaders do not decode them.
    """
    processes, index = process_count(), process_index()
    own = read_batches(every_nth(loader, done + index, processes))
    while True:
        batch = next(own, None)
        sizes = agree(NO_BATCH if batch is None else len(batch.images))
        if max(sizes) == NO_BATCH:
            return
        counts = [max(size, 0) for size in sizes]
        total, taken = sum(counts), sum(size != NO_BATCH for size in sizes)
        if processes > 1 and min(counts) < 2 and total:
            given = gathered(batch if counts[index] else None)
            found = [each for each in given if each is not None]
            images = torch.cat([each.images for each in found])
            yield Share(images, torch.cat([each.labels for each in found]), 0, total, taken, True)
        elif batch is None:  # no image in all
            yield Share(torch.empty(0), torch.empty(0), 0, total, taken, processes == 1)
        else:
            first = sum(counts[:index])
            yield Share(*batch, first, total, taken, processes == 1)
