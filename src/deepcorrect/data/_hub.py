"""Data sets that the `datasets` library reads, from the Hugging Face Hub or from a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcorrect.data._image_set import UNLABELLED, ImageSet
from deepcorrect.data._parquet import column_of_images, column_of_labels, table_set, undecoded
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._sample import Sample
from deepcorrect.data._streaming import ImageStream
from deepcorrect.runtime import InputError, files

SPEC = re.compile(r"(?P<source>.+?)(?::(?P<split>[\w.-]+(?:\[[^\[\]]*\])?))?(?P<stream>:stream)?")
WITH_CONFIGURATION = re.compile(r"([\w.-]+/[\w.-]+)/([\w.-]+)")
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""Left out, older versions of `datasets` ask on standard input whether to run a data set's code."""
SHARDS_ONLY = 1
"""The buffer size with which `datasets` shuffles shards alone, as `ImageStream` shuffles images."""


def open_hub(spec: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens one split of a data set.

    Args:
        spec: `REPO[/CONFIGURATION][:SPLIT][:stream]`. REPO is a name on the Hub (`owner/name`), or
            a folder that `save_to_disk` wrote or `load_dataset` can read. With `:stream`, the data
            set is read from beginning to end and never stored. SPLIT may be a slice such as
            `train[:10%]`, except for a stream.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: The data set does not exist, cannot be reached or contains no images, or it has
            no such split.
    """
    source, split, stream = _parts(spec)
    import datasets  # noqa: PLC0415  (slow to import, and only tables need it)

    datasets.disable_progress_bars()
    try:
        table = _split(_loaded(source, stream), split, f"hf:{source}", stream)
    except InputError:
        raise
    except Exception as error:  # datasets raises and wraps errors of many classes
        if files.disk_full(error):
            raise
        raise InputError(
            f"hf:{source} cannot be read ({type(error).__name__}: {_one_line(error)}). Accepted: a "
            "name on the Hugging Face Hub such as owner/name, reachable from here or in its cache; "
            "or a folder that 'save_to_disk' wrote or 'load_dataset' reads"
        ) from None
    name = f"{Path(source).name}:{split}" if split else Path(source).name
    if stream:
        return _stream(table, f"hf:{source}", name, preprocessing)
    return table_set(table, f"hf:{source}", name, preprocessing)


def _parts(spec: str) -> tuple[str, str | None, bool]:
    whole = Path(spec).expanduser()
    if whole.exists():  # even if its name looks like a spec with a split
        return str(whole), None, False
    found = SPEC.fullmatch(spec)
    if found is None:
        raise InputError(f"data 'hf:{spec}' is not hf:REPO[:SPLIT][:stream]")
    source, split, stream = found["source"], found["split"], bool(found["stream"])
    if split == "stream" and not stream:
        split, stream = None, True
    folder = Path(source).expanduser()
    return str(folder) if folder.exists() else source, split, stream


def _loaded(source: str, stream: bool) -> Any:
    """All splits by name, or a single table.

    A folder that `save_to_disk` wrote is memory-mapped, even for a stream.
    """
    import datasets  # noqa: PLC0415

    folder = Path(source)
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if folder.is_dir() and saved:
        return datasets.load_from_disk(source)
    if folder.is_dir():
        return datasets.load_dataset(source, streaming=stream, **NO_CODE)
    given = WITH_CONFIGURATION.fullmatch(source)
    repo, configuration = given.groups() if given else (source, None)
    return datasets.load_dataset(repo, configuration, streaming=stream, **NO_CODE)


def _split(found: Any, split: str | None, source: str, stream: bool) -> Any:
    """The table of one split; without a name, of the only split."""
    if not isinstance(found, dict):
        known = str(found.split) if found.split is not None else None
        if split is None or split == known:
            return found
        found = {known or "train": found}
    names = ", ".join(found)
    if split is None:
        if len(found) == 1:
            return next(iter(found.values()))
        raise InputError(
            f"{source} has the splits {names}: name one, as in {source}:{next(iter(found))}"
        )
    name, bracket, part = split.partition("[")
    if name not in found:
        raise InputError(f"{source} has no split {name!r}: it has {names}")
    table = found[name]
    if not bracket:
        return table
    if stream:
        raise InputError(f"{source}:{split}: a stream cannot be sliced; use --images instead")
    return table.select(_slice(part.rstrip("]"), len(table), f"{source}:{split}"))


def _slice(text: str, count: int, source: str) -> range:
    """The rows of `FROM:TO`, in which each side is a row number, a percentage or empty."""
    first, colon, last = text.partition(":")
    bounds = []
    for given, default in ((first, 0), (last, count)):
        found = re.fullmatch(r"(-?\d+)(%?)", given.strip()) if given.strip() else None
        if not colon or (given.strip() and not found):
            raise InputError(f"{source}: a slice is FROM:TO in rows or percent, such as [:10%]")
        bound = default
        if found:
            bound = round(int(found[1]) / 100 * count) if found[2] else int(found[1])
        bounds.append(min(max(bound + count if bound < 0 else bound, 0), count))
    return range(*bounds)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# --- streaming


def _stream(table: Any, source: str, name: str, preprocessing: Preprocessing) -> ImageStream:
    count = _count(table)
    try:
        if hasattr(table, "to_iterable_dataset"):
            table = table.to_iterable_dataset()
        if table.features is None:
            table = table._resolve_features()
        image_column = column_of_images(table.features, source)
        table = undecoded(table, image_column, source)
        label_column, classes = column_of_labels(table.features)
        columns = [image_column, *([label_column] if label_column else [])]
        samples = _Rows(table.select_columns(columns), image_column, label_column, name)
        first = next(samples(None), None)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{source} cannot be read ({type(error).__name__}: {_one_line(error)})"
        ) from None
    if first is None:
        raise InputError(f"{source} has no images")
    return ImageStream(
        name,
        samples,
        preprocessing,
        labelled=first.label != UNLABELLED,
        classes=classes,
        count=count,
    )


def _count(table: Any) -> int | None:
    """The number of rows, if the table or the description of the data set states it."""
    if hasattr(table, "num_rows"):
        return table.num_rows
    try:
        return table.info.splits[str(table.split)].num_examples or None
    except (AttributeError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Rows:
    """The rows of a `datasets.IterableDataset` as samples."""

    table: Any
    image: str
    label: str | None
    name: str

    def __call__(self, seed: int | None) -> Iterator[Sample]:
        table = self.table
        if seed is not None:
            table = table.shuffle(seed=seed % 2**32, buffer_size=SHARDS_ONLY)
        for number, row in enumerate(table):
            label = row[self.label] if self.label else None
            yield Sample(
                _name(row[self.image], number, self.name),
                _content(row[self.image]),
                UNLABELLED if label is None else label,
            )


def _name(cell: Any, number: int, source: str) -> str:
    path = cell.get("path") if isinstance(cell, dict) else None
    return path or f"row {number} of {source}"


def _content(cell: Any) -> bytes | str:
    """The image's bytes or the path of its file; empty if there is no image."""
    if not isinstance(cell, dict):
        return b""
    if cell["bytes"] or not cell["path"]:
        return cell["bytes"] or b""
    if "://" not in cell["path"]:
        return cell["path"]
    import fsspec  # noqa: PLC0415

    try:
        opened: Any = fsspec.open(cell["path"], "rb")
        with opened as file:
            return file.read()
    except OSError:
        return b""
