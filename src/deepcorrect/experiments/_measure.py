"""The run's measuring step: a system's accuracy, cost and speed on the test images."""

from __future__ import annotations

import statistics
import time
from typing import Any

from torch import Tensor, nn

from deepcorrect.distortions import CLEAN, Cell, numbered_batches
from deepcorrect.evaluation import TestTimeSystem, evaluate, system_record
from deepcorrect.experiments._folder import CHECKPOINTS, log, once
from deepcorrect.experiments._setup import Setup
from deepcorrect.networks import costs, latencies
from deepcorrect.runtime import Precision, from_main
from deepcorrect.training import History

LATENCY_IMAGES = 20
"""Images whose latency is measured, one at a time."""


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
    record |= from_main(lambda: _speed(setup, model))
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


def _speed(setup: Setup, model: nn.Module) -> dict[str, float]:
    """Images per second and latency, beside the baseline's, both measured in turns.

    The latency is of one image at a time: of distorted images, and of clean ones, which a gate
    leaves to the network itself.
    """
    batch = next(numbered_batches(setup.batches(setup.images.test), "to measure speed on"))
    kind = setup.test_distortions[0]
    cell = Cell(kind, kind.levels[len(kind.levels) // 2])
    shown = cell.show(batch.images, setup.recipe.seed, range(len(batch.images)))
    adapts = isinstance(model, TestTimeSystem)
    if adapts:
        model.start_level(*cell)
    pair, precision = [setup.model, model], setup.recipe.precision
    _, own = latencies(pair, shown, precision)
    alone, relative = _latency(pair, shown, precision)
    if adapts:
        model.start_level(*CLEAN)
    _, relative_clean = _latency(pair, batch.images, precision)
    return {
        "images_per_second": round(len(shown) / own.seconds, 1),
        "relative_speed": round(1 / own.ratio, 3),
        "latency_ms": round(1e3 * alone, 3),
        "relative_latency": round(relative, 3),
        "relative_clean_latency": round(relative_clean, 3),
    }


def _latency(pair: list[nn.Module], images: Tensor, precision: Precision) -> tuple[float, float]:
    """The second model's seconds for one image at a time, and their ratio to the first one's.

    Both are medians over some images, as a gate may send each of them another way.
    """
    found = [
        latencies(pair, image, precision, turns=3)[1] for image in images[:LATENCY_IMAGES].split(1)
    ]
    seconds, ratios = [each.seconds for each in found], [each.ratio for each in found]
    return statistics.median(seconds), statistics.median(ratios)
