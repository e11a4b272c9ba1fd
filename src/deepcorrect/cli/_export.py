"""`export`: a deployable network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

import deepcorrect as dc
from deepcorrect.cli._options import AdaptedModelOptions, Device, Json


@dataclass(frozen=True, kw_only=True)
class ExportedModel(AdaptedModelOptions):
    """The network to export, on the CPU unless another device is named."""

    device: Device = "cpu"


def command(
    model: ExportedModel,
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
    before it is kept.
    """
    system = model.corrected(model.load())
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
