"""The import of a user's file or module, with its siblings and the package that it lies in."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

PREFIX = "_deepcorrect_user_"
SHARED = {"deepcorrect", "numpy", "timm", "torch", "torchvision", "transformers"}
"""Packages that are never imported from the user's folder once they are loaded."""


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Lets the block's imports find what lies in a folder first, then above its package, and here.

    A module of the same name from elsewhere is set aside, so that two repositories may both have
    a `blocks.py`. Afterwards, names that are installed packages mean these again.
    """
    folders = _search_folders(folder.resolve())
    local = {name for each in folders for name in _importable(each)} - SHARED
    local -= sys.stdlib_module_names
    aside = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in local and not _lies_in(module, folders)
    }
    for name in aside:
        del sys.modules[name]
    added = [str(each) for each in folders]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for each in added:
            if each in sys.path:
                sys.path.remove(each)
        _restore(aside, local, folders)


def _restore(aside: dict[str, ModuleType], local: set[str], folders: list[Path]) -> None:
    """Gives installed packages their names back, and modules that nothing has replaced."""
    installed = {name for name in local if _is_installed(name, folders)}
    for name in [name for name in sys.modules if name.partition(".")[0] in installed]:
        del sys.modules[name]
    tops = {name.partition(".")[0] for name in sys.modules}
    for name, module in aside.items():
        if name.partition(".")[0] not in tops:
            sys.modules[name] = module


def _is_installed(name: str, folders: list[Path]) -> bool:
    """Whether a name is also that of a package outside these folders."""
    found = importlib.machinery.PathFinder.find_spec(name)
    if found is None or found.origin is None:
        return False
    return not set(Path(found.origin).resolve().parents[:2]) & set(folders)


def _search_folders(folder: Path) -> list[Path]:
    """The folder, the one in which the outermost package around it lies, and the current one."""
    root = folder
    while (root / "__init__.py").is_file() and root.parent != root:
        root = root.parent
    return list(dict.fromkeys([folder, root, Path.cwd().resolve()]))


def _importable(folder: Path) -> Iterator[str]:
    """The names of the modules and packages in a folder."""
    for path in folder.iterdir():
        if path.name.startswith("__"):
            continue
        if path.suffix == ".py" and path.stem.isidentifier():
            yield path.stem
        elif path.name.isidentifier() and path.is_dir() and any(path.glob("*.py")):
            yield path.name


def _lies_in(module: ModuleType, folders: list[Path]) -> bool:
    """Whether a module is one that the search in these folders would find."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    paths = [Path(place).resolve() for place in places if isinstance(place, str)]
    depth = module.__name__.count(".") + 1
    return any(
        len(path.parents) > up and path.parents[up] in folders
        for path in paths
        for up in (depth - 1, depth)
    )


def import_module(name: str) -> ModuleType:
    """The module of a dotted name."""
    return importlib.import_module(name)


def import_file(path: Path) -> ModuleType:
    """The module that a Python file makes, run anew.

    A file with relative imports is imported as a part of the package that it lies in: up to the
    outermost folder with an `__init__.py`, or as far as its own imports reach.
    """
    path = path.resolve()
    level = _relative_level(path)
    if not level:
        return _run(_alias(path), path)
    roots = [path.parents[level - 1]]
    while (roots[-1] / "__init__.py").is_file() and (roots[-1].parent / "__init__.py").is_file():
        roots.append(roots[-1].parent)
    root = roots[-1]
    alias = _alias(root)
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{alias}.")]:
        del sys.modules[name]
    start = root / "__init__.py"
    if start.is_file():
        _run(alias, start, root)
    else:
        package = ModuleType(alias)
        package.__path__ = [str(root)]
        sys.modules[alias] = package
    return importlib.import_module(".".join([alias, *path.relative_to(root).with_suffix("").parts]))


def _relative_level(path: Path) -> int:
    """How many folders up the file's relative imports reach; 0 if it has none."""
    imports = [n for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.ImportFrom)]
    return max((each.level for each in imports), default=0)


def _alias(path: Path) -> str:
    return PREFIX + hashlib.sha256(str(path).encode()).hexdigest()[:12]


def _run(name: str, path: Path, package: Path | None = None) -> ModuleType:
    inside = [str(package)] if package else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
