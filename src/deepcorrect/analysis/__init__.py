"""The paper's analyses: filters' maps, features, ideal against learned correction, curves."""

from deepcorrect.analysis._curves import BetaPoint, LearningCurve, beta_points, learning_curves
from deepcorrect.analysis._embedding import (
    Neighbours,
    embed,
    gather,
    neighbour_accuracy,
    neighbours,
)
from deepcorrect.analysis._maps import MEASURES, MapQuality, Spread, map_quality
from deepcorrect.analysis._yardstick import Yardstick, yardstick

__all__ = [
    "MEASURES",
    "BetaPoint",
    "LearningCurve",
    "MapQuality",
    "Neighbours",
    "Spread",
    "Yardstick",
    "beta_points",
    "embed",
    "gather",
    "learning_curves",
    "map_quality",
    "neighbour_accuracy",
    "neighbours",
    "yardstick",
]
