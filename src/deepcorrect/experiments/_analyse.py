"""The analyses of a finished run: its folder gets `analysis.json` and pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from deepcorrect import analysis, correction
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import ImageSet, loader, open_dataset
from deepcorrect.distortions import Distortion, parse_all
from deepcorrect.experiments._recipe import Recipe, load_recipe
from deepcorrect.experiments._systems import CorrectionSystem, TrainedSystem
from deepcorrect.experiments.report import (
    Plane,
    beta_figure,
    features_figure,
    ideal_against_learned_figure,
    learning_figure,
    maps_figure,
    write_png,
    write_report,
)
from deepcorrect.models import load_model, output_classes
from deepcorrect.networks import Classifier, features
from deepcorrect.ranking import Ranking
from deepcorrect.runtime import InputError, console, device_for, files, generator_for, unknown

IMAGES, CLASSES = 500, 10
ANALYSIS_FILE, FOLDER = "analysis.json", "analysis"


@dataclass(frozen=True)
class FinishedRun:
    """A run whose results are there, opened again.

    Attributes:
        folder: the run's.
        recipe: as it was run.
        results, history: its files of these names.
        model: the untouched network.
        test: the images that its figures are of.
        distortions: that its figures are of, with their levels.
        corrected: the networks with the adapters that were to be opened, by system.
        others: other trained systems, as their checkpoints left them.
    """

    folder: Path
    recipe: Recipe
    results: dict[str, Any]
    history: dict[str, Any]
    model: Classifier
    test: ImageSet
    distortions: tuple[Distortion, ...]
    corrected: dict[str, AdaptedModel]
    others: dict[str, nn.Module]

    def batches(self, images: ImageSet) -> Any:
        """A loader of some of the images."""
        data = self.recipe.data
        return loader(images, data.batch_size, workers=data.workers)


def open_run(
    folder: str | Path, systems: Sequence[str] | None = None, device: str | None = None
) -> FinishedRun:
    """Opens a finished run's network, adapters, other trained systems and test images.

    Args:
        folder: a run's folder.
        systems: the corrected systems to open; None takes all.
        device: instead of the recipe's.

    Raises:
        InputError: the run has not finished or is none, lacks a file, or has no such system.
    """
    folder = Path(folder)
    for name in ("recipe.yaml", "results.json", "history.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}: it is not the folder of a run, or the run has not "
                "finished (deepcorrect run ... --resume)"
            )
    recipe = load_recipe(folder / "recipe.yaml")
    results, history = (files.read_json(folder / f"{n}.json") for n in ("results", "history"))
    corrections = [n for n, s in recipe.systems.items() if isinstance(s, CorrectionSystem)]
    if not corrections:
        raise InputError(f"{folder} has no corrected system (method: deepcorrect) to analyse")
    for name in systems or ():
        if name not in corrections:
            raise unknown("corrected system", name, corrections)
    model = load_model(**recipe.model.model_dump()).to(device_for(device or recipe.device)).eval()
    data = open_dataset(recipe.data.test, model.preprocessing)
    classes = output_classes(model, model.preprocessing)
    test = data.matched(classes, model.labels).sample(recipe.data.test_images, recipe.seed)
    test.check_labels(classes)
    grid = parse_all(recipe.test_list, model.preprocessing.input_size)
    others = {
        name: _trained(folder, name, system, model, recipe.seed)
        for name, system in recipe.systems.items()
        if isinstance(system, TrainedSystem) and name not in corrections
    }
    corrected = {
        name: correction.load_adapter(model, folder / _adapter_folder(name))
        for name in corrections
        if systems is None or name in systems
    }
    known = {name: other for name, other in others.items() if other is not None}
    return FinishedRun(folder, recipe, results, history, model, test, grid, corrected, known)


def analyse(
    folder: str | Path,
    images: int = IMAGES,
    classes: int = CLASSES,
    systems: Sequence[str] | None = None,
    site: str | None = None,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, Any]:
    """Makes the paper's analyses of a finished run.

    Writes `analysis.json`, the pictures in `analysis/` that it names, and the report anew.

    Args:
        folder: a run's folder.
        images: so many random test images of the run, for the maps and the yardstick; and as many
            of some classes, for the features.
        classes: so many random classes, for the features.
        systems: the corrected systems to analyse; None takes all.
        site: dotted name of the module whose output the features are; None takes what the last
            linear layer reads.
        seed: of the choices, the noise and t-SNE.
        device: instead of the recipe's.

    Returns:
        The content of `analysis.json`.

    Raises:
        InputError: the run has not finished, or something asked for is not in it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("analyse runs in one process: start it without a launcher")
    started = time.monotonic()
    this = open_run(folder, systems, device)
    with features(this.model, site):  # which says now, not in the end, if there are none
        pass
    subject = next(iter(this.corrected))
    found: dict[str, Any] = {
        "schema": 1,
        "run": this.recipe.name,
        "seed": seed,
        "subject": subject,
        "maps": {},
        "ideal": {},
    }
    figures: dict[str, Figure] = {}
    shown = this.test.sample(images, seed)
    for name, adapted in this.corrected.items():
        batches = this.batches(shown)
        maps = analysis.map_quality(adapted, batches, this.distortions, seed, f"maps, {name}")
        against = analysis.ideal_against_learned(
            adapted, batches, this.distortions, seed, f"ideal, {name}"
        )
        found["maps"][name], found["ideal"][name] = maps.to_json(), against.to_json()
        figures[f"maps-{name}"] = maps_figure(maps, name)
        figures[f"ideal-{name}"] = ideal_against_learned_figure(against, name)
        files.write_tensors(
            this.folder / FOLDER / f"maps-{name}.safetensors",
            {
                f"{measure}/{site}": values
                for measure, by_site in maps.values.items()
                for site, values in by_site.items()
            },
        )
    found["features"], figures["features"] = _features(this, subject, images, classes, site, seed)
    curves = analysis.learning_curves(this.history)
    found["learning"] = {name: curve.to_json() for name, curve in curves.items()}
    if curves:
        figures["learning"] = learning_figure(curves)
    betas = systems_by_beta(this.recipe)
    if len(betas) > 1:
        points = analysis.beta_points(dict.fromkeys(betas, this.results), betas)
        found["beta"] = [vars(point) for point in points]
        figures["beta"] = beta_figure(points)
    found["figures"] = []
    for name, figure in figures.items():
        file = f"{FOLDER}/{name}.png"
        write_png(figure, this.folder / file)
        found["figures"].append(file)
    shown.warn_of_bad()
    found["seconds"] = round(time.monotonic() - started, 1)
    files.write_json(this.folder / ANALYSIS_FILE, found)
    write_report(this.folder)
    return found


