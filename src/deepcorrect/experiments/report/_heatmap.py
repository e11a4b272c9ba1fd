"""A ranking as a picture: every filter's priority at every level, one panel per site."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from deepcorrect.experiments.report import _drawing as draw
from deepcorrect.experiments.report._numbers import distortion_name
from deepcorrect.ranking import Ranking
from deepcorrect.runtime import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, PANEL = 4, (3.1, 1.75)  # inches


def ranking_figure(ranking: Ranking) -> Figure:
    """Heat maps of a ranking: levels as rows, filters as columns, highest mean priority first.

    Each site has its own scale, stated in its title, because filters are ranked within a site.
    Orange marks filters whose correction helps, purple those whose correction harms.
    """
    names = ranking.sites
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    labels = [
        f"{distortion_name(kind.name)} {level:g}"
        for kind in ranking.distortions
        for level in kind.levels
    ]
    height = max(PANEL[1], 0.35 + 0.115 * len(labels))
    with draw.settings(**{"font.size": 8, "axes.grid": False}):
        figure = draw.new_figure(PANEL[0] * columns + 0.9, height * rows + 0.5)
        for place, site in enumerate(names):
            panel = figure.add_subplot(rows, columns, place + 1)
            values = ranking.by_level[site][:, ranking.order(site)]
            panel.imshow(values.numpy(), aspect="auto", interpolation="nearest", **_colors(values))
            panel.set_title(f"{site}  {_range(values)}", fontsize=8, loc="left")
            panel.set_yticks(range(len(labels)), labels if place % columns == 0 else [])
            panel.tick_params(length=0, labelsize=6)
            panel.set_xticks([0, values.shape[1] - 1], ["1", str(values.shape[1])])
        figure.suptitle(
            f"Correction priority ({ranking.method}, {ranking.images:,} images): levels down, "
            "filters across, highest first",
            fontsize=9,
        )
    return figure


def write_ranking_figure(ranking: Ranking, path: Path) -> Path:
    """Writes `ranking_figure` as a PNG, whole or not at all."""
    figure = ranking_figure(ranking)
    files.write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
    return path


def _colors(values: Tensor) -> dict[str, Any]:
    """Colours of a site: diverging if its priorities have both signs, sequential otherwise."""
    from matplotlib.colors import PowerNorm, TwoSlopeNorm

    low, high = float(values.min()), float(values.max())
    if low < 0 < high:
        largest = float(np.quantile(values.abs(), 0.99)) or max(-low, high)
        return {"cmap": "PuOr_r", "norm": TwoSlopeNorm(0.0, -largest, largest)}
    return {"cmap": "Oranges", "norm": PowerNorm(0.7, low, high if high > low else low + 1)}


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.2g} to {float(values.max()):.2g}"
