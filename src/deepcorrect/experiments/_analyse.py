"""The analyses of a finished run: its folder gets `analysis.json` and pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deepcorrect import analysis
from deepcorrect.correction import GatedModel
from deepcorrect.data import ImageSet
from deepcorrect.distortions import Cell
from deepcorrect.experiments import report
from deepcorrect.experiments._finished_run import FinishedRun, open_run, systems_by_beta
from deepcorrect.networks import features
from deepcorrect.runtime import InputError, console, files, generator_for, launched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, CLASSES = 500, 10
ANALYSIS_FILE, FOLDER = "analysis.json", "analysis"


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
        images: number of random test images of the run that the maps and the ideal correction are
            measured on, and of images of some classes that the features are measured on.
        classes: number of random classes for the features.
        systems: the corrected systems to analyse; None takes all.
        site: dotted name of the module whose output the features are; None takes what the last
            linear layer reads.
        seed: of the choices, the noise and t-SNE.
        device: a device to use instead of the recipe's.

    Returns:
        The content of `analysis.json`.

    Raises:
        InputError: the run has not finished, or something asked for is not in it.

    Example:
        >>> from deepcorrect.experiments import analyse
        >>> analyse("runs/nowhere")
        Traceback (most recent call last):
        ...
        deepcorrect.runtime._errors.InputError: runs/nowhere has no recipe.yaml: it is not the \
folder of a run, or the run has not finished (deepcorrect run ... --resume)
    """
    if launched() > 1:
        raise InputError("analyse runs in one process: start it without a launcher")
    started = time.monotonic()
    run = open_run(folder, systems, device)
    files.check_folder(run.folder / FOLDER)
    with features(run.model, site):  # refuses a missing module now rather than at the end
        pass
    subject = next(iter(run.corrected))
    found: dict[str, Any] = {
        "schema": 1,
        "run": run.recipe.name,
        "seed": seed,
        "subject": subject,
        "maps": {},
        "ideal": {},
    }
    figures: dict[str, Figure] = {}
    shown = run.test.sample(images, seed)
    for name in run.corrected:
        found["maps"][name], figures[f"maps-{name}"] = _maps(run, name, shown, seed)
        found["ideal"][name], figures[f"ideal-{name}"] = _ideal(run, name, shown, seed)
    some, names = _some_classes(run, images, classes, seed)
    found["features"], figures["features"] = _features(run, subject, some, names, site, seed)
    curves = analysis.learning_curves(run.history)
    found["learning"] = {name: curve.to_json() for name, curve in curves.items()}
    if curves:
        figures["learning"] = report.learning_figure(curves)
    betas = systems_by_beta(run.recipe)
    if len(betas) > 1:
        points = analysis.beta_points(dict.fromkeys(betas, run.results), betas)
        found["beta"] = [vars(point) for point in points]
        figures["beta"] = report.beta_figure(points)
    found["figures"] = [f"{FOLDER}/{name}.png" for name in figures]
    for figure, file in zip(figures.values(), found["figures"], strict=True):
        report.write_png(figure, run.folder / file)
    shown.warn_of_bad()
    found["seconds"] = round(time.monotonic() - started, 1)
    files.write_json(run.folder / ANALYSIS_FILE, found)
    report.write_report(run.folder)
    return found


def _maps(run: FinishedRun, name: str, shown: ImageSet, seed: int) -> tuple[dict[str, Any], Figure]:
    """PSNR and SSIM of a corrected system's maps; every filter's values go to a file."""
    maps = analysis.map_quality(
        run.corrected[name], run.batches(shown), run.distortions, seed, f"maps, {name}"
    )
    tensors = {
        f"{measure}/{site}": values
        for measure, by_site in maps.values.items()
        for site, values in by_site.items()
    }
    files.write_tensors(run.folder / FOLDER / f"maps-{name}.safetensors", tensors)
    return maps.to_json(), report.maps_figure(maps, name)


def _ideal(
    run: FinishedRun, name: str, shown: ImageSet, seed: int
) -> tuple[dict[str, Any], Figure]:
    """Accuracy of a corrected system beside that of the ideal correction at its sites."""
    against = analysis.ideal_against_learned(
        run.corrected[name], run.batches(shown), run.distortions, seed, f"ideal, {name}"
    )
    return against.to_json(), report.ideal_against_learned_figure(against, name)


def _features(
    run: FinishedRun,
    subject: str,
    images: ImageSet,
    classes: dict[int, str],
    site: str | None,
    seed: int,
) -> tuple[dict[str, Any], Figure]:
    """Nearest neighbours of every system, and t-SNE at each distortion's middle level."""
    systems: dict[str, nn.Module] = {"baseline": run.model, **run.others, **run.corrected}
    for name, model in systems.items():
        if isinstance(model, GatedModel) and model.gate and model.gate.config.others == "mean":
            said = "answers some images by the mean of two networks: features are of its own alone"
            console().print(f"{name} {said}", markup=False)
            model.set_gate(None)
    batches = run.batches(images)
    near = analysis.neighbours(run.model, systems, batches, run.distortions, seed, site)
    clean, labels = analysis.gather({"": run.model}, batches, site=site)
    pair = {"baseline": run.model, subject: run.corrected[subject]}
    planes: dict[str, report.Plane] = {}
    for kind in run.distortions:
        levels = kind.levels
        level = levels[len(levels) // 2]
        console().print(f"t-SNE, {kind.name} at level {level:g}")
        distorted, _ = analysis.gather(pair, batches, Cell(kind, level), seed, site)
        groups = [clean[""], distorted["baseline"], distorted[subject]]
        first, second, third = analysis.embed(groups, seed)
        planes[kind.name] = report.Plane(level, labels, (first, second, third))
    values = {"classes": list(classes.values()), **near.to_json()}
    values["levels_shown"] = {name: plane.level for name, plane in planes.items()}
    return values, report.features_figure(near, planes, subject, classes)


def _some_classes(
    run: FinishedRun, images: int, classes: int, seed: int
) -> tuple[ImageSet, dict[int, str]]:
    """Random test images of random classes, and the names of these classes by label."""
    labels = np.asarray(run.test.labels)
    every = np.unique(labels)
    drawn = torch.randperm(len(every), generator=generator_for(seed, "classes"))[:classes]
    chosen: list[int] = np.sort(every[drawn.numpy()]).tolist()
    rows = np.flatnonzero(np.isin(labels, chosen))
    names = run.model.labels or run.test.classes or ()
    by_label = {label: names[label] if label < len(names) else str(label) for label in chosen}
    return run.test.select(rows).sample(images, seed), by_label
