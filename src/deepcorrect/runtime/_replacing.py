"""Writing so that no reader sees a part: temporary files, locks, and checks before work begins."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepcorrect.runtime._errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LONGEST_PREFIX = 200
"""The part of a file's name in that of its temporary file, as names have at most 255 bytes."""

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)
"""The names of our temporary files, as `tempfile` completes them."""

DISK_FULL_BYTES = 1 << 16
"""A write that failed with less free space than this is taken to have failed for lack of space."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` for the block to write to, then renames it to `path`.

    A reader sees the old content or the new content, never a part of it. After any failure (a full
    disk, a killed process, a power cut) `path` is unchanged, and after the block the new content
    lasts through a power cut. A killed process may leave its temporary file behind, which
    `remove_temporary` removes.

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
    make_folder(path.parent)
    handle, temporary = _temporary_beside(path)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except Exception as error:
        if disk_full(error) or shutil.disk_usage(path.parent).free < DISK_FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path` for the block to fill, then renames it to `path`.

    A reader sees all of the folder or none. What a killed process left of it is removed when the
    same folder is written again. The block makes its files last, as `files.write_with` does.

    Args:
        path: The folder; it must not exist, or be empty.

    Raises:
        InputError: It has files, is the working folder, or cannot be written; or another process is
            writing it.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "new")
        ...     with files.new_folder(path) as filled:
        ...         _ = (filled / "log.txt").write_text("complete")
        ...         absent = not path.exists()
        ...     absent, [each.name for each in path.iterdir()]
        (True, ['log.txt'])
    """
    check_folder(path)
    path = path.resolve()
    check_folder(path.parent)
    _check_new(path)
    partial = path.with_name(f".{path.name[:LONGEST_PREFIX]}.partial")
    with locked(partial):
        make_folder(partial)
        try:
            for left in partial.iterdir():
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                else:
                    left.unlink()
            yield partial
            _check_new(path)
            if path.exists():
                path.rmdir()
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def _check_new(path: Path) -> None:
    if path.exists() and any(path.iterdir()):
        raise InputError(f"{path} exists and is not empty: name a new folder")
    if path == Path.cwd():
        raise InputError(f"{path} is the working folder: name a new folder")


def _temporary_beside(path: Path) -> tuple[int | None, Path]:
    """A temporary file that is locked as long as its handle is open, which ends with the process.

    The handle is None where files cannot be locked (Windows), as an open file cannot be renamed
    there.
    """
    while True:
        prefix = f".{path.name[:LONGEST_PREFIX]}."
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".tmp")
        if not _lock(handle):
            os.close(handle)
            return None, Path(name)
        if Path(name).exists():  # or another process took it for a dead one's before it was locked
            return handle, Path(name)
        os.close(handle)


def remove_temporary(folder: Path, *, below: bool = True) -> None:
    """Removes the temporary files of dead processes in a folder; those of live ones stay.

    Args:
        folder: The folder.
        below: Whether those in folders below it are removed, too.
    """
    for path in folder.rglob(".*.tmp") if below else folder.glob(".*.tmp"):
        if not TEMPORARY.fullmatch(path.name):
            continue
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # gone, not ours to write, or no file
            continue
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode) and (fcntl is None or _lock(handle)):
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def is_empty(folder: Path) -> bool:
    """Whether a folder is absent or holds hidden files alone, as our temporary ones are.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pathlib.Path(folder, ".log.txt.x7.tmp").touch()
        ...     files.is_empty(pathlib.Path(folder))
        True
    """
    return not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir())


WAITING_SECONDS = 0.05
"""How long a process that waits for a lock does so between two attempts."""


@contextmanager
def locked(folder: Path, *, wait: float = 0) -> Iterator[None]:
    """Keeps other processes, and others who ask in this one, from a folder while the block runs.

    The lock ends with the process, however it ends, and leaves no file. Where folders cannot be
    locked (Windows, some network drives), there is none. Of several processes that a launcher
    started, rank zero alone writes and takes it.

    Args:
        folder: The folder, created if it does not exist.
        wait: For how many seconds to wait for another process that is working in it.

    Raises:
        InputError: Another process is working in it.
    """
    if fcntl is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    make_folder(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        ends = time.monotonic() + wait
        while _is_taken(handle):
            if time.monotonic() >= ends:
                raise InputError(
                    f"another process is working in {folder}: wait until it has ended, or choose "
                    "another folder"
                )
            time.sleep(WAITING_SECONDS)
        yield
    finally:
        os.close(handle)


def _is_taken(folder: int) -> bool:
    """Locks an open folder, unless another process has locked it."""
    assert fcntl is not None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        pass
    return False


def _lock(handle: int) -> bool:
    """Locks an open file, unless another process has locked it or it cannot be locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, unless they exist, so that they last through a power cut.

    Raises:
        OSError: It cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _sync_folder(each.parent)


def _sync_folder(folder: Path) -> None:
    """Makes what was renamed or made in a folder last through a power cut, where the system can."""
    if fcntl is None:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network drives refuse
        pass
    finally:
        os.close(handle)


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
    """Checks that files can be written to the folder `path`, before results for it are computed.

    A nameless file is made in it, or in its nearest parent that exists, and removed. So are the
    temporary files in it that dead processes left.

    Raises:
        InputError: The path, or one of its parents, is a file, or cannot be written to.
    """
    try:
        for existing in (path, *path.absolute().parents):
            if existing.is_symlink() and not existing.exists():
                raise InputError(f"{existing} is a link to a folder that does not exist")
            if existing.exists():
                if not existing.is_dir():
                    raise InputError(f"{existing} is a file, and a folder is needed there")
                with tempfile.TemporaryFile(dir=existing) as file:
                    file.write(b"0")
                if existing == path:
                    remove_temporary(path, below=False)
                return
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a zero character
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"nothing can be written to {path} ({reason}): choose another folder, or make room "
            "or change its permissions"
        ) from None


def check_file(path: Path) -> None:
    """Checks that the file `path` can be written, before its content is computed.

    Raises:
        InputError: It is a folder, a pipe or a device, or its folder cannot be written to.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a folder, a pipe or a device, and a file is needed there")
    check_folder(path.parent)
