"""Reads sets of distorted copies in the layouts of CIFAR-C and ImageNet-C."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepcorrect.data import (
    STORED,
    ImageSet,
    NumberedNames,
    Preprocessing,
    no_folder,
    open_folder,
)
from deepcorrect.distortions import GROUPS, Distortion, Parameters, kind_of, ungrouped
from deepcorrect.runtime import InputError, files, unknown

SPECS = {
    "cifar_c:DIR": "CIFAR-C's layout: KIND.npy and labels.npy (evaluate alone reads it)",
    "imagenet_c:DIR": "ImageNet-C's layout: KIND/LEVEL/CLASS/* (evaluate alone reads it)",
}
INFO_FILE = "distort.json"
"""The file in which `distort` notes its arguments."""

BENCHMARK = (*GROUPS["imagenet_c"], *GROUPS["imagenet_c_extra"])
ARCHIVES = ("noise", "blur", "weather", "digital", "extra")
"""The folders to which ImageNet-C's archives unpack, each with some of the corruptions."""

MOST_SEVERITIES = 5
MOST_CLASSES = 1 << 31
Open = Callable[[], ImageSet]


class _Made(BaseModel):
    """One distortion of a stored set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(min_length=1)
    parameters: Parameters | None


class StoredInfo(BaseModel):
    """What `distort.json` says that is needed to read the set; it says more to go on writing it."""

    model_config = ConfigDict(frozen=True)

    finished: bool
    format: Literal["folder", "parquet", "npy"]
    distortions: dict[str, _Made] = Field(min_length=1)
    images_a_level: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _counted(self) -> StoredInfo:
        if self.format == "npy" and self.images_a_level is None:
            raise ValueError("a set of arrays says how many images a level has")
        return self


@dataclass(frozen=True)
class CorruptedSet:
    """Distorted copies of one set of images; each level of each kind is a set of its own.

    Attributes:
        name: its name in messages.
        parts: by kind and level, a function that opens the images. They are opened one at a time,
            because the names alone of all of ImageNet-C take a gigabyte.
        classes: the names of the class folders, in the order of the labels; None for arrays.
        imagenet: whether it is ImageNet-C or was made with its severities, on which AlexNet's
            published errors were measured.
    """

    name: str
    parts: Mapping[str, Mapping[float, Open]]
    classes: tuple[str, ...] | None
    imagenet: bool

    def only(self, specs: Sequence[str | Distortion]) -> CorruptedSet:
        """The set restricted to the kinds and levels of `specs`; a kind without levels keeps all.

        Raises:
            InputError: the set does not have one of them.
        """
        parts: dict[str, dict[float, Open]] = {}
        for wanted in ungrouped(specs):
            if wanted.name not in self.parts:
                raise unknown(f"distortion of {self.name}", wanted.name, self.parts)
            known = self.parts[wanted.name]
            for level in wanted.levels or known:
                if level not in known:
                    have = ", ".join(f"{each:g}" for each in known)
                    raise InputError(
                        f"{self.name} has no level {level:g} of {wanted.name!r}; it has {have}"
                    )
            parts[wanted.name] = {level: known[level] for level in wanted.levels or known}
        return CorruptedSet(self.name, parts, self.classes, self.imagenet)

    def check_clean(self, clean: ImageSet) -> None:
        """Raises InputError if the clean images have another number of classes."""
        if self.classes and clean.classes and len(self.classes) != len(clean.classes):
            raise InputError(
                f"{clean.name} has {len(clean.classes)} classes and {self.name} "
                f"{len(self.classes)}: their labels do not mean the same"
            )


def accepts(spec: str) -> bool:
    """Whether a DATA spec names such a set."""
    kind, _, rest = spec.partition(":")
    return kind in STORED and bool(rest)


def open_corrupted(spec: str, preprocessing: Preprocessing) -> CorruptedSet:
    """Opens the set of the spec `cifar_c:DIR` or `imagenet_c:DIR`.

    CIFAR-C (Hendrycks and Dietterich 2019) has DIR/KIND.npy, uint8, (levels x N) x H x W x 3 (or
    with one channel, or without that axis), one level after the other, and in DIR/labels.npy the N
    integer labels, once for each level or only once. ImageNet-C has DIR/KIND/LEVEL/CLASS/image, or
    DIR/GROUP/KIND/LEVEL/CLASS/image as its archives unpack; a label is the place of the class
    folder's name in sorted order. The benchmark's `gaussian_blur` is `gaussian_blur_c` here.

    Raises:
        InputError: a file is missing or damaged, or does not fit the others; a kind is not known;
            or `distort` has not finished there.
    """
    layout, _, rest = spec.partition(":")
    folder = Path(rest).expanduser()
    if not folder.is_dir():
        raise no_folder(folder)
    info = _info(folder, layout)
    read = _read_arrays if layout == "cifar_c" else _read_folders
    return read(folder, preprocessing, info)


def _info(folder: Path, layout: str) -> dict[str, Any] | None:
    """The notes of `distort` about the set; None for a set from elsewhere."""
    path = folder / INFO_FILE
    if not path.is_file():
        return None
    info = files.read_json_as(path, StoredInfo).model_dump()
    reader = {"npy": "cifar_c", "folder": "imagenet_c"}.get(info["format"])
    if reader is None:
        raise InputError(
            f"{folder} holds Parquet files: give one of them, such as parquet:{folder}/"
            f"{next(iter(info['distortions']), 'KIND')}-1.parquet"
        )
    if reader != layout:
        raise InputError(f"{folder} was written with --format {info['format']}: give {reader}:DIR")
    if not info["finished"]:
        raise InputError(
            f"{folder} is not complete: 'deepcorrect distort' was stopped there. Repeat the same "
            "command to continue"
        )
    return info


def _made_for_imagenet(info: Mapping[str, Any]) -> bool:
    return all(made["parameters"] == "imagenet" for made in info["distortions"].values())


def _kind_name(path: Path, info: Mapping[str, Any] | None) -> str:
    """The name of the kind that a file or folder holds."""
    name = path.stem if path.is_file() else path.name
    if info is None and name == "gaussian_blur":
        return "gaussian_blur_c"  # ours of that name is the paper's
    try:
        kind_of(name)
    except InputError:
        raise InputError(f"{path}: {unknown('corruption', name, BENCHMARK)}") from None
    if info is not None and name not in info["distortions"]:
        raise InputError(f"{path} is of no distortion that {INFO_FILE} names")
    return name


def _in_order(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Kinds and their paths; those of the benchmark come first and in its order."""
    places: dict[str, Path] = {}
    for name, path in found:
        if name in places:
            raise InputError(f"{places[name]} and {path} are the same corruption: keep one")
        places[name] = path
    order = {name: place for place, name in enumerate(BENCHMARK)}
    return dict(sorted(places.items(), key=lambda each: (order.get(each[0], 99), each[0])))


