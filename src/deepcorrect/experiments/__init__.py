"""One experiment: its recipe, its data, the run, and the analyses of a finished run."""

from deepcorrect.experiments._analyse import ANALYSIS_FILE, analyse
from deepcorrect.experiments._choices import Choices
from deepcorrect.experiments._correct import DEFAULT_DISTORTIONS, correct
from deepcorrect.experiments._finished_run import FinishedRun, open_run
from deepcorrect.experiments._recipe import load_recipe, load_summary, shipped
from deepcorrect.experiments._run import run
from deepcorrect.experiments._systems import SECTIONS, summary

__all__ = [
    "ANALYSIS_FILE",
    "DEFAULT_DISTORTIONS",
    "SECTIONS",
    "Choices",
    "FinishedRun",
    "analyse",
    "correct",
    "load_recipe",
    "load_summary",
    "open_run",
    "run",
    "shipped",
    "summary",
]
