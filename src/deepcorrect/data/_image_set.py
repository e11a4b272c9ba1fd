"""A set of labelled images, decoded one at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deepcorrect.data._class_order import ClassOrder
from deepcorrect.data._columns import Column, IntegerColumn, StringColumn
from deepcorrect.data._decoding import BAD_IMAGE, why_unreadable
from deepcorrect.data._label_matching import ClassNames, check_level
from deepcorrect.data._preprocessing import Preprocessing, to_tensor
from deepcorrect.runtime import InputError, check_seed, console, note_once, total

Read = Callable[[int], Image.Image]
Decoded = TypeVar("Decoded")

UNLABELLED = -1

SHOWN = 3  # of the images that could not be read, in messages


class ImageSet(Dataset[tuple[Tensor, int] | None]):
    """Images with labels, which are decoded one at a time and never all held in memory.

    An image that cannot be read (truncated, or not an image) is listed in `bad` and left out of its
    batch.

    Args:
        name: The name of the set in messages and results.
        read: Opens image number i. It must be picklable if workers are started by spawning.
        labels: One class index per image; -1 for an image without a label.
        names: One name per image, for messages and predictions.
        preprocessing: The size and the channels of the decoded images.
        classes: The names of the classes, in the order of the labels.
        empty: The names of further classes that have no image. They count as classes only for a
            network that does not name its classes and has as many as there are with these.
        inner: The names of the folders below the classes, if all images lie in them. They may be
            the classes in truth, and are then named in the error.

    Example:
        >>> import deepcorrect as dc
        >>> digits = dc.open_dataset("digits:test", dc.Preprocessing(28, (0.13,), (0.31,)))
        >>> image, label = digits[0]
        >>> image.shape, label
        (torch.Size([1, 28, 28]), 0)
        >>> len(digits.sample(100))
        100
    """

    def __init__(
        self,
        name: str,
        read: Read,
        labels: Iterable[int],
        names: Iterable[str],
        preprocessing: Preprocessing,
        classes: tuple[str, ...] | None = None,
        empty: tuple[str, ...] = (),
        inner: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self._empty, self._inner = empty, inner
        self.labels = labels if isinstance(labels, IntegerColumn) else IntegerColumn(labels)
        self.names: Column[str] = names if isinstance(names, Column) else StringColumn(names)
        self.preprocessing = preprocessing
        self.classes = classes
        self._read = read
        self._rows: np.ndarray | None = None  # which images `read` opens; None for all in order
        self._bad = _flags(len(self.labels))
        self._keep_fitting = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        """Image `index` as floats in [0, 1], C x H x W, and its label.

        None stands for an image that cannot be read.
        """
        fit, keep = self.preprocessing, self._keep_fitting
        pixels = self.decoded(index, lambda image: to_tensor(image, fit, keep_fitting=keep))
        return None if pixels is None else (pixels, self.labels[index])

    def decoded(self, index: int, decode: Callable[[Image.Image], Decoded]) -> Decoded | None:
        """The result of `decode` for image `index` as stored; None if it cannot be read."""
        try:
            with self._opened(index) as image:
                return decode(image)
        except BAD_IMAGE:
            self._bad[index] = True
            return None

    def _opened(self, index: int) -> Image.Image:
        return self._read(index if self._rows is None else int(self._rows[index]))

    @property
    def bad(self) -> list[str]:
        """The names of the images that could not be read so far."""
        return [self.names[index] for index in self._bad.nonzero().flatten().tolist()]

    def described_bad(self, count: int) -> list[str]:
        """The first `count` names in `bad`, with a reason if the file is not merely damaged."""
        rows = self._bad.nonzero().flatten()[:count].tolist()
        return [
            with_reason(self.names[row], why_unreadable(partial(self._opened, row))) for row in rows
        ]

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return not (self.labels.array == UNLABELLED).any()

    def select(self, rows: Iterable[int]) -> ImageSet:
        """The set of the images at `rows`, in that order.

        Raises:
            InputError: A row is outside the set.
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
        """`count` images chosen at random, in their own order; all of them if there are fewer."""
        if count is None or count >= len(self):
            return self
        generator = torch.Generator().manual_seed(check_seed(seed))
        rows = torch.randperm(len(self), generator=generator)[:count].sort().values
        return self.select(rows.numpy())

    def matched(
        self,
        count: int,
        names: tuple[str, ...] | None = None,
        *,
        class_order: ClassOrder | None = None,
    ) -> ImageSet:
        """The set with its labels changed to the indices of a network's classes.

        Classes are matched by name if the set and the network both have names.

        Args:
            count: The network's number of classes.
            names: The names of the network's classes; None if they are not known.
            class_order: The order of classes whose names are numbers, if the network does not name
                its classes: `number` is 1, 2, ..., 10, and `text` is 1, 10, 2, ..., the order of
                torchvision's `ImageFolder`. None requires that both orders agree.

        Raises:
            InputError: The network has no class for a class of the set, or the order of classes
                whose names are numbers is not known.

        Example:
            >>> from PIL import Image
            >>> import deepcorrect as dc
            >>> from deepcorrect.data import ImageSet
            >>> black, fit = Image.new("RGB", (1, 1)), dc.Preprocessing(1, (0.5,), (0.25,))
            >>> folders = ("1", "10", "2")
            >>> images = ImageSet("set", lambda row: black, [0, 1, 2], "abc", fit, folders)
            >>> images.matched(3, class_order="number").labels
            [0, 2, 1]
            >>> images.matched(3, class_order="text").labels
            [0, 1, 2]
        """
        labels = self.labels.array
        if self.classes is None or not len(labels) or labels.max() >= len(self.classes):
            return self
        known = ClassNames(count, names)
        if self._empty and not known.names and len(self.classes) + len(self._empty) == count:
            return self._with_empty().matched(count, names, class_order=class_order)
        if self._inner:
            check_level(self.name, self.classes, self._inner, known)
        used = np.unique(labels[labels != UNLABELLED]).tolist()
        indices = known.indices(self.classes, self.name, used, class_order)
        if np.array_equal(indices[used], used):
            return self
        return self.relabelled(indices, known.names or tuple(map(str, range(count))))

    def _with_empty(self) -> ImageSet:
        """The set with its empty classes among its classes, all in sorted order."""
        own = self.classes or ()
        note_once(
            f"the network has {len(own) + len(self._empty)} classes, as many as {self.name} has "
            "sub-folders including those without images, so these count as classes"
        )
        classes = tuple(sorted((*own, *self._empty)))
        return self.relabelled([classes.index(name) for name in own], classes)

    def relabelled(self, indices: Sequence[int] | np.ndarray, classes: tuple[str, ...]) -> ImageSet:
        """The same images with label k replaced by `indices[k]`, an index into `classes`."""
        labels = self.labels.array
        changed = copy.copy(self)
        changed.labels = IntegerColumn(
            np.where(labels == UNLABELLED, UNLABELLED, np.asarray(indices)[labels])
        )
        changed.classes, changed._empty, changed._inner = classes, (), ()
        return changed

    def keeping_fitting(self) -> ImageSet:
        """The same images; those that have the input size are neither resized nor cropped."""
        changed = copy.copy(self)
        changed._keep_fitting = True
        return changed

    def without_labels(self) -> ImageSet:
        """The same images without labels."""
        changed = copy.copy(self)
        changed.labels, changed.classes = IntegerColumn(np.full(len(self), UNLABELLED)), None
        return changed

    def check_labels(self, classes: int) -> None:
        """Checks every label against the network's number of classes.

        Raises:
            InputError: An image has no label, or a label from `classes` on.
        """
        if not self.labelled:
            raise needs_labels(self.name)
        check_labels(torch.from_numpy(self.labels.array), classes, self.name)

    def share_bad(self) -> None:
        """Adds the images that other processes could not read to `bad`, in all of them."""
        self._bad |= total(self._bad)

    def warn_of_bad(self) -> None:
        """Prints one line about the images that could not be read, if there are any.

        All processes that share the images call it together.
        """
        self.share_bad()
        warn_of_bad(self, len(self.bad), len(self))


