"""A finished run, opened again: its network, adapters, other trained systems and test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deepcorrect.correction import AdaptedModel, GatedModel, load_adapter
from deepcorrect.data import ImageSet, open_dataset
from deepcorrect.distortions import LevelledDistortion, parse_all
from deepcorrect.experiments._alternative_systems import WiseFtSystem
from deepcorrect.experiments._folder import (
    CHECKPOINTS,
    HISTORY_FILE,
    RECIPE_FILE,
    RESULTS_FILE,
    adapter_folder,
    share_file,
)
from deepcorrect.experiments._gates import read_gate
from deepcorrect.experiments._recipe import Recipe, load_recipe
from deepcorrect.experiments._sections import GateableSystem, TrainedSystem
from deepcorrect.experiments._setup import batches
from deepcorrect.experiments._systems import CorrectionSystem
from deepcorrect.models import load_model, output_classes
from deepcorrect.networks import Classifier, interpolate
from deepcorrect.ranking import Ranking
from deepcorrect.runtime import InputError, console, device_for, files, unknown


@dataclass(frozen=True)
class FinishedRun:
    """A run that has its results, opened again.

    Attributes:
        folder: the run's folder.
        recipe: the recipe as it was run.
        results: the content of `results.json`.
        history: the content of `history.json`.
        model: the untouched network.
        test: the images that systems were measured on.
        distortions: the distortions that systems were measured on, with their levels.
        corrected: by system, the networks with the adapters that were asked for.
        others: by system, the other trained systems, as their checkpoints hold them.
    """

    folder: Path
    recipe: Recipe
    results: dict[str, Any]
    history: dict[str, Any]
    model: Classifier
    test: ImageSet
    distortions: tuple[LevelledDistortion, ...]
    corrected: dict[str, AdaptedModel]
    others: dict[str, nn.Module]

    def batches(self, images: ImageSet) -> Any:
        """A loader of some of the images, in their order."""
        return batches(self.recipe, images)


def open_run(
    folder: str | Path, systems: Sequence[str] | None = None, device: str | None = None
) -> FinishedRun:
    """Opens a finished run's network, adapters, other trained systems and test images.

    Args:
        folder: a run's folder.
        systems: the corrected systems to open; None opens all.
        device: a device to use instead of the recipe's.

    Raises:
        InputError: the folder is not a run's, the run has not finished, a file is missing, or
            there is no such system.
    """
    folder = Path(folder)
    for name in (RECIPE_FILE, RESULTS_FILE, HISTORY_FILE):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}: it is not the folder of a run, or the run has not "
                "finished (deepcorrect run ... --resume)"
            )
    recipe = load_recipe(folder / RECIPE_FILE)
    corrections = [n for n, s in recipe.systems.items() if isinstance(s, CorrectionSystem)]
    if not corrections:
        raise InputError(f"{folder} has no corrected system (method: deepcorrect) to analyse")
    for name in systems or ():
        if name not in corrections:
            raise unknown("corrected system", name, corrections)
    model = load_model(**recipe.model.model_dump()).to(device_for(device or recipe.device)).eval()
    return FinishedRun(
        folder,
        recipe,
        files.read_json(folder / RESULTS_FILE),
        files.read_json(folder / HISTORY_FILE),
        model,
        _test_images(recipe, model),
        parse_all(recipe.test_list, model.preprocessing.input_size),
        {
            name: load_adapter(model, adapter_folder(folder, name))
            for name in corrections
            if systems is None or name in systems
        },
        _trained_systems(folder, recipe, model),
    )


def _test_images(recipe: Recipe, model: Classifier) -> ImageSet:
    classes = output_classes(model, model.preprocessing)
    data = recipe.data
    images = open_dataset(data.test, model.preprocessing)
    images = images.matched(classes, model.labels, class_order=data.class_order)
    test = images.sample(data.test_images, recipe.seed)
    test.check_labels(classes)
    return test


def _trained_systems(folder: Path, recipe: Recipe, model: Classifier) -> dict[str, nn.Module]:
    """The trained systems that are not corrections; one without a checkpoint is left out."""
    found: dict[str, nn.Module] = {}
    for name, system in recipe.systems.items():
        if not isinstance(system, TrainedSystem) or isinstance(system, CorrectionSystem):
            continue
        path = folder / CHECKPOINTS / f"{name}.pt"
        if path.is_file():
            found[name] = _trained(folder, name, system, model, recipe.seed)
        else:
            console().print(f"note: {path} is missing, so the features of {name!r} are left out")
    return found


def _trained(
    folder: Path, name: str, system: TrainedSystem, model: Classifier, seed: int
) -> nn.Module:
    """A trained system with the weights of its best epoch, behind its gate if it has one."""
    path = folder / CHECKPOINTS / f"{name}.pt"
    built = system.build(model, _no_ranking, seed)
    saved = files.read_checkpoint(path)
    try:
        built.load_state_dict(saved["best_state"])
    except (KeyError, TypeError, RuntimeError):
        raise InputError(f"{path} is not the checkpoint of the run's system {name!r}") from None
    if isinstance(system, WiseFtSystem):
        share = files.read_json(share_file(folder, name))["share"]
        built.load_state_dict(interpolate(model.state_dict(), built.state_dict(), share))
    built = system.finished(built)
    if isinstance(built, GatedModel) and isinstance(system, GateableSystem):
        read_gate(folder, name, system, built)
    return built.eval()


def _no_ranking(method: str | None) -> Ranking:
    raise InputError(f"a system that corrects no filter asked for a ranking by {method}")


def systems_by_beta(recipe: Recipe) -> dict[float, str]:
    """Corrected systems by beta: those that equal the first one in everything else."""
    found: dict[float, str] = {}
    first = None
    for name, system in recipe.systems.items():
        if isinstance(system, CorrectionSystem) and isinstance(system.beta, float | int):
            rest = system.model_dump(exclude={"beta"})
            first = first or rest
            if rest == first:
                found.setdefault(float(system.beta), name)
    return found
