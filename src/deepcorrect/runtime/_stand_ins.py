"""Inert stand-ins for the classes that a checkpoint holds beside its tensors.

A training checkpoint often also holds an `argparse.Namespace`, NumPy numbers, paths, enums or a
configuration. PyTorch's safe reader refuses all of them. Here each of their classes is replaced by
one that accepts any arguments, keeps none of them and runs nothing, so that the tensors can be read
and no code that the file names is ever called.
"""

from __future__ import annotations

import _compat_pickle
import builtins
import pickle
import pickletools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

REFUSED = {
    *("ctypes", "importlib", "nt", "os", "posix", "pty", "runpy", "shutil", "socket"),
    *("subprocess", "sys", "webbrowser"),
}
"""Modules whose functions have no place in a checkpoint: a file that names one is refused."""
_LOCK = threading.Lock()
"""The classes that PyTorch's reader accepts are a global setting, which one thread changes."""


class StandIn:
    """Stands for an object of a class that is not imported.

    Attributes:
        origin: The full name of the class in the file.
    """

    origin = ""

    def __init__(self, *_: Any) -> None:
        """Keeps nothing."""

    def __setstate__(self, _: Any) -> None:
        """Keeps nothing."""


class _Mapping(StandIn):
    """Makes a plain mapping in the place of one, because the tensors may lie in it."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _List(StandIn):
    """Makes a plain list in the place of one."""

    def __new__(cls, *_: Any) -> Any:
        return []


def is_refused(name: str) -> bool:
    """Whether a global's name, such as `os.system`, is that of a function that acts."""
    module, _, attribute = name.rpartition(".")
    if module == "builtins":
        return not isinstance(getattr(builtins, attribute, None), type)
    return module.partition(".")[0] in REFUSED


def unknown_globals(path: Path) -> list[str]:
    """The full names of the classes and functions in a PyTorch file that PyTorch does not accept.

    The file is only disassembled. A file that is no PyTorch file has none.
    """
    import torch  # noqa: PLC0415  (slow to import)

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the older format, or no PyTorch file at all
        return sorted(_globals_of_older_format(path))


def _globals_of_older_format(path: Path) -> set[str]:
    """The names in the pickles that precede the tensors: three of a header, and the object.

    PyTorch's own are among them, and remain what they are to its reader.
    """
    names: set[str] = set()
    with path.open("rb") as file:
        try:
            for _ in range(4):
                for code, argument, _ in pickletools.genops(file):
                    if code.name == "GLOBAL":
                        names.add(_modern(*str(argument).split(" ", 1)))
        except Exception:  # whatever else the file is, reading it says
            return names
    return names


def _modern(module: str, name: str) -> str:
    """A global's name in Python 3, from the one of Python 2 that pickles hold."""
    both = module, name
    if both in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[both]
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def load_with_stand_ins(path: Path, names: list[str]) -> Any:
    """Reads a PyTorch file with `weights_only=True`; what has these names becomes stand-ins.

    Whether a class is a mapping or a list is seen when items are put into its stand-in, which
    PyTorch then refuses: the file is read again with a plain mapping or list there.
    """
    import torch  # noqa: PLC0415

    kinds: dict[str, type[StandIn]] = dict.fromkeys(names, StandIn)
    while True:
        classes: list[Any] = [
            (type(name, (kind,), {"origin": name}), name) for name, kind in kinds.items()
        ]
        try:
            with _LOCK, torch.serialization.safe_globals(classes):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            kind = _Mapping if "SETITEM" in str(error) else _List
            refused = [name for name in names if f".{name}'>" in str(error)]
            if not refused or kinds[refused[0]] is not StandIn:
                raise
            kinds[refused[0]] = kind
