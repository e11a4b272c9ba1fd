"""Sets of images that are read in order and never held: shards, and data sets over a network."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepcorrect.data._class_order import ClassOrder
from deepcorrect.data._decoding import BAD_IMAGE, open_image, reason_of
from deepcorrect.data._image_set import (
    UNLABELLED,
    ImageSet,
    needs_labels,
    warn_of_bad,
    with_reason,
)
from deepcorrect.data._label_matching import ClassNames
from deepcorrect.data._preprocessing import Preprocessing, to_tensor
from deepcorrect.data._sample import Sample, Samples
from deepcorrect.runtime import InputError, gathered

BUFFER_IMAGES, BUFFER_BYTES = 2048, 1 << 28
"""The most encoded images, and the most bytes of them, among which a shuffle draws the next."""


class UnknownLengthError(InputError, TypeError):
    """The number of images of a stream is not known.

    It is a TypeError, too, which Python expects from `len`.
    """


class ImageStream(ImageSet):
    """Images that are read one after the other, in memory that does not depend on their number.

    A stream has no rows: its `names` and `labels` are not known beforehand. To shuffle, it reads
    its shards in a random order and shuffles within a window of 2,048 images (or 256 MB); `sample`
    takes the first images of that order. All orders are functions of the seed. One process reads,
    whatever the number of workers, and the workers decode.

    Args:
        name: The name of the stream in messages and results.
        samples: Opens the stream.
        preprocessing: The size and the channels of the decoded images.
        labelled: Whether the images have labels; if not, labels in the stream are ignored.
        classes: The names of the classes, in the order of the labels.
        count: The number of images, if it is known.
        counted: Finds that number by going through the stream without decoding; None if that would
            take as long as reading it.
    """

    def __init__(
        self,
        name: str,
        samples: Samples,
        preprocessing: Preprocessing,
        *,
        labelled: bool,
        classes: tuple[str, ...] | None = None,
        count: int | None = None,
        counted: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self.classes = classes
        self.count = count
        self.seen = 0
        self._samples = samples
        self._counted = counted
        self._labelled = labelled
        self._names: ClassNames | None = None
        self._indices: np.ndarray | None = None
        self._log = _BadLog()

    def __getattr__(self, name: str) -> Any:
        if name in ("labels", "names"):
            raise self._no_rows(f"its {name} are not known beforehand")
        raise AttributeError(name)

    def _no_rows(self, why: str) -> InputError:
        return InputError(
            f"{self.name} is a stream, which is read from beginning to end: {why}. Give the same "
            "images as folder:DIR, parquet:GLOB or hf:NAME without :stream"
        )

    def __getstate__(self) -> dict[str, Any]:  # workers decode but do not read
        return self.__dict__ | {"_samples": _none, "_counted": None}

    def __len__(self) -> int:
        """The number of images.

        Raises:
            UnknownLengthError: The number is not known.
        """
        if self.count is None and self._counted is not None:
            self.count = self._counted()
        if self.count is None:
            raise UnknownLengthError(
                f"{self.name} is a stream that does not say how many images it has, and their "
                "number is needed here: give --images (in a recipe, data.train_images), at most "
                "as many as there are"
            )
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        raise self._no_rows(f"image {index} cannot be read alone")

    def __getitems__(self, samples: list[Sample]) -> list[tuple[Tensor, int] | None]:
        """Images as floats in [0, 1], C x H x W, with their labels; None for unreadable ones."""
        return [self._decoded(sample) for sample in samples]

    def _decoded(self, sample: Sample) -> tuple[Tensor, int] | None:
        try:
            content = sample.loaded()
            with open_image(
                io.BytesIO(content) if isinstance(content, bytes) else content
            ) as image:
                pixels = to_tensor(image, self.preprocessing)
        except BAD_IMAGE as error:
            self._log.add(sample.name, reason_of(error))
            return None
        return pixels, int(sample.label)

    def decoded(self, index: int, decode: Callable[[Image.Image], Any]) -> Any:
        """Raises InputError, because a stream has no rows."""
        del decode
        raise self._no_rows(f"image {index} cannot be read alone")

    @property
    def bad(self) -> list[str]:
        """The sorted names of the images that could not be read so far."""
        return [name for name, _ in self._log.read()]

    def described_bad(self, count: int) -> list[str]:
        """The first `count` names in `bad`, with a reason if the file is not merely damaged."""
        return [with_reason(name, reason) for name, reason in self._log.read()[:count]]

    @property
    def labelled(self) -> bool:
        """Whether the first image has a label; the labels of the others are checked when read."""
        return self._labelled

    def read(self, seed: int | None = None) -> Iterator[Sample]:
        """Yields the images as stored, with labels as the network's class indices.

        Args:
            seed: The seed of a shuffle; None keeps the stream's own order.
        """
        found = self._samples(seed)
        self.seen = 0
        for sample in found if seed is None else shuffled(found, seed):
            self.seen += 1
            yield sample._replace(label=self._label(sample.label))

    def _label(self, label: int | str) -> int:
        if not self._labelled:
            return UNLABELLED
        if isinstance(label, str):
            if self._names is None:
                raise InputError(
                    f"{self.name} has labels in words, such as {label!r}: give numbers, or "
                    "stream.matched(classes, names)"
                )
            return self._names.index(label, self.name)
        if self._indices is not None and 0 <= label < len(self._indices):
            return int(self._indices[label])
        return label

    def matched(
        self,
        count: int,
        names: tuple[str, ...] | None = None,
        *,
        class_order: ClassOrder | None = None,
    ) -> ImageStream:
        """The stream with its labels changed to a network's indices; see `ImageSet.matched`."""
        stream = self._copy()
        stream._names = known = ClassNames(count, names)
        if self.classes is None:
            return stream
        used = range(len(self.classes))
        indices = known.indices(self.classes, self.name, used, class_order)
        return stream.relabelled(indices, known.names or tuple(map(str, range(count))))

    def relabelled(
        self, indices: Sequence[int] | np.ndarray, classes: tuple[str, ...]
    ) -> ImageStream:
        """The same images with label k replaced by `indices[k]`, an index into `classes`."""
        stream = self._copy()
        before, after = self._indices, np.asarray(indices)
        stream._indices, stream.classes = after if before is None else after[before], classes
        return stream

    def without_labels(self) -> ImageStream:
        """The same images without labels."""
        stream = self._copy()
        stream._labelled, stream.classes = False, None
        return stream

    def select(self, rows: Iterable[int]) -> ImageStream:
        """The images at `rows`, counted from the stream's beginning, in the stream's order.

        Raises:
            InputError: A row is outside the stream.
        """
        chosen = np.unique(np.fromiter(rows, np.int64))
        if len(chosen) and (chosen[0] < 0 or (self.count is not None and chosen[-1] >= self.count)):
            row = chosen[0] if chosen[0] < 0 else chosen[-1]
            raise InputError(f"row {row} is outside {self.name}, which has {self.count}")
        return self._part(partial(_rows, self._samples, chosen), len(chosen))

    def sample(self, count: int | None, seed: int = 0) -> ImageSet:
        """The first `count` images of the shuffled stream; all of them if there are fewer."""
        if count is None or (self.count is not None and count >= self.count):
            return self
        return self._part(partial(_first, self._samples, count, seed), count)

    def _copy(self) -> ImageStream:  # copy.copy would drop what workers do not need
        stream = object.__new__(type(self))
        stream.__dict__.update(self.__dict__)
        return stream

    def _part(self, samples: Samples, count: int) -> ImageStream:
        stream = self._copy()
        stream._samples, stream.count, stream._counted = samples, count, None
        stream._log = _BadLog()
        return stream

    def check_labels(self, classes: int) -> None:
        """Checks that there are labels; each is checked against the classes when it is used."""
        del classes
        if not self.labelled:
            raise needs_labels(self.name)

    def share_bad(self) -> None:
        """Adds the images that other processes could not read to `bad`, in all of them."""
        known = self._log.read()
        for found in gathered(known):
            for each in found:
                if each not in known:
                    self._log.add(*each)

    def warn_of_bad(self) -> None:
        """Prints one line about the images that could not be read, if there are any.

        All processes that share the images call it together.
        """
        self.share_bad()
        warn_of_bad(self, len(self.bad), self.seen)


