"""Batches of decoded images."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._reading import check_loader
from deepcorrect.data._streaming import ImageStream, StreamBatches
from deepcorrect.runtime import InputError

Batches = Iterable[tuple[Tensor, Tensor]]
"""Anything that yields (images N x C x H x W in [0, 1], labels N), such as a DataLoader."""


def count_of(loader: Batches) -> int:
    """The number of images that a loader yields; 0 if it is not known.

    Example:
        >>> import deepcorrect as dc
        >>> from deepcorrect.data import count_of
        >>> digits = dc.open_dataset("digits:test", dc.Preprocessing(28, (0.13,), (0.31,)))
        >>> count_of(dc.loader(digits))
        1000
    """
    images = getattr(loader, "dataset", None)
    if isinstance(images, ImageStream):
        return images.count or 0
    return len(images) if isinstance(images, Sized) else 0


def check_repeatable(loader: Batches, *, probe: bool = True) -> None:
    """Checks that a loader can be read more than once: the first batch is often looked at first.

    Args:
        loader: The loader.
        probe: Whether to find out, too, whether an object that is no iterator begins anew: it is
            asked for two iterators, from which nothing is read. A DataLoader itself is not asked.

    Raises:
        InputError: It is an iterator or a generator, or reads from one; or it is no loader at all.

    Example:
        >>> from deepcorrect.data import check_repeatable
        >>> batches = [("images", "labels")]
        >>> check_repeatable(batches)
        >>> check_repeatable(batch for batch in batches)
        Traceback (most recent call last):
            ...
        deepcorrect.runtime._errors.InputError: the loader is a generator, which ...
    """
    check_loader(loader)
    source: Any = loader
    while source is not None:
        if _is_used_up(source, probe=probe):
            raise InputError(
                f"the loader {'is' if source is loader else 'reads from'} a "
                f"{type(source).__name__}, which can be read only once, and the images are read "
                "several times here: give list(loader) if the images fit into memory, or else a "
                "DataLoader or an object whose __iter__ begins anew at each call"
            )
        if isinstance(source, DataLoader):  # a new worker has a copy that is not used up
            data = source.dataset
            source = data if isinstance(data, IterableDataset) and not source.num_workers else None
        else:
            source = getattr(source, "iterable", None)  # a progress bar's


def _is_used_up(source: Any, *, probe: bool) -> bool:
    """Whether one pass over an object leaves nothing for the next."""
    if isinstance(source, Iterator):  # one with a length starts anew where it is asked to iterate
        return not isinstance(source, Sized)
    can_tell = not isinstance(source, DataLoader | list | tuple) and isinstance(source, Iterable)
    return probe and can_tell and iter(source) is iter(source)


def no_images(loader: Batches, purpose: str) -> InputError:
    """The error for a loader that yielded no image.

    Args:
        loader: The loader.
        purpose: What the images were needed for, such as "to train on".
    """
    count = count_of(loader)
    images = getattr(loader, "dataset", None)
    while isinstance(images, Subset):
        images = images.dataset
    bad = images.described_bad(1) if isinstance(images, ImageSet) else []
    return InputError(
        f"none of the {count} images {purpose} could be read" + "".join(f": {b}" for b in bad)
        if count
        else f"there are no images {purpose}"
    )


class Loader(DataLoader[Any]):
    """A DataLoader that delays Ctrl-C while it starts its workers.

    During a fork, Python's own callbacks would swallow a KeyboardInterrupt, and between two forks
    it would leave a half-built iterator that warns when it is collected. Here it is raised right
    afterwards. The workers never see it; they end with the process that started them.
    """

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        with _interrupt_afterwards():
            return super().__iter__()


@contextmanager
def _interrupt_afterwards() -> Iterator[None]:
    """Delays SIGINT until the block has ended; processes that are started in it never receive it.

    Those processes inherit the signal mask. As the mask applies to this thread only, a signal to
    the process is delivered to another of its threads, so the handler must delay it, too. A handler
    of SIGTERM is delayed as well, and the processes do receive that signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python's signal handlers never interrupt other threads
        return
    received: list[int] = []
    delayed = [each for each in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(each))]
    before = {
        each: signal.signal(each, lambda *given: received.append(given[0])) for each in delayed
    }
    masked = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masked else set()
    try:
        yield
    finally:
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each, handler in before.items():
            signal.signal(each, handler)
        if received:
            signal.raise_signal(received[0])


class _EveryNth:
    """Every n-th batch of a batch sampler, from number `first` on."""

    def __init__(self, batches: Any, first: int, step: int) -> None:
        self.batches, self.first, self.step = batches, first, step

    def __len__(self) -> int:
        return len(range(self.first, len(self.batches), self.step))

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.first, None, self.step)


def every_nth(loader: Batches, first: int, step: int) -> Batches:
    """Every n-th batch of a loader, counted from 0, from number `first` on.

    A DataLoader over a set that is read by index, or over one of our streams, decodes no other
    images. Of any other loader, the batches between are read and left out.

    Args:
        loader: The loader. One that shuffles draws the same order as if it were read whole.
        first: The number of the first batch.
        step: The distance of two batches; 1 for all from the first on.

    Example:
        >>> from deepcorrect.data import every_nth
        >>> list(every_nth([("images", number) for number in range(5)], first=1, step=2))
        [('images', 1), ('images', 3)]
    """
    if (first, step) == (0, 1):
        return loader
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return _Skipping(loader, first, step)
    make: Any = Loader if isinstance(loader, Loader) else DataLoader
    return make(
        loader.dataset,
        batch_sampler=_EveryNth(loader.batch_sampler, first, step),
        generator=loader.generator,
        **how_it_reads(loader),
    )


def how_it_reads(loader: DataLoader[Any]) -> dict[str, Any]:
    """The arguments of a DataLoader that say how images are read, for one of other images."""
    return {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
    }


@dataclass(frozen=True)
class _Skipping:
    """Every n-th batch of a loader that can only be read from beginning to end."""

    batches: Batches
    first: int
    step: int

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.first, None, self.step)


@dataclass(frozen=True)
class _Collate:
    """Stacks the images of a batch that could be read, each C x size x size."""

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
    """A DataLoader of (images N x C x H x W in [0, 1], labels N).

    Images that cannot be read are left out, so a batch may be smaller than `batch_size`.

    Args:
        images: The set of images.
        batch_size: The number of images per batch.
        shuffle: Whether each epoch has a new order, from PyTorch's global generator.
        workers: The number of decoding processes; 0 decodes in this process. The order of the
            images does not depend on it.

    Example:
        >>> import deepcorrect as dc
        >>> digits = dc.open_dataset("digits:test", dc.Preprocessing(28, (0.13,), (0.31,)))
        >>> images, labels = next(iter(dc.loader(digits, batch_size=32)))
        >>> images.shape, labels.shape
        (torch.Size([32, 1, 28, 28]), torch.Size([32]))
    """
    known = images.preprocessing
    collate = _Collate(known.channels, known.input_size)
    # Pinned batches are copied to a GPU while it computes; a thread pins what workers decode.
    # Workers do not persist: an iterator that is used again draws no seed, so that the order would
    # depend on the number of workers, and two passes at a time would share one iterator.
    pinned = workers > 0 and torch.cuda.is_available()
    batches: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle}
    if isinstance(images, ImageStream):
        batches = {"batch_sampler": StreamBatches(images, batch_size, shuffle)}
    return Loader(images, **batches, num_workers=workers, collate_fn=collate, pin_memory=pinned)
