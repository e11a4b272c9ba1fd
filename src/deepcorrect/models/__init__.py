"""Loads the classifier that a MODEL spec names.

The sources are built-in networks, timm, torchvision, transformers and the user's own Python code.
"""

from deepcorrect.models._built_in import BUILT_IN, BuiltIn
from deepcorrect.models._networks import AlexNet, CifarAllCNN, CifarResNet20, DigitsCNN
from deepcorrect.models._resolve import load_model, output_classes, specs
from deepcorrect.models._weights import load_weights

__all__ = [
    "BUILT_IN",
    "AlexNet",
    "BuiltIn",
    "CifarAllCNN",
    "CifarResNet20",
    "DigitsCNN",
    "load_model",
    "load_weights",
    "output_classes",
    "specs",
]
