"""How an image file is opened, turned upright, and converted to 8 bits."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from deepcorrect.runtime import kind_of_content, kind_of_file, note_once

BAD_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError)
"""What is raised for files that are truncated, not images, too large, or of an unknown mode."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation; 1 is upright."""

WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")
NOT_IMAGES = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
"""What Pillow names without reading it, and PostScript, for which it would start a program."""

IN_FRAMES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
"""Formats of animations and pages. Photos in MPO have a preview as their second frame."""

SAMPLE_FORMAT, SIGNED = 339, 2  # a tag of TIFF files
DARK = 64
"""Where the brightest value of a 16-bit image in 8 bits is below this, it may be of 14 or fewer."""

SCALED_TO_16_BITS = ("PNG", "PPM")  # formats whose wide integers have a known range
QUIET = (("Image size", Image.DecompressionBombWarning), ("Corrupt EXIF data", UserWarning))
"""Pillow's warnings that are not shown, by how they begin."""

BEGINNING = 512  # bytes, of which `kind_of_content` judges


class UnsupportedImageError(ValueError):
    """It is not known what the values of an image mean. The message names the image's mode."""


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_IMAGES)


def open_image(file: str | IO[bytes]) -> Image.Image:
    """Opens an image file with Pillow, without its warnings about large images and damaged EXIF.

    Pillow warns from `PIL.Image.MAX_IMAGE_PIXELS` on and refuses files of more than twice as many
    pixels. Here the latter alone is the limit, and `reason_of` states it. PostScript is not read.

    Raises:
        UnsupportedImageError: The file is something else, which the message names.
        OSError: The file is damaged or unknown.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from deepcorrect.data import open_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30)).save(f"{folder}/a.png")
        ...     with open_image(f"{folder}/a.png") as image:
        ...         print(image.size)
        (40, 30)
    """
    for start, category in QUIET:  # added once: catch_warnings would make all others repeat
        if ("ignore", re.compile(start, re.I), category, None, 0) not in warnings.filters:
            warnings.filterwarnings("ignore", start, category)
    if isinstance(file, str) and os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113
        raise UnsupportedImageError("it is a folder, a pipe, a socket or a device")
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        if isinstance(file, str):
            kind = kind_of_file(Path(file))
        else:
            file.seek(0)
            kind = kind_of_content(file.read(BEGINNING))
        if not kind:
            raise
        if kind.endswith(" image"):
            kind += ", damaged or of a form that Pillow does not read"
        raise UnsupportedImageError(f"it is {kind}") from None


@functools.cache
def image_extensions() -> frozenset[str]:
    """The extensions, in lower case and with the dot, of the image files that are read.

    Example:
        >>> from deepcorrect.data import image_extensions
        >>> sorted({".jpg", ".png", ".pdf", ".h5", ".eps"} & image_extensions())
        ['.jpg', '.png']
    """
    known = {*_formats(), "MPO"}
    return frozenset(e for e, name in Image.registered_extensions().items() if name in known)


