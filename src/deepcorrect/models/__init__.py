"""Resolving a MODEL spec to a classifier: built-in networks, your Python, weights files."""

from deepcorrect.models._networks import AlexNet, CifarAllCNN, CifarResNet20, DigitsCNN
from deepcorrect.models._resolve import BUILT_IN, BuiltIn, load_weights, output_classes, resolve

__all__ = [
    "BUILT_IN",
    "AlexNet",
    "BuiltIn",
    "CifarAllCNN",
    "CifarResNet20",
    "DigitsCNN",
    "load_weights",
    "output_classes",
    "resolve",
]
