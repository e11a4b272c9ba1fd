"""What a file is by its content, for messages about files that are something else than expected."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

BEGINNING = 512
"""How many bytes of a file are looked at."""

POINTER = (
    "a pointer of Git LFS and not the file itself: run 'git lfs pull' in its repository, or "
    "download the file"
)
PAGE = "a web page and not the file itself: download it again, from a link to the file"
COMPRESSED = "compressed: unpack it first"

KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", POINTER),
    (b"<!doctype html", PAGE),
    (b"<html", PAGE),
    (b"\x1f\x8b", COMPRESSED),
    (b"BZh", COMPRESSED),
    (b"\xfd7zXZ\x00", COMPRESSED),
    (b"7z\xbc\xaf\x27\x1c", COMPRESSED),
    (b"\x28\xb5\x2f\xfd", COMPRESSED),
    (b"rar!", COMPRESSED),
    (b"\x89hdf\r\n", "an HDF5 file, as Keras and MATLAB write"),
    (b"matlab 5.0", "a MATLAB file"),
    (b"\x93numpy", "a single NumPy array"),
    (b"par1", "a Parquet file"),
    (b"gguf", "a GGUF file"),
    (b"sqlite format", "a database"),
    (b"%pdf", "a PDF document"),
    (b"%!ps", "a PostScript document"),
    (b"<svg", "an SVG drawing: render it as PNG"),
    (b"<?xml", "an XML file"),
    (b"\x89png\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"gif8", "a GIF image"),
    (b"ii*\x00", "a TIFF image"),
    (b"mm\x00*", "a TIFF image"),
    (b"#?radiance", "a Radiance HDR image: convert it to PNG"),
    (b"v/1\x01", "an OpenEXR image: convert it to PNG"),
    (b"\x00\x00\x08\x01", "an IDX file, as MNIST's: unpack it to images or Parquet"),
    (b"\x00\x00\x08\x03", "an IDX file, as MNIST's: unpack it to images or Parquet"),
)
"""How files begin, in lower case, and what they are."""

BOXES = {
    b"heic": "a HEIC photo: convert it to JPEG or PNG",
    b"heix": "a HEIC photo: convert it to JPEG or PNG",
    b"mif1": "a HEIF photo: convert it to JPEG or PNG",
    b"crx ": "a raw photo: convert it to JPEG or PNG",
    b"isom": "a video",
    b"mp42": "a video",
    b"qt  ": "a video",
}
"""The brands of files that consist of boxes, at byte 8."""


def kind_of_file(path: Path) -> str:
    """What a file is, and what to do about it: a phrase after "it is", or empty if not known.

    Only files that are no weights and no data set of ours are told apart: archives, pointers, pages
    and other programs' formats.

    Args:
        path: A file. One that cannot be read is of no known kind.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.runtime import kind_of_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "weights.pth")
        ...     _ = path.write_text("<!DOCTYPE html><title>Sign in</title>")
        ...     kind_of_file(path).partition(":")[0]
        'a web page and not the file itself'
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
        if beginning[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                return _kind_of_zip(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # a name may be no text
        return "cut off or damaged: download or copy it again"
    except OSError:
        return ""
    return kind_of_content(beginning)


def kind_of_content(beginning: bytes) -> str:
    """What a file with this beginning is; see `kind_of_file`."""
    if not beginning:
        return "empty"
    start = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower() or beginning
    for known, kind in KINDS:
        if start.startswith(known):
            return kind
    if beginning[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if beginning[4:8] == b"ftyp":
        return BOXES.get(beginning[8:12], "")
    if beginning[:1] == b"\x08" and beginning[2:3] == b"\x12" and b"\x3a" in beginning:
        return "an ONNX model"
    if not beginning.strip(b"\0"):
        return "filled with zeros: a download or copy of it was not finished"
    return ""


def _kind_of_zip(names: Iterable[str]) -> str:
    inside = {name.partition("/")[2] or name for name in names}
    if any(name.startswith("code/") for name in inside) and "data.pkl" in inside:
        return "a TorchScript module"
    if "data.pkl" in inside:
        return ""  # a PyTorch file
    if any(name.startswith(("data/weights/", "models/")) for name in inside):
        return "an exported program (torch.export)"
    if any(name.endswith(".npy") for name in inside):
        return "an archive of NumPy arrays"
    if any(name.endswith(".weights.h5") for name in inside):
        return "a Keras model"
    return "a zip archive: unpack it first"
