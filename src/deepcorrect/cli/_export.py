"""`export`: a deployable network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

import deepcorrect as dc
from deepcorrect.cli import _tables
from deepcorrect.cli._groups import OptionGroup
from deepcorrect.cli._options import (
    DATA_HELP,
    DEFAULT_DISTORTIONS,
    DISTORTION_HELP,
    AdaptedModelOptions,
    Device,
    Json,
    Order,
    Seed,
    open_images,
)
from deepcorrect.runtime import InputError, files

if TYPE_CHECKING:
    from torch import nn

    from deepcorrect.data import ImageSet

CALIBRATION_IMAGES = 128
LOADED = 64
"""Images that are decoded at once."""


@dataclass(frozen=True, kw_only=True)
class ExportedModel(AdaptedModelOptions):
    """The network to export, on the CPU unless another device is named."""

    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True)
class Int8Options(OptionGroup):
    """Eight bits: the images to calibrate on and to measure with."""

    panel: ClassVar[str] = "Eight bits"

    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Quantise the ONNX file to eight bits. Its accuracy and that of the float32 "
            "network are printed, and kept beside the file.",
        ),
    ] = False
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help=f"Images from which the ranges of the activations are taken: {DATA_HELP}",
        ),
    ] = None
    calibration_images: Annotated[
        int,
        typer.Option(
            min=8,
            help="Calibrate on this many random images; without --data, on half at most.",
        ),
    ] = CALIBRATION_IMAGES
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Images to measure accuracy with. Default: the images of --calibration that are "
            "not calibrated on.",
        ),
    ] = None
    images: Annotated[
        int | None, typer.Option(min=1, help="Measure with this many random images. Default: all.")
    ] = None
    class_order: Order = None
    distortion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:LEVEL,...]",
            help=f"Calibrate and measure with this distortion, too. {DISTORTION_HELP} Default: "
            f"those of the adapter; without one, {' and '.join(DEFAULT_DISTORTIONS)}.",
        ),
    ] = None
    seed: Seed = 0

    def check(self, out: Path, file_format: str | None, *, fused: bool) -> None:
        """Checks that the options go together.

        Raises:
            InputError: They do not.
        """
        if not self.int8:
            given = {
                "--calibration": bool(self.calibration),
                "--data": bool(self.data),
                "--distortion": bool(self.distortion),
            }
            for name in (name for name, is_given in given.items() if is_given):
                raise InputError(f"{name} goes with --int8: give --int8, or leave {name} out")
            return
        if self.calibration is None:
            raise InputError(
                "--int8 needs images to calibrate on: give --calibration DATA, about a hundred "
                "images of the kind that the network will see"
            )
        if file_format == "torch" or out.suffix == ".pt2":
            raise InputError("--int8 is for ONNX files: name the file .onnx")
        if not fused:
            raise InputError("--int8 always folds batch norms: leave --no-fuse out")

    def open(self, network: dc.Classifier) -> tuple[ImageSet, ImageSet]:
        """The images to calibrate on, and those to measure with.

        Raises:
            InputError: They cannot be read, or there are too few.
        """
        import torch

        if self.calibration is None:
            raise TypeError("the options were not checked")
        separate = self.data not in (None, self.calibration)
        source = open_images(
            network,
            self.calibration,
            None,
            self.seed,
            labels=False if separate else None,
            order=self.class_order,
        )
        count = min(self.calibration_images, len(source) if separate else len(source) // 2)
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.seed))
        first, rest = (
            source.select(rows.sort().values.tolist()) for rows in (order[:count], order[count:])
        )
        if separate:
            rest = open_images(
                network, str(self.data), self.images, self.seed, order=self.class_order
            )
        return first, rest.sample(self.images, self.seed)


def command(
    model: ExportedModel,
    int8: Int8Options,
    out: Annotated[Path, typer.Option(help="File to write, such as network.onnx.")],
    file_format: Annotated[
        Literal["onnx", "torch"] | None,
        typer.Option(
            "--format",
            help="ONNX, or a torch.export program. Default: by the file's ending, .onnx or .pt2.",
        ),
    ] = None,
    fused: Annotated[
        bool,
        typer.Option(
            "--fuse/--no-fuse",
            help="Fold batch norms into convolutions; with an adapter this is always done.",
        ),
    ] = True,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="The only batch size to accept. Default: any.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the network, corrected or not, as one file that runs without DeepCorrect.

    The file's network takes images in [0, 1]. It is compared with the original on sample images
    before it is kept. With --int8 its accuracy is measured instead, clean and distorted.
    """
    files.check_file(out)
    int8.check(out, file_format, fused=fused)
    network = model.load()
    system = model.corrected(network)
    if int8.int8:
        _quantize(network, system, out, int8, batch_size, as_json=as_json)
        return
    done = dc.export(system, out, file_format, fused=fused, batch_size=batch_size)
    if as_json:
        record = {
            "file": str(done.path),
            "format": done.format,
            "bytes": done.bytes,
            "images_compared": done.images,
            "largest_difference": done.largest_difference,
        }
        print(json.dumps(record))
        return
    print(
        f"{done.path}: {done.bytes / 1e6:.1f} MB; it answers as the network does on {done.images} "
        f"sample images (logits differ by at most {done.largest_difference:.1g})"
    )


def _quantize(
    network: dc.Classifier,
    system: nn.Module,
    out: Path,
    options: Int8Options,
    batch_size: int | None,
    *,
    as_json: bool,
) -> None:
    """Writes the file in eight bits, and prints the table of accuracies."""
    calibration, evaluation = options.open(network)
    distortions = options.distortion
    if distortions is None and system is network:
        distortions = list(DEFAULT_DISTORTIONS)
    done = dc.quantize(
        system,
        out,
        dc.loader(calibration, LOADED),
        dc.loader(evaluation, LOADED),
        distortions,
        batch_size=batch_size,
        seed=options.seed,
    )
    for images in (calibration, evaluation):
        images.warn_of_bad()
    record = files.read_json(done.table)
    if as_json:
        print(json.dumps({**record, "file": str(out), "table": str(done.table)}))
        return
    _tables.print_quantized(record["systems"], record["target"])
    print(
        f"{out}: {done.bytes / 1e6:.1f} MB, calibrated on {done.calibration_images} images and "
        f"measured with {record['evaluation_images']} others of {evaluation.name}. Eight bits "
        f"change the accuracy by {-100 * done.clean_loss:+.1f} points on clean images, and by "
        f"{-100 * done.distorted_loss:+.1f} on the levels of the distortion that loses "
        f"most ({done.table})"
    )
