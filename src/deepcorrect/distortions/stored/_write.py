"""Writes distorted copies of a set of images in the layouts of the published benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deepcorrect.data import (
    ImageSet,
    Loader,
    Preprocessing,
    convert_channels,
    open_dataset,
    resize_and_crop,
    to_uint8,
)
from deepcorrect.distortions import Cell, Distortion, LevelledDistortion, cells_of, parse_all
from deepcorrect.distortions.stored._layouts import (
    Array,
    Block,
    Folders,
    Store,
    Tables,
    targets_of,
    write_labels,
)
from deepcorrect.distortions.stored._read import INFO_FILE
from deepcorrect.runtime import (
    Advance,
    InputError,
    agree,
    files,
    from_main,
    gathered_on_main,
    process_count,
    process_index,
    progress,
    together,
)

Format = Literal["folder", "parquet", "npy"]
BLOCK_VALUES = 1 << 24
"""The most pixel values that are held at a time, unless a single image has more."""

ENDED = 1 << 62
"""What a process says in place of the number of its last image when it has no more."""

GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and the 16-bit modes, which begin with I;


@dataclass(frozen=True)
class Written:
    """The result of `write_distorted`.

    Attributes:
        images: the set, which counts and names its bad images.
        distortions: with the levels and parameters that were used.
        written, kept: the number of files that were made now, and of those that existed already.
    """

    images: ImageSet
    distortions: tuple[LevelledDistortion, ...]
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
    """Writes a copy of a set at each level of each distortion, rounded to 8 bits.

    The format `folder` is the layout of ImageNet-C, OUT/KIND/LEVEL/CLASS/NAME.png; `npy` is that of
    CIFAR-C, OUT/KIND.npy (levels x N, H, W, C), one level after the other, and OUT/labels.npy;
    `parquet` is OUT/KIND-LEVEL.parquet in the Hugging Face image schema. A set of only grey images
    stays grey; any other becomes RGB. The noise depends only on the seed, the level, an image's
    number in the set and the type of the device; `evaluate` with the same seed shows the same
    noise. Complete files of an interrupted call with the same arguments are kept. Several
    processes share the images, and rank zero alone writes.

    Args:
        data: a DATA spec.
        distortions: specs; levels and parameters that they leave open follow `input_size` or,
            without one, the shorter side of the first image, for the whole set.
        out: the folder; it is made if it does not exist.
        format: see above.
        input_size: the side to which images are resized and cropped before they are distorted;
            without one they keep their sizes.
        resize: the shorter side before the central crop; needs `input_size`.
        images: the number of random images of the set; None takes all.
        seed: of the noise and of the choice of images.
        batch_size: the number of images that are distorted at a time.
        workers: the number of decoding processes.
        device: where distortions are computed; None is the CPU.

    Raises:
        InputError: an argument is not accepted, no image can be read, the images do not fit the
            format, or the folder holds something else.
    """
    if resize is not None and input_size is None:
        raise InputError("--resize needs --input-size: without it images keep their sizes")
    from_main(lambda: files.check_folder(out))
    place = device or torch.device("cpu")
    chosen = open_dataset(data, Preprocessing(1, (0.0,), (1.0,))).sample(images, seed)
    channels, side = from_main(lambda: _survey(chosen))
    ones = (1.0,) * channels
    fit = Preprocessing(input_size, ones, ones, resize) if input_size is not None else None
    source = _Source(chosen, channels, fit, workers)
    pixels = input_size or side
    kinds = tuple(_settled(each, pixels) for each in parse_all(distortions, pixels))
    rows = from_main(source.alike) if format == "npy" else list(range(len(chosen)))
    targets = targets_of(chosen, data.startswith("folder:")) if format == "folder" else []
    asked: dict[str, Any] = {
        "schema": 2,  # of 1 the noise had other seeds
        "data": data,
        "images": len(chosen),
        "format": format,
        "size": [input_size, resize] if fit else None,
        "channels": channels,
        "seed": seed,
        "device": place.type,
        "distortions": {
            kind.name: {"levels": list(kind.levels), "parameters": kind.parameters}
            for kind in kinds
        },
    }
    if format == "npy":
        asked["images_a_level"] = len(rows)
    from_main(lambda: _begin(out, asked))
    if format == "npy" and chosen.labelled:
        own = [chosen.labels[row] for row in rows]
        from_main(lambda: write_labels(out / "labels.npy", own, kinds))
    stored = partial(_stored, source, seed=seed, batch_size=batch_size, device=place)
    written = kept = 0
    work = progress("distorting", len(chosen) * len(cells_of(kinds)))
    with files.locked(out), together(), work as step:
        for kind in kinds:
            store = from_main(lambda kind=kind: _store(format, out, kind, chosen, rows, targets))
            kept += store.kept
            stored(store, kind, step=step)
            written += store.written
    chosen.share_bad()
    _check_readable(chosen)
    from_main(lambda: files.write_json(out / INFO_FILE, asked | {"finished": True}))
    return Written(chosen, kinds, written, kept)


def _check_readable(images: ImageSet) -> None:
    """Raises InputError if none of the images could be read."""
    if len(images.bad) == len(images):
        raise InputError(
            f"none of the {len(images)} images of {images.name} could be read: "
            f"{images.described_bad(1)[0]}"
        )


def _store(
    format: Format,
    out: Path,
    kind: LevelledDistortion,
    images: ImageSet,
    rows: list[int],
    targets: list[PurePosixPath],
) -> Store:
    """Where the images of one kind are stored."""
    if format == "folder":
        return Folders(out, kind, images, targets)
    return Array(out, kind, rows) if format == "npy" else Tables(out, kind, images)


def _survey(images: ImageSet) -> tuple[int, int]:
    """The channels of the set (1 if all images are grey), and the first image's shorter side."""
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


