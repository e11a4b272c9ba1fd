"""Writing distorted copies of a set of images, once, in the layouts that benchmarks have."""

from __future__ import annotations

import dataclasses
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deepcorrect import files
from deepcorrect.classifier import Preprocessing
from deepcorrect.computing import side_by_side
from deepcorrect.corrupted_sets import INFO_FILE
from deepcorrect.data import (
    UNLABELLED,
    ImageSet,
    Loader,
    fitted,
    in_channels,
    open_data,
    pixels_of,
)
from deepcorrect.distortions import Distortion, parse_all, seeds_for
from deepcorrect.errors import InputError
from deepcorrect.progress import Advance, progress

Format = Literal["folder", "parquet", "npy"]
BLOCK_VALUES = 1 << 24
"""So many pixel values are held at a time, at most (one image where it has more)."""

MOST_CLASS_FOLDERS = 100_000
SAFE_NAME = re.compile(r"\w[\w .,+()'-]*")
GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and 16-bit ones, which begin with I;

Block = list[tuple[int, np.ndarray]]
"""Images, H x W x C as uint8, each with its number in the set."""


@dataclass(frozen=True)
class Written:
    """What `write_distorted` did.

    Attributes:
        images: the set, which counts and names its bad images.
        distortions: with the levels and parameters that were used.
        written, kept: files made now, and files that were there already.
    """

    images: ImageSet
    distortions: tuple[Distortion, ...]
    written: int
    kept: int


def write_distorted(
    data: str,
    distortions: Sequence[str | Distortion],
    out: Path,
    format: Format = "folder",
    *,
    input_size: int | None = None,
    resize: int | None = None,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    device: torch.device | None = None,
) -> Written:
    """Writes distorted copies of a set, each level of each distortion, rounded to 8 bits.

    `folder` is ImageNet-C's layout, OUT/KIND/LEVEL/CLASS/NAME.png; `npy` is CIFAR-C's, OUT/KIND.npy
    (levels x N, H, W, C), one level after the other, and OUT/labels.npy; `parquet` is
    OUT/KIND-LEVEL.parquet in the Hugging Face image schema. A set of grey images alone stays grey;
    any other becomes RGB. Noise depends on the seed, the level, an image's number in the set and
    the kind of device, on nothing else. Whole files of an interrupted call with the same arguments
    are kept.

    Args:
        data: a DATA spec.
        distortions: specs; levels and parameters that they leave open follow `input_size` or,
            without one, the shorter side of the first image, for the whole set.
        out: the folder; made if absent.
        format: see above.
        input_size: side to resize and cut the images to before they are distorted; without one
            they keep their sizes.
        resize: shorter side before the central cut; needs `input_size`.
        images: so many random images of the set; None takes all.
        seed: of the noise and of `images`.
        batch_size: images at a time.
        workers: decoding processes.
        device: where distortions are computed; None is the CPU.

    Raises:
        InputError: an argument is not accepted, there is no image that can be read, images do not
            fit the format, or the folder holds something else.
    """
    if resize is not None and input_size is None:
        raise InputError("--resize needs --input-size: without it images keep their sizes")
    files.check_folder(out)
    place = device or torch.device("cpu")
    chosen = open_data(data, Preprocessing(1, (0.0,), (1.0,))).sample(images, seed)
    channels, side = _survey(chosen)
    ones = (1.0,) * channels
    fit = Preprocessing(input_size, ones, ones, resize) if input_size is not None else None
    source = _Source(chosen, channels, fit, workers)
    pixels = input_size or side
    kinds = tuple(_settled(each, pixels) for each in parse_all(distortions, pixels))
    rows = source.alike() if format == "npy" else list(range(len(chosen)))
    targets = _targets(chosen, data.startswith("folder:")) if format == "folder" else []
    asked: dict[str, Any] = {
        "schema": 1,
        "data": data,
        "images": len(chosen),
        "format": format,
        "size": [input_size, resize] if fit else None,
        "channels": channels,
        "seed": seed,
        "device": place.type,
        "distortions": {
            kind.name: {"levels": list(kind.levels or ()), "parameters": kind.parameters}
            for kind in kinds
        },
    }
    if format == "npy":
        asked["images_a_level"] = len(rows)
    _begin(out, asked)
    if format == "npy" and chosen.labelled:
        _write_labels(out / "labels.npy", [chosen.labels[row] for row in rows], kinds)
    written = kept = 0
    total = len(chosen) * sum(len(kind.levels or ()) for kind in kinds)
    with progress("distorting", total) as step:
        for kind in kinds:
            if format == "folder":
                store: _Store = _Folders(out, kind, chosen, targets)
            elif format == "npy":
                store = _Array(out, kind, rows)
            else:
                store = _Tables(out, kind, chosen)
            kept += store.kept
            step(len(chosen) * len(kind.levels or ()) - len(store.rows) * len(store.levels))
            if store.rows and store.levels:
                with store:
                    _fill(store, source, kind, seed, batch_size, place, step)
            written += store.written
    if len(chosen.bad) == len(chosen):
        raise InputError(f"none of the {len(chosen)} images of {chosen.name} could be read")
    files.write_json(out / INFO_FILE, asked | {"finished": True})
    return Written(chosen, kinds, written, kept)


