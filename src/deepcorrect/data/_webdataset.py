"""WebDataset shards: tar files in which the files of one sample follow each other.

The files of a sample share their names up to the first dot: `000017.jpg`, `000017.cls`. Shards are
read with the standard library and fsspec, and nothing in them is ever unpickled. The reader of the
`datasets` library raises at a truncated shard and at samples with different kinds of files. Here a
truncated shard counts as one unreadable image, and the shards after it are still read.
"""

from __future__ import annotations

import http.client
import json
import re
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepcorrect.data._image_set import UNLABELLED
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._streaming import ImageStream, Sample
from deepcorrect.runtime import InputError, progress

LABEL_FILES = ("cls", "class", "index", "txt", "text", "json")
LABEL_KEYS = ("label", "cls", "class", "class_id", "class_index", "target", "class_name")
BRACES = re.compile(r"\{([^{}]*)\}")
TIMEOUT_SECONDS = 60  # without an answer from a server
RANGE = re.compile(r"(\d+)\.\.(\d+)")
SAMPLE_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")


def open_webdataset(pattern: str, preprocessing: Preprocessing) -> ImageStream:
    """Opens the images of shards as a stream.

    Args:
        pattern: Paths, which may contain `*` and the braces `{000..146}` and `{a,b}`; or addresses
            that fsspec opens (`https://...`, `hf://datasets/...`), which may contain braces.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: There is no such shard, or the shards contain no image.
    """
    shards = expanded(pattern)
    name = pattern.rpartition("/")[2]
    first = next((sample for sample in _read(shards, None) if sample.content), None)
    if first is None:
        raise InputError(
            f"{pattern} has no images. Accepted: tar files in which the files of an image follow "
            "each other, such as 000.jpg and 000.cls (a number), 000.json or 000.txt"
        )
    return ImageStream(
        name,
        partial(_read, shards),
        preprocessing,
        labelled=first.label != UNLABELLED,
        counted=partial(_count, shards) if all(map(_is_local, shards)) else None,
    )


def expanded(pattern: str) -> list[str]:
    """The shards that a pattern names, in order.

    Raises:
        InputError: The pattern names no file, or a file that does not exist.
    """
    shards: list[str] = []
    for each in _braces(pattern):
        if not _is_local(each):
            shards.append(each)
            continue
        path = str(Path(each).expanduser())
        found = sorted(glob(path)) if has_magic(path) else [path]  # noqa: PTH207
        if not found or not all(Path(file).is_file() for file in found):
            raise InputError(f"there is no file {path}")
        shards += found
    return shards


def _braces(pattern: str) -> Iterator[str]:
    """The expansion of braces, as in a shell; numbers keep their leading zeros."""
    found = BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    numbers = RANGE.fullmatch(found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = max(map(len, numbers.groups())) if "0" in (numbers[1][0], numbers[2][0]) else 0
        step = 1 if last >= first else -1
        parts = [f"{number:0{width}}" for number in range(first, last + step, step)]
    else:
        parts = found[1].split(",")
    for part in parts:
        yield from _braces(pattern[: found.start()] + part + pattern[found.end() :])


def _is_local(shard: str) -> bool:
    return "://" not in shard


def _read(shards: list[str], seed: int | None) -> Iterator[Sample]:
    order = np.arange(len(shards))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    for number in order:
        yield from _samples(shards[number])


def _samples(shard: str) -> Iterator[Sample]:
    """Yields the samples of one shard; if it is truncated, one more that cannot be read."""
    name = shard.rpartition("/")[2]
    read = 0
    try:
        with _opened(shard) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for group in _groups(archive, partial(_content, archive)):
                read += 1
                sample = _sample(name, *group)
                if sample is not None:
                    yield sample
    except (tarfile.TarError, OSError, EOFError, http.client.HTTPException) as error:
        if not _is_local(shard) and not read:
            raise InputError(f"{shard} cannot be read ({error})") from None
        yield Sample(f"{name} after its sample {read} ({error})", b"")


def _opened(shard: str) -> AbstractContextManager[Any]:
    if _is_local(shard):
        return Path(shard).open("rb")
    if shard.startswith(("http://", "https://")):
        return urllib.request.urlopen(shard, timeout=TIMEOUT_SECONDS)
    import fsspec  # noqa: PLC0415  (only other addresses need it)

    try:
        opened: Any = fsspec.open(shard, "rb")
    except (ImportError, ValueError) as error:  # the protocol is unknown or needs a library
        raise InputError(f"{shard} cannot be opened ({error})") from None
    return opened


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    content = file.read() if file else b""
    if len(content) < member.size:
        raise EOFError("cut off")
    return content


def _groups(
    archive: tarfile.TarFile, content: Callable[[tarfile.TarInfo], bytes]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields the name of each sample, and its files by extension."""
    growing: Any = archive
    key, parts = "", {}
    for member in archive:
        growing.members = []  # otherwise tarfile would keep an entry per file
        found = SAMPLE_NAME.fullmatch(member.name)
        if not member.isreg() or found is None or member.name.rpartition("/")[2].startswith("."):
            continue
        if parts and found[1] != key:
            yield key, parts
            parts = {}
        key = found[1]
        parts[found[2].lower()] = content(member)
    if parts:
        yield key, parts


def _sample(shard: str, key: str, parts: dict[str, bytes]) -> Sample | None:
    """One image and its label; None if the files of a sample contain no image."""
    image = _image_in(parts)
    if image is None:
        return None
    return Sample(f"{key}.{image} of {shard}", parts[image], _label(parts))


def _image_in(parts: dict[str, bytes]) -> str | None:
    known = Image.registered_extensions()
    return next((part for part in parts if f".{part.rpartition('.')[2]}" in known), None)


def _label(parts: dict[str, bytes]) -> int | str:
    for kind in LABEL_FILES:
        if kind not in parts:
            continue
        text = parts[kind].decode("utf-8", "replace").strip()
        found = _in_json(text) if kind == "json" else text
        if isinstance(found, str) and re.fullmatch(r"-?\d+", found):
            return int(found)
        if found not in (None, ""):
            return found
    return UNLABELLED


def _in_json(text: str) -> int | str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in LABEL_KEYS if value.get(key) is not None), None)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _count(shards: list[str]) -> int:
    """The number of images in local shards, which is found from the headers of the tar files."""
    total = 0
    with progress("counting", len(shards), "shards") as step:
        for shard in shards:
            try:
                with tarfile.open(shard) as archive:
                    groups = _groups(archive, lambda _: b"")
                    for _, parts in groups:
                        total += _image_in(parts) is not None
            except (tarfile.TarError, OSError, EOFError):
                total += 1  # the unreadable sample that stands for the rest
            step(1)
    return total
