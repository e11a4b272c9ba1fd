"""How the rooms lie: CONTRIBUTING.md names them all, and no import points up its table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import deepcorrect

SOURCE = Path(deepcorrect.__file__).parent
CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"


def floors() -> dict[str, int]:
    """Each room's floor, by the table."""
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", CONTRIBUTING.read_text(encoding="utf-8"), re.M)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)/?`", rooms)}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports from, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "deepcorrect":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepcorrect."):
            yield (node.module or "").split(".")[1]


def test_every_room_is_in_the_table() -> None:
    here = {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert here - floors().keys() == set()


def test_imports_point_down() -> None:
    known = floors()
    up = [
        f"{path.relative_to(SOURCE)} imports {room}"
        for path in SOURCE.rglob("*.py")
        for room in imported(path)
        if room_of(path) in known and known.get(room, 0) > known[room_of(path)]
    ]
    assert up == []