def _settled(kind: LevelledDistortion, pixels: int) -> LevelledDistortion:
    """The distortion with one set of parameters for images of all sizes."""
    return dataclasses.replace(kind, parameters=kind.parameters_at(pixels))


def _begin(out: Path, asked: dict[str, Any]) -> None:
    """Claims the folder, or checks that an earlier call there had the same arguments."""
    path = out / INFO_FILE
    if not path.is_file():
        if not files.is_empty(out):
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
                "repeat the same command to continue, or give another folder"
            )
    files.remove_temporary(out)


# --- reading, distorting


class _Decoded(Dataset[tuple[int, Tensor | None]]):
    """Images by their numbers, as uint8, C x H x W; None for a bad image."""

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
        return to_uint8(
            resize_and_crop(image, fit) if fit else convert_channels(image, self.channels)
        )


def _only(samples: list[tuple[int, Tensor | None]]) -> tuple[int, Tensor | None]:
    return samples[0]


@dataclass(frozen=True)
class _Source:
    """How the images of a set are decoded; `fit` is None if they keep their sizes."""

    images: ImageSet
    channels: int
    fit: Preprocessing | None
    workers: int

    def decoded(self, rows: Sequence[int]) -> Iterator[tuple[int, Tensor | None]]:
        """Numbers and pixels of the images at `rows`, one at a time."""
        found = _Decoded(self.images, rows, self.channels, self.fit)
        yield from Loader(found, 1, num_workers=self.workers, collate_fn=_only)

    def blocks(self, rows: Sequence[int], count: int, step: Advance, levels: int) -> Iterator[Any]:
        """The good images in blocks: lists of their numbers and of their pixels."""
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
        """The numbers of the good images, which must all have the same size.

        Raises:
            InputError: the sizes differ, or there is no good image.
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


def _stored(
    source: _Source,
    store: Store,
    kind: LevelledDistortion,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    step: Advance,
) -> None:
    """Distorts the images that are not stored yet, and stores them."""
    step(len(source.images) * len(kind.levels) - len(store.rows) * len(store.levels))
    if store.rows and store.levels:
        with store if process_index() == 0 else nullcontext():
            _fill(store, source, kind, seed, batch_size, device, step)


def _fill(
    store: Store,
    source: _Source,
    kind: LevelledDistortion,
    seed: int,
    batch_size: int,
    device: torch.device,
    step: Advance,
) -> None:
    """Fills an open store with distorted images, in order.

    With n processes, each takes every n-th image, and rank zero stores what all made.
    """
    index, count = process_index(), process_count()
    own = source.blocks(store.rows[index::count], batch_size, step, len(store.levels))
    waiting: dict[float, dict[int, np.ndarray]] = {level: {} for level in store.levels}
    done = 0
    while done < ENDED:
        numbers, pixels = next(own, ((), ()))
        done = min(agree(numbers[-1] if numbers else ENDED))
        for level, made in waiting.items():
            block = _distorted(kind, level, numbers, pixels, seed, device) if numbers else []
            for each in gathered_on_main(block):
                made.update(each)
            ready = sorted(number for number in made if number <= done)
            if ready:
                store.add(level, [(number, made.pop(number)) for number in ready])
            step(len(numbers) * count)


def _distorted(
    kind: LevelledDistortion,
    level: float,
    numbers: Sequence[int],
    pixels: Sequence[Tensor],
    seed: int,
    device: torch.device,
) -> Block:
    """The distorted images in order; those of the same size are distorted in one batch."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, values in enumerate(pixels):
        by_shape.setdefault(tuple(values.shape), []).append(place)
    found: dict[int, np.ndarray] = {}
    for places in by_shape.values():
        batch = torch.stack([pixels[place] for place in places]).to(device).float() / 255
        shown = Cell(kind, level).show(batch, seed, [numbers[place] for place in places])
        rounded = shown.clamp(0, 1).mul(255).round().to(torch.uint8)
        values = rounded.permute(0, 2, 3, 1).cpu().contiguous().numpy()
        found |= dict(zip(places, values, strict=True))
    return [(number, found[place]) for place, number in enumerate(numbers)]
