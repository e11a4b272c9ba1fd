"""Sets of images that were distorted once and stored: writing them, and reading them.

Three layouts: `folder`, ImageNet-C's KIND/LEVEL/CLASS/IMAGE; `npy`, CIFAR-C's KIND.npy and
labels.npy; `parquet`, a file KIND-LEVEL.parquet in the Hugging Face image schema.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepcorrect import files
from deepcorrect.classifier import Preprocessing
from deepcorrect.data import UNLABELLED, ImageSet, open_folder
from deepcorrect.distortions import GROUPS, KINDS, Distortion, seeds_for
from deepcorrect.errors import InputError, unknown
from deepcorrect.progress import progress

Layout = Literal["folder", "npy", "parquet"]
INFO_FILE = "distort.json"
BENCHMARK_SEVERITIES = (1.0, 2.0, 3.0, 4.0, 5.0)
FOLDERS = ("noise", "blur", "weather", "digital", "extra")  # as ImageNet-C's archives unpack


class _Writer(Protocol):
    """Takes the distorted images of one kind, level by level and batch by batch."""

    def has(self, level: float, rows: Sequence[int]) -> bool: ...

    def add(self, level: float, rows: Sequence[int], pixels: np.ndarray) -> None: ...


def write_set(
    images: ImageSet,
    distortions: Sequence[Distortion],
    out: Path,
    layout: Layout,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | None = None,
    own_size: bool = False,
) -> None:
    """Writes distorted copies of a set, in 8 bits without loss.

    What is whole is kept: an interrupted writing goes on when it is asked for again. Noise depends
    on the seed, the level and the image's number alone.

    Args:
        images: what to distort; bad ones are left out (`folder`, `parquet`) or refused (`npy`).
        distortions: with their levels.
        out: the folder to write.
        layout: see above.
        seed: of the noise.
        batch_size: images at a time.
        device: where to distort; None takes the CPU.
        own_size: every image keeps its size, instead of the preprocessing's.

    Raises:
        InputError: the folder holds something else, or an image does not fit the layout.
    """
    files.check_folder(out)
    asked = {
        "source": images.name,
        "images": len(images),
        "labels": images.labelled,
        "layout": layout,
        "seed": seed,
        "size": None if own_size else dataclasses.asdict(images.preprocessing),
        "distortions": {each.name: dataclasses.asdict(each) for each in distortions},
    }
    _claim(out, asked)
    if layout == "npy":
        _write_labels(images, out, distortions)
    for kind in distortions:
        levels = kind.levels or ()
        with ExitStack() as stack:
            writer = _writer(layout, stack, images, kind, out)
            if writer is None:
                continue
            advance = stack.enter_context(progress(f"distorting ({kind.name})", len(images)))
            for rows, batch in _batches(images, batch_size, own_size):
                here = batch.to(device or "cpu")
                for level in levels:
                    advance(len(rows) / len(levels))
                    if writer.has(level, rows):
                        continue
                    seeds = torch.cat(
                        [
                            seeds_for(seed, "distort", kind.name, level, first=row, count=1)
                            for row in rows
                        ]
                    )
                    stored = kind(here, level, seeds).clamp(0, 1).mul(255).round()
                    pixels = stored.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()
                    writer.add(level, rows, pixels.numpy())


def _claim(out: Path, asked: Mapping[str, Any]) -> None:
    """Says in the folder what it is of, or checks that it says so."""
    path = out / INFO_FILE
    asked = json.loads(json.dumps(asked))  # as it will be read again
    if path.exists():
        if files.read_json(path) != asked:
            raise InputError(
                f"{out} holds a distorted set of something else (see {INFO_FILE} there): choose "
                "another folder, or remove it"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: choose another folder")
    files.write_json(path, asked)


def _batches(
    images: ImageSet, batch_size: int, own_size: bool
) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers and pixels of the images, those of one size together where they follow each other."""
    rows: list[int] = []
    batch: list[Tensor] = []
    for row in range(len(images)):
        image = images.at_own_size(row) if own_size else images[row]
        if image is None:
            continue
        if batch and (len(batch) == batch_size or batch[0].shape != image[0].shape):
            yield rows, torch.stack(batch)
            rows, batch = [], []
        rows.append(row)
        batch.append(image[0])
    if batch:
        yield rows, torch.stack(batch)


def _writer(
    layout: Layout, stack: ExitStack, images: ImageSet, kind: Distortion, out: Path
) -> _Writer | None:
    """None where everything of the kind is there."""
    if layout == "folder":
        return _FolderWriter(images, kind, out)
    if layout == "npy":
        path = out / f"{kind.name}.npy"
        return None if path.exists() else _NpyWriter(stack, images, kind, path)
    paths = {level: out / f"{kind.name}-{level:g}.parquet" for level in kind.levels or ()}
    missing = {level: path for level, path in paths.items() if not path.exists()}
    return _ParquetWriter(stack, images, missing) if missing else None


