"""SUN-397, read from the folders of its unpacked archive and partitions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from deepcorrect.data._columns import IntegerColumn, StringColumn
from deepcorrect.data._image_folder import Files, in_classes
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._no_folder import no_folder
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._splits import folder_and_split
from deepcorrect.runtime import InputError

CLASSES_FILE = "ClassName.txt"
LISTS = {"train": "Training", "test": "Testing"}
PARTITIONS = 10


def open_sun(rest: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens all images, or one half of one of the ten partitions, which has 50 images per class.

    J. Xiao et al., "SUN Database: Large-scale Scene Recognition from Abbey to Zoo", CVPR 2010.
    `SUN397/ClassName.txt` lists the classes (`/a/abbey`), whose images lie in `SUN397/a/abbey`.
    `Training_01.txt` and `Testing_01.txt` list the images of the first partition.

    Args:
        rest: `DIR`, `DIR:train[:NUMBER]` or `DIR:test[:NUMBER]`, where NUMBER is from 1 (the
            default) to 10.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: A required folder or file does not exist, or a list names an unknown class.
    """
    given, split, number = folder_and_split(rest)
    if not given.is_dir():
        raise no_folder(given)
    folder = next((f for f in (given / "SUN397", given) if (f / CLASSES_FILE).is_file()), None)
    if folder is None:
        raise InputError(f"{given} has no SUN397/{CLASSES_FILE}: sun397:DIR reads DIR/SUN397")
    paths = [line.strip("/") for line in _lines(folder / CLASSES_FILE)]
    classes = tuple(_class_name(path) for path in paths)
    name = "sun397"
    if split is None:
        names, labels = in_classes(folder, paths, deep=False)
    else:
        part = 1 if number is None else number
        if not 1 <= part <= PARTITIONS:
            raise InputError(f"SUN-397 has partitions 1 to {PARTITIONS}, but not {part}")
        listed = f"{LISTS[split]}_{part:02}.txt"
        parents = [parent / name for parent in (folder, given) for name in ("", "Partitions")]
        file = next((each / listed for each in parents if (each / listed).is_file()), None)
        if file is None:
            raise InputError(f"{given} has no {listed}: unpack SUN-397's Partitions.zip into it")
        names = StringColumn(line.lstrip("/") for line in _lines(file))
        labels = _labels(names, paths, file)
        name = f"sun397:{split}:{part}"
    if not len(names):
        raise InputError(f"{folder} has no images")
    return ImageSet(name, Files(str(folder), names), labels, names, preprocessing, classes)


def _class_name(path: str) -> str:
    """`abbey` for `a/abbey`; `apartment_building/outdoor` for `a/apartment_building/outdoor`."""
    letter, _, name = path.partition("/")
    return name if len(letter) == 1 and name else path


def _labels(names: StringColumn, paths: list[str], file: Path) -> IntegerColumn:
    order = {path: index for index, path in enumerate(paths)}
    folders = (name.rpartition("/")[0] for name in names)
    labels = np.fromiter((order.get(each, -1) for each in folders), np.int64)
    if (labels < 0).any():
        name = names[int(np.flatnonzero(labels < 0)[0])]
        raise InputError(f"{file} names {name}, whose folder is not a class in {CLASSES_FILE}")
    return IntegerColumn(labels)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from (line.strip() for line in file if line.strip())
