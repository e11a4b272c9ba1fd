"""Images as files: folders of them, or a list."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deepcorrect.data._columns import Column, Numbers, Texts
from deepcorrect.data._image_set import UNLABELLED, ImageSet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import InputError


@dataclass(frozen=True)
class Files:
    """Opens the file at a row's name, which is relative to `folder`."""

    folder: str
    names: Column[str]

    def __call__(self, row: int) -> Image.Image:
        return Image.open(os.path.join(self.folder, self.names[row]))  # noqa: PTH118 (in bulk)


def open_files(paths: Sequence[Path], preprocessing: Preprocessing) -> ImageSet:
    """The image files at `paths`, without labels, in that order."""
    names = Texts(map(str, paths))
    labels = Numbers(np.full(len(names), UNLABELLED))
    return ImageSet("files", Files("", names), labels, names, preprocessing)


def images_in(folder: Path) -> Iterator[Path]:
    """The image files anywhere below a folder, by their extension, in alphabetical order.

    One folder is listed at a time. What is hidden is left out, and links to folders.
    """
    return (folder / name for name in image_names(folder))


def image_names(folder: Path, *, deep: bool = True) -> Iterator[str]:
    """The same, relative to the folder; only the folder's own unless `deep`."""
    return _names_below(str(folder), "", frozenset(Image.registered_extensions()), deep)


def _names_below(root: str, inside: str, extensions: frozenset[str], deep: bool) -> Iterator[str]:
    with os.scandir(os.path.join(root, inside)) as entries:  # noqa: PTH118 (a million files)
        found = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not entry.name.startswith(".")
        )
    for name, is_folder in found:
        path = f"{inside}/{name}" if inside else name
        if is_folder:
            if deep:
                yield from _names_below(root, path, extensions, deep)
        elif os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122
            yield path


def class_folders(folder: Path) -> list[str]:
    """The names of a folder's sub-folders, sorted; what is hidden is left out."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def open_folder(folder: Path, preprocessing: Preprocessing) -> ImageSet:
    """The images of a folder: one sub-folder a class, in sorted order, or images alone.

    Raises:
        InputError: there is no such folder, it has no images, or it has both.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    loose = Texts(image_names(folder, deep=False))
    classes = tuple(class_folders(folder))
    names, labels = in_classes(folder, classes)
    if len(loose) and len(names):
        raise InputError(
            f"{folder} has both images of its own (such as {loose[0]}) and sub-folders of "
            "images: give one sub-folder a class, or images alone"
        )
    if not len(loose) and not len(names):
        raise InputError(
            f"{folder} has no images. Accepted: one sub-folder a class, or images alone, as "
            "PNG, JPEG, WebP, BMP, TIFF and what else Pillow reads"
        )
    if len(loose):
        none = Numbers(np.full(len(loose), UNLABELLED))
        return ImageSet(folder.name, Files(str(folder), loose), none, loose, preprocessing)
    read = Files(str(folder), names)
    return ImageSet(folder.name, read, labels, names, preprocessing, classes)


def in_classes(folder: Path, classes: Sequence[str], *, deep: bool = True) -> tuple[Texts, Numbers]:
    """The images of the named sub-folders, and their labels: the places of the names."""
    counts: list[int] = []

    def listed() -> Iterator[str]:
        for name in classes:
            count = 0
            for path in image_names(folder / name, deep=deep):
                count += 1
                yield f"{name}/{path}"
            counts.append(count)

    names = Texts(listed())
    return names, Numbers(np.repeat(np.arange(len(classes)), counts))
