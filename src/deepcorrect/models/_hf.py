"""`hf:REPO_OR_FOLDER`: the image classifiers of transformers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deepcorrect.data import Interpolation, Preprocessing, to_tensor
from deepcorrect.models._fit import State
from deepcorrect.models._hub import hugging_face
from deepcorrect.models._source import Built, Request
from deepcorrect.networks import Classifier, Wrapper
from deepcorrect.runtime import InputError, optional_import

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
LEVIT_RATIO = 256 / 224  # its processor resizes to this multiple of any size
CONVNEXT_SQUASHED = 384  # from this size on, ConvNeXt's processor squashes and does not crop
NO_CODE = {"trust_remote_code": False}
"""Left out, transformers asks on standard input whether it may run a repository's own code."""
TOLERANCE = 6.0
"""The mean difference, in grey levels, by which two libraries may resize an image differently."""


class Logits(Wrapper):
    """A network of transformers that returns only its logits.

    Args:
        network: A network whose output has the attribute `logits`.
        flip: Whether the network expects the channels blue, green, red.
    """

    def __init__(self, network: nn.Module, *, flip: bool = False) -> None:
        super().__init__()
        self.network, self.flip = network, flip

    def forward(self, images: Tensor) -> Tensor:
        """The logits, N x classes, of normalised images, N x C x H x W."""
        return self.network(pixel_values=images.flip(1) if self.flip else images).logits


def from_hf(request: Request) -> Built:
    """Builds a network from a repository on the Hub or a folder that `save_pretrained` wrote."""
    transformers = optional_import("transformers", "hf")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = Path(request.name).expanduser()
    local = folder.is_dir()
    if local and not (folder / CONFIG).is_file():
        raise InputError(f"model {request.spec!r}: {folder} has no {CONFIG}")
    if not local and (folder.is_absolute() or request.name.startswith((".", "~"))):
        raise InputError(f"model {request.spec!r}: there is no folder {folder}")
    source = str(folder) if local else request.name
    remedy = "Give hf:FOLDER with a copy of it"
    with hugging_face(request.spec, f"the network {request.name}", local=local, remedy=remedy):
        return _built(transformers, request, source)


def _built(transformers: ModuleType, request: Request, source: str) -> Built:
    config = _checked(request, lambda: transformers.AutoConfig.from_pretrained(source, **NO_CODE))
    classes = request.check_classes(config.num_labels)
    labels = _labels(config) if classes == config.num_labels else None
    if classes != config.num_labels:
        config.num_labels = classes
    if request.input_size is not None and isinstance(getattr(config, "image_size", None), int):
        if request.pretrained and config.image_size != request.input_size:
            raise InputError(
                f"model {request.spec!r}: its weights are for images of {config.image_size} "
                f"pixels, not {request.input_size}: give --weights FILE, or --weights random"
            )
        config.image_size = request.input_size
    automatic = transformers.AutoModelForImageClassification
    if request.pretrained:
        network, loaded = _checked(
            request,
            lambda: automatic.from_pretrained(
                source, config=config, weights_only=True, output_loading_info=True, **NO_CODE
            ),
        )
        missing = sorted(loaded["missing_keys"])
        if missing:
            raise InputError(
                f"model {request.spec!r} is not a trained classifier: it has no {missing[0]}"
                + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            )
    else:
        network = _checked(request, lambda: automatic.from_config(config, **NO_CODE))
    processor = _processor(transformers, source)
    model: nn.Module = Logits(
        network.float(), flip=bool(getattr(processor, "do_flip_channel_order", False))
    )
    if processor is not None:
        preprocessing = preprocessing_of_processor(request.spec, processor)
        model = Classifier(model, preprocessing, Path(source).name, labels)
    return Built(model, request.pretrained, None, _renamed)


def _renamed(state: State, network: Any) -> State:
    """The weights under the network's own names.

    The files of transformers do not always have these names, but transformers converts them.
    """
    loaded, report = type(network).from_pretrained(
        None, config=network.config, state_dict=dict(state), output_loading_info=True
    )
    return state if report["missing_keys"] else loaded.state_dict()


def _checked(request: Request, load: Callable[[], Any]) -> Any:
    """The result of `load`, whose errors become InputErrors about the MODEL spec."""
    try:
        return load()
    except (ValueError, KeyError, ImportError, pickle.UnpicklingError) as error:
        if _names_code(error):
            problem = (
                " needs Python code from its repository, which is never run: if you trust the "
                "code, download it, build the network in a file of your own, and give "
                "python:FILE:FUNCTION"
            )
        elif isinstance(error, pickle.UnpicklingError):
            problem = (
                ": its weights are a pickle that may run code, which is never loaded: "
                "save them again as safetensors"
            )
        else:
            problem = f" is not an image classifier: {str(error).strip().splitlines()[0]}"
        raise InputError(f"model {request.spec!r}{problem}") from error


