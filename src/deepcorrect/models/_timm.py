"""`timm:NAME`: the networks of timm."""

from __future__ import annotations

import difflib
import math
import sys
from types import ModuleType
from typing import Any

from torch import nn

from deepcorrect.data import Preprocessing
from deepcorrect.models._fit import State
from deepcorrect.models._hub import REMEDY, hugging_face
from deepcorrect.models._source import Built, Request
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, optional_import, unknown

FOLDER, HUB = "local-dir:", "hf-hub:"


def from_timm(request: Request) -> Built:
    """Builds a network of timm.

    The name is `NAME`; `NAME.TAG`, which chooses among several pretrained weights; `hf-hub:REPO`;
    or `local-dir:FOLDER` with timm's `config.json` and weights.
    """
    timm = optional_import("timm", "timm")
    name = request.name.replace("hf_hub:", HUB)
    elsewhere = name.startswith((HUB, FOLDER))
    known = None if elsewhere else _configuration(timm, request)
    if known is not None:
        request.check_classes(known.num_classes)
    if elsewhere or request.pretrained:
        origin = name.partition(":")[2] if known is None else known.hf_hub_id or name
        what = f"timm's network {origin}"
        remedy = "Give timm:local-dir:FOLDER with a copy of it" if elsewhere else REMEDY
        with hugging_face(request.spec, what, local=name.startswith(FOLDER), remedy=remedy):
            network = _created(timm, request, name, known)
    else:
        network = _created(timm, request, name, known)
    classes = request.check_classes(network.pretrained_cfg["num_classes"])
    labels = _labels(timm, network, classes)
    short = name.rpartition("/")[2]
    model = Classifier(network, preprocessing_of_timm(request.spec, timm, network), short, labels)
    return Built(model, request.pretrained, None, _filtered)


def _configuration(timm: ModuleType, request: Request) -> Any:
    """timm's configuration of a network and its weights.

    Raises:
        InputError: timm has no such network, or not the requested weights.
    """
    name, _, tag = request.name.partition(".")
    if not timm.is_model(name):
        every = timm.list_models()  # more than a thousand
        near = difflib.get_close_matches(name, every, n=10, cutoff=0.4)
        raise unknown("timm model", name, near or every)
    try:
        known = timm.get_pretrained_cfg(request.name)
    except RuntimeError:
        tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")]
        raise unknown(f"weights of timm:{name}", tag, tags) from None
    if request.pretrained and not known.has_weights:
        raise InputError(
            f"model {request.spec!r}: timm has no pretrained weights for it: give --weights FILE, "
            "or --weights random for an untrained network"
        )
    return known


def _created(timm: ModuleType, request: Request, name: str, known: Any) -> Any:
    """The network; if its input size is fixed, for the requested size."""
    options: dict[str, Any] = {"pretrained": request.pretrained}
    if request.classes is not None:
        options["num_classes"] = request.classes
    if request.input_size is not None and known is not None and known.fixed_input_size:
        options["img_size"] = request.input_size
    try:
        return timm.create_model(name, **options)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        if "img_size" not in options:
            raise
        raise InputError(
            f"model {request.spec!r} cannot be built for images of {request.input_size} pixels: "
            f"{str(error).strip().splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def preprocessing_of_timm(spec: str, timm: ModuleType, network: nn.Module) -> Preprocessing:
    """The preprocessing with which a network of timm is evaluated, from its configuration.

    Raises:
        InputError: `Preprocessing` cannot express it.
    """
    known = timm.data.resolve_model_data_config(network)
    channels, height, width = known["input_size"]
    mode = known["crop_mode"]
    if height != width or mode not in ("center", "squash") or channels not in (1, 3):
        raise InputError(
            f"model {spec!r} expects images of {channels} x {height} x {width}, crop {mode!r}: "
            "only squares of one or three channels with the crop modes 'center' and 'squash' are "
            "supported"
        )
    return Preprocessing(
        height,
        tuple(known["mean"])[:channels],
        tuple(known["std"])[:channels],
        max(height, math.floor(height / known["crop_pct"])),
        known["interpolation"] if known["interpolation"] != "random" else "bilinear",
        mode == "squash",
    )


def _labels(timm: ModuleType, network: Any, classes: int) -> tuple[str, ...] | None:
    config = dict(network.pretrained_cfg)
    names = config.get("label_names")
    if names and len(names) == classes:
        words = config.get("label_descriptions") or {}
        return tuple(words.get(name, name) for name in names)
    subset = timm.data.infer_imagenet_subset(network)
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    if info.num_classes() != classes:
        return None
    return tuple(info.index_to_description(index) for index in range(classes))


def _filtered(state: State, network: nn.Module) -> State:
    """Converts files in the format of a network's authors, with the filter that timm has for it."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return state if convert is None else convert(dict(state), network)
