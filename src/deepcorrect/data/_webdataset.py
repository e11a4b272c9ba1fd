"""WebDataset shards: tar files in which the files of one sample follow each other.

The files of a sample share their names up to the extensions: `000017.jpg`, `000017.mask.png`,
`000017.cls`. Extensions begin with a letter, so that `img_12.5_a.png` is the image of `img_12.5_a`
and not of `img_12`. Shards are read with the standard library and fsspec, and nothing in them is
ever unpickled. The reader of the `datasets` library raises at a truncated shard and at samples with
different kinds of files. Here a truncated shard counts as one unreadable image, and the shards
after it are still read.

Of a local shard that is not compressed, the headers and the labels are read, and an image only when
it is decoded. So processes that share a set read the bytes of their own images alone.
"""

from __future__ import annotations

import http.client
import re
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from deepcorrect.data._decoding import image_extensions
from deepcorrect.data._image_set import UNLABELLED
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._sample import Place, Sample
from deepcorrect.data._streaming import ImageStream
from deepcorrect.runtime import InputError, note_once, parse_json, progress

LABEL_FILES = ("cls", "class", "index", "txt", "text", "json")
LABEL_KEYS = ("label", "cls", "class", "class_id", "class_index", "target", "class_name")
BRACES = re.compile(r"\{([^{}]*)\}")
TIMEOUT_SECONDS = 60  # without an answer from a server

LARGEST_MEMBER = 1 << 28
"""The bytes of the largest file in a shard that is read; what is larger is no image."""

LARGEST_SKIPPED = 1 << 32
"""The bytes of the largest file in a shard that is passed over, for which it has to be unpacked."""
RANGE = re.compile(r"(\d+)\.\.(\d+)")
SAMPLE_NAME = re.compile(r"((?:.*/)?[^/]+?)((?:\.[^\W\d][\w-]*)+)")
"""A name and its extensions, each of which begins with a letter."""

CHOICE = re.compile(r"(.*\.(?:tar|tgz)(?:\.\w+)?|.*[*}]):([A-Za-z][\w.-]*)")
"""Shards, and the extension of the images to read from them."""

FIRST = ("jpg", "jpeg", "png", "webp")
"""The extensions that are preferred in a sample with several images, best first."""