def _names_code(error: Exception) -> bool:
    """Whether transformers refused a repository because it would have to run the code in it."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def _processor(transformers: ModuleType, source: str) -> Any:
    """The processor that prepares the network's images; None if the source has none."""
    version = int(transformers.__version__.partition(".")[0])
    options = {"backend": "pil"} if version >= 5 else {"use_fast": False}
    automatic = transformers.AutoImageProcessor
    try:
        return automatic.from_pretrained(source, **options, **NO_CODE)
    except (OSError, ValueError, ImportError):  # also if it is code of the repository
        return None


def _labels(config: Any) -> tuple[str, ...] | None:
    names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    placeholders = tuple(f"LABEL_{index}" for index in range(config.num_labels))
    return None if names == placeholders else names


def preprocessing_of_processor(spec: str, processor: Any) -> Preprocessing:
    """The preprocessing that an image processor of transformers applies.

    It is read from the processor's settings, and checked by preparing one image both ways.

    Raises:
        InputError: `Preprocessing` cannot express what the processor does.
    """
    if hasattr(processor, "data_config"):  # a timm network that transformers wraps
        raise InputError(f"model {spec!r} is timm's: give timm:hf-hub:{spec.partition(':')[2]}")
    try:
        read = _read(processor)
        difference = _difference(processor, read)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _refused(spec, processor, str(error)) from error
    if not difference <= TOLERANCE:
        raise _refused(spec, processor, "its result differs")
    return read


def _refused(spec: str, processor: Any, reason: str) -> InputError:
    return InputError(
        f"model {spec!r}: images as its {type(processor).__name__} prepares them are not supported "
        f"({reason}): write a function that returns a deepcorrect.Classifier with this network and "
        "your own Preprocessing, and give python:FILE:FUNCTION"
    )


def _read(processor: Any) -> Preprocessing:
    settings = processor.to_dict()
    size, crop = _sides(settings.get("size")), _sides(settings.get("crop_size"))
    kind = type(processor).__name__.lower()
    cropped = bool(settings.get("do_center_crop")) and crop
    ratio = settings.get("crop_pct")
    squash = "shortest_edge" not in size
    shorter = size.get("shortest_edge") or size["height"]
    if size.get("height") != size.get("width") or crop.get("height") != crop.get("width"):
        raise InputError(f"the sides {size or crop} differ")
    input_size = crop["height"] if cropped else shorter
    if kind.startswith("convnext"):
        squash = shorter >= CONVNEXT_SQUASHED
        input_size, shorter = shorter, shorter if squash else int(shorter / ratio)
    elif kind.startswith("poolformer") and ratio is not None:
        squash, shorter = False, int(shorter / ratio)
    elif kind.startswith("levit") and not squash:
        shorter = int(LEVIT_RATIO * shorter)
    if not settings.get("do_resize", True):
        raise InputError("images are not resized")
    resample = Image.Resampling(settings.get("resample") or Image.Resampling.BILINEAR)
    mean, std = _normalisation(settings)
    interpolation = cast(Interpolation, resample.name.lower())
    return Preprocessing(
        *(input_size, mean, std, shorter, interpolation, squash),
        margins="floor",
        any_statistics=True,
    )


def _sides(value: Any) -> dict[str, int]:
    given = dict(value or {})
    return {name: int(side) for name, side in given.items() if side}


def _normalisation(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation, for images in [0, 1], that equal a processor's settings.

    A processor multiplies 8-bit values by a factor, may subtract 1, and then normalises.
    """
    mean, std = (_three(settings.get(name)) for name in ("image_mean", "image_std"))
    if not settings.get("do_normalize"):
        mean, std = np.zeros(3), np.ones(3)
    if settings.get("include_top"):  # EfficientNet's processor divides twice
        std = std * _three(settings.get("image_std"))
    factor = 255 * (settings["rescale_factor"] if settings.get("do_rescale", True) else 1)
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    return tuple(((mean + offset) / factor).tolist()), tuple((std / factor).tolist())


def _three(value: float | Sequence[float] | None) -> np.ndarray:
    return np.broadcast_to(np.asarray(0.0 if value is None else value, dtype=float), 3)


def _difference(processor: Any, read: Preprocessing) -> float:
    """The mean difference, in grey levels, between one smooth image that is prepared both ways."""
    down, across = np.mgrid[0:300, 0:400] / 60
    waves = [np.sin(down * a + across * b) for a, b in ((1, 0.5), (0.3, 1.2), (1.4, -0.8))]
    image = Image.fromarray((127.5 + 127 * np.stack(waves, -1)).astype(np.uint8))
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    if getattr(processor, "do_flip_channel_order", False):
        theirs = theirs.flip(0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (read.mean, read.std))
    ours = (to_tensor(image, read) - mean) / std
    if ours.shape != theirs.shape:
        return float("inf")
    return float(((ours - theirs) * std).abs().mean()) * 255
