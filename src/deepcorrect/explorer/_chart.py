"""Line charts as inline SVG, whose colours and fonts are the page's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 12, 40
MANY = 8
"""With more levels than this, every other one is written at the axis."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: Its name in the legend.
        look: Its class in the style sheet, which says its colour: `baseline`, `corrected`, or
            `other-0` to `other-5`.
        points: (level, share from 0 to 1), by ascending level.
        filled: Whether the marker of each point is filled; empty for all.
    """

    name: str
    look: str
    points: tuple[tuple[float, float], ...]
    filled: tuple[bool, ...] = ()


def chart(
    lines: Sequence[Line],
    across: str,
    up: str,
    *,
    mark: float | None = None,
    title: str = "",
    names: Mapping[float, str] | None = None,
) -> str:
    """A chart of shares against levels.

    Args:
        lines: The lines.
        across: What a level means.
        up: What a share means.
        mark: A level to mark with a vertical line.
        title: A heading.
        names: What to write at some levels instead of their number.

    Example:
        >>> from deepcorrect.explorer._chart import Line, chart
        >>> chart([Line("baseline", "baseline", ((0, 1.0), (5, 0.2)))], "level", "accuracy")[:14]
        '<figure class='
    """
    levels = sorted({level for line in lines for level, _ in line.points})
    low, high = (levels[0], levels[-1]) if levels else (0.0, 1.0)

    def x(level: float) -> float:
        share = (level - low) / (high - low) if high > low else 0.5
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(y), _levels(levels, x, names or {})]
    if mark is not None and low <= mark <= high:
        parts.append(
            f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}"/>'
        )
    for line in lines:
        places = [(x(level), y(share)) for level, share in line.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline class="line {line.look}" points="{path}"/>')
        filled = line.filled or (True,) * len(places)
        for (a, b), full in zip(places, filled, strict=True):
            state = "" if full else " hollow"
            parts.append(
                f'<circle class="dot {line.look}{state}" cx="{a:.1f}" cy="{b:.1f}" r="4"/>'
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="name" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(across)}</text>"
    )
    label = escape(f"{up} against {across}: " + "; ".join(map(_said, lines)))
    heading = f"<figcaption>{escape(title)}</figcaption>" if title else ""
    keys = "".join(
        f'<span><i class="key {line.look}"></i>{escape(line.name)}</span>' for line in lines
    )
    return (
        f'<figure class="dc-chart">{heading}<p class="keys">{keys}<span class="up">{escape(up)}'
        f'</span></p><svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        + "".join(parts)
        + "</svg></figure>"
    )


def _said(line: Line) -> str:
    """A line in words, for readers who do not see it."""
    points = ", ".join(f"{level:g}: {share:.0%}" for level, share in line.points)
    return f"{line.name} {points}"


def _grid(y: Callable[[float], float]) -> str:
    rows = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        rows.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" '
            f'y2="{y(share):.1f}"/>'
        )
        rows.append(
            f'<text x="{LEFT - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        )
    return "".join(rows)


def _levels(
    levels: Sequence[float], x: Callable[[float], float], names: Mapping[float, str]
) -> str:
    step = 1 if len(levels) <= MANY else 2
    return "".join(
        f'<text x="{x(level):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
        f"{escape(names.get(level, f'{level:g}'))}</text>"
        for level in levels[::step]
    )
