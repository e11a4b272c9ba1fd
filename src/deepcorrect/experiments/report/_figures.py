"""Figures of a run: pure functions from numbers to matplotlib figures, and to inline SVG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from deepcorrect.experiments.report import _drawing as draw
from deepcorrect.experiments.report._looks import CORRECTED, MUTED, UNTOUCHED, Look, system_looks
from deepcorrect.experiments.report._numbers import (
    AccuracyRow,
    accuracy_table,
    distortion_name,
    mean,
    system_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, SMALL = (5.2, 3.5), (2.5, 1.9)  # inches of 72 units


def accuracy_figure(results: dict[str, Any]) -> Figure:
    """Top-1 accuracy against level, with a panel for each distortion and a line for each system.

    Args:
        results: the content of `results.json`. The clean accuracy is shown at level 0.

    Example:
        >>> from deepcorrect.experiments.report import accuracy_figure
        >>> curve = {"levels": [5], "top1": [0.6], "clean_top1": 0.9, "mean_top1": 0.75}
        >>> figure = accuracy_figure({"systems": {"baseline": {"distortions": {"awgn": curve}}}})
        >>> figure.axes[0].get_title("left")
        'Gaussian noise'
    """
    rows = accuracy_table(results)
    names = list(dict.fromkeys(row.distortion for row in rows))
    looks = system_looks(results["systems"])
    with draw.settings():
        figure, drawn = draw.panels(len(names))
        for place, (panel, name) in enumerate(zip(drawn, names, strict=True)):
            _accuracy_lines(panel, [row for row in rows if row.distortion == name], looks)
            draw.title(panel, distortion_name(name))
            if place % draw.COLUMNS:
                panel.set_ylabel("")
        lines, labels = draw.legend_lines((system_name(name), look) for name, look in looks.items())
        columns = min(3 * min(draw.COLUMNS, max(1, len(names))), len(looks))
        figure.legend(lines, labels, loc="outside upper left", ncols=columns, frameon=False)
        return figure


def accuracy_panel(rows: Sequence[AccuracyRow], looks: Mapping[str, Look]) -> Figure:
    """One distortion's panel of `accuracy_figure`, for the page."""
    figure, panel = _panel(WIDE)
    with draw.settings():
        _accuracy_lines(panel, rows, looks)
    return figure


def _accuracy_lines(panel: Axes, rows: Sequence[AccuracyRow], looks: Mapping[str, Look]) -> None:
    for row in rows:
        curve = sorted(zip((0.0, *row.levels), (row.clean, *row.top1), strict=True))
        levels, top1 = zip(*curve, strict=True)
        front = 3 if row.system == "deepcorrect" else 2
        panel.plot(levels, top1, zorder=front, clip_on=False, **looks[row.system].line())
    draw.level_axis(
        panel,
        rows[0].distortion if rows else None,
        {0.0}.union(*(row.levels for row in rows)),
    )
    panel.set_ylim(0, 1)
    panel.set_ylabel("top-1 accuracy")


def ideal_limits(ideal: dict[str, Any]) -> tuple[float, float]:
    """The range of accuracies that the panels of all sites share."""
    seen = [mean(values) for values in ideal["distorted_top1"].values()]
    for curves in ideal["top1"].values():
        seen += [value for rows in curves.values() for value in level_mean(rows)]
    margin = 0.06 * max(max(seen) - min(seen), 0.05)
    return min(seen) - margin, max(seen) + margin


def ideal_panel(
    ideal: dict[str, Any], site: str, looks: Mapping[str, Look], limits: tuple[float, float]
) -> Figure:
    """A site's ideal-correction curves: accuracy, averaged over levels, against beta.

    The dashed lines are the distorted baseline's accuracy.
    """
    from matplotlib.ticker import MaxNLocator

    figure, panel = _panel(SMALL)
    with draw.settings():
        for name, rows in ideal["top1"][site].items():
            line = looks[name].line(linewidth=1.7, markersize=5, markeredgewidth=0)
            panel.plot(ideal["betas"], level_mean(rows), **line)
            before = mean(ideal["distorted_top1"][name])
            panel.axhline(before, color=looks[name].color, linestyle="--", linewidth=1)
        panel.set_xlim(0, 1)
        panel.set_ylim(*limits)
        panel.set_xticks([0, 0.5, 1], [draw.in_percent(share) for share in (0, 0.5, 1)])
        panel.set_xlabel("beta")
        panel.yaxis.set_major_locator(MaxNLocator(4))
        panel.yaxis.set_major_formatter(draw.percents())
    return figure


