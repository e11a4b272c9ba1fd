"""Images in files: a folder of them, or a list of paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deepcorrect.data._columns import Column, IntegerColumn, StringColumn
from deepcorrect.data._decoding import open_image
from deepcorrect.data._image_set import UNLABELLED, ImageSet
from deepcorrect.data._listing import Unread, image_names, is_left_out, some
from deepcorrect.data._no_folder import no_folder
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._tiny_imagenet import IMAGES, is_tiny_imagenet, labels_of
from deepcorrect.runtime import InputError, note_once

SPLIT = re.compile(
    r"(?:train|training|val|valid|validation|dev|test|testing|eval)"
    r"(?:[ _-]?(?:set|data|images?|imgs?|\d*))?",
    re.IGNORECASE,
)
"""Names of sub-folders that are parts of a set; two or more of them alone are no classes."""

TABLES = frozenset((".csv", ".tsv", ".jsonl", ".xlsx", ".mat"))
"""Extensions of files that may hold the labels of a folder of images."""

ELSEWHERE = {
    ".parquet": "parquet:{}/*.parquet",
    ".arrow": "hf:{}",
    ".tar": "webdataset:{}/*.tar",
}
"""What to give in the place of a folder with such files."""

CONTAINERS = frozenset(("images", "image", "imgs", "img", "jpegimages"))
"""Names of a single sub-folder that holds the images and is no class."""


@dataclass(frozen=True)
class Files:
    """Opens the file that a row names, relative to `folder`."""

    folder: str
    names: Column[str]

    def __call__(self, row: int) -> Image.Image:
        return open_image(os.path.join(self.folder, self.names[row]))  # noqa: PTH118 (faster)


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

    Files are recognised by their extensions, and a note on stderr counts the others. Hidden files
    and folders are left out. Symbolic links are followed, except to a folder that contains the
    link. One folder at a time is listed, so memory stays small.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.data import images_in
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         pathlib.Path(folder, name).touch()
        ...     [path.name for path in images_in(pathlib.Path(folder))]
        ['a.jpg', 'b.png']
    """
    unread = Unread()
    for name in image_names(folder, unread=unread):
        yield folder / name
    unread.report(folder)


def class_folders(folder: Path) -> list[str]:
    """The sorted names of a folder's sub-folders, without hidden ones and leftovers."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_left_out(p.name))


def open_folder(
    folder: Path, preprocessing: Preprocessing, *, keep_empty: bool = False
) -> ImageSet:
    """Opens the images of a folder, with one sub-folder per class, or without labels.

    The names of the sub-folders that contain images are the classes, in sorted order. A folder
    that contains images itself is a set without labels. The validation folder of Tiny-ImageNet is
    read with its `val_annotations.txt`. Notes on stderr count the files that are not read, and name
    the sub-folders that are no classes.

    Args:
        folder: The folder.
        preprocessing: The network's preprocessing.
        keep_empty: Whether sub-folders without images are classes, too, as in a folder that was
            written with one for every class.

    Raises:
        InputError: The folder does not exist, contains no images, contains both images and
            sub-folders of images, or its sub-folders are parts of a set (`train`, `val`) or hold
            all images (`images`).

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
        raise no_folder(folder)
    unread = Unread()
    is_tiny = is_tiny_imagenet(folder)
    loose = StringColumn(image_names(folder, deep=False, unread=None if is_tiny else unread))
    groups = [IMAGES] if is_tiny else class_folders(folder)
    names, labels, counts = _listed(folder, groups, unread)
    unread.report(folder)
    inner = () if len(loose) or is_tiny else _inner(names)
    _check_layout(folder, loose, [name for name, count in counts.items() if count], unread, inner)
    if len(loose):
        _name_tables(folder)
        none = IntegerColumn(np.full(len(loose), UNLABELLED))
        return ImageSet(folder.name, Files(str(folder), loose), none, loose, preprocessing)
    read = Files(str(folder), names)
    if is_tiny:
        labels, known = labels_of(folder, names)
        return ImageSet(folder.name, read, labels, names, preprocessing, known)
    if keep_empty:
        return ImageSet(folder.name, read, labels, names, preprocessing, tuple(groups))
    empty = tuple(name for name, count in counts.items() if not count)
    hidden = [p.name for p in folder.iterdir() if p.is_dir() and is_left_out(p.name)]
    others = sorted([*empty, *hidden])
    if others:
        note_once(
            f"{len(others)} sub-folder{'s' if len(others) > 1 else ''} of {folder} without images, "
            f"hidden or left behind by other programs: {some(others, len(others))}. Such a folder "
            "is no class"
        )
    classes = tuple(name for name, count in counts.items() if count)
    ranks = np.cumsum([count > 0 for count in counts.values()]) - 1
    labels = IntegerColumn(ranks[labels.array])
    if inner:
        note_once(
            f"the classes of {folder} are its sub-folders ({some(list(classes), len(classes))}), "
            f"and all images below them are read, from {some(list(inner), len(inner))}"
        )
    return ImageSet(folder.name, read, labels, names, preprocessing, classes, empty, inner)


