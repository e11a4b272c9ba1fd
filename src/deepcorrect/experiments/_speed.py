"""A system's speed in the form in which it is deployed, beside the baseline's."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction import GatedModel
from deepcorrect.deployment import deployed_in_torch, latency_clock
from deepcorrect.distortions import CLEAN, Cell, numbered_batches
from deepcorrect.evaluation import TestTimeSystem
from deepcorrect.experiments._setup import Setup
from deepcorrect.networks import Latency, latencies, ungated
from deepcorrect.runtime import InputError, Precision, console

LATENCY_IMAGES = 20
"""Images whose latency is measured, one at a time."""
TURNS = (3, 25)
"""The smallest and the largest number of turns for one image."""
SECONDS = 0.5
"""About how long all images take together, within these turns."""
TRACED_IMAGES = 2
"""How many clean and how many distorted images a network is fused with."""


def speed(setup: Setup, name: str, model: nn.Module) -> dict[str, Any]:
    """A system's speed and latency, beside the baseline's, both measured in turns.

    Both networks run as they are deployed in PyTorch: fused, a gate included. What cannot be fused
    runs as it is. The latency is of one image at a time: of distorted images, of clean ones, which
    a gate leaves to the network itself, and with a gate also of distorted ones without it.

    Args:
        setup: the run.
        name: the system's name.
        model: the system.

    Returns:
        Keys of its record in `results.json`.
    """
    batch = next(numbered_batches(setup.batches(setup.images.test), "to measure speed on"))
    kind = setup.test_distortions[0]
    cell = Cell(kind, kind.levels[len(kind.levels) // 2])
    shown = cell.show(batch.images, setup.recipe.seed, range(len(batch.images)))
    traced = torch.cat([images[:TRACED_IMAGES] for images in (batch.images, shown)])
    pair = _deployed(setup.model, name, model, traced, setup.recipe.precision)
    adapts = isinstance(model, TestTimeSystem)
    if adapts:
        model.start_level(*cell)
    own = pair.on(shown)
    alone = pair.one_by_one(shown)
    found = {
        "images_per_second": round(len(shown) / own.seconds, 1),
        "relative_speed": round(1 / own.ratio, 3),
        "latency_ms": round(1e3 * alone.seconds, 3),
        "relative_latency": round(alone.ratio, 3),
    }
    if isinstance(model, GatedModel) and model.gate is not None:
        with ungated(pair.system):
            found["relative_ungated_latency"] = round(pair.one_by_one(shown).ratio, 3)
    if adapts:
        model.start_level(*CLEAN)
    found["relative_clean_latency"] = round(pair.one_by_one(batch.images).ratio, 3)
    return {**found, "fused": pair.fused, "runtime": "torch", "threads": torch.get_num_threads()}


@dataclass(frozen=True)
class _Pair:
    """The baseline and a system, as they are deployed; `fused`: whether the system is fused."""

    baseline: nn.Module
    system: nn.Module
    fused: bool
    precision: Precision

    def on(self, images: Tensor, turns: int = 5) -> Latency:
        """The system's time for a batch."""
        both, clock = [self.baseline, self.system], latency_clock(self.baseline)
        return latencies(both, images, self.precision, turns, clock)[1]

    def one_by_one(self, images: Tensor) -> Latency:
        """The system's time for one image: medians over some, which a gate may send two ways."""
        shown = images[:LATENCY_IMAGES].split(1)
        least, most = TURNS
        a_turn = 4 * len(shown) * self.on(shown[0], least).seconds  # both networks run twice
        turns = min(most, max(least, round(SECONDS / max(a_turn, 1e-9))))
        found = [self.on(image, turns) for image in shown]
        return Latency(
            statistics.median(each.seconds for each in found),
            statistics.median(each.ratio for each in found),
        )


def _deployed(
    baseline: nn.Module, name: str, model: nn.Module, images: Tensor, precision: Precision
) -> _Pair:
    """Fuses both networks; a baseline that cannot be fused is compared with what is not, either."""
    base = _fused(baseline, "baseline", images)
    if base is None:
        return _Pair(baseline, model, fused=False, precision=precision)
    own = base if model is baseline else _fused(model, name, images)
    return _Pair(base, own or model, fused=own is not None, precision=precision)


def _fused(model: nn.Module, name: str, images: Tensor) -> nn.Module | None:
    """The network as it is deployed; None, with a note, if it cannot be fused."""
    if isinstance(model, TestTimeSystem):
        return None  # it changes while it runs
    try:
        return deployed_in_torch(model, images)
    except InputError as error:
        console().print(f"note: the speed of {name} is of it unfused: {error}", markup=False)
        return None
