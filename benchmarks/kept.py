"""Trials that train one system each: what is kept of one, and that none is run twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.subjects import RESULTS
from deepcorrect.evaluation import Grid
from deepcorrect.runtime import files

PARETO = RESULTS / "deployment" / "pareto.json"
SEARCH = RESULTS / "defaults" / "trials.json"
"""Where `benchmarks.deployment.pareto` and `benchmarks.defaults.search` keep theirs."""


def accuracies(found: Grid) -> dict[str, Any]:
    """The accuracies of a system under one distortion: the paper's mean, clean, and each level."""
    (curve,) = found.curves.values()
    return {
        "mean": round(found.mean_top1, 4),
        "clean": round(curve.clean.top1 if curve.clean else 0.0, 4),
        "levels": [round(value, 4) for value in curve.top1],
    }


def read_kept(kept: Path) -> list[dict[str, Any]]:
    """What a JSON file keeps; nothing, where there is none yet."""
    return files.read_json(kept) if kept.exists() else []


def run_once(
    kept: Path, asked: Mapping[str, Any], run: Callable[..., dict[str, Any]]
) -> dict[str, Any] | None:
    """Runs a trial that is not kept yet, and keeps it; others may keep theirs meanwhile.

    Args:
        kept: the JSON file: a list of trials.
        asked: what distinguishes the trial from others, which is part of what is kept of it.
        run: gets `asked` by name, and returns what is kept.

    Returns:
        What is kept of it; None if it was before.
    """
    if any(all(each[name] == value for name, value in asked.items()) for each in read_kept(kept)):
        return None
    result = run(**asked)
    files.write_json(kept, [*read_kept(kept), result])
    return result
