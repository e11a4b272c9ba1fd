"""HTML by Jinja2: the templates, their filters, and the pieces that several sections share.

Everything that is not HTML already is escaped by the templates.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deepcorrect.experiments.report import _figures as figures
from deepcorrect.experiments.report._looks import Look
from deepcorrect.experiments.report._numbers import distortion_name, percent, system_name

SHARP_PIXELS = 64  # images no wider than this are shown enlarged, with sharp pixels


@dataclass(frozen=True)
class Cell:
    """A cell of a table, in bold if it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table: its name and its cells."""

    head: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table that scrolls in its own box.

    Attributes:
        head: the names of the columns, that of the rows' names included.
        rows: the rows.
        label: what the table shows, for readers who do not see it.
        kind: a class of the style sheet.
    """

    head: Sequence[str]
    rows: Sequence[Row]
    label: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing with its title; without a drawing, the quantity was not measured."""

    title: str
    drawing: Markup | None
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """An entry of a legend: a piece of its line, and what the line is."""

    drawing: Markup
    label: str


def legend(entries: Iterable[tuple[Look, str]], prefix: str) -> list[Entry]:
    """A legend for the lines of several charts; `prefix` is unique on the page."""
    return [
        Entry(figures.svg(figures.swatch(look), f"{prefix}key{place}", ""), label)
        for place, (look, label) in enumerate(entries)
    ]


def render(template: str, **values: Any) -> Markup:
    """A template of this room filled in with values, which are escaped unless they are markup."""
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deepcorrect.experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "distortion_name": distortion_name,
        "level": lambda level: f"{level:g}",
        "percent": percent,
        "png": lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}",
        "small": _is_small,
        "system_name": system_name,
        "thousands": lambda number: f"{number:,}",
    }
    return environment


def _is_small(png: str) -> bool:
    """Whether a PNG in base 64 is so narrow that it is shown enlarged."""
    try:
        width = int.from_bytes(base64.b64decode(png[:32])[16:20], "big")
    except binascii.Error:
        return False
    return width <= SHARP_PIXELS
