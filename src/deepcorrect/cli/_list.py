"""`list`: the names that commands and recipes accept."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from deepcorrect.cli import _catalogue
from deepcorrect.cli._options import Json

Listed = Literal[
    "models",
    "adapters",
    "datasets",
    "distortions",
    "units",
    "methods",
    "targets",
    "sites",
    "systems",
    "objectives",
    "recipes",
]


def command(
    what: Annotated[Listed, typer.Argument(metavar="WHAT", help="What to list.")],
    as_json: Json = False,
) -> None:
    """List the names that commands and recipes accept."""
    entries = _catalogue.entries(what)
    if as_json:
        print(json.dumps(entries))
        return
    width = max(len(name) for name in entries)
    for name, summary in entries.items():
        print(f"{name:{width}}  {summary}")
