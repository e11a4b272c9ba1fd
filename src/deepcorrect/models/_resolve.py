"""From a MODEL spec, a weights file and preprocessing flags to a classifier."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect import files
from deepcorrect.classifier import Classifier, Preprocessing
from deepcorrect.errors import DeepCorrectError, InputError, unknown
from deepcorrect.models._networks import AlexNet, CifarAllCNN, CifarResNet20, DigitsCNN
from deepcorrect.progress import console

DIGITS = Preprocessing(28, (0.1307,), (0.3081,))
CIFAR100 = Preprocessing(32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET_227 = Preprocessing(227, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256)


@dataclass(frozen=True)
class BuiltIn:
    """A network that comes with the product.

    Attributes:
        build: makes it, given the number of classes.
        classes: that number, unless the user gives another.
        preprocessing: what it expects.
        weights: a file beside this module, or None when the user must bring weights.
        summary: one line for `deepcorrect list models`.
    """

    build: Callable[[int], nn.Module]
    classes: int
    preprocessing: Preprocessing
    weights: str | None
    summary: str


BUILT_IN: dict[str, BuiltIn] = {
    "digits_cnn": BuiltIn(
        DigitsCNN, 10, DIGITS, "digits_cnn.safetensors", "the demo's CNN, with trained weights"
    ),
    "cifar_allcnn": BuiltIn(
        CifarAllCNN, 100, CIFAR100, None, "the paper's all-convolutional CIFAR-100 network"
    ),
    "cifar_resnet20": BuiltIn(CifarResNet20, 100, CIFAR100, None, "ResNet-20 for CIFAR-100"),
    "alexnet": BuiltIn(
        AlexNet, 1000, IMAGENET_227, None, "AlexNet as in the paper: grouped, with LRN"
    ),
}

PREFIXES_TO_COME = ("timm", "torchvision", "hf")


def resolve(
    spec: str,
    weights: str | Path | None = None,
    *,
    classes: int | None = None,
    input_size: int | None = None,
    resize: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Classifier:
    """Builds the classifier a MODEL spec names, in inference mode.

    Args:
        spec: a built-in name, or `python:FILE_OR_MODULE:CALLABLE`, whose callable takes no
            argument and returns an `nn.Module` (or a `Classifier`, which brings its preprocessing).
        weights: safetensors, or a PyTorch file that `torch.load(weights_only=True)` reads.
        classes: number of logits of a built-in network, when it is not the usual one.
        input_size, resize, mean, std: see `Preprocessing`; each replaces what the source says.

    Raises:
        InputError: the spec, the file or the network is not usable.
    """
    kind, _, rest = spec.partition(":")
    if kind == "python":
        model = _from_python(rest)
        trained = True
    elif spec in BUILT_IN:
        built_in = BUILT_IN[spec]
        count = built_in.classes if classes is None else classes
        if count < 1:
            raise InputError(f"classes={count} is not a number of classes above 0")
        model = Classifier(built_in.build(count), built_in.preprocessing, spec)
        trained = built_in.weights is not None and count == built_in.classes
        if trained and weights is None:
            weights = Path(__file__).parent / str(built_in.weights)
    elif kind in PREFIXES_TO_COME and rest:
        raise InputError(
            f"model {spec!r}: {kind} networks are not read yet; write a file with a function that "
            "returns the network, and give python:FILE:FUNCTION"
        )
    else:
        raise unknown("model", spec, [*BUILT_IN, "python:FILE_OR_MODULE:CALLABLE"])
    model = _with_preprocessing(model, spec, input_size, resize, mean, std)
    if weights is not None:
        load_weights(model.network, Path(weights))
    elif not trained:
        console().print(
            f"warning: {spec} has no weights of its own and --weights is not given: "
            "it runs with random ones",
            style="yellow",
        )
    return model.eval()


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict into `network`, every tensor and nothing else.

    Args:
        network: the bare network.
        path: `.safetensors`, or a PyTorch file. A dict with the state under `state_dict` or
            `model`, and names that all begin with `module.`, are understood.

    Raises:
        InputError: the file cannot be read safely, or belongs to another network.
    """
    if path.suffix == ".safetensors":
        state: Any = files.read_tensors(path)
    else:
        state = files.read_checkpoint(path)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(
            f"{path} is not a state dict: it must map parameter names to tensors, "
            f"but holds {_describe(state)}"
        )
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    _check_state(network, state, path)
    network.load_state_dict(dict(state))


def _check_state(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is not in the network" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, the network's has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{path} holds the weights of another network than this "
            f"{type(network).__name__}: {'; '.join(problems[:3])}{more}"
        )


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not isinstance(name, str) or not isinstance(entry, Tensor):
                return f"{type(entry).__name__} under {name!r}"
    return type(value).__name__


def _from_python(rest: str) -> Classifier | nn.Module:
    source, _, attribute = rest.rpartition(":")
    if not source or not attribute:
        raise InputError(f"model 'python:{rest}' is not python:FILE_OR_MODULE:CALLABLE")
    module = _import(source)
    build = getattr(module, attribute, None)
    if not callable(build):
        names = [name for name, value in vars(module).items() if callable(value)]
        raise unknown(f"callable of {source}", attribute, names)
    try:
        model = build()
    except DeepCorrectError:
        raise
    except Exception as error:
        raise InputError(
            f"{source}:{attribute}() failed: {type(error).__name__}: {error} (--debug shows where)"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{source}:{attribute}() returned {type(model).__name__}: "
            "it must return a torch.nn.Module"
        )
    return model


def _import(source: str) -> Any:
    path = Path(source)
    try:
        if path.suffix == ".py":
            if not path.is_file():
                raise InputError(f"there is no file {source}")
            digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
            name = f"_deepcorrect_user_{digest}"
            module_spec = importlib.util.spec_from_file_location(name, path)
            if module_spec is None or module_spec.loader is None:
                raise InputError(f"{source} is not a Python file")
            module = importlib.util.module_from_spec(module_spec)
            sys.modules[name] = module
            module_spec.loader.exec_module(module)
            return module
        return importlib.import_module(source)
    except DeepCorrectError:
        raise
    except Exception as error:
        raise InputError(
            f"importing {source!r} failed: {type(error).__name__}: {error} (--debug shows where)"
        ) from error


def _with_preprocessing(
    model: Classifier | nn.Module,
    spec: str,
    input_size: int | None,
    resize: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Classifier:
    given = {"input_size": input_size, "resize": resize, "mean": mean, "std": std}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if isinstance(model, Classifier):
        if not changes:
            return model
        known = model.preprocessing
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
    preprocessing = Preprocessing(**changes)
    return Classifier(model, preprocessing, spec.rpartition(":")[2])


def output_classes(model: nn.Module, preprocessing: Preprocessing) -> int:
    """Number of logits, found by running one black image.

    Raises:
        InputError: the network does not take such images, or does not give N x classes.
    """
    size = preprocessing.input_size
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image = torch.zeros(1, preprocessing.channels, size, size, device=device)
    try:
        with torch.no_grad():
            logits = model(image)
    except RuntimeError as error:
        raise InputError(
            f"the network does not take images of {preprocessing.channels} x {size} x {size}: "
            f"{error}. Check --input-size, --mean and --std"
        ) from None
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the network gives {given}: it must give logits, N x classes")
    return logits.shape[1]
