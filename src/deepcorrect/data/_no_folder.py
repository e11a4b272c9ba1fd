"""The error for a folder that does not exist, with what the user may have meant."""

from __future__ import annotations

import difflib
from pathlib import Path

from deepcorrect.runtime import InputError, kind_of_file


def no_folder(path: Path) -> InputError:
    """The error for a path that is no folder.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.data import no_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pathlib.Path(folder, "pictures").mkdir()
        ...     str(no_folder(pathlib.Path(folder, "picture"))).partition(", ")[2]
        "did you mean 'pictures'?"
    """
    if path.is_file():
        kind = kind_of_file(path)
        what = f"it is {kind}" if kind else "give the folder that the file is in"
        return InputError(f"{path} is a file, and a folder is needed: {what}")
    if path.is_symlink():
        return InputError(f"{path} is a link to {path.readlink()}, which does not exist")
    return InputError(f"there is no folder {path}{_hint(path)}")


def _hint(path: Path) -> str:
    bare = str(path).strip(" \"'")
    if bare != str(path) and Path(bare).expanduser().is_dir():
        return f": without quotes and spaces at its ends, {bare} is one"
    if any(sign in bare for sign in "$*?"):
        return ": variables and patterns are not replaced here, so write the folder's name in full"
    if not path.parent.is_dir():
        return ""
    names = [each.name for each in path.parent.iterdir() if each.is_dir()]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""
