"""Caltech-101 and Caltech-256, in the folders that their archives unpack to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deepcorrect.data._image_folder import Files, class_folders, in_classes
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import InputError, generator_for

SPEC = re.compile(r"(?P<place>.+?)(?::(?P<split>train|test)(?::(?P<number>\d+))?)?")


@dataclass(frozen=True)
class Caltech:
    """One of the two.

    Attributes:
        name: as in DATA specs.
        folder: what its archive unpacks to.
        others: the class of images that belong to none, which is left out.
        train: training images a class.
        test: test images a class, at most.
    """

    name: str
    folder: str
    others: str
    train: int
    test: int


CALTECH_101 = Caltech("caltech101", "101_ObjectCategories", "BACKGROUND_Google", 30, 50)
CALTECH_256 = Caltech("caltech256", "256_ObjectCategories", "257.clutter", 60, 50)
"""Images a class as in M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional
Networks", ECCV 2014, section 5.2: 30 to train and up to 50 to test; 60 to train for Caltech-256,
for whose tests we take up to 50 too."""


def open_caltech(which: Caltech, rest: str, preprocessing: Preprocessing) -> ImageSet:
    """All images, or one part of a random split.

    Args:
        which: of the two.
        rest: `DIR`, `DIR:train[:NUMBER]` or `DIR:test[:NUMBER]`, DIR what the archive unpacks to or
            what holds that. The split of a number is always the same; without one it is 0.
        preprocessing: the network's.

    Raises:
        InputError: there are no such folders.
    """
    whole = Path(rest).expanduser().is_dir()
    found = None if whole else SPEC.fullmatch(rest)
    place, split, number = found.group("place", "split", "number") if found else (rest, None, None)
    folder = _place(which, Path(place).expanduser())
    groups = [name for name in class_folders(folder) if name != which.others]
    names, labels = in_classes(folder, groups, deep=False)  # 056.dog has a folder of other things
    if not len(names):
        raise InputError(
            f"{folder} has no images: {which.name}:DIR reads DIR/{which.folder}/CLASS/*.jpg"
        )
    classes = tuple(re.sub(r"^\d{3}\.", "", name) for name in groups)
    read = Files(str(folder), names)
    images = ImageSet(which.name, read, labels, names, preprocessing, classes)
    if split is None:
        return images
    chosen = images.select(_rows(which, split, int(number or 0), labels.array, classes))
    chosen.name = f"{which.name}:{split}" + (f":{number}" if number else "")
    return chosen


def _place(which: Caltech, folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    for inside in (which.folder, f"{which.name}/{which.folder}", f"caltech-101/{which.folder}"):
        if (folder / inside).is_dir():
            return folder / inside
    archives = [*folder.glob(f"{which.folder}.tar*"), *folder.glob(f"*/{which.folder}.tar*")]
    if archives:
        raise InputError(f"{archives[0]} is not unpacked: unpack it where it is")
    return folder


def _rows(
    which: Caltech, split: str, number: int, labels: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    """The rows of one part: of each class in a random order, the first train, the next test."""
    rows = []
    for label, name in enumerate(classes):
        own = np.flatnonzero(labels == label)
        order = torch.randperm(len(own), generator=generator_for(number, which.name, name)).numpy()
        first = slice(0, which.train) if split == "train" else slice(which.train, None)
        rows.append(np.sort(own[order[first][: which.test if split == "test" else None]]))
    return np.concatenate(rows)
