"""`torchvision:NAME`: the classification networks of torchvision."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from deepcorrect.data import Preprocessing
from deepcorrect.models._fit import State
from deepcorrect.models._hub import download
from deepcorrect.models._source import Built, Request
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, optional_import, unknown


def from_torchvision(request: Request) -> Built:
    """Builds `NAME`, or `NAME.WEIGHTS` such as `resnet50.IMAGENET1K_V1`."""
    models = optional_import("torchvision.models", "torchvision")
    name, _, tag = request.name.partition(".")
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    choices = models.get_model_weights(name)
    if tag and tag not in choices.__members__:
        raise unknown(f"weights of torchvision:{name}", tag, choices.__members__)
    weights = choices[tag] if tag else choices.DEFAULT
    labels = tuple(weights.meta["categories"])
    classes = request.check_classes(len(labels))
    options = _options(name)
    if request.input_size is not None and name.startswith("vit_"):
        options["image_size"] = request.input_size
    try:
        network = models.get_model(name, weights=None, num_classes=classes, **options)
    except ValueError as error:
        raise InputError(f"model {request.spec!r}: {error}") from error
    transform = weights.transforms()
    preprocessing = Preprocessing(
        transform.crop_size[0],
        tuple(transform.mean),
        tuple(transform.std),
        transform.resize_size[0],
        transform.interpolation.value,
    )
    file = None
    if request.pretrained:
        url = weights.url
        prefix = re.search(r"-([a-f0-9]{8,})\.", url)
        file = download(request.spec, url, prefix and prefix.group(1))
    own = labels if classes == len(labels) else None
    return Built(Classifier(network, preprocessing, name, own), False, file, _renamed)


def _options(name: str) -> dict[str, Any]:
    """Builds Inception networks without the heads that only training uses.

    Their weights expect images that are normalised as in TensorFlow; `transform_input` converts
    images with the usual normalisation.
    """
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "transform_input": True, "init_weights": False}
    return {}


def _renamed(state: State, network: nn.Module) -> State:
    """Drops the training heads of Inception networks; renames DenseNet's `norm.1` to `norm1`."""
    own = network.state_dict()
    names = {name: re.sub(r"\.(norm|relu|conv)\.(\d)\.", r".\1\2.", name) for name in state}
    renamed = {new if new in own else old: state[old] for old, new in names.items()}
    heads = ("aux1.", "aux2.", "AuxLogits.")
    return {name: value for name, value in renamed.items() if not name.startswith(heads)}
