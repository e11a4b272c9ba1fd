"""Accuracy over distortions and levels, corruption errors, and features on other classes."""

from deepcorrect.evaluation._compare import Comparison, compare
from deepcorrect.evaluation._corruption_error import (
    ALEXNET_REFERENCE,
    COMMON,
    EXTRA,
    Reference,
    corruption_error,
    reference_for,
)
from deepcorrect.evaluation._evaluate import TestTimeSystem, evaluate, evaluate_stored
from deepcorrect.evaluation._feature_transfer import PENALTIES, FeatureTransfer, feature_transfer
from deepcorrect.evaluation._results import Grid, system_record

__all__ = [
    "ALEXNET_REFERENCE",
    "COMMON",
    "EXTRA",
    "PENALTIES",
    "Comparison",
    "FeatureTransfer",
    "Grid",
    "Reference",
    "TestTimeSystem",
    "compare",
    "corruption_error",
    "evaluate",
    "evaluate_stored",
    "feature_transfer",
    "reference_for",
    "system_record",
]