def reason_of(error: Exception) -> str:
    """Why an image is not read, if that is more than that it is damaged; otherwise empty."""
    if isinstance(error, UnsupportedImageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:  # of the system, not of Pillow
        return error.strerror.lower()
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+", str(error))
        size = f"{int(found[0]):,}" if found else "too many"
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return (
            f"{size} pixels, and the limit is {limit:,}: make the image smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS, which is half the limit"
        )
    return ""


def why_unreadable(opened: Callable[[], Image.Image]) -> str:
    """Opens an image again that could not be read, and says why; empty if the file is damaged.

    Example:
        >>> from PIL import Image
        >>> from deepcorrect.data import why_unreadable
        >>> why_unreadable(lambda: Image.new("F", (4, 4), 2.5)).partition(",")[0]
        'mode F with values from 2.5 to 2.5'
    """
    try:
        with opened() as image:
            convert_channels(image, 3)
    except BAD_IMAGE as error:
        return reason_of(error)
    return ""


def convert_channels(image: Image.Image, channels: int) -> Image.Image:
    """An upright image in 8 bits, grey (1 channel) or RGB (3 channels).

    The EXIF orientation is applied. Palette, CMYK and RGBA images are converted, without their
    transparency. Images of 16 bits are scaled to 8 bits. So are integers of 32 bits, as 8-bit
    values if none is above 255 and as 16-bit values if none is above 65,535, and floats in [0, 1].

    Raises:
        UnsupportedImageError: Floats or integers have other values, the picture is in the alpha
            channel alone, or Pillow cannot convert the mode.

    Example:
        >>> from PIL import Image
        >>> from deepcorrect.data import convert_channels
        >>> convert_channels(Image.new("I;16", (1, 1), 65535), 3).getpixel((0, 0))
        (255, 255, 255)
    """
    format, mode = image.format, image.mode
    has_16_bits = mode.startswith("I;16") or ";16" in str(getattr(image, "tile", ""))
    _check_frames_and_sign(image)
    image = upright(image)
    if mode == "F":
        image = _from_floats(np.asarray(image))
    elif mode.startswith("I"):
        image = _from_integers(np.asarray(image), mode, format)
    elif mode in ("P", "LAB"):
        image = image.convert("RGBA" if mode == "P" else "RGB")
    if image.mode in WITH_ALPHA:
        _check_alpha(image.convert("RGBA"), mode)
    wanted = "L" if channels == 1 else "RGB"
    try:
        converted = image.convert(wanted)
    except ValueError:
        raise UnsupportedImageError(
            f"mode {mode} cannot be converted to {wanted}: save the image as RGB"
        ) from None
    if has_16_bits:
        _check_depth(converted, mode)
    converted.info = {}  # the orientation must not be applied again
    return converted


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, as `PIL.ImageOps.exif_transpose` turns it.

    An EXIF block that cannot be read says nothing, and the image stays as it is.
    """
    image.load()  # reports damage, and turns TIFF files, which then no longer have an orientation
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow has no class for what a damaged block raises
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _from_floats(values: np.ndarray) -> Image.Image:
    if not (values.min() >= 0 and values.max() <= 1):  # also if there are NaNs
        raise UnsupportedImageError(
            f"mode F with values from {values.min():g} to {values.max():g}, and floats are read "
            "in [0, 1]: scale them, or save the image with 8 or 16 bits"
        )
    return Image.fromarray((values * 255).round().astype(np.uint8))


def _from_integers(values: np.ndarray, mode: str, format: str | None) -> Image.Image:
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise UnsupportedImageError(
            f"mode {mode} with values from {least:,} to {most:,}, and integers are read from 0 to "
            "65,535: scale them, or save the image with 8 or 16 bits"
        )
    eight_bits = mode == "I" and most <= 255 and format not in SCALED_TO_16_BITS
    if 0 < most <= 255 and not eight_bits and format != "PPM":  # which states its white
        raise _in_8_bits(mode)
    scaled = values if eight_bits else (values / 257).round()
    return Image.fromarray(scaled.astype(np.uint8))


def _check_frames_and_sign(image: Image.Image) -> None:
    """Says that one frame of several is read.

    Raises:
        UnsupportedImageError: The values are signed, which Pillow does not know of 8 bits.
    """
    if image.format in IN_FRAMES and getattr(image, "is_animated", False):
        note_once(f"of {image.format} images with several frames or pages, the first one is read")
    tags = getattr(image, "tag_v2", {})
    if SIGNED in tags.get(SAMPLE_FORMAT, ()) and not image.mode.startswith("I"):
        raise UnsupportedImageError(
            f"mode {image.mode} with signed values: save the image with values from 0 to 255"
        )


def _check_depth(image: Image.Image, mode: str) -> None:
    """Checks that an image of 16 bits uses them; 10, 12 or 14 bits are not marked as such.

    Raises:
        UnsupportedImageError: It has colours, and the values of 8 bits at most.
    """
    extrema: Any = image.getextrema()
    brightest = max(extrema) if image.mode == "L" else max(most for _, most in extrema)
    if not brightest and not mode.startswith("I"):  # Pillow has dropped the lower 8 bits
        raise _in_8_bits(mode)
    if 0 < brightest < DARK:
        note_once(
            "some images of 16 bits have no value in the upper three quarters of their range. "
            "65,535 is read as white: if their values are of 10, 12 or 14 bits, scale them to 16"
        )


def _in_8_bits(mode: str) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"16 bits, of which the values use only 8 (mode {mode}): save the image with 8 bits"
    )


def _check_alpha(image: Image.Image, mode: str) -> None:
    """Raises UnsupportedImageError for one colour with a picture in its alpha channel."""
    least, most = image.getchannel("A").getextrema()
    colours: Any = image.getextrema()[:3]
    if least != most and all(low == high for low, high in colours):
        raise UnsupportedImageError(
            f"mode {mode} with one colour everywhere and the picture in its alpha channel alone: "
            "lay the image on a background and save it as RGB"
        )