def _survey(images: ImageSet) -> tuple[int, int]:
    """Channels of the set (1 where every image is grey), and the first image's shorter side."""
    side = None
    for row in range(len(images)):
        found = images.decoded(row, lambda image: (image.mode, min(image.size)))
        if found is None:
            continue
        mode, shorter = found
        side = side or shorter
        if mode not in GREY_MODES and not mode.startswith("I;"):
            return 3, side
    if side is None:
        raise InputError(f"none of the {len(images)} images of {images.name} could be read")
    return 1, side


def _settled(kind: Distortion, pixels: int) -> Distortion:
    """One set of parameters for all images, whatever their sizes."""
    return dataclasses.replace(kind, parameters=kind.parameters_at(pixels))


def _begin(out: Path, asked: dict[str, Any]) -> None:
    """Claims the folder, or checks that what was begun there is what is asked for now."""
    path = out / INFO_FILE
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise InputError(
                f"{out} holds other files and no {INFO_FILE}: give a folder that is empty or new"
            )
        files.write_json(path, asked | {"finished": False})
        return
    begun = files.read_json(path)
    if not isinstance(begun, dict):
        raise InputError(f"{path} is not what 'deepcorrect distort' writes: give another folder")
    for key, value in asked.items():
        if begun.get(key) != value:
            raise InputError(
                f"{out} was begun with {key} {begun.get(key)!r}, and now {value!r} is asked for: "
                "give the same command to go on, or another folder"
            )
    files.remove_temporary(out)


# --- reading, distorting


class _Decoded(Dataset[tuple[int, Tensor | None]]):
    """Images by their numbers, as uint8, C x H x W; None for a bad one."""

    def __init__(
        self, images: ImageSet, rows: Sequence[int], channels: int, fit: Preprocessing | None
    ) -> None:
        self.images, self.rows, self.channels, self.fit = images, rows, channels, fit

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, Tensor | None]:
        return self.rows[place], self.images.decoded(self.rows[place], self._pixels)

    def _pixels(self, image: Image.Image) -> Tensor:
        fit = self.fit
        return pixels_of(fitted(image, fit) if fit else in_channels(image, self.channels))


def _only(samples: list[tuple[int, Tensor | None]]) -> tuple[int, Tensor | None]:
    return samples[0]


