"""Figures: pure functions from numbers to matplotlib figures, and from those to inline SVG.

Only matplotlib's objects are used, never pyplot. Settings that matplotlib reads from its global
dictionary are set inside `rc_context` and put back.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from deepcorrect.experiments.report._numbers import (
    SPACE,
    AccuracyRow,
    accuracy_table,
    distortion_name,
    level_unit,
    mean,
    system_name,
)

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
WIDE, SMALL = (5.2, 3.5), (2.5, 1.9)  # inches of 72 units


@dataclass(frozen=True)
class Look:
    """How one line is told from the others: colour, marker and dashes."""

    color: str
    marker: str
    dashes: str = "-"

    def line(self, **changes: Any) -> dict[str, Any]:
        """As keywords of matplotlib's `plot`."""
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


# Okabe and Ito's palette for systems, Tol's muted one for distortions: both safe for colour-blind
# readers, and told apart by markers as well.
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
    """A look for each system; the usual three always have the same."""
    others = [name for name in names if name not in KNOWN_SYSTEMS]
    looks = {name: OTHER_SYSTEMS[i % len(OTHER_SYSTEMS)] for i, name in enumerate(others)}
    return {name: KNOWN_SYSTEMS.get(name) or looks[name] for name in names}


def distortion_looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each distortion."""
    return {name: DISTORTIONS[i % len(DISTORTIONS)] for i, name in enumerate(names)}


def accuracy_figure(results: dict[str, Any]) -> Figure:
    """Top-1 accuracy against level: a panel a distortion, a line a system.

    Args:
        results: the content of `results.json`. The clean accuracy stands at level 0.
    """
    rows = accuracy_table(results)
    names = list(dict.fromkeys(row.distortion for row in rows))
    looks = system_looks(results["systems"])
    columns = min(3, max(1, len(names)))
    lines = max(1, math.ceil(len(names) / columns))
    with rc_context(SETTINGS):
        figure = Figure(figsize=(4.4 * columns, 3.5 * lines + 0.4), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
        for place, (panel, name) in enumerate(zip(panels, names, strict=False)):
            _accuracy_lines(panel, [row for row in rows if row.distortion == name], looks)
            panel.set_title(distortion_name(name), loc="left", fontweight="bold", fontsize=12)
            if place % columns:
                panel.set_ylabel("")
        for panel in panels[len(names) :]:
            panel.remove()
        handles = [Line2D([], [], **look.line()) for look in looks.values()]
        figure.legend(
            handles,
            [system_name(name).lstrip("_") or name for name in looks],
            loc="outside upper left",
            ncols=min(3 * columns, len(looks)),
            frameon=False,
        )
        return figure


def accuracy_panel(rows: Sequence[AccuracyRow], looks: Mapping[str, Look]) -> Figure:
    """One distortion's panel of `accuracy_figure`, for the page."""
    figure, panel = _panel(WIDE)
    with rc_context(SETTINGS):
        _accuracy_lines(panel, rows, looks)
    return figure


def _accuracy_lines(panel: Axes, rows: Sequence[AccuracyRow], looks: Mapping[str, Look]) -> None:
    for row in rows:
        curve = sorted(zip((0.0, *row.levels), (row.clean, *row.top1), strict=True))
        levels, top1 = zip(*curve, strict=True)
        front = 3 if row.system == "deepcorrect" else 2
        panel.plot(levels, top1, zorder=front, clip_on=False, **looks[row.system].line())
    levels = sorted({0.0}.union(*(row.levels for row in rows)))
    if len(levels) <= 8:
        panel.set_xticks(levels, ["clean" if not v else f"{v:g}" for v in levels])
    panel.set_xlim(0, max(levels) or 1)
    panel.set_ylim(0, 1)
    panel.yaxis.set_major_formatter(percents())
    panel.grid(axis="x", visible=False)
    panel.set_xlabel(level_unit(rows[0].distortion) if rows else "level")
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
    figure, panel = _panel(SMALL)
    with rc_context(SETTINGS):
        for name, rows in ideal["top1"][site].items():
            line = looks[name].line(linewidth=1.7, markersize=5, markeredgewidth=0)
            panel.plot(ideal["betas"], level_mean(rows), **line)
            before = mean(ideal["distorted_top1"][name])
            panel.axhline(before, color=looks[name].color, linestyle="--", linewidth=1)
        panel.set_xlim(0, 1)
        panel.set_ylim(*limits)
        panel.set_xticks([0, 0.5, 1], [_in_percent(share) for share in (0, 0.5, 1)])
        panel.set_xlabel("beta")
        panel.yaxis.set_major_locator(MaxNLocator(4))
        panel.yaxis.set_major_formatter(percents())
    return figure


