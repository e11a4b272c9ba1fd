"""Builds the classifier that a MODEL spec, a weights file and preprocessing options describe."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcorrect.data import Preprocessing
from deepcorrect.models._built_in import BUILT_IN
from deepcorrect.models._hf import from_hf
from deepcorrect.models._python import from_python
from deepcorrect.models._source import Built, Request, Source
from deepcorrect.models._timm import from_timm
from deepcorrect.models._torchvision import from_torchvision
from deepcorrect.models._weights import RANDOM, load_weights
from deepcorrect.networks import Classifier, as_logits, logits_of, output_rows
from deepcorrect.runtime import InputError, console, device_of, forked_random, unknown

SOURCES: dict[str, tuple[Source, str, str]] = {
    "timm": (from_timm, "timm:NAME", "timm's networks; NAME.TAG chooses among several weights"),
    "torchvision": (from_torchvision, "torchvision:NAME", "torchvision's; NAME.WEIGHTS likewise"),
    "hf": (from_hf, "hf:REPO_OR_FOLDER", "transformers' image classifiers"),
    "python": (from_python, "python:FILE_OR_MODULE:CALLABLE", "your own network"),
}
"""By prefix: the function that builds the network, the form of the spec, and its meaning."""


def specs() -> dict[str, str]:
    """The forms of a MODEL spec, and what each of them means.

    Example:
        >>> from deepcorrect.models import specs
        >>> specs()["digits_cnn"]
        "the demo's CNN, with trained weights"
    """
    named = {name: entry.summary for name, entry in BUILT_IN.items()}
    return named | {form: summary for _, form, summary in SOURCES.values()}


def load_model(
    spec: str,
    weights: str | Path | None = None,
    *,
    state: str | None = None,
    classes: int | None = None,
    input_size: int | None = None,
    resize: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Classifier:
    """Builds the classifier that a MODEL spec names, in inference mode.

    Args:
        spec: A built-in name; `timm:NAME`, `torchvision:NAME` or `hf:REPO_OR_FOLDER`; or
            `python:FILE_OR_MODULE:CALLABLE`, whose callable takes no argument and returns an
            `nn.Module` (or a `Classifier`, which includes its preprocessing).
        weights: A safetensors file, or a PyTorch file that `torch.load(weights_only=True)` reads;
            `random` for an untrained network. None stands for the source's pretrained weights,
            which are read from the cache or downloaded.
        state: The key of the state dict in the weights file, such as `state_dict`, if the file
            holds several. None takes averaged weights (`state_dict_ema`, `model_ema`), as timm
            does, and says so.
        classes: The number of logits, if it is not the source's usual number.
        input_size: The side of the network's input, in pixels; see `Preprocessing`. This and the
            following arguments replace what the source specifies.
        resize: The shorter side of an image before the central crop, in pixels.
        mean: The mean of each channel of images in [0, 1]; one value stands for all channels.
        std: The standard deviation of each channel of images in [0, 1], likewise.

    Raises:
        InputError: The spec, the weights or the network cannot be used, or the pretrained weights
            cannot be reached.
        MissingExtraError: The source's library is not installed.

    Example:
        >>> import torch, deepcorrect as dc
        >>> model = dc.load_model("digits_cnn")
        >>> model.preprocessing.input_size
        28
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    if state is not None and (weights is None or str(weights) == RANDOM):
        raise InputError(f"state {state!r} (--state) needs a weights file: give --weights FILE")
    kind, _, rest = spec.partition(":")
    request = Request(spec, rest, weights is None, classes, input_size)
    if spec in BUILT_IN:
        build = BUILT_IN[spec].build
    elif kind == "python" or (kind in SOURCES and rest):
        build = SOURCES[kind][0]
    else:
        raise unknown("model", spec, specs())
    with forked_random(seed=0):  # so that adapters fit an untrained network again
        built = build(request)
    model = _with_preprocessing(built, spec, input_size, resize, mean, std)
    file = built.file if weights is None else Path(weights)
    if file is not None and str(file) != RANDOM:
        load_weights(model, file, built.rename, state=state)
    elif not built.trained and weights is None:
        console().print(
            f"warning: {spec} has no weights of its own and --weights is not given: "
            "its weights are random",
            style="yellow",
        )
    model.eval()
    if kind == "python" or classes == 1:  # the others are known to return logits
        _read_as_logits(model)
    return model