class _FolderWriter:
    def __init__(self, images: ImageSet, kind: Distortion, out: Path) -> None:
        self.images, self.folder = images, out / kind.name

    def _path(self, level: float, row: int) -> Path:
        place = self.folder / f"{level:g}"
        if self.images.labels[row] != UNLABELLED:
            place /= self.images.class_name(self.images.labels[row])
        return place / f"{row:06d}_{_file_name(self.images.names[row])}.png"

    def has(self, level: float, rows: Sequence[int]) -> bool:
        return all(self._path(level, row).exists() for row in rows)

    def add(self, level: float, rows: Sequence[int], pixels: np.ndarray) -> None:
        for row, image in zip(rows, pixels, strict=True):
            path = self._path(level, row)
            if not path.exists():
                files.write_with(path, lambda temporary, image=image: _save(image, temporary))


def _file_name(name: str) -> str:
    """The last part of an image's name, in letters that any file system takes."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(name).stem)[:80]


def _save(image: np.ndarray, place: Path | io.BytesIO) -> None:
    _picture(image).save(place, "PNG")


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


class _NpyWriter:
    """One array, levels x images, which gets its name when it is whole."""

    def __init__(self, stack: ExitStack, images: ImageSet, kind: Distortion, path: Path) -> None:
        self.path, self.kind, self.count = path, kind, len(images)
        self.temporary = stack.enter_context(files.partial(path))
        self.array: np.memmap | None = None
        stack.callback(self._check)

    def has(self, level: float, rows: Sequence[int]) -> bool:
        del level, rows
        return False

    def add(self, level: float, rows: Sequence[int], pixels: np.ndarray) -> None:
        levels = self.kind.levels or ()
        if self.array is None:
            shape = (len(levels) * self.count, *pixels.shape[1:3], 3)
            self.array = np.lib.format.open_memmap(
                self.temporary, mode="w+", dtype=np.uint8, shape=shape
            )
        if self.array.shape[1:3] != pixels.shape[1:3]:
            raise InputError(
                f"an array needs images of one size, and these are of {self.array.shape[1:3]} and "
                f"{pixels.shape[1:3]} pixels: give --input-size, or --layout folder"
            )
        first = levels.index(level) * self.count
        self.array[[first + row for row in rows]] = pixels

    def _check(self) -> None:
        if self.array is not None:
            self.array.flush()


def _write_labels(images: ImageSet, out: Path, distortions: Sequence[Distortion]) -> None:
    counts = {len(kind.levels or ()) for kind in distortions}
    if len(counts) != 1:
        raise InputError("arrays share one labels.npy, so all distortions need as many levels")
    bad = [row for row in range(len(images)) if images[row] is None]
    if bad:
        raise InputError(
            f"{len(bad)} images of {images.name} cannot be read (such as {images.names[bad[0]]}), "
            "and an array needs all of them: use --layout folder or parquet"
        )
    labels = np.tile(np.asarray(images.labels, np.int64), counts.pop())
    fitting = np.uint8 if labels.min() >= 0 and labels.max() < 256 else np.int64

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, labels.astype(fitting))

    if not (out / "labels.npy").exists():
        files.write_with(out / "labels.npy", save)


class _ParquetWriter:
    def __init__(self, stack: ExitStack, images: ImageSet, paths: Mapping[float, Path]) -> None:
        import datasets  # noqa: PLC0415  (slow to import)
        import pyarrow.parquet  # noqa: PLC0415

        self.images = images
        label: Any = datasets.Value("int64")
        if images.classes and images.labelled:
            label = datasets.ClassLabel(names=list(images.classes))
        features: dict[str, Any] = {"image": datasets.Image()}
        if images.labelled:
            features["label"] = label
        self.schema = datasets.Features(features).arrow_schema
        self.writers = {
            level: stack.enter_context(
                pyarrow.parquet.ParquetWriter(stack.enter_context(files.partial(path)), self.schema)
            )
            for level, path in paths.items()
        }

    def has(self, level: float, rows: Sequence[int]) -> bool:
        del rows
        return level not in self.writers

    def add(self, level: float, rows: Sequence[int], pixels: np.ndarray) -> None:
        import pyarrow  # noqa: PLC0415

        columns: dict[str, list[Any]] = {"image": []}
        for row, image in zip(rows, pixels, strict=True):
            file = io.BytesIO()
            _save(image, file)
            name = f"{_file_name(self.images.names[row])}.png"
            columns["image"].append({"bytes": file.getvalue(), "path": name})
        if self.images.labelled:
            columns["label"] = [self.images.labels[row] for row in rows]
        self.writers[level].write_table(pyarrow.table(columns, schema=self.schema))


Cells = dict[str, dict[float, ImageSet]]
"""A stored set: its images by kind and level."""

SPECS = {
    "cifar_c:DIR": "arrays as CIFAR-10-C and CIFAR-100-C have them: KIND.npy and labels.npy",
    "imagenet_c:DIR": "folders as ImageNet-C has them: KIND/LEVEL/CLASS/IMAGE",
}


def is_stored(spec: str) -> bool:
    """Whether a DATA spec names a stored distorted set."""
    return spec.partition(":")[0] in ("cifar_c", "imagenet_c")


def open_stored(
    spec: str, preprocessing: Preprocessing, wanted: Sequence[str] | None = None
) -> Cells:
    """Opens a stored distorted set.

    Args:
        spec: one of `SPECS`; what `write_set` made as Parquet is read by `parquet:`.
        preprocessing: the network's.
        wanted: kinds to open; None takes all.

    Raises:
        InputError: files are missing or do not fit each other, or a kind is not known.
    """
    layout, _, rest = spec.partition(":")
    folder = Path(rest).expanduser()
    if not rest or not folder.is_dir():
        raise InputError(f"there is no folder {rest!r}. Accepted: {', '.join(SPECS)}")
    known = folder / INFO_FILE
    levels = None
    if known.exists():
        levels = {k: v["levels"] for k, v in files.read_json(known)["distortions"].items()}
    read: Callable[..., Cells] = _read_arrays if layout == "cifar_c" else _read_folders
    return read(folder, preprocessing, levels, wanted)


def _kind_name(name: str, ours: bool, wanted: Sequence[str] | None) -> str | None:
    """What we call a benchmark's kind; None for one that is not wanted."""
    called = "gaussian_blur_c" if name == "gaussian_blur" and not ours else name
    if wanted is not None and called not in wanted:
        return None
    if called not in KINDS and "+" not in called:
        raise unknown("corruption", name, [*GROUPS["imagenet_c"], *KINDS])
    return called


