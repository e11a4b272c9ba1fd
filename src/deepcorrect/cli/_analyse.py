"""`analyse`: the paper's analyses of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepcorrect.cli import _tables
from deepcorrect.cli._options import Features, Json, Seed


def command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    images: Annotated[
        int, typer.Option(min=2, help="Number of random test images of the run to use.")
    ] = 500,
    classes: Annotated[
        int, typer.Option(min=1, help="Number of random classes whose features are shown.")
    ] = 10,
    system: Annotated[
        list[str] | None,
        typer.Option(help="A corrected system of the run, repeatable. Default: all of them."),
    ] = None,
    features: Features = None,
    device: Annotated[str | None, typer.Option(help="Replaces the recipe's device.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Analyse a finished run as the paper does, and add a section to its report.

    Computes the PSNR and SSIM of filters' maps, compares learned with ideal correction, embeds
    features with t-SNE and draws learning curves, as numbers and pictures.
    """
    from deepcorrect.experiments import ANALYSIS_FILE, analyse

    found = analyse(folder, images, classes, system, features, seed, device)
    if as_json:
        print(json.dumps(found))
        return
    _tables.print_analysis(found)
    print(f"numbers:  {folder / ANALYSIS_FILE}")
    print(f"pictures: {', '.join(str(folder / name) for name in found['figures'])}")
    print(f"report:   {folder / 'report.html'}")
