"""Parquet files in the Hugging Face image schema, and tables of the `datasets` library."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from deepcorrect.data._columns import IntegerColumn, NumberedNames
from deepcorrect.data._decoding import open_image
from deepcorrect.data._image_set import UNLABELLED, ImageSet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import InputError, files

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


def open_parquet(pattern: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens the rows of Parquet files as images.

    Args:
        pattern: The path of a file, or a pattern with `*`, `?` or `[...]`.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: There is no such file, or it cannot be read as Parquet or has no images.
    """
    import datasets  # noqa: PLC0415  (slow to import, and only tables need it)

    # Path.glob does not accept absolute patterns
    paths = sorted(glob(pattern)) if has_magic(pattern) else [pattern]  # noqa: PTH207
    if not paths or not all(Path(path).is_file() for path in paths):
        raise InputError(f"there is no file {pattern}")
    datasets.disable_progress_bars()
    try:
        table: Any = datasets.load_dataset("parquet", data_files=paths, split="train")
    except Exception as error:  # datasets wraps the errors of Arrow and of the system
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
        return open_image(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])


def table_set(table: Any, source: str, name: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens the rows of a `datasets.Dataset` as images.

    Args:
        table: A table with a column of images and perhaps one of labels.
        source: The name of the table in errors.
        name: The name of the set in results.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: There is no column of images, or the labels are neither integers nor names.
    """
    image_column = column_of_images(table.features, source)
    table = undecoded(table, image_column, source)
    label_column, classes = column_of_labels(table.features)
    labels = IntegerColumn(np.full(len(table), UNLABELLED))
    if label_column is not None:
        labels, named = _labels(table, label_column, source)
        classes = classes or named
    if not len(table):
        raise InputError(f"{source} has no images")
    names = NumberedNames("row ", len(table), f" of {name}")
    read = Cells(table.select_columns([image_column]), image_column)
    return ImageSet(name, read, labels, names, preprocessing, classes)


def undecoded(table: Any, column: str, source: str) -> Any:
    """The table with its images as they are stored, as bytes or a path.

    Raises:
        InputError: The column does not contain images.
    """
    import datasets  # noqa: PLC0415

    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError):  # base classes of Arrow's errors
        raise InputError(
            f"column {column!r} of {source} does not hold images but {table.features[column]}"
        ) from None


def column_of_images(features: Mapping[str, Any], source: str) -> str:
    """The column with a usual name, or else the first column of images.

    Raises:
        InputError: There is no such column.
    """
    import datasets  # noqa: PLC0415

    found = _column(features, IMAGE_COLUMNS, lambda kind: isinstance(kind, datasets.Image))
    if found is None:
        raise InputError(f"{source} has no image column: its columns are {', '.join(features)}")
    return found


def column_of_labels(features: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...] | None]:
    """The column with a usual name, or else the first column of classes; and the classes' names.

    Both are None if there is no such column, the names also if the column does not declare them.
    """
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


def _labels(table: Any, column: str, source: str) -> tuple[IntegerColumn, tuple[str, ...] | None]:
    """The labels; for labels that are names, their indices in sorted order and these names."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    compute: Any = pc  # its functions are created at run time
    cells = table.select_columns([column]).with_format("arrow")[:].column(column)
    classes = None
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        classes = tuple(sorted(compute.unique(cells.drop_null()).to_pylist()))
        cells = compute.index_in(cells, pa.array(classes, cells.type))
    elif not (pa.types.is_integer(cells.type) or pa.types.is_null(cells.type)):
        raise InputError(
            f"column {column!r} of {source} holds labels that are neither integers nor names"
        )
    return IntegerColumn(compute.fill_null(cells.cast(pa.int64()), UNLABELLED).to_numpy()), classes
