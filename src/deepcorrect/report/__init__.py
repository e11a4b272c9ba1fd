"""The report of a run: one HTML file with its figures, tables and examples inside."""

from __future__ import annotations

from pathlib import Path

from deepcorrect import files
from deepcorrect.report._analysis_figures import (
    Plane,
    beta_figure,
    features_figure,
    learning_figure,
    maps_figure,
    write_png,
    yardstick_figure,
)
from deepcorrect.report._figures import accuracy_figure
from deepcorrect.report._heatmap import ranking_figure, write_ranking_figure
from deepcorrect.report._numbers import AccuracyRow, accuracy_table, headline
from deepcorrect.report._page import page
from deepcorrect.report._read import read_run

REPORT_FILE = "report.html"


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` from the files of a run's folder.

    The page is one file: it loads nothing from the network and runs no script.

    Args:
        folder: a run's folder.

    Returns:
        The path of the report.

    Raises:
        InputError: a file that the report needs is missing or is not what a run writes.
    """
    folder = Path(folder)
    path = folder / REPORT_FILE
    files.write_text(path, page(read_run(folder)))
    return path


__all__ = [
    "REPORT_FILE",
    "AccuracyRow",
    "Plane",
    "accuracy_figure",
    "accuracy_table",
    "beta_figure",
    "features_figure",
    "headline",
    "learning_figure",
    "maps_figure",
    "ranking_figure",
    "write_png",
    "write_ranking_figure",
    "write_report",
    "yardstick_figure",
]
