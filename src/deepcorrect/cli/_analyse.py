"""`analyse`: the paper's analyses of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepcorrect.cli import _tables
from deepcorrect.cli._options import Json, Seed


def analyse(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    images: Annotated[
        int, typer.Option(min=2, help="So many random test images of the run.")
    ] = 500,
    classes: Annotated[
        int, typer.Option(min=1, help="So many random classes, for the features.")
    ] = 10,
    system: Annotated[
        list[str] | None,
        typer.Option(help="A corrected system of the run, repeatable; default all."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE",
            help="Dotted name of the module whose output is the features; default: what the last "
            "linear layer reads.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """PSNR and SSIM of filters' maps, ideal against learned correction, t-SNE of features and
    learning curves of a finished run, as numbers, pictures and a section of its report."""
    from deepcorrect.experiments import ANALYSIS_FILE, analyse  # noqa: PLC0415  (slow to import)

    found = analyse(folder, images, classes, system, features, seed, device)
    if as_json:
        print(json.dumps(found))
        return
    _tables.print_analysis(found)
    print(f"numbers:  {folder / ANALYSIS_FILE}")
    print(f"pictures: {', '.join(str(folder / name) for name in found['figures'])}")
    print(f"report:   {folder / 'report.html'}")