# --- CIFAR-C's layout


def _read_arrays(
    folder: Path, preprocessing: Preprocessing, info: Mapping[str, Any] | None
) -> CorruptedSet:
    labels = _array(folder / "labels.npy")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise InputError(
            f"{folder / 'labels.npy'} holds {labels.dtype} of shape {labels.shape}, and labels "
            "are one integer per row"
        )
    arrays = [
        path
        for path in sorted(folder.glob("*.npy"))
        if path.name != "labels.npy" and not path.name.startswith(".")
    ]
    if not arrays:
        raise InputError(f"{folder} has no KIND.npy beside its labels.npy")
    count = info["images_a_level"] if info else _images_a_level(labels)
    if count > len(labels) or labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise InputError(
            f"{folder / 'labels.npy'} has {len(labels):,} labels from {labels.min()} to "
            f"{labels.max()}: there are {count:,} images of a level, and labels count from 0"
        )
    own = labels[:count].tolist()
    parts: dict[str, dict[float, Open]] = {}
    for name, path in _in_order((_kind_name(path, info), path) for path in arrays).items():
        pixels = _pixels(path)
        levels = _levels_of(path, len(pixels), count, info["distortions"][name] if info else None)
        parts[name] = {
            level: partial(
                _rows, f"{folder.name}, {name} {level:g}", path, pixels, place, own, preprocessing
            )
            for place, level in enumerate(levels)
        }
    return CorruptedSet(folder.name, parts, None, False)


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"there is no file {path}: cifar_c:DIR holds KIND.npy and labels.npy")
    return files.read_array(path)


def _pixels(path: Path) -> np.ndarray:
    pixels = _array(path)
    grey = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 1)
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 4 and pixels.shape[3] == 3)):
        raise InputError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}, and images are uint8 of shape "
            "rows x height x width x 3"
        )
    return pixels[..., 0] if pixels.ndim == 4 and grey else pixels


