"""Pieces of HTML that several sections use; plain text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from deepcorrect.experiments.report import _figures as figures


def table_cell(text: str, best: bool = False) -> str:
    """A cell of text, bold where it is the best of its column."""
    return f"<td{' class=best' if best else ''}>{escape(text)}</td>"


def table_row(head: str, cells: Iterable[str]) -> str:
    """A row: its name as text, its cells as HTML."""
    return f'<tr><th scope="row">{escape(head)}</th>{"".join(cells)}</tr>'


def table(head: Sequence[str], rows: Iterable[str], label: str = "", kind: str = "") -> str:
    """A table that scrolls in its own box; `rows` are HTML, `head` and `label` are text."""
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    named = f' aria-label="{escape(label)}"' if label else ""
    return (
        f'<div class="scroll"><table class="{kind}"{named}><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def line_key(entries: Mapping[str, tuple[figures.Look, str]], prefix: str) -> str:
    """A legend in HTML for the lines of several panels."""
    items = "".join(
        f"<li>{figures.svg(figures.swatch(look), f'{prefix}key{i}', '')}{escape(label)}</li>"
        for i, (look, label) in enumerate(entries.values())
    )
    return f'<ul class="key">{items}</ul>'
