"""`list`: what can be named."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from deepcorrect import correction, experiments, models, ranking, training
from deepcorrect import data as data_room
from deepcorrect import distortions as distortion_room
from deepcorrect.cli._options import Json
from deepcorrect.distortions import stored


def list_(
    what: Annotated[
        Literal[
            "models",
            "datasets",
            "distortions",
            "units",
            "methods",
            "targets",
            "systems",
            "objectives",
            "recipes",
        ],
        typer.Argument(help="What to list."),
    ],
    as_json: Json = False,
) -> None:
    """What can be named in commands and recipes."""
    entries: dict[str, str] = {
        "models": models.specs(),
        "datasets": data_room.BUILT_IN | data_room.SPECS | stored.SPECS,
        "distortions": {
            kind.name: f"{kind.summary} Level: {kind.unit}; {_grids(kind)}"
            for kind in distortion_room.KINDS.values()
        }
        | {group: "all of " + ", ".join(n) for group, n in distortion_room.GROUPS.items()}
        | {"A+B": "A, then B on its result; level k is the k-th of each one's grid"},
        "units": correction.DESCRIPTIONS,
        "methods": {name: method.summary for name, method in ranking.METHODS.items()},
        "targets": ranking.TARGETS,
        "systems": {method: experiments.summary(method) for method in experiments.SECTIONS},
        "objectives": {name: each.summary for name, each in training.OBJECTIVES.items()},
        "recipes": {name: experiments.load_summary(name) for name in experiments.shipped()},
    }[what]
    if as_json:
        print(json.dumps(entries))
        return
    width = max(len(name) for name in entries)
    for name, summary in entries.items():
        print(f"{name:{width}}  {summary}")


def _grids(kind: distortion_room.Kind) -> str:
    small, large = (
        ", ".join(f"{level:g}" for level in levels)
        for levels in (kind.small_levels, kind.large_levels)
    )
    return small if small == large else f"small inputs {small}, large {large}"
