"""Figures of the analyses: pure functions from what `analysis` measures to matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from deepcorrect.analysis import (
    BetaPoint,
    IdealAgainstLearned,
    LearningCurve,
    MapQuality,
    Neighbours,
)
from deepcorrect.experiments.report import _drawing as draw
from deepcorrect.experiments.report._looks import (
    INK,
    KNOWN_SYSTEMS,
    MUTED,
    RULE,
    Look,
    distortion_looks,
    system_looks,
)
from deepcorrect.experiments.report._numbers import (
    compact,
    distortion_name,
    percent,
    system_name,
)
from deepcorrect.runtime import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER = KNOWN_SYSTEMS["baseline"], KNOWN_SYSTEMS["deepcorrect"]
IDEAL = Look("#009e73", "D", ":")
MEASURE_NAMES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
SITE_LABELS = 24  # more names than this do not fit under a panel
DPI = 150


@dataclass(frozen=True)
class Plane:
    """Features of one distortion in a plane.

    Attributes:
        level: the level of the distortion.
        labels: the images' classes, of shape (N,).
        points: the features of the clean images, of the distorted images in the untouched network,
            and of the distorted images in the corrected network, each N x 2.
    """

    level: float
    labels: Tensor
    points: tuple[Tensor, Tensor, Tensor]


def write_png(figure: Figure, path: Path) -> Path:
    """Writes a figure as a PNG, whole or not at all."""
    with draw.settings():
        files.write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))
    return path


def maps_figure(maps: MapQuality, system: str) -> Figure:
    """PSNR and SSIM of the corrected filters before and after, by site, one row per distortion.

    Each filter is averaged over images and levels. A mark is the median over a site's filters, a
    thick line spans the middle half of them, and a thin line the middle nine tenths.
    """
    sites = list(maps.values["psnr"])
    rows, width = len(maps.distortions), max(4.6, 0.36 * min(len(sites), 40) + 1.2)
    with draw.settings():
        figure = draw.new_figure(2 * width, 2.9 * rows + 0.5)
        grid = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey="col")
        for line, kind in zip(grid, maps.distortions, strict=True):
            for panel, (measure, label) in zip(line, MEASURE_NAMES.items(), strict=True):
                for place, site in enumerate(sites):
                    values = maps.of(measure, kind.name, site).numpy()
                    for filters, look, shift in (
                        (values[0], BEFORE, -0.17),
                        (values[1], AFTER, 0.17),
                    ):
                        _spread(panel, place + shift, filters, look)
                panel.set_ylabel(label)
                panel.grid(axis="x", visible=False)
                panel.set_xlim(-0.6, len(sites) - 0.4)
            draw.title(line[0], distortion_name(kind.name))
        every = -(-len(sites) // SITE_LABELS)
        for panel in grid[-1]:
            panel.set_xticks(range(0, len(sites), every), sites[::every])
            panel.tick_params(axis="x", labelrotation=40 if len(sites) > 3 else 0, labelsize=9)
            for label in panel.get_xticklabels():
                label.set_horizontalalignment("right" if len(sites) > 3 else "center")
                label.set_rotation_mode("anchor")
        _legend(figure, {"before correction": BEFORE, f"after ({system_name(system)})": AFTER})
    return figure


def _spread(panel: Axes, place: float, filters: np.ndarray, look: Look) -> None:
    filters = filters[np.isfinite(filters)]
    if not len(filters):
        return
    low, first, middle, third, high = np.quantile(filters, [0.05, 0.25, 0.5, 0.75, 0.95])
    panel.plot([place] * 2, [low, high], color=look.color, linewidth=1, solid_capstyle="butt")
    panel.plot(
        [place] * 2, [first, third], color=look.color, linewidth=4, alpha=0.45, zorder=2.5,
        solid_capstyle="butt",
    )  # fmt: skip
    panel.plot([place], [middle], **look.line(linestyle="", zorder=3))


def ideal_against_learned_figure(against: IdealAgainstLearned, system: str) -> Figure:
    """Accuracy by level of the baseline, the units and the ideal correction, one panel per kind.

    The clean accuracy, which the baseline and the ideal correction share, is shown at level 0.
    """
    looks = {"baseline": BEFORE, "learned": AFTER, "ideal": IDEAL}
    clean = dict.fromkeys(looks, against.clean_top1) | {"learned": against.learned_clean_top1}
    with draw.settings():
        figure, drawn = draw.panels(len(against.distortions))
        for place, (panel, kind) in enumerate(zip(drawn, against.distortions, strict=True)):
            levels = (0.0, *kind.levels)
            for name, look in looks.items():
                top1 = (clean[name], *against.top1[kind.name][name])
                curve = sorted(zip(levels, top1, strict=True))
                panel.plot(*zip(*curve, strict=True), clip_on=False, **look.line())
            draw.level_axis(panel, kind.name, levels)
            draw.title(panel, distortion_name(kind.name))
            panel.set_ylabel("" if place % draw.COLUMNS else "top-1 accuracy")
            panel.set_ylim(0, 1)
        names = {"learned": f"learned ({system_name(system)})", "ideal": "ideal: clean outputs"}
        _legend(figure, {names.get(name, system_name(name)): look for name, look in looks.items()})
    return figure


def features_figure(
    near: Neighbours, planes: Mapping[str, Plane], subject: str, classes: Mapping[int, str]
) -> Figure:
    """t-SNE of features, and nearest-neighbour accuracy by level: one row per distortion.

    Args:
        near: the neighbours of the baseline, the subject and other systems.
        planes: the features in the plane, by distortion.
        subject: the corrected system of the planes.
        classes: the classes' names, by label.
    """
    looks = system_looks([*near.clean])
    rows = len(planes)
    with draw.settings():
        figure = draw.new_figure(14.4, 3.6 * rows + 0.5)
        grid = figure.subplots(rows, 4, squeeze=False, width_ratios=(1, 1, 1, 1.15))
        for line, (name, plane) in zip(grid, planes.items(), strict=True):
            kind = next(kind for kind in near.distortions if kind.name == name)
            levels = kind.levels
            place = levels.index(plane.level)
            shown = near.untouched[name]
            what = f"{distortion_name(name)} {plane.level:g}"
            titles = {
                "Clean": near.clean["baseline"],
                f"{what}, baseline": shown["baseline"][place],
                f"{what}, {system_name(subject)}": shown[subject][place],
            }
            _planes(line[:3], plane, titles, classes)
            for system, values in shown.items():
                curve = sorted(zip((0.0, *levels), (near.clean[system], *values), strict=True))
                front = 3 if system == subject else 2
                line[3].plot(
                    *zip(*curve, strict=True), clip_on=False, zorder=front, **looks[system].line()
                )
            draw.level_axis(line[3], name, (0.0, *levels))
            line[3].set_ylim(0, 1)
            line[3].set_ylabel("nearest clean feature of same class")
        _legend(figure, {system_name(name): look for name, look in looks.items()})
    return figure


def _planes(
    panels: Sequence[Axes], plane: Plane, titles: Mapping[str, float], classes: Mapping[int, str]
) -> None:
    """The clean images' features, and the distorted ones' over them in grey, in three panels.

    Args:
        panels: one for the clean images, one for each network.
        plane: the features.
        titles: each panel's title, with the share of images whose neighbour has their class.
        classes: the classes' names, by label.
    """
    from matplotlib import colormaps

    shades = colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]
    colors = {label: shades[i % len(shades)] for i, label in enumerate(classes)}
    clean = plane.points[0].numpy()
    for panel, points, (text, share) in zip(panels, plane.points, titles.items(), strict=True):
        if panel is not panels[0]:
            panel.scatter(*clean.T, s=7, color=RULE, linewidths=0, zorder=1)
        _points(panel, points.numpy(), plane.labels.tolist(), colors)
        panel.set_title(text, loc="left", fontsize=11, fontweight="bold")
        panel.set_xlabel(f"nearest of same class: {percent(share)}")
    _class_names(panels[0], clean, plane.labels, classes)


def _points(
    panel: Axes, points: np.ndarray, labels: Sequence[int], colors: Mapping[int, Any]
) -> None:
    shades = [colors[label] for label in labels]
    panel.scatter(*points.T, s=11, c=shades, linewidths=0, alpha=0.85, zorder=2)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(True)
    panel.spines[:].set_color(RULE)
    panel.margins(0.04)


def _class_names(
    panel: Axes, points: np.ndarray, labels: Tensor, classes: Mapping[int, str]
) -> None:
    from matplotlib.patheffects import withStroke

    for label, name in classes.items():
        own = points[(labels == label).numpy()]
        if len(own):
            x, y = np.median(own, 0).tolist()
            panel.annotate(
                name, (x, y), ha="center", va="center", fontsize=10, color=INK,
                fontweight="bold", path_effects=[withStroke(linewidth=2.5, foreground="white")],
                annotation_clip=True, zorder=4,
            )  # fmt: skip


def learning_figure(curves: Mapping[str, LearningCurve]) -> Figure:
    """Validation accuracy against training images seen, with a ring at each system's best epoch."""
    from matplotlib.ticker import FuncFormatter

    looks = system_looks([*curves])
    with draw.settings():
        figure = draw.new_figure(6.4, 4.2)
        panel = figure.add_subplot()
        for name, curve in curves.items():
            line = looks[name].line(markersize=5, markeredgewidth=0)
            front = 3 if name == "deepcorrect" else 2
            panel.plot(curve.images, curve.top1, zorder=front, **line)
            best = curve.images[curve.top1.index(curve.best)]
            panel.plot([best], [curve.best], zorder=front, **looks[name].ring())
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _compact(value)))
        panel.yaxis.set_major_formatter(draw.percents())
        panel.set_xlabel("training images seen")
        panel.set_ylabel("mean top-1 accuracy (validation)")
        _legend(figure, {system_name(name): looks[name] for name in curves})
    return figure


