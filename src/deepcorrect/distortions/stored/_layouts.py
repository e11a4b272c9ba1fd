"""The three layouts in which distorted copies of a set are written."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from deepcorrect.data import UNLABELLED, ImageSet
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.runtime import InputError, files, parallel_map

MOST_CLASS_FOLDERS = 100_000
SAFE_NAME = re.compile(r"\w[\w .,+()'-]*")

Block = list[tuple[int, np.ndarray]]
"""Images, H x W x C as uint8, each with its number in the set."""


class Store(ABC):
    """Stores the images of one kind; a context manager that holds its files open.

    Attributes:
        levels: the levels that are not complete yet.
        rows: the numbers of the images that are not complete yet.
        kept, written: the number of files that existed, and of those that were made.
    """

    levels: tuple[float, ...]
    rows: Sequence[int]
    kept: int
    written: int = 0

    def __init__(self) -> None:
        self.stack = ExitStack()

    def __enter__(self) -> None:
        self.open()

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    @abstractmethod
    def open(self) -> None:
        """Opens what `add` needs; `stack` closes it at the end of the block."""

    @abstractmethod
    def add(self, level: float, block: Block) -> None:
        """Stores images at one level."""


def _text(level: float) -> str:
    return f"{level:g}" if float(f"{level:g}") == level else repr(level)


def _png(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _pngs(block: Block) -> Iterator[tuple[int, bytes]]:
    """The images as PNGs, encoded by several threads (half the time on two cores, measured)."""
    contents = parallel_map(_png, [pixels for _, pixels in block], torch.device("cpu"))
    return zip([number for number, _ in block], contents, strict=True)


class Folders(Store):
    """ImageNet-C's layout: OUT/KIND/LEVEL/CLASS/NAME.png."""

    def __init__(
        self, out: Path, kind: LevelledDistortion, images: ImageSet, targets: list[PurePosixPath]
    ) -> None:
        super().__init__()
        self.targets = targets
        self.levels = kind.levels
        self.folders = {level: out / kind.name / _text(level) for level in self.levels}
        self.classes = _class_folders(images) if images.labelled else []
        there = [
            sum((folder / target).is_file() for folder in self.folders.values())
            for target in targets
        ]
        self.rows = [row for row, count in enumerate(there) if count < len(self.levels)]
        self.kept = sum(there)

    def open(self) -> None:
        for folder in self.folders.values():  # a class without an image here keeps its number
            for name in self.classes:
                files.make_folder(folder / name)

    def add(self, level: float, block: Block) -> None:
        folder = self.folders[level]
        missing = [each for each in block if not (folder / self.targets[each[0]]).is_file()]
        for number, content in _pngs(missing):
            files.write_bytes(folder / self.targets[number], content)
            self.written += 1


def targets_of(images: ImageSet, from_folder: bool) -> list[PurePosixPath]:
    """Each image's path below a level's folder: its own if it comes from a folder."""
    if from_folder:
        names = [PurePosixPath(name) for name in images.names]
        bare = [name.with_suffix(".png") for name in names]
        if max(Counter(bare).values()) == 1:
            return bare
        return [name.with_name(f"{name.name}.png") for name in names]
    digits = len(str(len(images) - 1))
    names = [PurePosixPath(f"{row:0{digits}}.png") for row in range(len(images))]
    if not images.labelled:
        if any(label != UNLABELLED for label in images.labels):
            raise InputError(
                f"{images.name} has images with and without labels, but in folders either all "
                "images have a class or none has: give --format parquet"
            )
        return names
    classes = _class_folders(images)
    return [classes[label] / name for label, name in zip(images.labels, names, strict=True)]


def _class_folders(images: ImageSet) -> list[PurePosixPath]:
    """The folders of the classes, whose sorted order is that of the labels."""
    names = list(images.classes or ())
    count = max(len(names), max(images.labels) + 1)
    if min(images.labels) < 0 or count > MOST_CLASS_FOLDERS:
        raise InputError(
            f"{images.name} has labels from {min(images.labels)} to {max(images.labels)}: a "
            f"folder per class takes 0 to {MOST_CLASS_FOLDERS - 1:,}. Give --format parquet"
        )
    if names == sorted(set(names)) and len(names) == count and all(map(SAFE_NAME.fullmatch, names)):
        return [PurePosixPath(name) for name in names]
    digits = len(str(count - 1))
    return [PurePosixPath(f"{label:0{digits}}") for label in range(count)]


