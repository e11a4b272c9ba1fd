"""Parquet files in the Hugging Face image schema, and tables of `datasets`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from deepcorrect.data._columns import Numbered, Numbers
from deepcorrect.data._image_set import UNLABELLED, ImageSet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import InputError, files

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


def open_parquet(pattern: str, preprocessing: Preprocessing) -> ImageSet:
    """The rows of Parquet files.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    import datasets  # noqa: PLC0415  (slow to import, and only tables need it)

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
    return table_set(table, pattern, Path(pattern).name, preprocessing)


@dataclass(frozen=True)
class Cells:
    """Opens the image in a row of a table."""

    table: Any
    column: str

    def __call__(self, row: int) -> Image.Image:
        cell = self.table[row][self.column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise UnidentifiedImageError("no image in this row")
        return Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])


def table_set(table: Any, source: str, name: str, preprocessing: Preprocessing) -> ImageSet:
    """The rows of a `datasets.Dataset`.

    Args:
        table: with a column of images and perhaps one of labels.
        source: how errors call it.
        name: how results call it.
        preprocessing: the network's.

    Raises:
        InputError: there is no column of images, or labels are neither whole numbers nor names.
    """
    image_column = column_of_images(table.features, source)
    table = undecoded(table, image_column, source)
    label_column, classes = column_of_labels(table.features)
    labels = Numbers(np.full(len(table), UNLABELLED))
    if label_column is not None:
        labels, named = _labels(table, label_column, source)
        classes = classes or named
    if not len(table):
        raise InputError(f"{source} has no images")
    names = Numbered("row ", len(table), f" of {name}")
    read = Cells(table.select_columns([image_column]), image_column)
    return ImageSet(name, read, labels, names, preprocessing, classes)


def undecoded(table: Any, column: str, source: str) -> Any:
    """The table with its images as they are stored: bytes, or a path."""
    import datasets  # noqa: PLC0415

    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError):  # Arrow's errors are among these
        raise InputError(
            f"column {column!r} of {source} holds no images but {table.features[column]}"
        ) from None


def column_of_images(features: Mapping[str, Any], source: str) -> str:
    """The column by its name, or the first that holds images.

    Raises:
        InputError: there is none.
    """
    import datasets  # noqa: PLC0415

    found = _column(features, IMAGE_COLUMNS, lambda kind: isinstance(kind, datasets.Image))
    if found is None:
        raise InputError(f"{source} has no image column: its columns are {', '.join(features)}")
    return found


def column_of_labels(features: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...] | None]:
    """The column by its name, or the first that holds classes; and the classes' names."""
    import datasets  # noqa: PLC0415

    found = _column(features, LABEL_COLUMNS, lambda kind: isinstance(kind, datasets.ClassLabel))
    kind = features[found] if found is not None else None
    return found, tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None


def _column(
    features: Mapping[str, Any], names: tuple[str, ...], fits: Callable[[Any], bool]
) -> str | None:
    named = (name for name in names if name in features)
    fitting = (name for name, kind in features.items() if fits(kind))
    return next(named, next(fitting, None))


def _labels(table: Any, column: str, source: str) -> tuple[Numbers, tuple[str, ...] | None]:
    """Labels as they are; of names, their places in sorted order, and these."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    compute: Any = pc  # its functions are made at run time
    cells = table.select_columns([column]).with_format("arrow")[:].column(column)
    classes = None
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        classes = tuple(sorted(compute.unique(cells.drop_null()).to_pylist()))
        cells = compute.index_in(cells, pa.array(classes, cells.type))
    elif not (pa.types.is_integer(cells.type) or pa.types.is_null(cells.type)):
        raise InputError(
            f"column {column!r} of {source} holds labels that are neither integers nor names"
        )
    return Numbers(compute.fill_null(cells.cast(pa.int64()), UNLABELLED).to_numpy()), classes