def _inner(names: StringColumn) -> tuple[str, ...]:
    """The sub-folders of the classes, if no class has an image of its own; otherwise nothing."""
    found: set[str] = set()
    for name in names:
        _, inside, *deeper = name.split("/", 2)
        if not deeper:
            return ()
        found.add(inside)
    return tuple(sorted(found))


def _name_tables(folder: Path) -> None:
    """Says of a folder of images which files beside them may have labels."""
    found = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in TABLES)
    if found:
        note_once(
            f"labels in {found[0]} are not read, and the images of {folder} have none: make one "
            f"sub-folder per class, or a Parquet file; hf:{folder} reads metadata.csv and "
            "metadata.jsonl"
        )


def _check_layout(
    folder: Path,
    loose: StringColumn,
    classes: Sequence[str],
    unread: Unread,
    inner: Sequence[str],
) -> None:
    """Checks that a folder contains either images or classes.

    Raises:
        InputError: It does not.
    """
    if len(loose) and classes:
        raise InputError(
            f"{folder} has both images of its own (such as {loose[0]}) and sub-folders of "
            "images: give a folder with one sub-folder per class, or with images only"
        )
    if not len(loose) and not classes:
        raise InputError(
            f"{folder} has no images. Accepted: one sub-folder per class, or images only, as "
            "PNG, JPEG, WebP, BMP, TIFF or any other format that Pillow reads"
            f"{_instead(folder, unread)}"
        )
    if len(classes) > 1 and all(map(SPLIT.fullmatch, classes)):
        raise InputError(
            f"the sub-folders of {folder} are parts of a set and no classes "
            f"({', '.join(classes)}): give one of them, such as folder:{folder / classes[-1]}"
        )
    is_container = len(classes) == 1 and (
        classes[0].lower() in CONTAINERS or bool(inner and SPLIT.fullmatch(classes[0]))
    )
    if is_container and not is_tiny_imagenet(folder):
        raise InputError(
            f"{folder} has its images in one sub-folder, {classes[0]!r}, which is no class: give "
            f"folder:{folder / classes[0]}"
        )


def _instead(folder: Path, unread: Unread) -> str:
    """What to give in the place of a folder without images, if its first file says so."""
    if not unread.names:
        return ""
    name = unread.names[0]
    form = ELSEWHERE.get(Path(name).suffix.lower())
    if form:
        return f". For files such as {name}, give {form.format((folder / name).parent)}"
    kind = unread.kind(folder)
    return f". {name} is {kind}" if kind else ""


def in_classes(
    folder: Path, classes: Sequence[str], *, deep: bool = True
) -> tuple[StringColumn, IntegerColumn]:
    """The images of the named sub-folders and their labels, which are the names' indices."""
    unread = Unread()
    names, labels, _ = _listed(folder, classes, unread, deep=deep)
    unread.report(folder)
    return names, labels


def _listed(
    folder: Path, classes: Sequence[str], unread: Unread, *, deep: bool = True
) -> tuple[StringColumn, IntegerColumn, dict[str, int]]:
    """The images of the named sub-folders, their labels, and how many images each of them has."""
    counts: dict[str, int] = {}

    def listed() -> Iterator[str]:
        for name in classes:
            counts[name] = 0
            for path in image_names(folder, name, deep=deep, unread=unread):
                counts[name] += 1
                yield path

    names = StringColumn(listed())
    return names, IntegerColumn(np.repeat(np.arange(len(classes)), list(counts.values()))), counts
