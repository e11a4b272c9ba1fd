"""`run`: the experiment of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepcorrect.cli import _tables
from deepcorrect.cli._options import Json
from deepcorrect.runtime import files


def command(
    recipe_name: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A YAML file, or a name that 'list recipes' shows."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as seed=1."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue a run that was stopped.")] = False,
    device: Annotated[str | None, typer.Option(help="Replaces the recipe's device.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Replaces the recipe's seed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: measure, rank, correct, measure again, and report, all in one folder."""
    from deepcorrect import experiments

    changes = list(overrides or [])
    changes += [f"device={device}"] if device is not None else []
    changes += [f"seed={seed}"] if seed is not None else []
    recipe = experiments.load_recipe(recipe_name, changes)
    folder = out or Path("runs") / recipe.name
    path = experiments.run(recipe, folder, resume=resume)
    results = files.read_json(path)
    if as_json:
        print(json.dumps(results))
        return
    _tables.print_results(results)
    print(f"results: {path}\nreport:  {folder / 'report.html'}")
