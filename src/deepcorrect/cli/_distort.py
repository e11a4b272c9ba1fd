"""`distort`: distorted copies of a set."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from deepcorrect.cli._options import (
    BatchSize,
    Data,
    Device,
    Images,
    Json,
    Out,
    Resize,
    Seed,
    Workers,
)
from deepcorrect.distortions import stored
from deepcorrect.runtime import device_for


def distort(
    data: Data,
    out: Out,
    distortion: Annotated[
        list[str], typer.Option(help="NAME[:LEVEL,...], repeatable; see 'list distortions'.")
    ],
    format: Annotated[
        stored.Format,
        typer.Option(help="folder: ImageNet-C's layout; npy: CIFAR-C's; parquet: Hugging Face's."),
    ] = "folder",
    input_size: Annotated[
        int | None,
        typer.Option(min=1, help="Resize and cut to this side first; default: sizes are kept."),
    ] = None,
    resize: Resize = None,
    images: Images = None,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write distorted copies of a set, once; 'evaluate' reads them as cifar_c: or imagenet_c:.

    A stopped writing goes on when the same command is given again.
    """
    done = stored.write_distorted(
        data,
        distortion,
        out,
        format,
        input_size=input_size,
        resize=resize,
        images=images,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        device=device_for(device),
    )
    done.images.warn_of_bad()
    good = len(done.images) - len(done.images.bad)
    if as_json:
        print(
            json.dumps(
                {
                    "out": str(out),
                    "format": format,
                    "images": good,
                    "bad_images": len(done.images.bad),
                    "written_files": done.written,
                    "kept_files": done.kept,
                    "distortions": {each.name: list(each.levels) for each in done.distortions},
                }
            )
        )
        return
    print(f"{out}: {good:,} images, {done.written:,} files written, {done.kept:,} were there")
