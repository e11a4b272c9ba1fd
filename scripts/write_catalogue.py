"""Writes src/deepcorrect/cli/catalogue.json from what the package's registries say.

    make catalogue    (or: python scripts/write_catalogue.py)

`deepcorrect list` and `deepcorrect COMMAND --help` read that file, because the registries live in
rooms that import PyTorch. Run this after a change to a registry; a test says when it is needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepcorrect import (
    correction,
    data,
    distortions,
    evaluation,
    experiments,
    models,
    networks,
    ranking,
    training,
)
from deepcorrect.distortions import Kind, stored
from deepcorrect.runtime import files

CATALOGUE = Path(__file__).parent.parent / "src" / "deepcorrect" / "cli" / "catalogue.json"


def main() -> None:
    """Replaces the file that is shipped with the package."""
    files.write_text(CATALOGUE, text())
    print(f"wrote {CATALOGUE}")


def text() -> str:
    """What the file must hold."""
    content = {"defaults": defaults(), "lists": lists()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def defaults() -> dict[str, Any]:
    """Defaults that the commands' options show, by the names that the commands use."""
    return {
        "ranking_method": ranking.DEFAULT_METHOD,
        "svm_penalties": list(evaluation.PENALTIES),
    }


def lists() -> dict[str, dict[str, str]]:
    """For each word that `deepcorrect list` accepts, the names with their descriptions."""
    groups = {name: f"all of {', '.join(kinds)}" for name, kinds in distortions.GROUPS.items()}
    return {
        "models": models.specs(),
        "adapters": correction.shipped_adapters(),
        "datasets": data.BUILT_IN | data.SPECS | stored.SPECS,
        "distortions": {
            **{kind.name: description(kind) for kind in distortions.KINDS.values()},
            **groups,
            "A+B": "A, then B on its result; level k is the k-th level of each one's grid",
        },
        "units": correction.DESCRIPTIONS,
        "methods": {name: method.summary for name, method in ranking.METHODS.items()},
        "targets": ranking.TARGETS,
        "sites": networks.CHOICES,
        "systems": {method: experiments.summary(method) for method in experiments.SECTIONS},
        "objectives": {name: each.summary for name, each in training.OBJECTIVES.items()},
        "recipes": {name: experiments.load_summary(name) for name in experiments.shipped()},
    }


def description(kind: Kind) -> str:
    """A kind of distortion, the unit of its level and its grids."""
    small, large = (
        ", ".join(f"{level:g}" for level in levels)
        for levels in (kind.small_levels, kind.large_levels)
    )
    grids = small if small == large else f"small inputs {small}, large {large}"
    return f"{kind.summary} Level: {kind.unit}; {grids}"


if __name__ == "__main__":
    main()
