"""Correction priorities: which filters give most accuracy back when they are corrected."""

from deepcorrect.ranking._ideal import BETAS, IdealCorrection, ideal_correction
from deepcorrect.ranking._methods import METHODS, Method
from deepcorrect.ranking._rank import rank
from deepcorrect.ranking._ranking import Ranking, count_for, load_ranking

__all__ = [
    "BETAS",
    "METHODS",
    "IdealCorrection",
    "Method",
    "Ranking",
    "count_for",
    "ideal_correction",
    "load_ranking",
    "rank",
]