@dataclass(frozen=True)
class _Source:
    """How a set's images are decoded: `fit` is None where they keep their sizes."""

    images: ImageSet
    channels: int
    fit: Preprocessing | None
    workers: int

    def decoded(self, rows: Sequence[int]) -> Iterator[tuple[int, Tensor | None]]:
        """Numbers and pixels of the images at `rows`, one at a time."""
        found = _Decoded(self.images, rows, self.channels, self.fit)
        yield from Loader(found, 1, num_workers=self.workers, collate_fn=_only)

    def blocks(self, rows: Sequence[int], count: int, step: Advance, levels: int) -> Iterator[Any]:
        """The good ones, some at a time: lists of numbers and of pixels."""
        numbers: list[int] = []
        pixels: list[Tensor] = []
        for number, values in self.decoded(rows):
            if values is None:
                step(levels)
                continue
            numbers.append(number)
            pixels.append(values)
            if len(numbers) == count or sum(p.numel() for p in pixels) >= BLOCK_VALUES:
                yield numbers, pixels
                numbers, pixels = [], []
        if numbers:
            yield numbers, pixels

    def alike(self) -> list[int]:
        """The numbers of the good images, which must all have one size.

        Raises:
            InputError: they have not, or there is none.
        """
        rows: list[int] = []
        first: tuple[int, ...] | None = None
        with progress("checking", len(self.images)) as step:
            for number, values in self.decoded(range(len(self.images))):
                step(1)
                if values is None:
                    continue
                first = first or tuple(values.shape)
                if tuple(values.shape) != first:
                    names = self.images.names
                    raise InputError(
                        f"format npy needs images of one size: {names[rows[0]]} has {first[2]} x "
                        f"{first[1]} pixels and {names[number]} {values.shape[2]} x "
                        f"{values.shape[1]}. Give --input-size, or another format"
                    )
                rows.append(number)
        if not rows:
            raise InputError(
                f"none of the {len(self.images)} images of {self.images.name} could be read"
            )
        return rows


def _fill(
    store: _Store,
    source: _Source,
    kind: Distortion,
    seed: int,
    batch_size: int,
    device: torch.device,
    step: Advance,
) -> None:
    levels = len(store.levels)
    for numbers, pixels in source.blocks(store.rows, batch_size, step, levels):
        for level in store.levels:
            store.add(level, _distorted(kind, level, numbers, pixels, seed, device))
            step(len(numbers))


def _distorted(
    kind: Distortion,
    level: float,
    numbers: Sequence[int],
    pixels: Sequence[Tensor],
    seed: int,
    device: torch.device,
) -> Block:
    """Distorted images in their order; those of one size are distorted together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, values in enumerate(pixels):
        by_shape.setdefault(tuple(values.shape), []).append(place)
    found: dict[int, np.ndarray] = {}
    for places in by_shape.values():
        batch = torch.stack([pixels[place] for place in places]).to(device).float() / 255
        seeds = torch.cat(
            [
                seeds_for(seed, "distort", kind.name, level, first=numbers[place], count=1)
                for place in places
            ]
        )
        rounded = kind(batch, level, seeds).clamp(0, 1).mul(255).round().to(torch.uint8)
        values = rounded.permute(0, 2, 3, 1).cpu().contiguous().numpy()
        found |= dict(zip(places, values, strict=True))
    return [(number, found[place]) for place, number in enumerate(numbers)]


# --- the three layouts


class _Store:
    """Where one kind's images go, while its block is entered.

    Attributes:
        levels: those that still lack something.
        rows: the numbers of the images that still lack something.
        kept, written: files.
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

    def open(self) -> None:
        """Makes ready for images; what `stack` holds is closed at the end of the block."""
        raise NotImplementedError

    def add(self, level: float, block: Block) -> None:
        """Stores images at one level."""
        raise NotImplementedError


def _text(level: float) -> str:
    return f"{level:g}" if float(f"{level:g}") == level else repr(level)


