"""The run's measuring step: a system's accuracy, cost and speed on the test images."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from deepcorrect.evaluation import evaluate, system_record
from deepcorrect.experiments._folder import CHECKPOINTS, log, once
from deepcorrect.experiments._setup import Setup
from deepcorrect.experiments._speed import speed
from deepcorrect.networks import costs
from deepcorrect.runtime import from_main
from deepcorrect.training import History


def measure(
    setup: Setup, name: str, model: nn.Module, history: History | None = None
) -> dict[str, Any]:
    """Measures a system on the test images.

    Args:
        setup: the run.
        name: the system's name.
        model: the system.
        history: its training; None for a system that is not trained beforehand.

    Returns:
        The system's record in `results.json`.
    """
    path = setup.folder / CHECKPOINTS / f"{name}.measured.json"
    return once(path, lambda: _record(setup, name, model, history))


def _record(setup: Setup, name: str, model: nn.Module, history: History | None) -> dict[str, Any]:
    started = time.monotonic()
    recipe = setup.recipe
    grid = evaluate(
        model,
        setup.batches(setup.images.test),
        setup.test_distortions,
        recipe.seed,
        recipe.precision,
        f"measuring {name}",
    )
    record = system_record(
        grid,
        costs(model, setup.model.preprocessing),
        trained=history is not None,
        images_seen=history.images_seen if history else 0,
        seconds=history.seconds if history else 0.0,
    )
    record |= from_main(lambda: speed(setup, name, model))
    record["measuring_seconds"] = round(time.monotonic() - started, 2)
    means = {kind: round(curve.mean_top1, 4) for kind, curve in grid.curves.items()}
    log(
        setup.folder,
        "measured",
        system=name,
        clean_top1=round(grid.clean_top1, 4),
        mean_top1=means,
    )
    return record