def _flags(count: int) -> Tensor:
    """One flag per image in shared memory: decoding processes set it and this process reads it."""
    return torch.zeros(count, dtype=torch.bool).share_memory_()


def needs_labels(name: str) -> InputError:
    """The error for a set that has no labels although labels are needed."""
    return InputError(
        f"{name} has images without labels, and labels are needed here: "
        "give a folder with one sub-folder per class, or a labelled Parquet file"
    )


def check_labels(labels: Tensor, classes: int, name: str = "the data") -> None:
    """Checks that every label is from 0 to classes - 1.

    Raises:
        InputError: A label is not.

    Example:
        >>> import torch
        >>> from deepcorrect.data import check_labels
        >>> check_labels(torch.tensor([0, 1, 9]), classes=10)
    """
    outside = labels[(labels < 0) | (labels >= classes)]
    if bool((outside == UNLABELLED).any()):
        raise InputError(
            f"{name} has an image without a label (label {UNLABELLED}) where labels are needed: "
            "label these images, leave them out, or measure against the network's own prediction"
        )
    if len(outside):
        raise InputError(
            f"{name} has label {int(outside[0])}: the network has {classes} classes, "
            f"so labels go from 0 to {classes - 1}"
        )


def with_reason(name: str, reason: str) -> str:
    """The name of an unreadable image, with the reason in brackets if there is one.

    Example:
        >>> from deepcorrect.data import with_reason
        >>> with_reason("a.tif", "mode F"), with_reason("b.tif", "")
        ('a.tif (mode F)', 'b.tif')
    """
    return f"{name} ({reason})" if reason else name


def warn_of_bad(images: ImageSet, bad: int, count: int) -> None:
    """Prints one line about the `bad` ones of `count` images, if there are any."""
    if bad:
        shown = ", ".join(images.described_bad(SHOWN)) + (", ..." if bad > SHOWN else "")
        console().print(
            f"warning: {bad} of {count} images of {images.name} could not be read "
            f"and were left out: {shown}",
            style="yellow",
        )
