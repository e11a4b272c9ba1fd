"""How the rooms lie: CONTRIBUTING.md draws the house, and the code keeps to the drawing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import deepcorrect

SOURCE = Path(deepcorrect.__file__).parent
CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
FILES = sorted(SOURCE.rglob("*.py"))


def floors() -> dict[str, int]:
    """Each room's floor, by the table in CONTRIBUTING.md."""
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", CONTRIBUTING.read_text(encoding="utf-8"), re.M)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)/`", rooms)}


def module_of(path: Path) -> str:
    """The dotted name of a file's module; a package's is that of its folder."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module is in; for the public face itself, the top one."""
    return module.split(".")[1] if "." in module else "cli"


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports from, wherever in it."""
    known = {module_of(each) for each in FILES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in names)


def arrows() -> Iterator[tuple[Path, str]]:
    for path in FILES:
        for module in imported(path):
            yield path, module


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its signature included, its docstring not."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function):
        docstring = function.body[0]
        lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
    return lines


def test_nothing_but_rooms_stands_at_the_top() -> None:
    here = {path.name for path in SOURCE.iterdir() if path.name != "__pycache__"}
    files = {"__init__.py", "__init__.pyi", "__main__.py"}
    assert here == floors().keys() | files


def test_an_arrow_points_down_never_up_and_never_along_a_floor() -> None:
    known = floors()
    wrong = [
        f"{path.relative_to(SOURCE)} imports {module}"
        for path, module in arrows()
        if path.parent != SOURCE  # the public face and the command's entrance see every room
        and (room := room_of(module)) != (own := room_of(module_of(path)))
        and known[room] >= known[own]
    ]
    assert wrong == []


def test_a_room_is_entered_by_its_face() -> None:
    """What begins with an underscore is its own room's."""
    wrong = [
        f"{path.relative_to(SOURCE)} imports {module}"
        for path, module in arrows()
        if any(part.startswith("_") for part in module.split("."))
        and room_of(module) != room_of(module_of(path))
    ]
    assert wrong == []


def test_no_circle_among_files() -> None:
    graph: dict[str, set[str]] = {}
    for path, module in arrows():
        graph.setdefault(module_of(path), set()).add(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None


def test_files_and_functions_stay_readable() -> None:
    long: list[str] = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST_FILE:
            long.append(f"{path.relative_to(SOURCE)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = length(node)
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(SOURCE)}: {node.name} has {lines} lines")
    assert long == []
