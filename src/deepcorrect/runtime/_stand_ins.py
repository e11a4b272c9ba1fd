"""Inert stand-ins for the classes that a checkpoint holds beside its tensors.

A training checkpoint often also holds an `argparse.Namespace`, NumPy numbers, paths, enums or a
configuration. PyTorch's safe reader refuses all of them. Here each of their classes is replaced by
one that accepts any arguments, keeps none of them and runs nothing, so that the tensors can be read
and no code that the file names is ever called. Arrays of numbers alone are read by NumPy.
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
ARRAY = "numpy.ndarray"
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


def _arrays() -> dict[str, Any]:
    """What makes NumPy arrays of numbers, by name: the only classes that are real.

    The type of an array of objects is not among them, so that none can be made.
    """
    import numpy as np  # noqa: PLC0415

    types = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    made = {f"numpy.dtypes.{kind.__name__}": kind for kind in types}
    empty: Any = np._core.multiarray._reconstruct  # pyright: ignore[reportAttributeAccessIssue]
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):
        made[f"{module}._reconstruct"] = empty
    return {ARRAY: np.ndarray, "numpy.dtype": np.dtype, **made}


def load_with_stand_ins(path: Path, names: list[str]) -> Any:
    """Reads a PyTorch file with `weights_only=True`; what has these names becomes stand-ins.

    Whether a class is a mapping or a list is seen when items are put into its stand-in, which
    PyTorch then refuses: the file is read again with a plain mapping or list there. Arrays are
    stand-ins, too, if one of them does not hold numbers.
    """
    import torch  # noqa: PLC0415

    arrays = _arrays() if ARRAY in names else {}
    kinds: dict[str, type[StandIn]] = dict.fromkeys((n for n in names if n not in arrays), StandIn)
    while True:
        classes: list[Any] = [
            (type(name, (kind,), {"origin": name}), name) for name, kind in kinds.items()
        ]
        classes += [(made, name) for name, made in arrays.items()]
        try:
            # as a path, its ending would decide how PyTorch reads it
            with _LOCK, torch.serialization.safe_globals(classes), path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            kind = _Mapping if "SETITEM" in str(error) else _List
            refused = [name for name in kinds if f".{name}'>" in str(error)]
            if refused and kinds[refused[0]] is StandIn:
                kinds[refused[0]] = kind
            elif arrays:
                arrays, kinds = {}, dict.fromkeys(names, StandIn)
            else:
                raise