def _png(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _pngs(block: Block) -> Iterator[tuple[int, bytes]]:
    """Encoded by several threads (measured: in half the time on two cores)."""
    contents = side_by_side(_png, [pixels for _, pixels in block], torch.device("cpu"))
    return zip([number for number, _ in block], contents, strict=True)


class _Folders(_Store):
    """ImageNet-C's layout: OUT/KIND/LEVEL/CLASS/NAME.png."""

    def __init__(
        self, out: Path, kind: Distortion, images: ImageSet, targets: list[PurePosixPath]
    ) -> None:
        super().__init__()
        self.targets = targets
        self.levels = kind.levels or ()
        self.folders = {level: out / kind.name / _text(level) for level in self.levels}
        self.classes = _class_folders(images) if images.labelled else []
        there = [
            sum((folder / target).is_file() for folder in self.folders.values())
            for target in targets
        ]
        self.rows = [row for row, count in enumerate(there) if count < len(self.levels)]
        self.kept = sum(there)

    def open(self) -> None:
        for folder in self.folders.values():  # a class that has no image here keeps its number
            for name in self.classes:
                (folder / name).mkdir(parents=True, exist_ok=True)

    def add(self, level: float, block: Block) -> None:
        folder = self.folders[level]
        missing = [each for each in block if not (folder / self.targets[each[0]]).is_file()]
        for number, content in _pngs(missing):
            files.write_bytes(folder / self.targets[number], content)
            self.written += 1


def _targets(images: ImageSet, from_folder: bool) -> list[PurePosixPath]:
    """Each image's place below a level's folder: its own where it comes from a folder."""
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
                f"{images.name} has images with and without labels, and in folders each image has "
                "a class or none has: give --format parquet"
            )
        return names
    classes = _class_folders(images)
    return [classes[label] / name for label, name in zip(images.labels, names, strict=True)]


def _class_folders(images: ImageSet) -> list[PurePosixPath]:
    """The classes' folders, whose sorted order is that of the labels."""
    names = list(images.classes or ())
    count = max(len(names), max(images.labels) + 1)
    if min(images.labels) < 0 or count > MOST_CLASS_FOLDERS:
        raise InputError(
            f"{images.name} has labels from {min(images.labels)} to {max(images.labels)}: a "
            f"folder a class takes 0 to {MOST_CLASS_FOLDERS - 1:,}. Give --format parquet"
        )
    if names == sorted(set(names)) and len(names) == count and all(map(SAFE_NAME.fullmatch, names)):
        return [PurePosixPath(name) for name in names]
    digits = len(str(count - 1))
    return [PurePosixPath(f"{label:0{digits}}") for label in range(count)]


class _Array(_Store):
    """CIFAR-C's layout: OUT/KIND.npy, written under another name until it is whole.

    Written with plain writes: a full disk is then an error, where a memory map would be a crash.
    """

    def __init__(self, out: Path, kind: Distortion, rows: list[int]) -> None:
        super().__init__()
        self.path = out / f"{kind.name}.npy"
        self.all_levels = kind.levels or ()
        self.kept = int(self.path.is_file())
        self.levels = () if self.kept else self.all_levels
        self.rows: Sequence[int] = [] if self.kept else rows
        self.places = {number: place for place, number in enumerate(rows)}
        self.start: int | None = None
        self.filled = 0

    def open(self) -> None:
        temporary = self.stack.enter_context(files.whole(self.path))
        self.file = self.stack.enter_context(temporary.open("wb"))
        self.stack.push(self._check)

    def _check(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            if self.filled != len(self.places) * len(self.all_levels):
                raise InputError(f"images were readable at first and not later: {self.path.parent}")
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


def _write_labels(path: Path, labels: list[int], kinds: Sequence[Distortion]) -> None:
    repeated = np.tile(np.array(labels, np.int64), max(len(kind.levels or ()) for kind in kinds))

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, repeated)

    files.write_with(path, save)


class _Tables(_Store):
    """OUT/KIND-LEVEL.parquet in the Hugging Face image schema."""

    def __init__(self, out: Path, kind: Distortion, images: ImageSet) -> None:
        super().__init__()
        paths = {each: out / f"{kind.name}-{_text(each)}.parquet" for each in kind.levels or ()}
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
            temporary = self.stack.enter_context(files.whole(path))
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
