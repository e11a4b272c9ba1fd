"""Runs the evidence: every recipe beside it, for its seeds, one after the other.

    python -m benchmarks.evidence.grid --list
    python -m benchmarks.evidence.grid [NAME ...] [--seed N] [--minutes 120]

A run that was stopped goes on where it was; a finished one is kept in `results/NAME/seed-N`
(results, recipe, history, environment, and the analyses of some) and not repeated. Where a recipe
changed since, the systems that it changed are run again, beside the baseline, and the others are
kept; `environment-SYSTEM.json` says what they were run with. Where the run is analysed, all are run
again. With `--minutes`, no run is started after so many; what runs is finished. `--list` says what
each one took.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.subjects import CIFAR, SHARED
from deepcorrect.experiments import ANALYSIS_FILE, analyse, run
from deepcorrect.experiments._analyse import FOLDER as ANALYSES
from deepcorrect.experiments._recipe import Recipe, load_recipe
from deepcorrect.experiments._systems import CorrectionSystem
from deepcorrect.runtime import files

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SEEDS = {
    "resnet20_blur": 3,
    "resnet20_awgn": 3,
    "resnet20_blur_units": 3,
    "resnet20_awgn_units": 3,
    "allcnn_blur": 3,
    "allcnn_awgn": 3,
    "resnet20_both": 1,
    "resnet20_blind": 1,
    "resnet20_ablations": 1,
    "resnet20_rankings": 1,
    "resnet20_alternatives": 1,
    "allcnn_blur_long": 1,
    "allcnn_awgn_long": 1,
    "resnet20_configurations": 1,
    "resnet20_alternatives_configurations": 1,
    "allcnn_configurations": 1,
}
"""How many seeds each recipe has, in the order of running: first seeds first."""
ANALYSED = {"allcnn_blur": "features.7", "allcnn_awgn": "features.7"}
"""Recipes whose runs are analysed, too, with the module that gives the features: the last maps
before those that are the logits."""
PICTURES = ("features", "ideal-deepcorrect", "maps-deepcorrect")
"""What is kept of an analysis beside its numbers, and shown."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="recipes; default all")
    parser.add_argument("--seed", type=int, help="one seed alone; default all of the recipe's")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--list", action="store_true", help="say what is done, and what it took")
    given = parser.parse_args()
    unknown = set(given.names) - set(SEEDS)
    if unknown:
        parser.error(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(SEEDS)}")
    chosen = given.names or list(SEEDS)
    rounds = range(max(SEEDS[name] for name in chosen))
    if given.seed is not None and given.seed not in rounds:
        parser.error(
            f"no seed {given.seed}: {', '.join(chosen)} have {len(rounds)} at most, from 0"
        )
    seeds = rounds if given.seed is None else [given.seed]
    planned = [(name, seed) for seed in seeds for name in chosen if seed < SEEDS[name]]
    started, spent = time.monotonic(), 0.0
    for name, seed in planned:
        recipe, kept = recipe_of(name, seed), RESULTS / name / f"seed-{seed}"
        left = missing(recipe, kept)
        if given.list:
            spent += _minutes(kept)
            print(f"{name:36} seed {seed}  {_took(kept, left)}")
        elif left and (time.monotonic() - started) / 60 < given.minutes:
            one(recipe, left, kept)
    if given.list:
        print(f"{spent / 60:.1f} hours; most runs had one core")


