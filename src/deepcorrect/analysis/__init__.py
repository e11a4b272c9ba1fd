"""The paper's analyses: filters' maps, features, ideal against learned correction, curves."""

from deepcorrect.analysis._curves import BetaPoint, LearningCurve, beta_points, learning_curves
from deepcorrect.analysis._feature_space import (
    Neighbours,
    embed,
    gather,
    neighbour_accuracy,
    neighbours,
)
from deepcorrect.analysis._ideal_against_learned import Yardstick, yardstick
from deepcorrect.analysis._map_quality import MEASURES, MapQuality, Spread, map_quality

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
