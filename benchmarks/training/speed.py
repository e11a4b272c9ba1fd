"""What a training step of a correction costs, against fine-tuning on the same images.

    OMP_NUM_THREADS=1 python -m benchmarks.training.speed [--rounds 9] [--steps 6] [NETWORK ...]

Every system is trained for a few steps in turn, round after round, in one process. A figure is the
median over the rounds of processor time per step; a ratio is the median of the rounds' own ratios.
Give one thread: threads that wait count, too. Fine-tuning is measured with its own default
objective (`labels` and `logits`), with that of the correction, and with the labels alone, which
need no teacher. `validation` is the time that validation adds to an epoch at most, as a share of
the time of its steps. Weights are random where the trained ones are not at hand: time does not
depend on them. Adds to `benchmarks/results/training/speed.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import deepcorrect as dc
from benchmarks.subjects import DISTORTIONS, RESULTS
from deepcorrect import networks
from deepcorrect.distortions import cells_of, parse_all
from deepcorrect.experiments._choices import choose_settings
from deepcorrect.runtime import files
from deepcorrect.training._validation import SHOWN

FILE = RESULTS / "training" / "speed.json"
WARM_UP = 2
UNITS = ("weights", "dense", "bottleneck", "inverted")
SITES = ("convolutions", "stem+sums")
NETWORKS = {
    "cifar_resnet20": {"spec": "cifar_resnet20", "batch": 64},
    "resnet18_112": {"spec": "torchvision:resnet18", "input_size": 112, "batch": 16},
}
FINETUNED = {
    "labels": {"labels": 1.0},
    "labels+logits": {"labels": 1.0, "logits": 1.0},
}
MAPS = {"logits": 1.0, "activations": 16.0}
Batch = tuple[Tensor, Tensor]


class Clocked:
    """Batches, and the processor time at which each was asked for."""

    def __init__(self, batches: list[Batch], steps: int) -> None:
        self.batches, self.steps, self.asked = batches, steps, list[float]()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        self.asked = []
        for step in range(self.steps):
            self.asked.append(time.process_time())
            yield self.batches[step % len(self.batches)]
        self.asked.append(time.process_time())

    @property
    def seconds(self) -> float:
        """Per step, without the first steps."""
        return (self.asked[-1] - self.asked[WARM_UP]) / (self.steps - WARM_UP)


def subject(name: str) -> tuple[nn.Module, list[Batch], int]:
    """The network, four batches of noise, and the side of an image."""
    about: dict[str, Any] = dict(NETWORKS[name])
    count = about.pop("batch")
    model = dc.load_model(about.pop("spec"), "random", **about)
    side, draws = model.preprocessing.input_size, torch.Generator().manual_seed(0)
    batches = [
        (torch.rand(count, 3, side, side, generator=draws), torch.arange(count)) for _ in range(4)
    ]
    return model, batches, side


def systems_of(model: nn.Module, images: Tensor, side: int) -> dict[str, tuple[Any, Any]]:
    """By name, a function that makes the system, and its objective."""
    default = choose_settings(1000, side, training={}).training.objective
    objectives = {"+".join(each): each for each in (default, MAPS)}

    def corrected(unit: str, sites: str) -> nn.Module:
        names = list(networks.choose(model, images[:2], None if sites == SITES[0] else sites))
        with torch.inference_mode(), networks.tap(model, names) as maps:
            model(images[:2])
        half = {site: list(range(0, maps[site].shape[1], 2)) for site in names}
        return dc.correct(model, half, unit=unit)

    found: dict[str, tuple[Any, Any]] = {
        f"finetune, {name}": (lambda: dc.finetune(model), objective)
        for name, objective in {**FINETUNED, **objectives}.items()
    }
    for unit in UNITS:
        for sites in SITES if unit != "weights" else SITES[:1]:
            for name, objective in objectives.items():
                label = f"{unit} at {sites}, {name}"
                found[label] = (lambda u=unit, s=sites: corrected(u, s), objective)
    return found


def seconds_of(make: Any, objective: dict[str, float], batches: list[Batch], steps: int) -> float:
    """Processor time per step."""
    clocked = Clocked(batches, steps)
    changes: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-4, "objective": objective}
    dc.fit(make(), clocked, DISTORTIONS, **changes)
    return clocked.seconds


def validation_of(make: Any, batches: list[Batch]) -> float:
    """Processor time per image that a validation shows."""
    model = make().eval()
    dc.evaluate(model, batches[:1], DISTORTIONS, precision="auto")
    started = time.process_time()
    grid = dc.evaluate(model, batches[:1], DISTORTIONS, precision="auto")
    cells = 1 + sum(len(curve.distortion.levels) for curve in grid.curves.values())
    return (time.process_time() - started) / (cells * len(batches[0][0]))


def measure(name: str, rounds: int, steps: int) -> dict[str, Any]:
    model, batches, side = subject(name)
    systems = systems_of(model, batches[0][0], side)
    times: dict[str, list[float]] = {label: [] for label in systems}
    shown: dict[str, list[float]] = {label: [] for label in systems}
    for number in range(rounds):
        for label, (make, objective) in systems.items():
            times[label].append(seconds_of(make, objective, batches, steps))
            shown[label].append(validation_of(make, batches))
        print(name, "round", number + 1, flush=True)
    count = len(batches[0][0])
    found: dict[str, Any] = {}
    for label, (_, objective) in systems.items():
        per_image = [each / count for each in times[label]]
        found[label] = {
            "milliseconds_per_image": 1000 * statistics.median(per_image),
            "validation": SHOWN * ratio(shown[label], per_image),
        }
        for other in ("+".join(objective), *FINETUNED):
            found[label][f"over finetune, {other}"] = ratio(
                times[label], times[f"finetune, {other}"]
            )
        print(label, {key: round(value, 2) for key, value in found[label].items()}, flush=True)
    return {
        "pixels": side,
        "batch": count,
        "levels": len(cells_of(parse_all(DISTORTIONS, side))),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "systems": found,
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of training, against fine-tuning.")
    parser.add_argument("networks", nargs="*", default=[], choices=[*NETWORKS, []])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    for name in given.networks or NETWORKS:
        found = measure(name, given.rounds, given.steps)
        done = files.read_json(FILE) if FILE.exists() else {}
        FILE.parent.mkdir(exist_ok=True)
        files.write_json(FILE, {**done, name: found})
    print(f"written: {FILE}")


if __name__ == "__main__":
    main()
