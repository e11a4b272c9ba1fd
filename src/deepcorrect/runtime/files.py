"""Files that are either whole or absent: every write goes to a temporary name first."""

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

NO_ROOM_BYTES = 1 << 16  # a write that failed with less than this left failed for want of room


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it to `path`; see `whole`."""
    with whole(path) as temporary:
        write(temporary)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives the block a temporary path beside `path` to write to, then renames it to `path`.

    A reader sees the old content or the new one, never a part. On any failure (a full disk, a
    kill) `path` is as it was; a kill may leave the temporary file, which `remove_temporary` finds.
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
        if disk_full(error) or shutil.disk_usage(path.parent).free < NO_ROOM_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Removes what killed writers left anywhere below a folder that nobody else writes to."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the disk is full.

    Libraries wrap the system's error in their own, some with nothing but its text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_folder(path: Path) -> None:
    """Checks that `path` can be a folder, before anything is computed that goes there.

    Raises:
        InputError: it, or what it would lie in, is a file.
    """
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise InputError(f"{place} is a file, and a folder is needed there")
            return


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    write_with(path, lambda temporary: _discard(temporary.write_text(text, encoding="utf-8")))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content`, whole or not at all."""
    write_with(path, lambda temporary: _discard(temporary.write_bytes(content)))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file  # noqa: PLC0415  (imports PyTorch)

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_with(path, lambda temporary: save_file(contiguous, temporary))


def write_checkpoint(path: Path, value: Any) -> None:
    """Writes a PyTorch checkpoint (tensors and plain containers), whole or not at all."""
    import torch  # noqa: PLC0415  (slow to import)

    write_with(path, lambda temporary: torch.save(value, temporary))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is absent or is not JSON.
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
        InputError: the file is absent or is not safetensors.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415  (imports PyTorch)

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from None


def read_checkpoint(path: Path) -> Any:
    """Reads a PyTorch checkpoint with `weights_only=True`: no code in it is ever run.

    Raises:
        InputError: the file is absent, broken, or holds more than tensors and plain containers.
    """
    import torch  # noqa: PLC0415  (slow to import)

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, pickle's own among them
        raise InputError(
            f"{path} is not a PyTorch file of tensors that can be read safely "
            f"({type(error).__name__}). Accepted: a state dict saved by torch.save, or safetensors"
        ) from None


def _discard(_: object) -> None:
    return None
