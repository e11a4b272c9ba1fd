"""Runs the evidence: every recipe beside it, for its seeds, one after the other.

    python -m benchmarks.evidence.grid --list
    python -m benchmarks.evidence.grid [NAME ...] [--minutes 120]

A run that was stopped goes on where it was; a finished one is kept in `results/NAME/seed-N`
(results, recipe, environment, history) and not repeated. With `--minutes`, no run is started after
so many; what runs is finished. On two CPU cores with bfloat16 all of it was planned at under
twelve hours; `--list` says what each finished run took.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from benchmarks.subjects import CIFAR, SHARED
from deepcorrect import files
from deepcorrect.pipeline import run
from deepcorrect.recipe import load_recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results"
KEPT = ("results.json", "recipe.yaml", "environment.json", "history.json")
SEEDS = {
    "resnet20_blur": 3,
    "resnet20_awgn": 3,
    "allcnn_blur": 1,
    "allcnn_awgn": 1,
    "resnet20_both": 3,
    "resnet20_objectives": 1,
    "resnet20_rankings": 3,
    "resnet20_alternatives": 1,
    "resnet20_units": 1,
    "resnet20_blind": 1,
    "resnet20_configurations": 1,
}
"""How many seeds each recipe has, in the order of running: first seeds first."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="recipes; default all")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--list", action="store_true", help="say what is done, and what it took")
    given = parser.parse_args()
    unknown = set(given.names) - set(SEEDS)
    if unknown:
        parser.error(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(SEEDS)}")
    chosen = given.names or list(SEEDS)
    rounds = range(max(SEEDS[name] for name in chosen))
    planned = [(name, seed) for seed in rounds for name in chosen if seed < SEEDS[name]]
    started = time.monotonic()
    for name, seed in planned:
        done = RESULTS / name / f"seed-{seed}" / "results.json"
        if given.list:
            print(f"{name:24} seed {seed}  {_took(done)}")
        elif not done.exists() and (time.monotonic() - started) / 60 < given.minutes:
            one(name, seed)


def one(name: str, seed: int) -> None:
    """One run, and what of it is kept."""
    folder = Path("runs/evidence") / name / f"seed-{seed}"
    network = name.partition("_")[0]
    cifar = SHARED / "data" / "cifar100"
    recipe = load_recipe(
        HERE / "recipes" / f"{name}.yaml",
        [
            f"seed={seed}",
            f"model.weights={SHARED}/models/cifar100_{network}.safetensors",
            f"model.spec={CIFAR[network]}",
            f"data.train=parquet:{cifar}/train-*.parquet",
            f"data.test=parquet:{cifar}/test.parquet",
            f"data.validation_rows={SHARED}/models/cifar100_validation_rows.json",
        ],
    )
    print(f"{name}, seed {seed}: {folder}", flush=True)
    run(recipe, folder, resume=True)
    kept = RESULTS / name / f"seed-{seed}"
    kept.mkdir(parents=True, exist_ok=True)
    for file in reversed(KEPT):  # results last: where they are, all is
        if file == "results.json":
            results = files.read_json(folder / file)
            files.write_json(kept / file, {**results, "data": "CIFAR-100, 10,000 test images"})
        elif file == "recipe.yaml":
            text = (folder / file).read_text(encoding="utf-8").replace(f"{SHARED}/", "")
            files.write_text(kept / file, text)
        else:
            shutil.copy(folder / file, kept / file)


def _took(path: Path) -> str:
    if not path.exists():
        return "not done"
    record = json.loads(path.read_text())
    return f"{record['seconds'] / 60:6.1f} min, {len(record['systems']) - 1} systems"


if __name__ == "__main__":
    main()
