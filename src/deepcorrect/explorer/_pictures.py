"""The pictures that ship with the package, and those that people upload."""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from deepcorrect.data import (
    BAD_IMAGE,
    Preprocessing,
    convert_channels,
    open_image,
    to_tensor,
    why_unreadable,
)
from deepcorrect.runtime import InputError

FOLDER = Path(__file__).with_name("pictures")
LARGEST_PIXELS = 50_000_000
"""Of an upload; a small file can hold a picture that fills the memory when it is decoded."""


@dataclass(frozen=True)
class Picture:
    """A picture as a file holds it.

    Attributes:
        name: What the page calls it.
        content: The bytes of the file.
        digest: Their SHA-256.
    """

    name: str
    content: bytes
    digest: str

    def open(self) -> Image.Image:
        """Opens the file's picture."""
        return open_image(io.BytesIO(self.content))

    def tensor(self, preprocessing: Preprocessing) -> Tensor:
        """The picture as a network reads it before normalisation, C x H x W in [0, 1]."""
        with self.open() as image:
            return to_tensor(image, preprocessing)


def read_picture(content: bytes, name: str) -> Picture:
    """A picture from the bytes of a file, which must be one that the data readers accept.

    Raises:
        InputError: The bytes are no picture, or one that is too large or damaged.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from deepcorrect.explorer import read_picture
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (40, 30)).save(file, "PNG")
        >>> read_picture(file.getvalue(), "mine.png").name
        'mine.png'
        >>> read_picture(b"%PDF-1.7", "notes.png")
        Traceback (most recent call last):
        deepcorrect.runtime._errors.InputError: notes.png cannot be read: it is a PDF...
    """
    picture = Picture(name, content, hashlib.sha256(content).hexdigest())
    try:
        with picture.open() as image:
            pixels = image.width * image.height
            if pixels > LARGEST_PIXELS:
                raise InputError(
                    f"{name} has {pixels:,} pixels, and the limit is {LARGEST_PIXELS:,}: make it "
                    "smaller"
                )
            convert_channels(image, 3)
    except InputError:
        raise
    except BAD_IMAGE:
        reason = why_unreadable(picture.open) or "it is damaged, or of an unknown kind"
        raise InputError(f"{name} cannot be read: {reason}") from None
    return picture


@functools.cache
def shipped_pictures() -> dict[str, Picture]:
    """The pictures that ship with the package, by name; `scripts/draw_pictures.py` draws them.

    Example:
        >>> from deepcorrect.explorer import shipped_pictures
        >>> "digit 5" in shipped_pictures()
        True
    """
    found = {}
    for path in sorted(FOLDER.iterdir()):
        name = path.stem.replace("_", " ")
        found[name] = read_picture(path.read_bytes(), name)
    return found
