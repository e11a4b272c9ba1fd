"""The options that several commands take, and what they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

import deepcorrect as dc
from deepcorrect import runtime
from deepcorrect.cli import _catalogue
from deepcorrect.cli._groups import OptionGroup
from deepcorrect.runtime import InputError

if TYPE_CHECKING:
    from torch import nn

    from deepcorrect.data import Batches, ClassOrder, ImageSet

MODEL_HELP = (
    "The network: a built-in name, timm:NAME, torchvision:NAME, hf:REPO_OR_FOLDER or "
    "python:FILE_OR_MODULE:CALLABLE; see 'list models'."
)
DATA_HELP = "folder:DIR, parquet:GLOB, hf:NAME, webdataset:SHARDS, ...; see 'list datasets'."
DISTORTION_HELP = (
    "Repeatable; see 'list distortions'. Without levels, the grid that suits the input size. "
    "NAME:LEVEL,...:clip,quantize also clips and rounds as a stored image would."
)
DEFAULT_DISTORTIONS = ("gaussian_blur", "awgn")
NOT_GIVEN = ""
"""The default of `--model` and `--data` in a command that can do without them."""

Model = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)]
Data = Annotated[str, typer.Option(metavar="DATA", help=f"The images: {DATA_HELP}")]
Images = Annotated[
    int | None, typer.Option(min=1, help="Use this many random images of the data. Default: all.")
]
Resize = Annotated[
    int | None, typer.Option(help="Shorter side before the central crop, in pixels.")
]
Order = Annotated[
    Literal["number", "text"] | None,
    typer.Option(
        help="Order of class folders whose names are numbers, if the network does not name its "
        "classes: number is 1, 2, ..., 10; text is 1, 10, 2, ..., as torchvision's ImageFolder "
        "orders them. Needed only where the two differ."
    ),
]
Distortions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:LEVEL,...]",
        help=f"{DISTORTION_HELP} Default: {' and '.join(DEFAULT_DISTORTIONS)}.",
    ),
]
Sites = Annotated[
    str | None,
    typer.Option(
        help="Dotted names of the sites, with commas between them; or a choice by the network's "
        "structure, such as auto or stem+sums, see 'list sites'. Default: convolutions+mlps."
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE",
        help="Dotted name of the module whose output is used as the features. Default: the input "
        "of the last linear layer.",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto uses CUDA where it is available.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of all random numbers.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Out = Annotated[Path, typer.Option(help="Folder to write; it is made if it does not exist.")]
Precision = Literal["auto", "float32", "bfloat16"]
Precise = Annotated[
    Precision,
    typer.Option(
        help="Number format of the network's computation; auto uses bfloat16 where it is native."
    ),
]
NoLabels = Annotated[
    bool,
    typer.Option(
        "--no-labels",
        help="Read no labels from the data: the untouched network's predictions for the clean "
        "images are the target, and the data may be of other classes. This is the default where "
        "images have no labels.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(OptionGroup):
    """The network a command works on."""

    panel: ClassVar[str] = "Network"

    model: Model
    weights: Annotated[
        str | None,
        typer.Option(
            help="The network's weights: a safetensors file or a PyTorch state dict; 'random' for "
            "an untrained network. Default: the source's pretrained weights."
        ),
    ] = None
    state: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which state dict of the weights file to take, if it holds several. Default: "
            "averaged weights such as state_dict_ema, as timm does.",
        ),
    ] = None
    classes: Annotated[
        int | None, typer.Option(help="Number of classes, if it is not the usual one.")
    ] = None
    input_size: Annotated[
        int | None, typer.Option(help="Side of the network's input, in pixels.")
    ] = None
    resize: Resize = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of images in [0, 1] for normalisation: R,G,B, or one number for all."
        ),
    ] = None
    std: Annotated[
        str | None, typer.Option(help="Standard deviation, in the same form as --mean.")
    ] = None
    device: Device = "auto"

    def load(self) -> dc.Classifier:
        """The network, in inference mode and on its device.

        Raises:
            InputError: an option is not accepted.
        """
        device = runtime.device_for(self.device)
        model = dc.load_model(
            self.model,
            self.weights,
            state=self.state,
            classes=self.classes,
            input_size=self.input_size,
            resize=self.resize,
            mean=_numbers("--mean", self.mean),
            std=_numbers("--std", self.std),
        )
        return model.to(device)


@dataclass(frozen=True, kw_only=True)
class AdaptedModelOptions(ModelOptions):
    """The network a command works on, corrected if an adapter is given."""

    adapter: Annotated[
        str | None,
        typer.Option(
            metavar="ADAPTER",
            help="An adapter for the network: its folder, hf:OWNER/NAME[@REVISION], or one that "
            "`deepcorrect list adapters` names.",
        ),
    ] = None

    def corrected(self, network: dc.Classifier) -> nn.Module:
        """The loaded network with the adapter; the network itself if there is none.

        Raises:
            InputError: the adapter cannot be read, or was made for another network.
        """
        return network if self.adapter is None else dc.load_adapter(network, self.adapter)


@dataclass(frozen=True, kw_only=True)
class BatchOptions(OptionGroup):
    """How images are read."""

    panel: ClassVar[str] = "Images"

    batch_size: BatchSize = 128
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that decode images.")] = 0

    def loader(self, images: ImageSet, *, shuffle: bool = False) -> Batches:
        """Batches of the images."""
        return dc.loader(images, self.batch_size, shuffle=shuffle, workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class SourceOptions(BatchOptions):
    """Which images a command works on."""

    data: Data
    images: Images = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(SourceOptions):
    """The images a command works on, whose classes are matched with the network's."""

    class_order: Order = None

    def open(self, network: dc.Classifier, seed: int, *, labels: bool | None = None) -> ImageSet:
        """The images, see `open_images`."""
        order = self.class_order
        return open_images(network, self.data, self.images, seed, labels=labels, order=order)


def chosen_sites(text: str | None) -> list[str] | str | None:
    """The names of sites, or a choice by the network's structure; None if there is no text."""
    if not text:
        return None
    if "+" in text or text.strip() in _catalogue.entries("sites"):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{flag} {text!r} is not a number or three numbers with commas between them"
        ) from None


def open_images(
    network: dc.Classifier,
    spec: str,
    count: int | None,
    seed: int,
    *,
    labels: bool | None = None,
    order: ClassOrder | None = None,
) -> ImageSet:
    """The images of a DATA spec, with labels that are the network's classes, or without labels.

    Args:
        network: its classes and preprocessing are used.
        spec: the data.
        count: how many random images to use; None uses all.
        seed: seed of their choice.
        labels: None reads labels if every image has one; False reads none.
        order: the order of classes whose names are numbers, see `ImageSet.matched`.

    Raises:
        InputError: the data cannot be read, or labels are required and do not fit the network.
    """
    source = dc.open_dataset(spec, network.preprocessing)
    if labels is None:
        labels = source.labelled
        if not labels:
            runtime.console().print(
                f"{source.name} has images without labels: the network's own predictions for the "
                "clean images are the target"
            )
    source = with_labels(network, source, order) if labels else source.without_labels()
    return source.sample(count, seed)


def with_labels(
    network: dc.Classifier, source: ImageSet, order: ClassOrder | None = None
) -> ImageSet:
    """The set with its labels expressed as the network's classes.

    Raises:
        InputError: it has no labels, or its classes are not the network's.
    """
    from deepcorrect.models import output_classes

    classes = output_classes(network, network.preprocessing)
    source = source.matched(classes, network.labels, class_order=order)
    source.check_labels(classes)
    return source
