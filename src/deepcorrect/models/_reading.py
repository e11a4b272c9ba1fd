"""Reads weights files by what they are, whatever their names end in."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepcorrect.runtime import InputError, files, kind_of_file

INDEX = ".index.json"
"""How the name of the file ends that says which of several files holds which tensor."""
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".npz", INDEX)
SHARD = "-of-"
CHUNK = 1 << 22
SMALL, LARGEST_RATIO = 1 << 28, 100
"""An archive may unpack to so many bytes, or to so many times its own size."""

LONGEST_HEADER = 100_000_000
"""In bytes, as the safetensors library limits it."""


def read_weights(path: Path) -> Any:
    """The content of a weights file, which is read without running any code.

    Args:
        path: A safetensors file, a PyTorch file, an archive of NumPy arrays (`.npz`), or the index
            of a checkpoint in several files (`model.safetensors.index.json`).

    Raises:
        InputError: There is no such file, it is damaged, or something else.
    """
    if not path.is_file():
        raise _no_file(path)
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read by this user: change its permissions")
    if path.name.endswith(INDEX):
        return _in_shards(path)
    if _is_safetensors(path):
        return files.read_tensors(path)
    kind = kind_of_file(path)
    if kind == "an archive of NumPy arrays":
        _check_bomb(path)
        return files.read_arrays(path)
    if kind:
        raise InputError(
            f"{path} holds no weights that can be read here: it is {kind}. Accepted: safetensors, "
            "or a state dict saved by torch.save"
        )
    if path.suffix.lower() == ".safetensors" and not _is_pytorch(path):
        return files.read_tensors(path)  # which says what is wrong with it
    _check_sums(path)
    return files.read_checkpoint(path)


def _no_file(path: Path) -> InputError:
    text = str(path)
    if path.is_dir():
        inside = sorted(each.name for each in path.iterdir() if each.name.endswith(ENDINGS))
        chosen = next((name for name in inside if name.endswith(INDEX)), next(iter(inside), None))
        advice = f"give the file in it, such as {path / chosen}" if chosen else "give a file"
        return InputError(f"{path} is a folder: {advice}")
    if ":/" in text and not text.startswith("/"):
        return InputError(f"{path} is an address and no file: download it first")
    if path.is_symlink():
        return InputError(f"{path} is a link to {path.readlink()}, which does not exist")
    return InputError(f"there is no file {path}")


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = file.read(9)
    length = int.from_bytes(beginning[:8], "little")
    return beginning[8:] == b"{" and length < min(LONGEST_HEADER, path.stat().st_size)


def _is_pytorch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) in (b"P", b"\x80")  # a zip archive or, as in older files, a pickle


def _in_shards(path: Path) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    index = files.read_json(path)
    places = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(places, Mapping):
        raise InputError(f"{path} is no index of a checkpoint: it has no 'weight_map'")
    found: dict[str, Any] = {}
    for name in sorted(set(map(str, places.values()))):
        if Path(name).name != name:
            raise InputError(f"{path} names {name!r}, which is not a file beside it")
        found |= read_weights(path.with_name(name))
    lost = [name for name in places if name not in found]
    if lost:
        raise InputError(f"{path} says that {lost[0]} is in {places[lost[0]]}, where it is not")
    return found


def _check_bomb(path: Path) -> None:
    """Refuses an archive that unpacks to very much more than it takes on the disk.

    Raises:
        InputError: It does, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): download or copy it again") from None
    if unpacked > max(SMALL, LARGEST_RATIO * path.stat().st_size):
        raise InputError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB, which no weights do that take "
            f"{path.stat().st_size / 1e6:.1f} MB: save them again without compression"
        )


def _check_sums(path: Path) -> None:
    """Checks the sums that PyTorch writes beside the tensors and does not read.

    Raises:
        InputError: One differs, so that some weights are not what was saved.
    """
    if not zipfile.is_zipfile(path):
        return
    _check_bomb(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.CRC:  # 0 where they were switched off
                    with archive.open(part) as content:
                        while content.read(CHUNK):
                            pass
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({error}): some weights are not what was saved. Download or copy "
            "it again"
        ) from None


def shard_hint(path: Path) -> str:
    """What to give in the place of one file of several; empty if it is not one of several."""
    if SHARD not in path.name:
        return ""
    indices = sorted(each.name for each in path.parent.glob(f"*{INDEX}"))
    wanted = f": give {path.with_name(indices[0])}" if indices else ", which an index.json names"
    return f". It is one of several files that belong together{wanted}"