def level_mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """Accuracies (levels, betas) averaged over the levels."""
    return [mean(column) for column in zip(*rows, strict=True)]


def priority_panel(
    priorities: Sequence[float], order: Sequence[int], corrected: Iterable[int]
) -> Figure:
    """A site's filters as bars, highest priority first, the corrected ones coloured."""
    figure, panel = _panel(SMALL)
    chosen = set(corrected)
    gap = 0.12 if len(order) <= 64 else 0.0
    starts = np.arange(len(order))
    edges = np.append(np.stack([starts + gap, starts + 1 - gap], 1).flatten(), len(order))
    with rc_context(SETTINGS):
        for color, wanted in ((CORRECTED, True), (UNTOUCHED, False)):
            heights = np.array([priorities[i] if (i in chosen) == wanted else 0.0 for i in order])
            bars = np.stack([heights, np.zeros_like(heights)], 1).flatten()  # a gap behind each
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
    """One quantity of the training by epoch, a line a system; a ring marks the epoch kept."""
    figure, panel = _panel(WIDE)
    with rc_context(SETTINGS):
        for name, curve in curves.items():
            epochs, values = zip(*curve, strict=True)
            panel.plot(epochs, values, **looks[name].line(markersize=5, markeredgewidth=0))
            for epoch, value in curve:
                if epoch == best[name]:
                    ring = looks[name].line(marker="o", markersize=12, markeredgewidth=1.8)
                    ring |= {"markerfacecolor": "none", "markeredgecolor": looks[name].color}
                    panel.plot([epoch], [value], **ring)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if share:
            panel.yaxis.set_major_formatter(percents())
        panel.set_xlabel("epoch")
        panel.set_ylabel(label)
    return figure


def swatch(look: Look) -> Figure:
    """A piece of a line, for legends in HTML."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(0.5, 0.2))
        panel = figure.add_axes((0, 0, 1, 1))
        panel.plot([0.05, 0.5, 0.95], [0.5] * 3, **look.line(markevery=[1]))
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.axis("off")
        return figure


def svg(figure: Figure, prefix: str, label: str) -> str:
    """A figure as inline SVG whose ids begin with `prefix`, as wide as the place it stands in.

    Several figures share a page's ids, and matplotlib names its parts alike in each.

    Args:
        figure: drawn by this module.
        prefix: unique on the page.
        label: what the figure shows, for readers who do not see it; empty for an ornament.
    """
    buffer = io.StringIO()
    nowhere = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context(SETTINGS):
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
    return head + re.sub(r">\s*\n\s*<", "><", body).strip()


def strip_image(priorities: Sequence[float], corrected: Sequence[bool], largest: float) -> str:
    """A site's filters as one row of colours, as a PNG data URL, a pixel a filter.

    The lower quarter says which are corrected. Colours run over the signed square root, so that
    small priorities are told from none.

    Args:
        priorities: in the order to show.
        corrected: whether each filter is.
        largest: the absolute priority of the darkest colour.
    """
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
    with rc_context(SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.add_subplot()


def percents() -> FuncFormatter:
    """Shares on an axis, written as percent."""
    return FuncFormatter(lambda value, _: _in_percent(value))


def _in_percent(share: float) -> str:
    return f"{100 * share:g}{SPACE}%"
