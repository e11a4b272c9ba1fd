"""The run's training steps: the training itself, and the adapter's files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from deepcorrect.alternatives import score_shares
from deepcorrect.correction import STRENGTHS, AdaptedModel, GatedModel
from deepcorrect.data import loader
from deepcorrect.deployment import latency_note
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments._alternative_systems import FeatureCorrectionSystem, WiseFtSystem
from deepcorrect.experiments._folder import (
    CHECKPOINTS,
    adapter_folder,
    log,
    once,
    share_file,
)
from deepcorrect.experiments._gates import choose_strength, fit_gate
from deepcorrect.experiments._sections import GateableSystem, Rank, TrainedSystem
from deepcorrect.experiments._setup import Setup
from deepcorrect.experiments._systems import CorrectionSystem
from deepcorrect.networks import interpolate
from deepcorrect.runtime import InputError
from deepcorrect.training import History, fit


def train(setup: Setup, name: str, system: TrainedSystem, rank: Rank) -> tuple[nn.Module, History]:
    """Trains a system, starting from the baseline.

    Args:
        setup: the run.
        name: the system's name.
        system: its section of the recipe.
        rank: returns the ranking of a method.

    Returns:
        The trained system and the history of its training.
    """
    recipe, images = setup.recipe, setup.images
    if isinstance(system, CorrectionSystem):
        kept = setup.folder / CHECKPOINTS / f"{name}.latency.json"
        model = system.build(setup.model, rank, recipe.seed, kept)
    else:
        model = system.build(setup.model, rank, recipe.seed)
    if isinstance(system, GateableSystem) and isinstance(model, GatedModel):
        fit_gate(setup, name, system, model)
    shown = images.train
    if isinstance(system, FeatureCorrectionSystem):
        shown = shown.sample(system.images, recipe.seed)
    history = fit(
        model,
        loader(shown, system.training.batch_size, shuffle=True, workers=recipe.data.workers),
        setup.distortions,
        system.training,
        setup.batches(images.selection) if len(images.selection) else None,
        recipe.seed,
        setup.folder / CHECKPOINTS / f"{name}.pt",
        f"training {name}",
    )
    if isinstance(system, WiseFtSystem):
        _interpolate(setup, name, system, model)
    model = system.finished(model)
    if isinstance(system, GateableSystem) and isinstance(model, GatedModel):
        strengths = (1.0,) if isinstance(system, WiseFtSystem) else STRENGTHS  # its own is chosen
        choose_strength(setup, name, system, model, strengths)
    log(setup.folder, "trained", system=name, best=history.best, seconds=history.seconds)
    return model, history


def _interpolate(setup: Setup, name: str, system: WiseFtSystem, model: nn.Module) -> None:
    """Sets the weights between the network's and the trained ones, at the best share."""
    start, recipe = setup.model.state_dict(), setup.recipe

    def score(model: nn.Module) -> float:
        shown, task = setup.batches(setup.images.choices), f"choosing the share of {name}"
        grids = (setup.distortions, recipe.seed, recipe.precision, task)
        return evaluate(model, shown, *grids, reference=setup.model).mean_top1

    def chosen() -> dict[str, Any]:
        if system.share is not None:
            return {"share": system.share}
        found = score_shares(start, model, score)
        best = max(found, key=lambda share: found[share])
        scores = {str(share): round(value, 4) for share, value in found.items()}
        return {"share": best, "scores": scores}

    share = once(share_file(setup.folder, name), chosen)["share"]
    log(setup.folder, "chosen", system=name, share=share)
    model.load_state_dict(interpolate(start, model.state_dict(), share))


def save_adapter(
    setup: Setup,
    name: str,
    model: nn.Module,
    records: dict[str, Any],
) -> None:
    """Writes a corrected network's adapter, with its figures and the baseline's as notes."""
    record, baseline = records[name], records["baseline"]
    if not isinstance(model, AdaptedModel):
        raise InputError(f"system {name!r} is not a corrected network")
    data, system = setup.recipe.data, setup.recipe.systems[name]
    runtime = system.runtime if isinstance(system, CorrectionSystem) else "torch"
    notes = {
        "model": setup.recipe.model.spec,
        "data": data.train,
        "distortions": [asdict(distortion) for distortion in setup.distortions],
        "images_seen": record["images_seen"],
        "training_seconds": record["training_seconds"],
        "mean_top1": {kind: values["mean_top1"] for kind, values in record["distortions"].items()},
        "measured": {
            "data": data.test,
            "images": record["test_images"],
            "baseline": baseline["distortions"],
            "corrected": record["distortions"],
        },
        "cost": {
            "multiply_adds": record["multiply_adds"] - baseline["multiply_adds"],
            "base_multiply_adds": baseline["multiply_adds"],
            "base_parameters": baseline["parameters"],
            "latency": latency_note(model, runtime),
        },
    }
    model.save_pretrained(adapter_folder(setup.folder, name), notes)