def open_webdataset(pattern: str, preprocessing: Preprocessing) -> ImageStream:
    """Opens the images of shards as a stream.

    Args:
        pattern: Paths, which may contain `*` and the braces `{000..146}` and `{a,b}`; or addresses
            that fsspec opens (`https://...`, `hf://datasets/...`), which may contain braces. At
            the end, `:EXT` chooses the image of a sample with several: `DIR/*.tar:rgb.png`.
        preprocessing: The network's preprocessing.

    Raises:
        InputError: There is no such shard, or the shards contain no image.
    """
    chosen = CHOICE.fullmatch(pattern)
    pattern, wanted = (chosen[1], chosen[2].lower()) if chosen else (pattern, "")
    shards = expanded(pattern)
    name = pattern.rpartition("/")[2]
    first = next((sample for sample in _read(shards, wanted, None) if sample.content), None)
    if first is None and wanted:
        raise InputError(
            f"{pattern} has no image with the extension {wanted!r}: give an extension that its "
            "samples have, or none"
        )
    if first is None:
        raise InputError(
            f"{pattern} has no images. Accepted: tar files in which the files of an image follow "
            "each other, such as 000.jpg and 000.cls (a number), 000.json or 000.txt"
        )
    return ImageStream(
        name,
        partial(_read, shards, wanted),
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


def _read(shards: list[str], wanted: str, seed: int | None) -> Iterator[Sample]:
    order = np.arange(len(shards))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    for number in order:
        yield from _samples(shards[number], wanted)


def _samples(shard: str, wanted: str) -> Iterator[Sample]:
    """Yields the samples of one shard; if it is truncated, one more that cannot be read."""
    name = shard.rpartition("/")[2]
    read = 0
    try:
        with _archive(shard) as (archive, content):
            for group in _groups(archive, content):
                read += 1
                sample = _sample(name, wanted, *group)
                if sample is not None:
                    yield sample
    except (tarfile.TarError, OSError, EOFError, http.client.HTTPException) as error:
        if not _is_local(shard) and not read:
            raise InputError(f"{shard} cannot be read ({error})") from None
        yield Sample(f"{name} after its sample {read} ({error})", b"")


Part = bytes | Place
"""A file of a sample: its bytes, or where they lie."""

Content = Callable[[tarfile.TarInfo, str], Part]
"""What is kept of a member of an archive, whose extension is given."""


@contextmanager
def _archive(shard: str) -> Iterator[tuple[tarfile.TarFile, Content]]:
    """Opens a shard, and says how the content of its members is had.

    One that is not compressed and lies on this machine's disks is passed over from header to
    header; any other is read from beginning to end.
    """
    if _is_local(shard) and _is_plain(shard):
        with Path(shard).open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive, partial(_place, archive, shard, Path(shard).stat().st_size)
        return
    with _opened(shard) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
        yield archive, partial(_content, archive)


def _is_plain(shard: str) -> bool:
    """Whether a file is a tar file that is not compressed."""
    try:
        tarfile.open(shard, "r:").close()
    except (tarfile.TarError, OSError):
        return False
    return True


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


def _place(
    archive: tarfile.TarFile, shard: str, end: int, member: tarfile.TarInfo, extension: str
) -> Part:
    """Where the content of a member lies; the content itself of a label, which is short."""
    if extension in LABEL_FILES or member.issparse():
        return _content(archive, member, extension)
    if member.offset_data + member.size > end:
        raise EOFError("cut off")
    return Place(shard, member.offset_data, member.size if member.size <= LARGEST_MEMBER else 0)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> bytes:
    del extension
    if member.size > LARGEST_MEMBER:
        return b""  # an image that cannot be read
    file = archive.extractfile(member)
    content = file.read() if file else b""
    if len(content) < member.size:
        raise EOFError("cut off")
    return content


def _groups(archive: tarfile.TarFile, content: Content) -> Iterator[tuple[str, dict[str, Part]]]:
    """Yields the name of each sample, and its files by extension."""
    growing: Any = archive
    key, parts = "", {}
    for member in archive:
        growing.members = []  # otherwise tarfile would keep an entry per file
        found = SAMPLE_NAME.fullmatch(member.name)
        if member.size > LARGEST_SKIPPED:
            raise EOFError(f"its file {member.name} has {member.size:,} bytes")
        if not member.isreg() or found is None or member.name.rpartition("/")[2].startswith("."):
            continue
        extension = found[2][1:].lower()
        if parts and (found[1] != key or extension in parts):  # a file twice begins a new sample
            yield key, parts
            parts = {}
        key = found[1]
        parts[extension] = content(member, extension)
    if parts:
        yield key, parts


def _sample(shard: str, wanted: str, key: str, parts: dict[str, Part]) -> Sample | None:
    """One image and its label; None if the files of a sample contain no image.

    Its content is empty if the sample has images but not the one that is wanted.
    """
    images = _images_in(parts)
    if not images:
        return None
    if wanted:
        return Sample(f"{key}.{wanted} of {shard}", parts.get(wanted, b""), _label(parts))
    if len(images) > 1:
        note_once(
            f"samples have several images, such as {key} of {shard} with {', '.join(images)}: "
            f"{images[0]} is read. To choose another, add its extension to the data, such as "
            f"webdataset:SHARDS:{images[1]}"
        )
    return Sample(f"{key}.{images[0]} of {shard}", parts[images[0]], _label(parts))


def _images_in(parts: dict[str, Part]) -> list[str]:
    """The extensions of a sample's images, the preferred one first, whatever their order is.

    Extensions without a dot come before those with one (`mask.png`), then those in `FIRST` in its
    order, and then the others in alphabetical order.
    """
    known = image_extensions()
    ends = {part: part.rpartition(".")[2] for part in parts}
    ranks = {end: place for place, end in enumerate(FIRST)}
    return sorted(
        (part for part, end in ends.items() if f".{end}" in known),
        key=lambda part: (part.count("."), ranks.get(ends[part], len(FIRST)), part),
    )


def _label(parts: dict[str, Part]) -> int | str:
    for kind in LABEL_FILES:
        content = parts.get(kind)
        if not isinstance(content, bytes):
            continue
        text = content.decode("utf-8", "replace").strip()
        found = _in_json(text) if kind == "json" else text
        if isinstance(found, str) and re.fullmatch(r"-?\d{1,18}", found):
            return int(found)
        if found not in (None, ""):
            return found
    return UNLABELLED


def _in_json(text: str) -> int | str | None:
    try:
        value = parse_json(text, "a label")
    except InputError:
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
                    groups = _groups(archive, lambda _, __: b"")
                    for _, parts in groups:
                        total += bool(_images_in(parts))
            except (tarfile.TarError, OSError, EOFError):
                total += 1  # the unreadable sample that stands for the rest
            step(1)
    return total
