"""A set of labelled images, decoded one at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deepcorrect.data._columns import Column, Numbers, Texts
from deepcorrect.data._label_matching import ClassNames
from deepcorrect.data._preprocessing import BAD_IMAGE, Preprocessing, to_tensor
from deepcorrect.runtime import InputError, console

Read = Callable[[int], Image.Image]
Decoded = TypeVar("Decoded")

UNLABELLED = -1


class ImageSet(Dataset[tuple[Tensor, int] | None]):
    """Images with labels, decoded one at a time and never all in memory.

    A bad image (truncated, not an image) is counted in `bad` and left out of its batch.

    Args:
        name: how messages and results call it.
        read: opens image number i; picklable, where workers are to be started by spawning.
        labels: one class index an image; -1 where there is none.
        names: one an image, for messages and predictions.
        preprocessing: size and channels of what is handed out.
        classes: names of the classes, in the order of the labels.
    """

    def __init__(
        self,
        name: str,
        read: Read,
        labels: Iterable[int],
        names: Iterable[str],
        preprocessing: Preprocessing,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.labels = labels if isinstance(labels, Numbers) else Numbers(labels)
        self.names: Column[str] = names if isinstance(names, Column) else Texts(names)
        self.preprocessing = preprocessing
        self.classes = classes
        self._read = read
        self._rows: np.ndarray | None = None  # of what `read` opens; None where they are ours
        self._bad = _flags(len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        """Image `index` as floats in [0, 1], C x H x W, and its label; None for a bad image."""
        pixels = self.decoded(index, lambda image: to_tensor(image, self.preprocessing))
        return None if pixels is None else (pixels, self.labels[index])

    def decoded(self, index: int, decode: Callable[[Image.Image], Decoded]) -> Decoded | None:
        """What `decode` makes of image `index` as it is stored; None for a bad image."""
        try:
            with self._read(index if self._rows is None else int(self._rows[index])) as image:
                return decode(image)
        except BAD_IMAGE:
            self._bad[index] = True
            return None

    @property
    def bad(self) -> list[str]:
        """Names of the images that could not be read so far."""
        return [self.names[index] for index in self._bad.nonzero().flatten().tolist()]

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return not (self.labels.array == UNLABELLED).any()

    def select(self, rows: Iterable[int]) -> ImageSet:
        """The images at `rows`, in that order.

        Raises:
            InputError: a row is outside the set.
        """
        chosen = np.fromiter(rows, np.int64)
        outside = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(outside):
            raise InputError(f"row {outside[0]} is outside {self.name}, which has {len(self)}")
        part = copy.copy(self)
        part.labels, part.names = self.labels.take(chosen), self.names.take(chosen)
        part._rows = chosen if self._rows is None else self._rows[chosen]
        part._bad = _flags(len(chosen))
        return part

    def sample(self, count: int | None, seed: int = 0) -> ImageSet:
        """`count` images chosen at random, in their order; all for None or a larger count."""
        if count is None or count >= len(self):
            return self
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(self), generator=generator)[:count].sort().values
        return self.select(rows.numpy())

    def matched(self, count: int, names: tuple[str, ...] | None = None) -> ImageSet:
        """The set with labels as a network's classes: by name, where both name theirs.

        Args:
            count: the network's number of classes.
            names: theirs; None where they are not known.

        Raises:
            InputError: a class of the set is none of the network's.
        """
        labels = self.labels.array
        if self.classes is None or not len(labels) or labels.max() >= len(self.classes):
            return self
        known = ClassNames(count, names)
        used = np.unique(labels[labels != UNLABELLED]).tolist()
        places = known.places(self.classes, self.name, used)
        if np.array_equal(places[used], used):
            return self
        return self.relabelled(places, known.names or tuple(map(str, range(count))))

    def relabelled(self, places: Sequence[int] | np.ndarray, classes: tuple[str, ...]) -> ImageSet:
        """The same images with label k made `places[k]`, and the names of these classes."""
        labels = self.labels.array
        changed = copy.copy(self)
        changed.labels = Numbers(
            np.where(labels == UNLABELLED, UNLABELLED, np.asarray(places)[labels])
        )
        changed.classes = classes
        return changed

    def without_labels(self) -> ImageSet:
        """The same images as if they had no labels."""
        changed = copy.copy(self)
        changed.labels, changed.classes = Numbers(np.full(len(self), UNLABELLED)), None
        return changed

    def check_labels(self, classes: int) -> None:
        """Checks every label against the network's number of classes.

        Raises:
            InputError: there are no labels, or one is outside.
        """
        if not self.labelled:
            raise needs_labels(self.name)
        check_labels(torch.from_numpy(self.labels.array), classes, self.name)

    def warn_of_bad(self) -> None:
        """Prints one line that counts and names the bad images, if there are any."""
        warn_of_bad(self.name, self.bad, len(self))


def _flags(count: int) -> Tensor:
    """One flag an image, which decoding processes set and this one reads."""
    return torch.zeros(count, dtype=torch.bool).share_memory_()


def needs_labels(name: str) -> InputError:
    """The error for a set without labels where they are needed."""
    return InputError(
        f"{name} has images without labels, and labels are needed here: "
        "give a folder with one sub-folder a class, or a labelled Parquet file"
    )


def check_labels(labels: Tensor, classes: int, name: str = "the data") -> None:
    """Raises InputError where a label is outside 0 to classes - 1."""
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise InputError(
            f"{name} has label {int(outside[0])}: the network has {classes} classes, "
            f"so labels go from 0 to {classes - 1}"
        )


def warn_of_bad(name: str, bad: Sequence[str], count: int) -> None:
    """Prints one line that counts and names the bad ones of `count` images, if there are any."""
    if bad:
        shown = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
        console().print(
            f"warning: {len(bad)} of {count} images of {name} could not be read "
            f"and were left out: {shown}",
            style="yellow",
        )
