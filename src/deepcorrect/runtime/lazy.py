"""Packages whose names are imported when they are first used.

This file imports nothing but the standard library, so that a package's face costs nothing.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Face = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def attach_stub(package: str, file: str) -> Face:
    """The `__getattr__`, `__dir__` and `__all__` of a package whose names stand in its stub.

    Args:
        package: The package's `__name__`.
        file: Its `__file__`; the stub is the `.pyi` beside it, and says where each name is from
            with a relative import of the form `from ._module import name as name`.

    Raises:
        AttributeError: From the returned `__getattr__`, for a name that is not in the stub.

    Example:
        >>> import deepcorrect.runtime
        >>> from deepcorrect.runtime.lazy import attach_stub
        >>> get, names, _ = attach_stub("deepcorrect.runtime", deepcorrect.runtime.__file__)
        >>> get("seed_of") is deepcorrect.runtime.seed_of
        True
        >>> "seed_of" in names()
        True
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    sources = {
        alias.asname or alias.name: (f"{package}.{line.module}", alias.name)
        for line in stub.body
        if isinstance(line, ast.ImportFrom) and line.level == 1
        for alias in line.names
    }

    def get(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = sources[name]
        return getattr(importlib.import_module(module), original)

    return get, lambda: sorted(sources), sorted(sources)