def beta_figure(points: Sequence[BetaPoint]) -> Figure:
    """Mean top-1 accuracy against beta, one line per distortion, and clean accuracy, dashed.

    Example:
        >>> from deepcorrect.analysis import BetaPoint
        >>> from deepcorrect.experiments.report import beta_figure
        >>> points = [BetaPoint(beta, "awgn", 0.5 + beta / 4, 0.9, 100, 0.1) for beta in (0, 0.5)]
        >>> beta_figure(points).axes[0].get_ylabel()
        'top-1 accuracy'
    """
    names = list(dict.fromkeys(point.distortion for point in points))
    looks = distortion_looks(names)
    clean = Look(MUTED, "s", "--")
    with draw.settings():
        figure = draw.new_figure(6.4, 4.2)
        panel = figure.add_subplot()
        for name in names:
            own = [point for point in points if point.distortion == name]
            betas = [point.beta for point in own]
            panel.plot(betas, [p.mean_top1 for p in own], clip_on=False, **looks[name].line())
        own = [point for point in points if point.distortion == names[0]]
        line = clean.line(linewidth=1.4, markersize=5)
        panel.plot([p.beta for p in own], [p.clean_top1 for p in own], clip_on=False, **line)
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(draw.percents())
        panel.yaxis.set_major_formatter(draw.percents())
        panel.set_xlabel("beta: corrected share of each site's filters")
        panel.set_ylabel("top-1 accuracy")
        keys = {f"mean, {distortion_name(name)}": look for name, look in looks.items()}
        _legend(figure, {**keys, "clean images": clean})
    return figure


def _legend(figure: Figure, looks: Mapping[str, Look]) -> None:
    handles, names = draw.legend_lines(looks.items())
    widest = 0.6 + 0.09 * max(map(len, names))  # inches
    columns = max(1, int(figure.get_figwidth() // max(2, widest)))
    more_rows = -(-len(names) // columns) - 1
    figure.set_figheight(figure.get_figheight() + 0.24 * more_rows)
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)


def _compact(number: float) -> str:
    return compact(number).replace(".00", "") if number else "0"
