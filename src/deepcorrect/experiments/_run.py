"""The run: measure, rank, correct, measure, report. Each step reads and writes the run's folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from deepcorrect.experiments._examples import examples
from deepcorrect.experiments._folder import HISTORY_FILE, RESULTS_FILE, log, once, open_folder
from deepcorrect.experiments._measure import measure
from deepcorrect.experiments._recipe import Recipe
from deepcorrect.experiments._sections import TrainedSystem
from deepcorrect.experiments._setup import Setup, open_setup
from deepcorrect.experiments._systems import CorrectionSystem
from deepcorrect.experiments._train import save_adapter, train
from deepcorrect.experiments.report import write_report
from deepcorrect.ranking import Ranking, ideal_correction, load_ranking, rank
from deepcorrect.runtime import environment, files, from_main, together
from deepcorrect.training import History

RANKING_FILE, IDEAL_FILE = "ranking.json", "ideal.json"


def run(recipe: Recipe, folder: Path, *, resume: bool = False) -> Path:
    """Runs a recipe; the results, the report and everything needed to resume go to `folder`.

    Steps whose files are whole are not repeated, so a run that was stopped at any moment goes on
    with `resume` and ends with the same figures.

    Args:
        recipe: the experiment; see `load_recipe`.
        folder: a new or empty folder, or with `resume` one that holds a run of the same recipe.
        resume: goes on with the run in `folder`.

    Returns:
        The path of `results.json`.

    Raises:
        InputError: the folder holds another run, cannot be written to, or is another process's; or
            anything in the recipe cannot be used.

    Example:
        >>> from deepcorrect.experiments import load_recipe, run
        >>> recipe = load_recipe("demo", ["model.weights=nowhere.safetensors"])
        >>> run(recipe, Path("runs/demo"))
        Traceback (most recent call last):
        ...
        deepcorrect.runtime._errors.InputError: there is no file nowhere.safetensors
    """
    with together():
        from_main(lambda: files.check_folder(folder))
        setup = open_setup(recipe, folder)
        with files.locked(folder):
            inputs = setup.inputs()
            from_main(lambda: open_folder(recipe, folder, inputs, resume=resume))
            return _run(setup)


def _run(setup: Setup) -> Path:
    """Runs all steps that are not finished yet."""
    recipe, folder = setup.recipe, setup.folder
    started_with = once(folder / "environment.json", lambda: environment(setup.device))
    log(folder, "start", environment=started_with)

    records = {"baseline": measure(setup, "baseline", setup.model)}
    if any(isinstance(section, CorrectionSystem) for section in recipe.systems.values()):
        ranking = rank_filters(setup)
        if recipe.ideal.images:
            once(folder / IDEAL_FILE, lambda: measure_ideal(setup, ranking))

    systems: dict[str, nn.Module] = {"baseline": setup.model}
    histories: dict[str, History] = {}
    for name, section in recipe.systems.items():
        if isinstance(section, TrainedSystem):
            model, history = train(setup, name, section, partial(rank_filters, setup))
            histories[name] = history
            records[name] = measure(setup, name, model, history)
            if isinstance(section, CorrectionSystem):
                from_main(partial(save_adapter, setup, name, model, records))
        else:
            model = section.build(setup.model, setup.batches(setup.images.choices))
            records[name] = measure(setup, name, model)
        systems[name] = model

    setup.images.warn_of_bad()
    from_main(lambda: _finish(setup, records, histories, systems))
    return folder / RESULTS_FILE


def _finish(
    setup: Setup,
    records: dict[str, Any],
    histories: dict[str, History],
    systems: dict[str, nn.Module],
) -> None:
    """Writes the files of the whole run, and the report."""
    folder = setup.folder
    files.write_json(
        folder / HISTORY_FILE, {name: asdict(history) for name, history in histories.items()}
    )
    once(folder / "examples.json", lambda: examples(setup, systems))
    files.write_json(folder / RESULTS_FILE, results(setup, records))
    log(folder, "report", path=str(write_report(folder)))


def rank_filters(setup: Setup, method: str | None = None) -> Ranking:
    """The ranking of all filters of the sites, by the recipe's method or another."""
    section = setup.recipe.ranking
    method = method or section.method
    own = method == section.method
    folder = setup.folder if own else setup.folder / "rankings" / method

    def made() -> Ranking:
        return rank(
            setup.model,
            setup.batches(setup.images.ranking),
            setup.distortions,
            method,
            section.sites,
            setup.recipe.seed,
            section.precision,
            section.target,
        )

    def saved(path: Path, ranking: Ranking) -> None:
        ranking.save(path.parent)
        log(
            setup.folder,
            "ranked",
            method=ranking.method,
            images=ranking.images,
            seconds=ranking.seconds,
        )

    last = folder / RANKING_FILE  # the last of a ranking's files to be written
    return once(last, made, lambda path: load_ranking(path.parent), saved)


def measure_ideal(setup: Setup, ranking: Ranking) -> dict[str, Any]:
    """The ideal-correction curves of a ranking, on images that it was not made with."""
    started = time.monotonic()
    curves = ideal_correction(
        setup.model,
        setup.batches(setup.images.ideal),
        ranking,
        setup.recipe.ideal.betas,
        seed=setup.recipe.seed + 1,
        precision=setup.recipe.ranking.precision,
    )
    seconds = time.monotonic() - started
    log(setup.folder, "ideal", images=curves.images, seconds=seconds)
    return {**curves.to_json(), "seconds": seconds}


def results(setup: Setup, records: dict[str, Any]) -> dict[str, Any]:
    """The content of `results.json`: the run's figures in one file."""
    seconds = sum(r["training_seconds"] + r["measuring_seconds"] for r in records.values())
    for name in (RANKING_FILE, IDEAL_FILE):
        if (setup.folder / name).exists():
            seconds += files.read_json(setup.folder / name)["seconds"]
    return {
        "schema": 1,
        "name": setup.recipe.name,
        "model": setup.model.name,
        "data": setup.recipe.data.test,
        "seed": setup.recipe.seed,
        "seconds": round(seconds, 1),
        "systems": records,
    }
