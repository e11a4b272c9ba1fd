"""Correction priorities: which filters give most accuracy back when they are corrected."""

from deepcorrect.ranking._agreement import Agreement, compare
from deepcorrect.ranking._clean_distorted import (
    TARGETS,
    LevelSums,
    Pair,
    Step,
    for_each_pair,
)
from deepcorrect.ranking._description import NetworkSize, Target
from deepcorrect.ranking._ideal_correction import (
    BETAS,
    IdealCorrection,
    Lead,
    ideal_correction,
    lead,
)
from deepcorrect.ranking._map_similarity import psnr, ssim
from deepcorrect.ranking._priorities import METHODS, Method
from deepcorrect.ranking._rank import DEFAULT_METHOD, rank
from deepcorrect.ranking._ranking import LEVELS_FILE as RANKING_FILE
from deepcorrect.ranking._ranking import Ranking, count_for, load_ranking

__all__ = [
    "BETAS",
    "DEFAULT_METHOD",
    "METHODS",
    "RANKING_FILE",
    "TARGETS",
    "Agreement",
    "IdealCorrection",
    "Lead",
    "LevelSums",
    "Method",
    "NetworkSize",
    "Pair",
    "Ranking",
    "Step",
    "Target",
    "compare",
    "count_for",
    "for_each_pair",
    "ideal_correction",
    "lead",
    "load_ranking",
    "psnr",
    "rank",
    "ssim",
]