def _read_as_logits(model: Classifier) -> None:
    """Wraps a classifier's network if its output is not logits, as far as two images tell.

    A network that cannot be tried here, or is refused, is tried again on the images themselves.
    """
    known = model.preprocessing
    shape = (2, known.channels, known.input_size, known.input_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images[1] = images[1].mean()
    normalised = (images.to(model.mean) - model.mean) / model.std
    with contextlib.suppress(InputError):
        model.network = as_logits(model.network, normalised)


def _with_preprocessing(
    built: Built,
    spec: str,
    input_size: int | None,
    resize: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Classifier:
    model = built.model
    given = {"input_size": input_size, "resize": resize, "mean": mean, "std": std}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if isinstance(model, Classifier):
        if not changes:
            return model
        known = model.preprocessing
        changes |= _per_channel(changes, known)
        if "input_size" in changes and "resize" not in changes:
            changes["resize"] = None
        return Classifier(model.network, replace(known, **changes), model.name, model.labels)
    missing = [name for name in ("input_size", "mean", "std") if name not in changes]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise InputError(
            f"model {spec!r} does not say how its images are prepared: give {flags}, "
            "or return a deepcorrect.Classifier"
        )
    preprocessing = Preprocessing(**changes | _per_channel(changes))
    if preprocessing.channels == 1 and not _runs(model, 1, preprocessing.input_size):
        in_colour = replace(preprocessing, mean=preprocessing.mean * 3, std=preprocessing.std * 3)
        if _runs(model, in_colour.channels, in_colour.input_size):
            preprocessing = in_colour
    return Classifier(model, preprocessing, spec.rpartition(":")[2])


def _per_channel(given: dict[str, Any], known: Preprocessing | None = None) -> dict[str, Any]:
    """The mean and std that are given; one value stands for all channels, as in torchvision.

    Args:
        given: Values by the names of `Preprocessing`.
        known: What the source says; None if it says nothing.

    Raises:
        InputError: The source's network has another number of channels.
    """
    values = {
        name: (given[name],) if isinstance(given[name], int | float) else tuple(given[name])
        for name in ("mean", "std")
        if name in given
    }
    channels = known.channels if known else max(map(len, values.values()))
    for name, each in values.items():
        if known is not None and len(each) not in (1, channels):
            raise InputError(
                f"{name} has {len(each)} values, and this network's images have {channels} "
                f"channel{'s' if channels > 1 else ''}: give one value"
                + (" for all channels, or one for each" if channels > 1 else "")
            )
    return {name: each * channels if len(each) == 1 else each for name, each in values.items()}


def _runs(network: nn.Module, channels: int, size: int) -> bool:
    """Whether a network runs on a black image with a number of channels."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), forked_random(device_of(network)):
            network(torch.zeros(1, channels, size, size, device=device_of(network)))
    except Exception:  # whatever the user's code raises, and is told when it is used
        return False
    finally:
        network.train(was_training)
    return True


def output_classes(model: nn.Module, preprocessing: Preprocessing) -> int:
    """The number of logits, which is found by running the network on one black image.

    Raises:
        InputError: The network does not accept such images, or does not return N x classes.

    Example:
        >>> import deepcorrect as dc
        >>> from deepcorrect.models import output_classes
        >>> model = dc.load_model("digits_cnn")
        >>> output_classes(model, model.preprocessing)
        10
    """
    size = preprocessing.input_size
    image = torch.zeros(1, preprocessing.channels, size, size, device=device_of(model))
    try:
        with torch.no_grad():
            output = logits_of(model, image)
    except InputError as error:
        raise InputError(f"{error}. Check --input-size, --mean and --std") from None
    return max(2, output_rows(output, 1).shape[1])  # one value per image stands for two classes
