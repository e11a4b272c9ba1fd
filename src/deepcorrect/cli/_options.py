"""The options that several commands take, and what they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepcorrect import data as data_room
from deepcorrect import models
from deepcorrect.models import output_classes
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, console, device_for

MODEL_HELP = (
    "A built-in name, timm:NAME, torchvision:NAME, hf:REPO_OR_FOLDER or "
    "python:FILE_OR_MODULE:CALLABLE; see 'list models'."
)
DATA_HELP = "folder:DIR, parquet:GLOB, hf:NAME, webdataset:SHARDS, ...; see 'list datasets'."
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Weights = Annotated[
    str | None,
    typer.Option(
        help="The network's weights: safetensors, or a PyTorch state dict; 'random' for none. "
        "Default: the source's pretrained ones."
    ),
]
Classes = Annotated[int | None, typer.Option(help="Number of classes, if not the usual one.")]
InputSize = Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")]
Resize = Annotated[
    int | None, typer.Option(help="Shorter side before the central crop, in pixels.")
]
Mean = Annotated[str | None, typer.Option(help="Mean of images in [0, 1]: one number or R,G,B.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation, likewise.")]
Data = Annotated[str, typer.Option(help=DATA_HELP)]
Images = Annotated[
    int | None, typer.Option(min=1, help="Use so many random images of the data; default all.")
]
Distortions = Annotated[
    list[str] | None,
    typer.Option(help="NAME[:LEVEL,...[:clip,quantize]], repeatable; see 'list distortions'."),
]
Adapter = Annotated[
    str | None,
    typer.Option(help="An adapter put onto the network: its folder, or hf:OWNER/NAME[@REVISION]."),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        help="As above; NAME=FOLDER, repeated, for several side by side with the bare network.",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes CUDA if it is there.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a batch.")]
Workers = Annotated[int, typer.Option(min=0, help="Decoding processes.")]
Out = Annotated[Path, typer.Option(help="Folder to write; made if absent.")]
Precise = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the convolutions.")
]
Target = Annotated[
    Literal["labels", "prediction"] | None,
    typer.Option(
        help="What is right: labels; or prediction, the untouched network's answer to the clean "
        "image. Default: labels, or prediction where images have none."
    ),
]
NoLabels = Annotated[
    bool,
    typer.Option(
        "--no-labels",
        help="Take no label from the data: the untouched network's answers to the clean images "
        "are the target, and classes need not be the network's. Assumed where images have none.",
    ),
]

DEFAULT_DISTORTIONS = ("gaussian_blur", "awgn")


def named_adapters(given: list[str] | None) -> dict[str, str]:
    """Adapters by name, of `--adapter NAME=SOURCE` repeated; one alone needs no name.

    Raises:
        InputError: several, and one has no name, or two have the same.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, source = text.partition("=")
        if not equals or "/" in name or Path(text).exists():
            name, source = "", text
        if name in found or (not name and len(given or ()) > 1):
            raise InputError(
                f"--adapter {text!r}: of several adapters each needs a name of its own, NAME=FOLDER"
            )
        found[name] = source
    return found


def model_of(
    spec: str,
    weights: str | None,
    classes: int | None,
    input_size: int | None,
    resize: int | None,
    mean: str | None,
    std: str | None,
    device: str,
) -> Classifier:
    place = device_for(device)
    model = models.load_model(
        spec,
        weights,
        classes=classes,
        input_size=input_size,
        resize=resize,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
    )
    return model.to(place)


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{flag} {text!r} is not a number, or three between commas") from None


def labelled(network: Classifier, spec: str, count: int | None, seed: int) -> data_room.ImageSet:
    """Images of a DATA spec whose labels are the network's classes."""
    source = data_room.open_dataset(spec, network.preprocessing)
    return with_labels(network, source).sample(count, seed)


def with_labels(network: Classifier, source: data_room.ImageSet) -> data_room.ImageSet:
    """The set with labels as the network's classes.

    Raises:
        InputError: it has none, or they are none of the network's.
    """
    classes = output_classes(network, network.preprocessing)
    source = source.matched(classes, network.labels)
    source.check_labels(classes)
    return source


def images_of(
    network: Classifier, spec: str, count: int | None, seed: int, *, labels: bool | None = None
) -> data_room.ImageSet:
    """The images of a DATA spec, with labels that are the network's classes, or without any.

    Args:
        network: whose classes and preprocessing they are for.
        spec: the data.
        count: so many random images; None takes all.
        seed: of their choice.
        labels: None takes them where every image has one. Where False, none is read.
    """
    source = data_room.open_dataset(spec, network.preprocessing)
    if labels is None:
        labels = source.labelled
        if not labels:
            console().print(
                f"{source.name} has images without labels: the network's own answers to the clean "
                "images are the target"
            )
    source = with_labels(network, source) if labels else source.without_labels()
    return source.sample(count, seed)
