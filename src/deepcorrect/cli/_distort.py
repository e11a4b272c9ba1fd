"""`distort`: distorted copies of a set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from deepcorrect import runtime
from deepcorrect.cli._options import BatchSize, Device, Json, Out, Resize, Seed, SourceOptions

Format = Literal["folder", "parquet", "npy"]


@dataclass(frozen=True, kw_only=True)
class DistortedData(SourceOptions):
    """The images to distort, and the size they are brought to."""

    input_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Resize and crop to this side first, in pixels. Default: each image keeps its "
            "size.",
        ),
    ] = None
    resize: Resize = None
    batch_size: BatchSize = 32


def command(
    data: DistortedData,
    out: Out,
    distortion: Annotated[
        list[str],
        typer.Option(metavar="NAME[:LEVEL,...]", help="Repeatable; see 'list distortions'."),
    ],
    file_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="The layout of ImageNet-C (folder), of CIFAR-C (npy) or of Hugging Face data "
            "sets (parquet).",
        ),
    ] = "folder",
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write distorted copies of a set; 'evaluate' reads them as cifar_c:DIR or imagenet_c:DIR.

    If it is stopped, the same command continues where it was.
    """
    from deepcorrect.distortions import stored

    done = stored.write_distorted(
        data.data,
        distortion,
        out,
        file_format,
        input_size=data.input_size,
        resize=data.resize,
        images=data.images,
        seed=seed,
        batch_size=data.batch_size,
        workers=data.workers,
        device=runtime.device_for(device),
    )
    done.images.warn_of_bad()
    good = len(done.images) - len(done.images.bad)
    if as_json:
        record = {
            "out": str(out),
            "format": file_format,
            "images": good,
            "bad_images": len(done.images.bad),
            "written_files": done.written,
            "kept_files": done.kept,
            "distortions": {each.name: list(each.levels) for each in done.distortions},
        }
        print(json.dumps(record))
        return
    print(
        f"{out}: {good:,} images, {done.written:,} files written, {done.kept:,} were already there"
    )
