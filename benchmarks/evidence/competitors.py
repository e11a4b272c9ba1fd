"""What was tried for WiSE-FT and for the adapters that correction is compared with: ResNet-20.

    python -m benchmarks.evidence.competitors [NAME ...]

Each system is trained on 5,000 images for two epochs, on both of the paper's distortions, by the
run's own step, and judged on 500 validation images of which nothing was chosen. No test image is
read. A system that was tried is not tried again; `make tables` shows the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.evidence.grid import RESULTS, recipe_of
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments._folder import CHECKPOINTS, share_file
from deepcorrect.experiments._sections import TrainedSystem
from deepcorrect.experiments._setup import open_setup
from deepcorrect.experiments._systems import System
from deepcorrect.experiments._train import train
from deepcorrect.networks import trainable_parameters
from deepcorrect.ranking import Ranking
from deepcorrect.runtime import files

FOUND = RESULTS / "competitors" / "results.json"
RUNS = Path("runs/evidence/competitors")
IMAGES, JUDGED = 5000, 500
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 64,
    "clean_share": 0.25,
    "augmentation": {"shift": 0.125, "flip": True},
    "objective": {"logits": 1, "activations": 1},
}
"""How all are trained, but for the optimizer, the rate and what is their own."""


def tried(
    method: str, rates: tuple[float, ...], optimizer: str = "adamw", **keys: Any
) -> dict[str, dict[str, Any]]:
    """A method at several learning rates, by the names in the table."""
    own = {"objective": {"activations": 1}} if method == "feature_correction" else {}
    training = {**TRAINING, **own, "optimizer": optimizer}
    more = "" if optimizer == "adamw" else f", {optimizer}"
    more += "".join(f", {key} {value}" for key, value in keys.items())
    return {
        f"{method}{more}, {rate:g}": {
            "method": method,
            **keys,
            "training": {**training, "learning_rate": rate},
        }
        for rate in rates
    }


TRIED: dict[str, dict[str, Any]] = {
    **tried("finetune", (1e-3, 3e-3, 1e-2)),
    **tried("finetune", (2e-3, 4e-3), "muon"),
    **tried("wise_ft", (1e-3, 3e-3, 1e-2)),
    **tried("wise_ft", (2e-3, 4e-3), "muon"),
    **tried("conv_adapter", (3e-3, 1e-2, 3e-2)),
    **tried("conv_adapter", (1e-2, 3e-2), "muon"),
    **tried("feature_correction", (1e-3, 3e-3, 1e-2), images=None),
}


def no_ranking(method: str | None) -> Ranking:
    """None of these systems asks for one."""
    raise AssertionError(method)


def measure(name: str) -> dict[str, Any]:
    """Trains a system, and what it has on validation images that nothing else read."""
    recipe = recipe_of("resnet20_alternatives", 0)
    data = recipe.data.model_copy(update={"train_images": IMAGES})
    recipe = recipe.model_copy(update={"data": data})
    setup = open_setup(recipe, RUNS)
    (RUNS / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    section: TrainedSystem = TypeAdapter[Any](System).validate_python(TRIED[name])
    key = name.replace(", ", "_").replace(" ", "_")
    model, history = train(setup, key, section, no_ranking)
    count = sum(each.numel() for each in trainable_parameters(model))
    judged = setup.images.ranking.select(range(JUDGED))  # nothing of these is ranked
    grid = evaluate(model, setup.batches(judged), setup.distortions, 0, recipe.precision, name)
    kept = share_file(RUNS, key)
    return {
        "clean": round(grid.clean_top1, 4),
        **{kind: round(curve.mean_top1, 4) for kind, curve in grid.curves.items()},
        "mean": round(grid.mean_top1, 4),
        "share": files.read_json(kept)["share"] if kept.exists() else None,
        "parameters": count,
        "seconds": round(history.seconds, 1),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(TRIED))
    for name in parser.parse_args().names:
        found = files.read_json(FOUND) if FOUND.exists() else {}
        if name in found:
            continue
        found[name] = measure(name)
        print(f"{name}: {found[name]}", flush=True)
        FOUND.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(FOUND, {each: found[each] for each in TRIED if each in found})


if __name__ == "__main__":
    main()
