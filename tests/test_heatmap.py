"""A ranking as a picture: its panels hold the priorities, in ranking order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from deepcorrect.distortions import LevelledDistortion
from deepcorrect.experiments.report import ranking_figure, write_ranking_figure
from deepcorrect.ranking import Ranking

GRIDS = (LevelledDistortion("gaussian_blur", (1, 2)), LevelledDistortion("awgn", (10, 20.5, 40)))


def ranking_of(filters: dict[str, int], change: Any = lambda values: values) -> Ranking:
    drawing = torch.Generator().manual_seed(0)
    by_level = {
        site: change(torch.randn(5, count, generator=drawing, dtype=torch.float64))
        for site, count in filters.items()
    }
    return Ranking(by_level, "path", GRIDS, 1234, 1.0)


def panels_of(ranking: Ranking) -> list[tuple[Axes, np.ndarray]]:
    panels = ranking_figure(ranking).axes
    return [(panel, np.asarray(panel.images[0].get_array())) for panel in panels]


def test_each_site_has_a_panel_with_a_row_a_level_and_a_column_a_filter() -> None:
    ranking = ranking_of({"a": 6, "b.c": 3, "d": 1})
    panels = panels_of(ranking)
    assert len(panels) == 3
    for (panel, shown), (site, values) in zip(panels, ranking.by_level.items(), strict=True):
        assert panel.get_title(loc="left").split()[0] == site
        order = np.argsort(-values.numpy().mean(0), kind="stable")
        assert np.allclose(shown, values.numpy()[:, order])
        assert bool((np.diff(shown.mean(0)) <= 1e-12).all())


def test_levels_and_filters_are_named() -> None:
    ranking = ranking_of({"a": 6})
    [(panel, _)] = panels_of(ranking)
    rows = [label.get_text() for label in panel.get_yticklabels()]
    assert len(rows) == 5
    assert [row.split()[-1] for row in rows] == ["1", "2", "10", "20.5", "40"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "6"]
    title = ranking_figure(ranking).get_suptitle()
    assert "path" in title
    assert "1,234 images" in title


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values,
        torch.zeros_like,
        torch.ones_like,
        lambda values: values.abs() + 1,
        lambda values: -values.abs() - 1,
        lambda values: -torch.ones_like(values),
        lambda values: values * 1e-9,
        lambda values: torch.where(values > values.max() - 1e-9, 1.0, -1e-12),
    ],
    ids=["both", "zeros", "ones", "gains", "losses", "one loss", "tiny", "one gain"],
)
@pytest.mark.parametrize("filters", [1, 40])
def test_any_priorities_can_be_drawn(tmp_path: Path, change: Any, filters: int) -> None:
    ranking = ranking_of({"a": filters, "b": 2}, change)
    path = write_ranking_figure(ranking, tmp_path / "ranking.png")
    assert path == tmp_path / "ranking.png"
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 100
    assert list(tmp_path.iterdir()) == [path]


def test_gains_and_losses_have_zero_in_the_middle() -> None:
    """Of the two-sided colours, so that a filter that harms never looks like one that helps."""
    for _, values in panels_of(ranking_of({"a": 8, "b": 5})):
        assert values.min() < 0 < values.max()
    for panel in ranking_figure(ranking_of({"a": 8, "b": 5})).axes:
        shades = np.asarray(panel.images[0].norm(np.array([-0.5, 0.0, 0.5])))
        assert shades[0] < shades[1] == 0.5 < shades[2]


def test_many_sites_have_a_panel_each() -> None:
    sites = {f"layer{number}.conv": 1 + number % 7 for number in range(30)}
    figure = ranking_figure(ranking_of(sites))
    assert [panel.get_title(loc="left").split()[0] for panel in figure.axes] == list(sites)
    boxes = [panel.get_subplotspec() for panel in figure.axes]
    assert len({(box.rowspan.start, box.colspan.start) for box in boxes if box}) == 30
