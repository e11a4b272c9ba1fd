"""The names that `list` prints, and the defaults that options show.

They come from registries in rooms that import PyTorch, which takes seconds. `catalogue.json` holds
a copy, so that `list` and `--help` answer at once. `make catalogue` writes it from the registries,
and a test compares the two.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any


@functools.cache
def _content() -> dict[str, dict[str, Any]]:
    return json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))


def entries(what: str) -> dict[str, str]:
    """The names of one kind, such as `distortions`, each with a description."""
    return _content()["lists"][what]


def default(name: str) -> Any:
    """The default of an option, where it is decided in a room that imports PyTorch."""
    return _content()["defaults"][name]
