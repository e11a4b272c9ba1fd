"""How the report draws: colours, markers, and the parts that several figures share.

matplotlib is imported where it is used, because that takes half a second. Only its objects are
used, never pyplot; the settings that it reads from its global dictionary hold inside `drawing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepcorrect.experiments.report._numbers import SPACE, level_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

INK, MUTED, RULE = "#1c2024", "#5b6570", "#d9dee3"
CORRECTED, UNTOUCHED = "#0072b2", "#b9c1c9"
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,  # names may hold dollar signs
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "deepcorrect",
}
COLUMNS = 3
MANY_TICKS = 8  # with more levels than this, matplotlib chooses the ticks


@dataclass(frozen=True)
class Look:
    """What distinguishes one line from the others: its colour, marker and dashes."""

    color: str
    marker: str
    dashes: str = "-"

    def line(self, **changes: Any) -> dict[str, Any]:
        """The look as keywords of matplotlib's `plot`."""
        values = {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dashes,
            "linewidth": 2,
            "markersize": 6.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        return values | changes

    def ring(self) -> dict[str, Any]:
        """A ring around one point of the line, as keywords of `plot`."""
        ring = self.line(marker="o", markersize=12, markeredgewidth=1.8)
        return ring | {"markerfacecolor": "none", "markeredgecolor": self.color}


# Okabe and Ito's palette for systems and Tol's muted one for distortions. Both are safe for
# colour-blind readers, and the markers differ as well.
KNOWN_SYSTEMS = {
    "baseline": Look("#4d4d4d", "s", "--"),
    "finetuned": Look("#d55e00", "^"),
    "deepcorrect": Look("#0072b2", "o"),
}
OTHER_SYSTEMS = (
    Look("#009e73", "D"),
    Look("#cc79a7", "v"),
    Look("#e69f00", "P"),
    Look("#56b4e9", "X"),
)
DISTORTIONS = (
    Look("#332288", "o"),
    Look("#cc6677", "^"),
    Look("#117733", "s"),
    Look("#88ccee", "D"),
    Look("#999933", "v"),
    Look("#882255", "P"),
    Look("#44aa99", "X"),
)


def system_looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each system; the three usual systems always look the same."""
    others = [name for name in names if name not in KNOWN_SYSTEMS]
    looks = {name: OTHER_SYSTEMS[i % len(OTHER_SYSTEMS)] for i, name in enumerate(others)}
    return {name: KNOWN_SYSTEMS.get(name) or looks[name] for name in names}


def distortion_looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each distortion."""
    return {name: DISTORTIONS[i % len(DISTORTIONS)] for i, name in enumerate(names)}


@contextmanager
def drawing(**changes: Any) -> Iterator[None]:
    """Applies the report's settings of matplotlib while the block runs."""
    from matplotlib import rc_context

    settings: dict[Any, Any] = {**SETTINGS, **changes}
    with rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, whose parts lay themselves out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of three that share their vertical axis."""
    columns = min(COLUMNS, max(1, count))
    rows = max(1, -(-count // columns))
    figure = new_figure(4.4 * columns, 3.5 * rows + 0.4)
    drawn = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flatten())
    for panel in drawn[count:]:
        panel.remove()
    return figure, drawn[:count]


def title(panel: Axes, text: str) -> None:
    """Writes a panel's title."""
    panel.set_title(text, loc="left", fontweight="bold", fontsize=12)


def level_axis(panel: Axes, distortion: str | None, levels: Iterable[float]) -> None:
    """Puts the levels on the horizontal axis, clean images at 0, and shares on the vertical one."""
    ticks = sorted(set(levels))
    if len(ticks) <= MANY_TICKS:
        panel.set_xticks(ticks, ["clean" if not v else f"{v:g}" for v in ticks])
    panel.set_xlim(0, max(ticks) or 1)
    panel.grid(axis="x", visible=False)
    panel.set_xlabel("level" if distortion is None else level_unit(distortion))
    panel.yaxis.set_major_formatter(percents())


def legend_lines(entries: Iterable[tuple[str, Look]]) -> tuple[list[Line2D], list[str]]:
    """The lines and names of a legend. matplotlib would leave out names that begin with `_`."""
    from matplotlib.lines import Line2D

    names, looks = zip(*entries, strict=True)
    return (
        [Line2D([], [], **look.line()) for look in looks],
        [name.lstrip("_") or name for name in names],
    )


def percents() -> FuncFormatter:
    """Writes the shares on an axis as percent."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: in_percent(value))


def in_percent(share: float) -> str:
    """A share as percent, with no more digits than it has."""
    return f"{100 * share:g}{SPACE}%"
