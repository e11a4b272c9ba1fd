"""An image of a stream as it is stored, before it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deepcorrect.data._image_set import UNLABELLED


@dataclass(frozen=True)
class Place:
    """The bytes of an image within a larger file, which are read when the image is decoded.

    What a process skips is thereby never read.

    Attributes:
        path: The file.
        start: The number of the first byte.
        size: How many bytes follow, which is also the `len` of a place.
    """

    path: str
    start: int
    size: int

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes:
        """The bytes; fewer if the file has become shorter."""
        with Path(self.path).open("rb", buffering=0) as file:
            file.seek(self.start)
            return file.read(self.size)


class Sample(NamedTuple):
    """An image as it is stored.

    Attributes:
        name: The image's name in messages.
        content: The file's bytes, where they lie, or the file's path; empty if it could not be
            read.
        label: The index or the name of the image's class; -1 if it has no label.
    """

    name: str
    content: bytes | Place | str
    label: int | str = UNLABELLED

    def loaded(self) -> bytes | str:
        """The file's bytes, or its path.

        Raises:
            OSError: They cannot be read.
        """
        return self.content.read() if isinstance(self.content, Place) else self.content


Samples = Callable[[int | None], Iterator[Sample]]
"""Opens the stream from its beginning: in its own order for None, and for a seed with its shards in
a random order."""
