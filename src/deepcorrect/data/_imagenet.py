"""ImageNet (ILSVRC2012), read from the folders of its unpacked archives."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepcorrect.data._columns import IntegerColumn, StringColumn
from deepcorrect.data._image_folder import Files, class_folders, in_classes
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._listing import image_names
from deepcorrect.data._no_folder import no_folder
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import InputError, files

FOLDERS = {
    "train": ("train", "ILSVRC2012_img_train"),
    "val": ("val", "ILSVRC2012_img_val", "validation"),
}
PARENTS = ("", "Data/CLS-LOC", "CLS-LOC", "ILSVRC/Data/CLS-LOC", "ILSVRC2012")
"""Where these folders lie below the given one, in ImageNet's own archives and in Kaggle's."""

DEVKIT = ("ILSVRC2012_devkit_t12/data", "devkit/data", "data", "")
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
SOLUTION = "LOC_val_solution.csv"
CLASS = re.compile(r"n\d{8}")
VALIDATION_IMAGE = re.compile(r".*_val_(\d{8})\.\w+")
CLASSES = 1000


def open_imagenet(rest: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens the training images or the validation images.

    Args:
        rest: `DIR:train` or `DIR:val`. Training images lie in one folder per class,
            `train/n01440764/*.JPEG`. Validation images may too, or they may all lie in one folder,
            as the archive unpacks; their classes are then read from the development kit
            (`ILSVRC2012_devkit_t12`) or Kaggle's `LOC_val_solution.csv` beside them.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: A required folder or file does not exist.
    """
    given, _, split = rest.rpartition(":")
    folder = Path(given).expanduser()
    split = "val" if split == "validation" else split
    if not given or split not in FOLDERS:
        raise InputError(f"data 'imagenet:{rest}' is not imagenet:DIR:train or imagenet:DIR:val")
    if not folder.is_dir():
        raise no_folder(folder)
    images = _images_below(folder, split)
    found = [each for each in class_folders(images) if CLASS.fullmatch(each)]
    if found:
        names, labels = in_classes(images, found)
        known = _devkit(folder)
        classes = tuple(known.named(found) if known else found)
    elif split == "train":
        raise _not_unpacked(images)
    else:
        names = StringColumn(image_names(images, deep=False))
        labels, classes = _flat_labels(folder, images, names)
    if not len(names):
        raise InputError(f"{images} has no images")
    read = Files(str(images), names)
    return ImageSet(f"imagenet:{split}", read, labels, names, preprocessing, classes)


def _images_below(folder: Path, split: str) -> Path:
    candidates = [folder / parent / name for parent in PARENTS for name in FOLDERS[split]]
    return next((candidate for candidate in candidates if candidate.is_dir()), folder)


def _not_unpacked(images: Path) -> InputError:
    archive = next(images.glob("n*.tar"), None)
    if archive is None:
        return InputError(
            f"{images} has no folders of ImageNet's classes, such as n01440764: imagenet:DIR:train "
            "reads DIR/train/n01440764/*.JPEG"
        )
    return InputError(
        f"{images} holds archives such as {archive.name}, one per class: unpack each into a folder "
        "of its name, for example with  for f in n*.tar; do "
        'mkdir "${f%.tar}" && tar xf "$f" -C "${f%.tar}"; done'
    )


@dataclass(frozen=True)
class _Devkit:
    """The contents of the development kit.

    Attributes:
        classes: The WordNet id of each class, by its ILSVRC2012 id, which counts from 1.
        words: The names of each class, by its WordNet id.
        truth: The ILSVRC2012 ids of the validation images' classes, in the images' order.
    """

    classes: dict[int, str]
    words: dict[str, str]
    truth: list[int]

    def named(self, classes: Iterable[str]) -> list[str]:
        """Each WordNet id followed by the class's names."""
        return [f"{each} {self.words[each]}" if each in self.words else each for each in classes]


def _devkit(folder: Path) -> _Devkit | None:
    """The development kit in or below a folder; None if there is none.

    Raises:
        InputError: It cannot be read.
    """
    folders = (folder / name for name in DEVKIT)
    data = next((p for p in folders if (p / TRUTH).is_file() and (p / META).is_file()), None)
    if data is None:
        return None
    from scipy.io import loadmat  # noqa: PLC0415  (slow to import)

    try:
        synsets = loadmat(data / META, squeeze_me=True)["synsets"]
        rows = [
            (int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]))
            for row in np.atleast_1d(synsets)
        ]
        truth = [int(line) for line in (data / TRUTH).read_text(encoding="ascii").split()]
    except Exception as error:  # SciPy raises errors of many classes at other files
        if files.disk_full(error):
            raise
        raise InputError(
            f"{data} does not hold ImageNet's development kit ({type(error).__name__}: {error})"
        ) from None
    leaves = [row for row in rows if row[0] <= CLASSES]  # higher ids are groups of classes
    return _Devkit(
        {number: wordnet for number, wordnet, _ in leaves},
        {wordnet: words for _, wordnet, words in leaves},
        truth,
    )


def _flat_labels(
    folder: Path, images: Path, names: StringColumn
) -> tuple[IntegerColumn, tuple[str, ...]]:
    """The labels of the validation images in one folder, and the names of the classes."""
    by_name: dict[str, str] = {}
    words: list[str] = []
    for root in (folder, images.parent, images):
        kit, solution = _devkit(root), root / SOLUTION
        if kit is not None:
            for name in names:
                number = VALIDATION_IMAGE.fullmatch(name)
                if number and 0 < int(number[1]) <= len(kit.truth):
                    by_name[name.rpartition(".")[0]] = kit.classes[kit.truth[int(number[1]) - 1]]
            wordnet = sorted(kit.classes.values())
            words = kit.named(wordnet)
            break
        if solution.is_file():
            with solution.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    by_name[row["ImageId"]] = row["PredictionString"].split()[0]
            wordnet = words = sorted(set(by_name.values()))
            break
    else:
        raise InputError(
            f"{images} holds validation images without class folders: put the development kit "
            f"(ILSVRC2012_devkit_t12, with data/{TRUTH}) or Kaggle's {SOLUTION} into {folder}"
        )
    unknown = [name for name in names if name.rpartition(".")[0] not in by_name]
    if unknown:
        raise InputError(
            f"{len(unknown)} images of {images} have no class in the development kit or "
            f"{SOLUTION} beside them, such as {unknown[0]}"
        )
    order = {each: index for index, each in enumerate(wordnet)}
    return IntegerColumn(order[by_name[name.rpartition(".")[0]]] for name in names), tuple(words)