def _read_arrays(
    folder: Path,
    preprocessing: Preprocessing,
    levels: Mapping[str, Sequence[float]] | None,
    wanted: Sequence[str] | None,
) -> Cells:
    labels = _array(folder / "labels.npy")
    cells: Cells = {}
    for path in sorted(folder.glob("*.npy")):
        if path.name == "labels.npy":
            continue
        kind = _kind_name(path.stem, levels is not None, wanted)
        if kind is None:
            continue
        array = _array(path)
        if array.ndim != 4 or array.dtype != np.uint8 or array.shape[3] != 3:
            raise InputError(
                f"{path} is not an array of images, N x H x W x 3 in 8 bits, but of shape "
                f"{array.shape} in {array.dtype}"
            )
        grid = list(levels[kind]) if levels and kind in levels else list(BENCHMARK_SEVERITIES)
        if len(array) != len(labels) or len(array) % len(grid):
            raise InputError(
                f"{path} has {len(array):,} images and labels.npy {len(labels):,} labels: both "
                f"need as many, {len(grid)} levels one after the other"
            )
        count = len(array) // len(grid)
        cells[kind] = {
            float(level): _part(
                array, labels, place * count, count, f"{kind} {level:g}", preprocessing
            )
            for place, level in enumerate(grid)
        }
    return _checked(cells, folder, "KIND.npy")


def _part(
    array: np.ndarray,
    labels: np.ndarray,
    first: int,
    count: int,
    name: str,
    preprocessing: Preprocessing,
) -> ImageSet:
    def read(index: int) -> Image.Image:
        return Image.fromarray(np.asarray(array[first + index]))

    own = [int(label) for label in labels[first : first + count]]
    names = [f"image {index} of {name}" for index in range(count)]
    return ImageSet(name, read, own, names, preprocessing)


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}: a set as CIFAR-C's has KIND.npy and labels.npy"
        ) from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a whole NumPy array ({error})") from None


def _read_folders(
    folder: Path,
    preprocessing: Preprocessing,
    levels: Mapping[str, Sequence[float]] | None,
    wanted: Sequence[str] | None,
) -> Cells:
    cells: Cells = {}
    places = [folder, *(folder / name for name in FOLDERS if (folder / name).is_dir())]
    for path in sorted(kind for place in places for kind in place.iterdir() if kind.is_dir()):
        if path.name in FOLDERS and path.parent == folder:
            continue
        kind = _kind_name(path.name, levels is not None, wanted)
        if kind is None:
            continue
        found = {}
        for place in (p for p in path.iterdir() if p.is_dir()):
            try:
                level = float(place.name)
            except ValueError:
                raise InputError(
                    f"{place} is not a level: a set as ImageNet-C's has folders KIND/LEVEL/CLASS, "
                    "a level being a number"
                ) from None
            found[level] = open_folder(place, preprocessing)
        if found:
            cells[kind] = dict(sorted(found.items()))
    return _checked(cells, folder, "KIND/LEVEL/CLASS")


def _checked(cells: Cells, folder: Path, layout: str) -> Cells:
    if not cells:
        raise InputError(f"{folder} holds no distorted images as {layout}")
    return cells
