"""The paper's analyses: filters' maps, features, ideal against learned correction, curves."""

from deepcorrect.analysis._curves import BetaPoint, LearningCurve, beta_points, learning_curves
from deepcorrect.analysis._feature_space import (
    Neighbours,
    embed,
    gather,
    neighbour_accuracy,
    neighbours,
)
from deepcorrect.analysis._ideal_against_learned import IdealAgainstLearned, ideal_against_learned
from deepcorrect.analysis._map_quality import MEASURES, MapQuality, Spread, map_quality

__all__ = [
    "MEASURES",
    "BetaPoint",
    "IdealAgainstLearned",
    "LearningCurve",
    "MapQuality",
    "Neighbours",
    "Spread",
    "beta_points",
    "embed",
    "gather",
    "ideal_against_learned",
    "learning_curves",
    "map_quality",
    "neighbour_accuracy",
    "neighbours",
]
