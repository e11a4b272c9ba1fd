"""Lists the image files below a folder, and keeps count of the files that are not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deepcorrect.data._decoding import image_extensions
from deepcorrect.runtime import kind_of_file, note_once

LEFTOVERS = frozenset(
    ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "_trash")
)
"""Folders that archivers and file systems leave behind; some hold copies or thumbnails."""

UNSUPPORTED = frozenset(
    (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf")
)
"""Extensions of photographs, of which Pillow reads few or none by itself."""

SHOWN = 3


@dataclass
class Unread:
    """What was found below a folder and is not read as an image.

    Attributes:
        count: The number of files.
        names: The first of them, as paths relative to the folder.
        photos: The number of photographs among them in formats that Pillow does not read here.
        photo: The first of these photographs.
        loops: The first links to a folder that contains them, which are not followed.
        special: The first pipe, socket or device, which is not opened.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)
    photos: int = 0
    photo: str = ""
    loops: list[str] = field(default_factory=list)
    special: str = ""

    def add(self, path: str) -> None:
        """Counts one file."""
        self.count += 1
        if len(self.names) < SHOWN:
            self.names.append(path)
        if _extension(path) in UNSUPPORTED:
            self.photos += 1
            self.photo = self.photo or path

    def kind(self, folder: Path) -> str:
        """What the first of the files is by its content; empty if that is not known."""
        return kind_of_file(folder / self.names[0]) if self.names else ""

    def report(self, folder: Path) -> None:
        """Says once what was not read."""
        if self.count:
            kind = self.kind(folder)
            hint = f". {self.names[0]} is {kind}: give it its extension" if "image" in kind else ""
            note_once(
                f"{self.count} file{'s' if self.count > 1 else ''} in {folder} "
                f"{'are' if self.count > 1 else 'is'} not read, because the extension is not that "
                f"of an image that Pillow reads: {some(self.names, self.count)}{hint}"
            )
        if self.photos:
            extension = _extension(self.photo)
            note_once(
                f"{self.photos} of these {'are photographs' if self.photos > 1 else 'is a photo'} "
                f"in a format such as {extension}, which Pillow does not read here, and "
                f"{'are' if self.photos > 1 else 'is'} missing from the images of {folder}: "
                f"convert to JPEG or PNG first, such as {self.photo} with  "
                f"heif-convert IN{extension} OUT.jpg  or  magick IN OUT.png"
            )
        if self.special:
            note_once(
                f"{self.special} in {folder} is a pipe, a socket or a device, and is not opened"
            )
        if self.loops:
            note_once(
                f"{self.loops[0]} in {folder} is a link to a folder that contains it, and is not "
                "followed"
            )


def some(names: list[str], count: int) -> str:
    """The first names, with dots if there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if count > SHOWN else "")


def image_names(
    folder: Path, below: str = "", *, deep: bool = True, unread: Unread | None = None
) -> Iterator[str]:
    """The image files below a folder in alphabetical order, as paths relative to it.

    Links to files and to folders are followed, except to a folder that contains the link. Hidden
    files and folders and those in `LEFTOVERS` are left out. One folder at a time is listed.

    Args:
        folder: The folder that paths are relative to.
        below: Lists only what is in this sub-folder.
        deep: Whether to list sub-folders, too.
        unread: Counts the other files.
    """
    root = Path(folder).resolve()
    above = frozenset(map(_identity, (root, *root.parents)))
    known = image_extensions()
    yield from _Walk(str(folder), known, deep, unread or Unread()).below(below, above, is_root=True)


@dataclass(frozen=True)
class _Walk:
    """One listing of a folder."""

    folder: str
    extensions: frozenset[str]
    deep: bool
    unread: Unread

    def below(
        self, parent: str, above: frozenset[tuple[int, int]], *, is_root: bool = False
    ) -> Iterator[str]:
        path = os.path.join(self.folder, parent)  # noqa: PTH118 (faster)
        identity = _identity(path)
        if identity in above and not (is_root and not parent):
            self.unread.loops.append(parent)
            return
        with os.scandir(path) as entries:
            found = sorted((entry.name, entry.is_dir(), _is_special(entry)) for entry in entries)
        for name, is_folder, is_special in found:
            inside = f"{parent}/{name}" if parent else name
            extension = _extension(name)
            if is_folder:
                if self.deep and not is_left_out(name):
                    yield from self.below(inside, above | {identity})
            elif is_special:
                self.unread.special = self.unread.special or inside
            elif name.startswith("."):
                if extension in self.extensions and not name.startswith("._"):
                    self.unread.add(inside)
            elif extension in self.extensions:
                yield inside
            else:
                self.unread.add(inside)


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a pipe, a socket or a device, or a link to one: to open it may hang."""
    if entry.is_file() or entry.is_dir():
        return False
    return os.path.exists(entry.path)  # noqa: PTH110 (a link that leads nowhere is no file of these)


def is_left_out(name: str) -> bool:
    """Whether a folder of this name is hidden or a leftover, and so never read."""
    return name.startswith(".") or name in LEFTOVERS


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 (faster)
    return status.st_dev, status.st_ino


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (faster)
