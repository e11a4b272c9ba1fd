"""`export`: a deployable network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from deepcorrect import correction
from deepcorrect.cli._options import (
    Adapter,
    Classes,
    Device,
    InputSize,
    Json,
    Mean,
    Model,
    Resize,
    Std,
    Weights,
    model_of,
)
from deepcorrect.deployment import export as write_network


def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="File to write.")],
    weights: Weights = None,
    classes: Classes = None,
    input_size: InputSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    adapter: Adapter = None,
    format: Annotated[  # the issue of shadowing is the option's name
        Literal["onnx", "torch"] | None,
        typer.Option(help="ONNX, or a torch.export program; default: as .onnx or .pt2 says."),
    ] = None,
    fused: Annotated[
        bool, typer.Option("--fuse/--no-fuse", help="Fold batch norms of a network as it is.")
    ] = True,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="The only batch size it shall take; default any.")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Write the network, corrected or not, as one file that runs without DeepCorrect.

    It takes images in [0, 1], and is tried on sample images before it is kept."""
    network = model_of(model, weights, classes, input_size, resize, mean, std, device)
    system = correction.load_adapter(network, adapter) if adapter else network
    done = write_network(system, out, format, fused=fused, batch_size=batch_size)
    if as_json:
        print(
            json.dumps(
                {
                    "file": str(done.path),
                    "format": done.format,
                    "bytes": done.bytes,
                    "images_compared": done.images,
                    "largest_difference": done.largest_difference,
                }
            )
        )
        return
    print(
        f"{done.path}: {done.bytes / 1e6:.1f} MB; answers as the network does on {done.images} "
        f"sample images (logits differ by at most {done.largest_difference:.1g})"
    )
