"""The parts that several figures share.

matplotlib is imported where it is used, because that takes half a second. Only its objects are
used, never pyplot; the settings that it reads from its global dictionary hold inside `settings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepcorrect.experiments.report._looks import SETTINGS, Look
from deepcorrect.experiments.report._numbers import SPACE, level_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

COLUMNS = 3
MANY_TICKS = 8  # with more levels than this, matplotlib chooses the ticks


@contextmanager
def settings(**changes: Any) -> Iterator[None]:
    """Applies the report's settings of matplotlib while the block runs."""
    from matplotlib import rc_context

    chosen: dict[Any, Any] = {**SETTINGS, **changes}
    with rc_context(chosen):
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