def level_mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """Accuracies, levels x betas, averaged over the levels."""
    return [mean(column) for column in zip(*rows, strict=True)]


def priority_panel(
    priorities: Sequence[float], order: Sequence[int], corrected: Iterable[int]
) -> Figure:
    """A site's filters as bars, highest priority first, with the corrected filters coloured."""
    from matplotlib.ticker import MaxNLocator

    figure, panel = _panel(SMALL)
    chosen = set(corrected)
    gap = 0.12 if len(order) <= 64 else 0.0
    starts = np.arange(len(order))
    edges = np.append(np.stack([starts + gap, starts + 1 - gap], 1).flatten(), len(order))
    with draw.settings():
        for color, wanted in ((CORRECTED, True), (UNTOUCHED, False)):
            heights = np.array([priorities[i] if (i in chosen) == wanted else 0.0 for i in order])
            bars = np.stack([heights, np.zeros_like(heights)], 1).flatten()  # a gap after each bar
            panel.stairs(bars, edges, fill=True, color=color, linewidth=0)
        panel.axhline(0, color=MUTED, linewidth=0.8)
        panel.set_xlim(0, len(order))
        panel.set_xticks([])
        panel.grid(axis="x", visible=False)
        panel.yaxis.set_major_locator(MaxNLocator(4))
    return figure


def history_panel(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    best: Mapping[str, int],
    looks: Mapping[str, Look],
    label: str,
    *,
    share: bool,
) -> Figure:
    """One quantity of the training by epoch, one line per system; a ring marks the kept epoch."""
    from matplotlib.ticker import MaxNLocator

    figure, panel = _panel(WIDE)
    with draw.settings():
        for name, curve in curves.items():
            epochs, values = zip(*curve, strict=True)
            panel.plot(epochs, values, **looks[name].line(markersize=5, markeredgewidth=0))
            for epoch, value in curve:
                if epoch == best[name]:
                    panel.plot([epoch], [value], **looks[name].ring())
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if share:
            panel.yaxis.set_major_formatter(draw.percents())
        panel.set_xlabel("epoch")
        panel.set_ylabel(label)
    return figure


def swatch(look: Look) -> Figure:
    """A short piece of a line, for legends in HTML."""
    from matplotlib.figure import Figure

    with draw.settings():
        figure = Figure(figsize=(0.5, 0.2))
        panel = figure.add_axes((0, 0, 1, 1))
        panel.plot([0.05, 0.5, 0.95], [0.5] * 3, **look.line(markevery=[1]))
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.axis("off")
        return figure


def svg(figure: Figure, prefix: str, label: str) -> Markup:
    """A figure as inline SVG whose ids begin with `prefix`. It fills the width of its container.

    matplotlib uses the same ids in each figure, but ids must be unique on a page.

    Args:
        figure: a figure from this module.
        prefix: a prefix that is unique on the page.
        label: what the figure shows, for readers who do not see it; empty for an ornament.
    """
    buffer = io.StringIO()
    nowhere = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with draw.settings():
        figure.savefig(buffer, format="svg", transparent=True, metadata=nowhere)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", text)
    box = re.search(r'viewBox="([^"]*)"', text)
    role = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    head = f'<svg {role} viewBox="{box[1] if box else ""}">'
    body = text[text.index(">") + 1 :]
    return Markup(head + re.sub(r">\s*\n\s*<", "><", body).strip())


def strip_image(priorities: Sequence[float], corrected: Sequence[bool], largest: float) -> str:
    """A site's filters as one row of colours, one pixel per filter, as a PNG data URL.

    The lower quarter marks the corrected filters. The colour is that of the signed square root, so
    that small priorities differ visibly from zero.

    Args:
        priorities: the priorities, in the order to show.
        corrected: whether each filter is corrected.
        largest: the absolute priority of the darkest colour.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    values = np.asarray(priorities, dtype=float) / (largest or 1.0)
    shades = 0.5 + 0.5 * np.sign(values) * np.sqrt(np.abs(values)).clip(0, 1)
    colors = colormaps["PuOr_r"](shades)[:, :3]
    blue = np.array(to_rgb(CORRECTED))
    marks = np.where(np.asarray(corrected)[:, None], blue, 1.0)
    pixels = np.stack([colors, colors, colors, marks])
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _panel(size: tuple[float, float]) -> tuple[Figure, Axes]:
    with draw.settings():
        figure = draw.new_figure(*size)
        return figure, figure.add_subplot()