def recipe_of(name: str, seed: int) -> Recipe:
    """A recipe beside this file, with its paths."""
    network = name.partition("_")[0]
    cifar = SHARED / "data" / "cifar100"
    return load_recipe(
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


def text_of(recipe: Recipe) -> str:
    """A recipe as it is kept: every key, paths from the shared folder on."""
    return recipe.to_yaml().replace(f"{SHARED}/", "")


def settings_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """For each system, what its figures depend on: the recipe's keys without those that are of no
    account for it, which are all others' sections, and of what corrects nothing the ranking."""
    shared = yaml.safe_load(text_of(recipe))
    sections = shared.pop("systems")
    if recipe.data.validation_rows:
        del shared["data"]["validation_images"]
    ranking = {key: shared.pop(key) for key in ("ranking", "ideal")}
    ranked = {n for n, system in recipe.systems.items() if isinstance(system, CorrectionSystem)}
    return {
        name: {**shared, **(ranking if name in ranked else {}), "system": section}
        for name, section in sections.items()
    }


def missing(recipe: Recipe, kept: Path) -> list[str]:
    """The systems of a recipe that `kept` does not hold as the recipe has them now: all or none
    where the run is analysed, as its analyses show them together."""
    if not (kept / "recipe.yaml").exists():
        return list(recipe.systems)
    before = settings_of(load_recipe(kept / "recipe.yaml"))
    changed = [name for name, now in settings_of(recipe).items() if before.get(name) != now]
    return list(recipe.systems) if changed and recipe.name in ANALYSED else changed


def one(recipe: Recipe, left: Sequence[str], kept: Path) -> None:
    """One run, of the systems that are left, and what of it is kept."""
    folder = Path("runs/evidence") / recipe.name / kept.name
    if len(left) < len(recipe.systems):
        folder = folder.with_name(f"{kept.name}-{'-'.join(left)}")
    chosen = {each: recipe.systems[each] for each in left}
    print(f"{recipe.name}, seed {recipe.seed}: {folder}", flush=True)
    run(recipe.model_copy(update={"systems": chosen}), folder, resume=True)
    if recipe.name in ANALYSED:
        analyse(folder, site=ANALYSED[recipe.name])
    keep(recipe, left, folder, kept)


def keep(recipe: Recipe, done: Sequence[str], folder: Path, kept: Path) -> None:
    """Puts a run's systems beside those of the recipe that are kept from before."""
    images = recipe.data.test_images or 10_000
    shown = f"CIFAR-100, {images:,} test images"
    results = {**files.read_json(folder / "results.json"), "data": shown}
    history = files.read_json(folder / "history.json")
    others = [name for name in recipe.systems if name not in done]
    if others:
        before = files.read_json(kept / "results.json")["systems"]
        records = {**before, **results["systems"]}
        results["systems"] = {name: records[name] for name in ("baseline", *recipe.systems)}
        for name in others:
            spent = before[name]["training_seconds"] + before[name]["measuring_seconds"]
            results["seconds"] += spent
        trained = {**files.read_json(kept / "history.json"), **history}
        history = {name: trained[name] for name in recipe.systems if name in trained}
    kept.mkdir(parents=True, exist_ok=True)
    for path in kept.glob("environment-*.json"):
        if path.stem.removeprefix("environment-") not in others:
            path.unlink()  # of a system that was run again, or that the recipe no longer has
    suffixes = [f"-{name}" for name in done] if others else [""]
    for suffix in suffixes:
        shutil.copy(folder / "environment.json", kept / f"environment{suffix}.json")
    pictures = [folder / ANALYSES / f"{name}.png" for name in PICTURES]
    for each in (folder / ANALYSIS_FILE, *pictures):
        if each.exists():
            files.write_bytes(kept / each.relative_to(folder), each.read_bytes())
    files.write_json(kept / "history.json", history)
    files.write_json(kept / "results.json", results)
    # the recipe last: while it is the one before, what it changed is missing
    files.write_text(kept / "recipe.yaml", text_of(recipe))


def _minutes(kept: Path) -> float:
    path = kept / "results.json"
    return files.read_json(path)["seconds"] / 60 if path.exists() else 0.0


def _took(kept: Path, left: Sequence[str]) -> str:
    if not (kept / "results.json").exists():
        return "not done"
    systems = len(files.read_json(kept / "results.json")["systems"]) - 1
    again = f", to run again: {', '.join(left)}" if left else ""
    return f"{_minutes(kept):6.1f} min, {systems} systems{again}"


if __name__ == "__main__":
    main()