def _features(
    this: FinishedRun, subject: str, images: int, classes: int, site: str | None, seed: int
) -> tuple[dict[str, Any], Figure]:
    """Nearest neighbours of every system, and t-SNE at each distortion's middle level."""
    chosen, some = _some_classes(this.test, images, classes, seed)
    names = this.model.labels or this.test.classes or ()
    known = [names[number] if number < len(names) else str(number) for number in chosen]
    systems: dict[str, nn.Module] = {"baseline": this.model, **this.others, **this.corrected}
    batches = this.batches(some)
    near = analysis.neighbours(this.model, systems, batches, this.distortions, seed, site)
    clean, labels = analysis.gather({"": this.model}, batches, site=site)
    pair = {"baseline": this.model, subject: this.corrected[subject]}
    planes: dict[str, Plane] = {}
    for kind in this.distortions:
        levels = kind.levels or ()
        level = levels[len(levels) // 2]
        console().print(f"t-SNE, {kind.name} at level {level:g}")
        found, _ = analysis.gather(pair, batches, kind, level, seed, site)
        to_device = analysis.embed([clean[""], found["baseline"], found[subject]], seed)
        planes[kind.name] = Plane(level, labels, (to_device[0], to_device[1], to_device[2]))
    values = {"classes": known, **near.to_json()}
    values["levels_shown"] = {name: plane.level for name, plane in planes.items()}
    classes_of = dict(zip(chosen, known, strict=True))
    return values, features_figure(near, planes, subject, classes_of)


def _some_classes(
    test: ImageSet, images: int, classes: int, seed: int
) -> tuple[list[int], ImageSet]:
    """Random images of random classes, and which classes these are."""
    labels = np.asarray(test.labels)
    every = np.unique(labels)
    drawn = torch.randperm(len(every), generator=generator_for(seed, "classes"))[:classes]
    chosen = np.sort(every[drawn.numpy()])
    rows = np.flatnonzero(np.isin(labels, chosen))
    return chosen.tolist(), test.select(rows).sample(images, seed)


def systems_by_beta(recipe: Recipe) -> dict[float, str]:
    """Systems by beta, of those that are like the first one in everything else."""
    found: dict[float, str] = {}
    first = None
    for name, system in recipe.systems.items():
        if isinstance(system, CorrectionSystem) and isinstance(system.beta, float | int):
            rest = system.model_dump(exclude={"beta"})
            first = first or rest
            if rest == first:
                found.setdefault(float(system.beta), name)
    return found


def _adapter_folder(name: str) -> str:
    return "adapter" if name == "deepcorrect" else f"adapter-{name}"


def _trained(
    folder: Path, name: str, system: TrainedSystem, model: Classifier, seed: int
) -> nn.Module | None:
    """A trained system that is not a correction, as its checkpoint has it."""
    path = folder / "checkpoints" / f"{name}.pt"
    if not path.is_file():
        console().print(f"note: {path} is missing, so the features of {name!r} are left out")
        return None
    built = system.build(model, _no_ranking, seed)
    saved = files.read_checkpoint(path)
    try:
        built.load_state_dict(saved["best_state"])
    except (KeyError, TypeError, RuntimeError):
        raise InputError(f"{path} is not the checkpoint of the run's system {name!r}") from None
    return system.finished(built).eval()


def _no_ranking(method: str | None) -> Ranking:
    raise InputError(f"a system that corrects no filter asked for a ranking by {method}")
