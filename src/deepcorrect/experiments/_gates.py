"""The gates of a run's systems: fitted before training, and raised for a strength after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepcorrect import correction
from deepcorrect.correction import GateConfig, GatedModel, Strength, find_strength, set_strength
from deepcorrect.data import loader
from deepcorrect.experiments._folder import CHECKPOINTS, log, once
from deepcorrect.experiments._sections import GateableSystem
from deepcorrect.experiments._setup import Setup
from deepcorrect.runtime import InputError, files, from_main


def fit_gate(setup: Setup, name: str, system: GateableSystem, model: GatedModel) -> None:
    """Fits the gate of a system whose section asks for one."""
    share = system.gate
    if share is None:
        return
    data = setup.recipe.data

    def fitted() -> dict[str, Any]:
        shown = loader(setup.images.train, data.batch_size, shuffle=True, workers=data.workers)
        gate = correction.fit_gate(
            model,
            shown,
            setup.distortions,
            share,
            seed=setup.recipe.seed,
            scale=system.gate_scale,
            others=system.others,
        )
        return gate.model_dump(mode="json")

    path = _fitted_file(setup.folder, name)
    once(path, lambda: from_main(fitted))
    model.set_gate(from_main(lambda: files.read_json_as(path, GateConfig)))


def choose_strength(
    setup: Setup, name: str, system: GateableSystem, model: GatedModel, strengths: Sequence[float]
) -> None:
    """Weakens a trained system to where it helps most, and raises its gate, on images that nothing
    was trained on."""
    if system.gate is None or not system.choose_strength:
        return
    shown, seed = setup.batches(setup.images.choices), setup.recipe.seed

    def chosen() -> dict[str, Any]:
        found = find_strength(
            model, shown, setup.distortions, seed, strengths, setup.recipe.precision
        )
        return found.model_dump(mode="json")

    path = _strength_file(setup.folder, name)
    once(path, lambda: from_main(chosen))
    found = from_main(lambda: files.read_json_as(path, Strength))
    log(setup.folder, "chosen", system=name, strength=found.strength)
    set_strength(model, found)


def read_gate(folder: Path, name: str, system: GateableSystem, model: GatedModel) -> None:
    """Sets the gate and the strength that a finished run has for a trained system.

    Raises:
        InputError: their file is missing, or holds something else.
    """
    place = _strength_file if system.choose_strength else _fitted_file
    path = place(folder, name)
    if not path.is_file():
        raise InputError(f"{path} is missing: without it, {name!r} has no gate")
    if system.choose_strength:
        set_strength(model, files.read_json_as(path, Strength))
    else:
        model.set_gate(files.read_json_as(path, GateConfig))


def _fitted_file(folder: Path, system: str) -> Path:
    return folder / CHECKPOINTS / f"{system}.gate.json"


def _strength_file(folder: Path, system: str) -> Path:
    return folder / CHECKPOINTS / f"{system}.strength.json"