def _images_a_level(labels: np.ndarray) -> int:
    """The number of labels divided by the largest number of levels for which they repeat."""
    for levels in range(MOST_SEVERITIES, 1, -1):
        count, rest = divmod(len(labels), levels)
        if not rest and np.array_equal(labels, np.tile(labels[:count], levels)):
            return count
    return len(labels)


def _levels_of(
    path: Path, rows: int, count: int, made: Mapping[str, Any] | None
) -> tuple[float, ...]:
    """The levels in an array with `rows` rows, `count` of them per level."""
    levels = tuple(map(float, made["levels"])) if made else ()
    number, rest = divmod(rows, count)
    if rest or not number or (number != len(levels) if made else number > MOST_SEVERITIES):
        expected = (
            f"{len(levels)} x {count:,}" if made else f"1 to {MOST_SEVERITIES} times {count:,}"
        )
        raise InputError(
            f"{path} has {rows:,} rows, but by labels.npy a level has {count:,} images, so it "
            f"should have {expected}"
        )
    return levels or tuple(float(level + 1) for level in range(number))


def _rows(
    name: str,
    path: Path,
    pixels: np.ndarray,
    place: int,
    labels: list[int],
    preprocessing: Preprocessing,
) -> ImageSet:
    numbers = np.arange(len(labels)) + place * len(labels)
    read, names = _Row(path, pixels, numbers[0]), NumberedNames("row ", numbers)
    return ImageSet(name, read, labels, names, preprocessing).keeping_fitting()


class _Row:
    """Makes an image of a row, counted from `first`; another process maps the file by itself."""

    def __init__(self, path: Path, pixels: np.ndarray, first: int) -> None:
        self.path, self.pixels, self.first = path, pixels, first

    def __call__(self, row: int) -> Image.Image:
        return Image.fromarray(np.asarray(self.pixels[self.first + row]))

    def __reduce__(self) -> Any:
        return _mapped, (self.path, self.first)


def _mapped(path: Path, first: int) -> _Row:
    return _Row(path, _pixels(path), first)


# --- ImageNet-C's layout


def _read_folders(
    folder: Path, preprocessing: Preprocessing, info: Mapping[str, Any] | None
) -> CorruptedSet:
    places = []
    for path in _folders(folder):
        inside = path.name in ARCHIVES
        places += [
            (_kind_name(each, info), each) for each in (_folders(path) if inside else [path])
        ]
    if not places:
        raise InputError(f"{folder} has no folder of a corruption: imagenet_c:DIR holds KIND/LEVEL")
    parts: dict[str, dict[float, Open]] = {}
    classes: tuple[str, ...] | None = None
    for name, path in _in_order(places).items():
        parts[name] = {}
        for level, place in _level_folders(name, path).items():
            here = tuple(each.name for each in _folders(place))
            if not here:
                raise InputError(
                    f"{place} has no class folders: imagenet_c:DIR holds KIND/LEVEL/CLASS/*"
                )
            if classes is not None and here != classes:
                other = sorted(set(here) ^ set(classes))[0]
                raise InputError(
                    f"{place} has other class folders than the levels before it (such as "
                    f"{other}), so its labels would have another meaning"
                )
            classes = here
            parts[name][level] = partial(
                _named_folder, f"{folder.name}, {name} {level:g}", place, preprocessing
            )
    return CorruptedSet(folder.name, parts, classes, info is None or _made_for_imagenet(info))


def _named_folder(name: str, folder: Path, preprocessing: Preprocessing) -> ImageSet:
    images = open_folder(folder, preprocessing, keep_empty=True).keeping_fitting()
    images.name = name
    return images


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _level_folders(name: str, folder: Path) -> dict[float, Path]:
    """The folders of a corruption's levels, in the order of their numbers."""
    found: dict[float, Path] = {}
    for path in _folders(folder):
        try:
            level = float(path.name)
        except ValueError:
            raise InputError(
                f"{path} is not a level: imagenet_c:DIR holds KIND/LEVEL/CLASS/*, each LEVEL a "
                "number such as 1"
            ) from None
        kind_of(name).check(level)
        found[level] = path
    if not found:
        raise InputError(f"{folder} has no folder of a level, such as {folder.name}/1")
    return dict(sorted(found.items()))
