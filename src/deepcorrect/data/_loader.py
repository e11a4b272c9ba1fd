"""Batches of decoded images."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._streaming import ImageStream, StreamBatches
from deepcorrect.runtime import InputError

Batches = Iterable[tuple[Tensor, Tensor]]
"""Anything that yields (images N x C x H x W in [0, 1], labels N); a DataLoader for instance."""


def count_of(loader: Batches) -> int:
    """Number of images a loader will give; 0 where it cannot say."""
    images = getattr(loader, "dataset", None)
    if isinstance(images, ImageStream):
        return images.count or 0
    return len(images) if isinstance(images, Sized) else 0


def no_images(loader: Batches, purpose: str) -> InputError:
    """The error for a loader that gave no image."""
    count = count_of(loader)
    return InputError(
        f"none of the {count} images {purpose} could be read"
        if count
        else f"there are no images {purpose}"
    )


class Loader(DataLoader[Any]):
    """Starts its workers with Ctrl-C held back.

    A KeyboardInterrupt inside a fork would be swallowed by Python's own callbacks there, and one in
    the middle would leave a half-made iterator that complains when it is collected; here it comes
    right after. The workers never see one: they end with the process that started them.
    """

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        with _ctrl_c_afterwards():
            return super().__iter__()


@contextmanager
def _ctrl_c_afterwards() -> Iterator[None]:
    """Holds Ctrl-C back until the block has ended; processes started in it never see one.

    The mask is for those processes, which inherit it. It holds for this thread alone: a signal to
    the process then goes to another of its threads, so the handler has to wait, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # which Python's handlers never interrupt
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda *given: came.append(given[0]))
    masked = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masked else set()
    try:
        yield
    finally:
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True)
class _Collate:
    """Stacks the good images of a batch, each C x size x size."""

    channels: int
    size: int

    def __call__(self, samples: list[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor]:
        good = [sample for sample in samples if sample is not None]
        if not good:
            empty = torch.zeros(0, self.channels, self.size, self.size)
            return empty, torch.zeros(0, dtype=torch.long)
        return torch.stack([image for image, _ in good]), torch.tensor([k for _, k in good])


def loader(
    images: ImageSet, batch_size: int = 128, *, shuffle: bool = False, workers: int = 0
) -> DataLoader[Any]:
    """Batches of (images N x C x H x W in [0, 1], labels N), bad images left out.

    Args:
        images: the set.
        batch_size: images a batch.
        shuffle: a new order each epoch, from torch's global generator.
        workers: decoding processes; 0 decodes in this one. The order is the same for any number.
    """
    known = images.preprocessing
    collate = _Collate(known.channels, known.input_size)
    if isinstance(images, ImageStream):
        batches: Any = StreamBatches(images, batch_size, shuffle)
        return Loader(images, batch_sampler=batches, num_workers=workers, collate_fn=collate)
    return Loader(images, batch_size, shuffle=shuffle, num_workers=workers, collate_fn=collate)
