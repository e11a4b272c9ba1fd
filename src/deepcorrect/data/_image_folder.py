"""Images in files: a folder of them, or a list of paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deepcorrect.data._columns import Column, IntegerColumn, StringColumn
from deepcorrect.data._image_set import UNLABELLED, ImageSet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import InputError


@dataclass(frozen=True)
class Files:
    """Opens the file that a row names, relative to `folder`."""

    folder: str
    names: Column[str]

    def __call__(self, row: int) -> Image.Image:
        return Image.open(os.path.join(self.folder, self.names[row]))  # noqa: PTH118 (faster)


def open_files(paths: Sequence[Path], preprocessing: Preprocessing) -> ImageSet:
    """Opens the image files at `paths` as a set without labels, in that order.

    Example:
        >>> import pathlib
        >>> import deepcorrect as dc
        >>> from deepcorrect.data import open_files
        >>> paths = [pathlib.Path("a.png"), pathlib.Path("b.png")]
        >>> open_files(paths, dc.Preprocessing(28, (0.5,), (0.25,))).labels
        [-1, -1]
    """
    names = StringColumn(map(str, paths))
    labels = IntegerColumn(np.full(len(names), UNLABELLED))
    return ImageSet("files", Files("", names), labels, names, preprocessing)


def images_in(folder: Path) -> Iterator[Path]:
    """The image files anywhere below a folder, in alphabetical order.

    Files are recognised by their extensions. Hidden files and folders are left out, and symbolic
    links to folders are not followed. One folder at a time is listed, so memory stays small.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.data import images_in
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         pathlib.Path(folder, name).touch()
        ...     [path.name for path in images_in(pathlib.Path(folder))]
        ['a.jpg', 'b.png']
    """
    return (folder / name for name in image_names(folder))


def image_names(folder: Path, *, deep: bool = True) -> Iterator[str]:
    """The same as paths relative to the folder; without `deep`, only files directly in it."""
    return _names_below(str(folder), "", frozenset(Image.registered_extensions()), deep)


def _names_below(root: str, parent: str, extensions: frozenset[str], deep: bool) -> Iterator[str]:
    with os.scandir(os.path.join(root, parent)) as entries:  # noqa: PTH118 (faster)
        found = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not entry.name.startswith(".")
        )
    for name, is_folder in found:
        path = f"{parent}/{name}" if parent else name
        if is_folder:
            if deep:
                yield from _names_below(root, path, extensions, deep)
        elif os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122
            yield path


def class_folders(folder: Path) -> list[str]:
    """The sorted names of a folder's sub-folders, without hidden ones."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def open_folder(folder: Path, preprocessing: Preprocessing) -> ImageSet:
    """Opens the images of a folder, with one sub-folder per class, or without labels.

    The sub-folders' names in sorted order are the classes. A folder that contains images itself is
    a set without labels.

    Raises:
        InputError: The folder does not exist, contains no images, or contains both images and
            sub-folders of images.

    Example:
        >>> import pathlib, tempfile
        >>> import deepcorrect as dc
        >>> from PIL import Image
        >>> from deepcorrect.data import open_folder
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for label in ("cat", "dog"):
        ...         folder = pathlib.Path(name, label)
        ...         folder.mkdir()
        ...         Image.new("RGB", (40, 30)).save(folder / "1.png")
        ...     pictures = open_folder(pathlib.Path(name), dc.Preprocessing(28, (0.5,), (0.25,)))
        >>> pictures.classes, pictures.names
        (('cat', 'dog'), ['cat/1.png', 'dog/1.png'])
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    loose = StringColumn(image_names(folder, deep=False))
    classes = tuple(class_folders(folder))
    names, labels = in_classes(folder, classes)
    if len(loose) and len(names):
        raise InputError(
            f"{folder} has both images of its own (such as {loose[0]}) and sub-folders of "
            "images: give a folder with one sub-folder per class, or with images only"
        )
    if not len(loose) and not len(names):
        raise InputError(
            f"{folder} has no images. Accepted: one sub-folder per class, or images only, as "
            "PNG, JPEG, WebP, BMP, TIFF or any other format that Pillow reads"
        )
    if len(loose):
        none = IntegerColumn(np.full(len(loose), UNLABELLED))
        return ImageSet(folder.name, Files(str(folder), loose), none, loose, preprocessing)
    read = Files(str(folder), names)
    return ImageSet(folder.name, read, labels, names, preprocessing, classes)


def in_classes(
    folder: Path, classes: Sequence[str], *, deep: bool = True
) -> tuple[StringColumn, IntegerColumn]:
    """The images of the named sub-folders and their labels, which are the names' indices."""
    counts: list[int] = []

    def listed() -> Iterator[str]:
        for name in classes:
            count = 0
            for path in image_names(folder / name, deep=deep):
                count += 1
                yield f"{name}/{path}"
            counts.append(count)

    names = StringColumn(listed())
    return names, IntegerColumn(np.repeat(np.arange(len(classes)), counts))
