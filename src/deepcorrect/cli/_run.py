"""`run`, and `report`: a recipe, and its pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepcorrect import experiments
from deepcorrect.cli import _tables
from deepcorrect.cli._options import Json
from deepcorrect.runtime import files


def run(
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file or a shipped name.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    device: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Measure, rank, correct, measure, report: one recipe, one folder."""
    from deepcorrect.experiments import run as run_pipeline  # noqa: PLC0415  (matplotlib is slow)

    changes = list(overrides or [])
    changes += [f"device={device}"] if device is not None else []
    changes += [f"seed={seed}"] if seed is not None else []
    loaded = experiments.load_recipe(recipe_name, changes)
    folder = out or Path("runs") / loaded.name
    path = run_pipeline(loaded, folder, resume=resume)
    results = files.read_json(path)
    if as_json:
        print(json.dumps(results))
        return
    _tables.print_results(results)
    print(f"results: {path}\nreport:  {folder / 'report.html'}")


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    as_json: Json = False,
) -> None:
    """Write a run's HTML report again."""
    from deepcorrect.experiments.report import write_report  # noqa: PLC0415  (matplotlib is slow)

    path = write_report(folder)
    print(json.dumps({"report": str(path)}) if as_json else f"report: {path}")
