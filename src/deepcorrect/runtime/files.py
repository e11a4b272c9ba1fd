"""Files that are complete or absent: every write goes to a temporary file that is then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcorrect.runtime._errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

DISK_FULL_BYTES = 1 << 16
"""A write that failed with less free space than this is taken to have failed for lack of space."""


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary path and renames the result to `path`; see `replacing`."""
    with replacing(path) as temporary:
        write(temporary)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` for the block to write to, then renames it to `path`.

    A reader sees the old content or the new content, never a part of it. After any failure (a full
    disk, a killed process) `path` is unchanged. A killed process may leave its temporary file
    behind, which `remove_temporary` removes.

    Raises:
        OSError: The file cannot be written; if the disk is full, with `errno.ENOSPC`.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "log.txt")
        ...     with files.replacing(path) as temporary:
        ...         _ = temporary.write_text("complete")
        ...     path.read_text()
        'complete'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except Exception as error:
        if disk_full(error) or shutil.disk_usage(path.parent).free < DISK_FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Removes the temporary files of killed processes below a folder that nobody is writing to."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says that the disk is full.

    Libraries wrap the system's error in errors of their own, some of which keep only its text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_folder(path: Path) -> None:
    """Checks that `path` is or can become a folder, before results for it are computed.

    Raises:
        InputError: The path, or one of its parents, is a file.
    """
    for existing in (path, *path.parents):
        if existing.exists():
            if not existing.is_dir():
                raise InputError(f"{existing} is a file, and a folder is needed there")
            return


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, completely or not at all."""
    write_with(path, lambda temporary: _discard(temporary.write_text(text, encoding="utf-8")))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content`, completely or not at all."""
    write_with(path, lambda temporary: _discard(temporary.write_bytes(content)))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, completely or not at all.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "results.json")
        ...     files.write_json(path, {"top1": 0.9})
        ...     files.read_json(path)
        {'top1': 0.9}
    """
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors as safetensors, completely or not at all.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "ranking.safetensors")
        ...     files.write_tensors(path, {"conv1": torch.zeros(2)})
        ...     files.read_tensors(path)
        {'conv1': tensor([0., 0.])}
    """
    from safetensors.torch import save_file  # noqa: PLC0415  (imports PyTorch)

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_with(path, lambda temporary: save_file(contiguous, temporary))


def write_checkpoint(path: Path, value: Any) -> None:
    """Writes a PyTorch checkpoint (tensors and plain containers), completely or not at all."""
    import torch  # noqa: PLC0415  (slow to import)

    write_with(path, lambda temporary: torch.save(value, temporary))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: The file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a JSON file ({error})") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        InputError: The file does not exist or is not a complete safetensors file.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415  (imports PyTorch)

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a complete safetensors file ({error})") from None


def read_checkpoint(path: Path) -> Any:
    """Reads a PyTorch checkpoint with `weights_only=True`, so that no code in it is ever run.

    What the file holds beside tensors and plain containers, such as an `argparse.Namespace`, NumPy
    numbers, paths or enums, is replaced by inert stand-ins.

    Raises:
        InputError: The file does not exist, is broken, or names functions that act.
    """
    from deepcorrect.runtime._stand_ins import (  # noqa: PLC0415
        StandIn,
        is_refused,
        load_with_stand_ins,
        unknown_globals,
    )

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    names = unknown_globals(path)
    refused = [name for name in names if is_refused(name)]
    if refused:
        raise _unsafe(path, f"it names {refused[0]}, which is never called")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles, which are then refused
            value = load_with_stand_ins(path, names)
    except Exception as error:  # PyTorch and pickle raise errors of many classes
        foreign = [name for name in names if not name.startswith(("torch._", "builtins."))]
        held = f"; it holds {', '.join(foreign[:3])}" if foreign else ""
        raise _unsafe(path, type(error).__name__ + held) from None
    if isinstance(value, StandIn):
        raise _unsafe(path, f"it is a whole object of the class {value.origin}")
    return value


def _unsafe(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not a PyTorch file of tensors that can be read safely ({reason}). Accepted: a "
        "state dict saved by torch.save, or safetensors. If you trust the file, save its tensors "
        "alone where it was made: torch.save(network.state_dict(), FILE)"
    )


def _discard(_: object) -> None:
    return None
