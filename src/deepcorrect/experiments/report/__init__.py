"""The report of a run: one HTML file with its figures, tables and examples inside."""

from deepcorrect.experiments.report._analysis_figures import (
    Plane,
    beta_figure,
    features_figure,
    ideal_against_learned_figure,
    learning_figure,
    maps_figure,
    write_png,
)
from deepcorrect.experiments.report._figures import accuracy_figure
from deepcorrect.experiments.report._heatmap import ranking_figure, write_ranking_figure
from deepcorrect.experiments.report._numbers import (
    AccuracyRow,
    accuracy_table,
    distortion_name,
    headline,
)
from deepcorrect.experiments.report._page import page
from deepcorrect.experiments.report._read import read_results, read_run
from deepcorrect.experiments.report._write import REPORT_FILE, write_report

__all__ = [
    "REPORT_FILE",
    "AccuracyRow",
    "Plane",
    "accuracy_figure",
    "accuracy_table",
    "beta_figure",
    "distortion_name",
    "features_figure",
    "headline",
    "ideal_against_learned_figure",
    "learning_figure",
    "maps_figure",
    "page",
    "ranking_figure",
    "read_results",
    "read_run",
    "write_png",
    "write_ranking_figure",
    "write_report",
]