class Array(Store):
    """CIFAR-C's layout: OUT/KIND.npy, written under another name until it is complete.

    It is written with plain writes, because a full disk is then an error; with a memory map it
    would be a crash.
    """

    def __init__(self, out: Path, kind: LevelledDistortion, rows: list[int]) -> None:
        super().__init__()
        self.path = out / f"{kind.name}.npy"
        self.all_levels = kind.levels
        self.kept = int(self.path.is_file())
        self.levels = () if self.kept else self.all_levels
        self.rows: Sequence[int] = [] if self.kept else rows
        self.places = {number: place for place, number in enumerate(rows)}
        self.start: int | None = None
        self.filled = 0

    def open(self) -> None:
        temporary = self.stack.enter_context(files.replacing(self.path))
        self.file = self.stack.enter_context(temporary.open("wb"))
        self.stack.push(self._check)

    def _check(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            if self.filled != len(self.places) * len(self.all_levels):
                raise InputError(
                    f"images were readable at first but not later, so {self.path} is incomplete"
                )
            self.written = 1

    def add(self, level: float, block: Block) -> None:
        if self.start is None:
            shape = (len(self.all_levels) * len(self.places), *block[0][1].shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self.file, header)
            self.start = self.file.tell()
        first = self.all_levels.index(level) * len(self.places)
        for number, pixels in block:
            self.file.seek(self.start + (first + self.places[number]) * pixels.nbytes)
            self.file.write(pixels.tobytes())
            self.filled += 1


def write_labels(path: Path, labels: list[int], kinds: Sequence[LevelledDistortion]) -> None:
    """CIFAR-C's labels: those of one level, repeated for each level."""
    repeated = np.tile(np.array(labels, np.int64), max(len(kind.levels) for kind in kinds))

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, repeated)

    files.write_with(path, save)


class Tables(Store):
    """OUT/KIND-LEVEL.parquet in the Hugging Face image schema."""

    def __init__(self, out: Path, kind: LevelledDistortion, images: ImageSet) -> None:
        super().__init__()
        paths = {each: out / f"{kind.name}-{_text(each)}.parquet" for each in kind.levels}
        self.paths = {level: path for level, path in paths.items() if not path.is_file()}
        self.levels = tuple(self.paths)
        self.rows = range(len(images)) if self.paths else range(0)
        self.kept = len(paths) - len(self.paths)
        self.images = images
        self.labelled = any(label != UNLABELLED for label in images.labels)
        self.writers: dict[float, Any] = {}

    def open(self) -> None:
        import datasets  # noqa: PLC0415  (slow to import, and only Parquet needs it)
        from pyarrow import parquet  # noqa: PLC0415

        features: dict[str, Any] = {"image": datasets.Image()}
        if self.labelled:
            classes = self.images.classes
            label = datasets.ClassLabel(names=list(classes)) if classes else datasets.Value("int64")
            features["label"] = label
        self.schema = datasets.Features(features).arrow_schema
        for level, path in self.paths.items():
            temporary = self.stack.enter_context(files.replacing(path))
            writer: AbstractContextManager[Any] = parquet.ParquetWriter(temporary, self.schema)
            self.writers[level] = self.stack.enter_context(writer)
        self.stack.callback(self._count)

    def _count(self) -> None:
        self.written = len(self.paths)

    def add(self, level: float, block: Block) -> None:
        import pyarrow  # noqa: PLC0415

        rows: list[dict[str, Any]] = []
        for number, content in _pngs(block):
            label = self.images.labels[number]
            cell = {"bytes": content, "path": f"{number}.png"}
            known = {"label": None if label == UNLABELLED else label} if self.labelled else {}
            rows.append({"image": cell} | known)
        self.writers[level].write_table(pyarrow.Table.from_pylist(rows, schema=self.schema))
