"""Caltech-101 and Caltech-256, read from the folders of their unpacked archives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deepcorrect.data._image_folder import Files, class_folders, in_classes
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._no_folder import no_folder
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._splits import folder_and_split
from deepcorrect.runtime import InputError, generator_for


@dataclass(frozen=True)
class Caltech:
    """One of the two data sets.

    Attributes:
        name: Its name in DATA specs.
        folder: The folder that its archive unpacks to.
        background: The class of images that belong to no other class; it is left out.
        train: The number of training images per class.
        test: The largest number of test images per class.
    """

    name: str
    folder: str
    background: str
    train: int
    test: int


CALTECH_101 = Caltech("caltech101", "101_ObjectCategories", "BACKGROUND_Google", 30, 50)
CALTECH_256 = Caltech("caltech256", "256_ObjectCategories", "257.clutter", 60, 50)
"""The numbers of images per class follow M. Zeiler and R. Fergus, "Visualizing and Understanding
Convolutional Networks", ECCV 2014, section 5.2: 30 for training and up to 50 for testing; 60 for
training on Caltech-256, for whose test sets we also take up to 50."""


def open_caltech(dataset: Caltech, rest: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens all images, or one part of a random split.

    Args:
        dataset: Caltech-101 or Caltech-256.
        rest: `DIR`, `DIR:train[:NUMBER]` or `DIR:test[:NUMBER]`, where DIR is the folder that the
            archive unpacks to, or its parent. NUMBER (0 by default) chooses one of the random
            splits; the same number always gives the same split.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: There are no such folders.
    """
    given, split, number = folder_and_split(rest)
    folder = _image_folder(dataset, given)
    groups = [name for name in class_folders(folder) if name != dataset.background]
    names, labels = in_classes(folder, groups, deep=False)  # 056.dog has an unrelated sub-folder
    if not len(names):
        raise InputError(
            f"{folder} has no images: {dataset.name}:DIR reads DIR/{dataset.folder}/CLASS/*.jpg"
        )
    classes = tuple(re.sub(r"^\d{3}\.", "", name) for name in groups)
    read = Files(str(folder), names)
    images = ImageSet(dataset.name, read, labels, names, preprocessing, classes)
    if split is None:
        return images
    chosen = images.select(_rows(dataset, split, number or 0, labels.array, classes))
    chosen.name = f"{dataset.name}:{split}" + ("" if number is None else f":{number}")
    return chosen


def _image_folder(dataset: Caltech, folder: Path) -> Path:
    """The folder with one sub-folder per class, which may lie one or two levels below."""
    if not folder.is_dir():
        raise no_folder(folder)
    for parent in ("", dataset.name, "caltech-101"):
        if (folder / parent / dataset.folder).is_dir():
            return folder / parent / dataset.folder
    archives = [*folder.glob(f"{dataset.folder}.tar*"), *folder.glob(f"*/{dataset.folder}.tar*")]
    if archives:
        raise InputError(f"{archives[0]} is not unpacked: unpack it into its own folder")
    return folder


def _rows(
    dataset: Caltech, split: str, number: int, labels: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    """The rows of one part of a split.

    Each class is put into a random order. Its first images are for training, the next for testing.
    """
    rows = []
    for label, name in enumerate(classes):
        own = np.flatnonzero(labels == label)
        generator = generator_for(number, dataset.name, name)
        order = torch.randperm(len(own), generator=generator).numpy()
        if split == "train":
            chosen = order[: dataset.train]
        else:
            chosen = order[dataset.train : dataset.train + dataset.test]
        rows.append(np.sort(own[chosen]))
    return np.concatenate(rows)