def _none(seed: int | None) -> Iterator[Sample]:
    """What a decoding process reads."""
    del seed
    return iter(())


class StreamBatches:
    """The batch sampler of a stream: it reads encoded images, which the loader's workers decode.

    Args:
        stream: The stream, which is read once per epoch.
        batch_size: The number of images per batch.
        shuffle: Whether each epoch has a new order, from PyTorch's global generator.
    """

    drop_last = False

    def __init__(self, stream: ImageStream, batch_size: int, shuffle: bool) -> None:
        self.stream, self.batch_size, self.shuffle = stream, batch_size, shuffle

    def __len__(self) -> int:
        return math.ceil(len(self.stream) / self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        seed = int(torch.empty((), dtype=torch.int64).random_()) if self.shuffle else None
        samples = self.stream.read(seed)
        while batch := list(islice(samples, self.batch_size)):
            yield batch


def shuffled(samples: Iterator[Sample], seed: int) -> Iterator[Sample]:
    """Yields samples that are drawn at random from a window that moves over the stream."""
    generator = np.random.default_rng(seed)
    window: list[Sample] = []
    held = 0
    for sample in samples:
        window.append(sample)
        held += len(sample.content)
        while len(window) > BUFFER_IMAGES or held > BUFFER_BYTES:
            drawn = _drawn(window, generator)
            held -= len(drawn.content)
            yield drawn
    while window:
        yield _drawn(window, generator)


def _drawn(window: list[Sample], generator: np.random.Generator) -> Sample:
    index = int(generator.integers(len(window)))
    window[index], window[-1] = window[-1], window[index]
    return window.pop()


def _rows(samples: Samples, rows: np.ndarray, seed: int | None) -> Iterator[Sample]:
    del seed  # rows are counted in the stream's own order
    wanted = iter(rows.tolist())
    row = next(wanted, None)
    for number, sample in enumerate(samples(None)):
        if row is None:
            return
        if number == row:
            yield sample
            row = next(wanted, None)


def _first(samples: Samples, count: int, chosen_by: int, seed: int | None) -> Iterator[Sample]:
    del seed  # the chosen images do not depend on the order in which they are read
    return islice(shuffled(samples(chosen_by), chosen_by), count)


class _BadLog:
    """Names and reasons that decoding processes append to a temporary file for this process."""

    def __init__(self) -> None:
        handle, path = tempfile.mkstemp(prefix="deepcorrect-", suffix=".bad")
        os.close(handle)
        self.path = Path(path)
        weakref.finalize(self, _remove, self.path, os.getpid())

    def add(self, name: str, reason: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:  # a line is written at once
            file.write(json.dumps([name, reason]) + "\n")

    def read(self) -> list[tuple[str, str]]:
        with self.path.open(encoding="utf-8") as file:
            return sorted(dict(map(json.loads, file)).items())


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
