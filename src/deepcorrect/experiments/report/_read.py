"""A run's folder as one value. All checks of its files are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deepcorrect.correction import CONFIG_FILE, AdapterConfig
from deepcorrect.ranking import Ranking, load_ranking
from deepcorrect.runtime import InputError, files

NEEDED = {
    "results.json": ("systems", "model", "data", "seed"),
    "environment.json": (),
    "history.json": (),
    "examples.json": ("systems", "distortions"),
}
"""The JSON files that every run has, and the keys that each must have."""

SYSTEM_KEYS = (
    "trainable_parameters",
    "parameters",
    "multiply_adds",
    "images_seen",
    "training_seconds",
    "distortions",
)
ANALYSIS_FILE = "analysis.json"
ANALYSIS_KEYS = ("subject", "maps", "ideal", "features", "learning", "figures")
CURVE_KEYS = ("levels", "top1", "clean_top1", "mean_top1")


@dataclass(frozen=True)
class RunFiles:
    """Everything that a report is made of.

    Attributes:
        results: the content of `results.json`.
        environment: the content of `environment.json`.
        history: the content of `history.json`.
        examples: the content of `examples.json`.
        recipe: the text of `recipe.yaml`.
        ranking: the ranking; None if no system needed one.
        ideal: the content of `ideal.json`; None if the curves were not measured.
        analysis: the content of `analysis.json`; None without an analysis.
        pictures: the PNG files that the analysis names, by name.
        adapters: the configuration of each corrected system's adapter.
        subject: the system that the headline is about; None if only the baseline was measured.
    """

    results: dict[str, Any]
    environment: dict[str, Any]
    history: dict[str, Any]
    examples: dict[str, Any]
    recipe: str
    ranking: Ranking | None
    ideal: dict[str, Any] | None
    analysis: dict[str, Any] | None
    pictures: dict[str, bytes]
    adapters: dict[str, AdapterConfig]
    subject: str | None


def read_run(folder: Path) -> RunFiles:
    """Reads a run's folder.

    Raises:
        InputError: a file that is needed is missing, or is not what a run writes.

    Example:
        >>> from pathlib import Path
        >>> from deepcorrect.experiments.report import read_run
        >>> read_run(Path("nowhere"))
        Traceback (most recent call last):
        ...
        deepcorrect.runtime._errors.InputError: there is no folder nowhere: give the folder of a run
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give the folder of a run")
    values = {name: _needed(folder / name, keys) for name, keys in NEEDED.items()}
    results = values["results.json"]
    systems = results["systems"]
    if results.get("schema") != 1 or "baseline" not in systems:
        raise InputError(
            f"{folder / 'results.json'} has schema {results.get('schema')!r} and systems "
            f"{', '.join(systems)}: a report needs schema 1 and a system 'baseline'"
        )
    for name, record in systems.items():
        _check_keys(folder / "results.json", record, SYSTEM_KEYS, f"of system {name!r} ")
        for kind, curve in record["distortions"].items():
            _check_keys(folder / "results.json", curve, CURVE_KEYS, f"of {kind} of {name!r} ")
    _present(folder / "recipe.yaml")
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    corrected = [name for name in _corrected(folder, recipe) if name in systems]
    ideal, analysis = folder / "ideal.json", folder / ANALYSIS_FILE
    analysed = _needed(analysis, ANALYSIS_KEYS) if analysis.exists() else None
    return RunFiles(
        results=results,
        environment=values["environment.json"],
        history=values["history.json"],
        examples=values["examples.json"],
        recipe=recipe,
        ranking=_ranking(folder, needed=bool(corrected)),
        ideal=files.read_json(ideal) if ideal.exists() else None,
        analysis=analysed,
        pictures=_pictures(folder, analysed["figures"] if analysed else ()),
        adapters={name: _adapter(folder, name) for name in corrected},
        subject=_subject(systems, corrected),
    )


def _present(path: Path) -> None:
    if not path.is_file():
        raise InputError(
            f"{path.parent} has no {path.name}, which its report needs: the run has not finished "
            "(deepcorrect run ... --resume), or this is not the folder of a run"
        )


def _needed(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    _present(path)
    value = files.read_json(path)
    _check_keys(path, value, keys)
    return value


def _check_keys(path: Path, value: object, keys: tuple[str, ...], where: str = "") -> None:
    if not isinstance(value, dict):
        raise InputError(f"{path}: the value {where}is not a mapping of keys to values")
    lacking = [key for key in keys if key not in value]
    if lacking:
        raise InputError(f"{path} is not what a run writes: {where}it lacks {', '.join(lacking)}")


def _corrected(folder: Path, recipe: str) -> list[str]:
    """The names of a recipe's corrected systems."""
    try:
        systems = yaml.safe_load(recipe)["systems"]
        return [name for name, system in systems.items() if system["method"] == "deepcorrect"]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{folder / 'recipe.yaml'} is not a run's recipe: it needs systems, each with a method"
        ) from None


def _ranking(folder: Path, *, needed: bool) -> Ranking | None:
    path = folder / "ranking.json"
    if needed:
        _present(path)
    return load_ranking(folder) if path.exists() else None


def _pictures(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    for name in names:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}, which its {ANALYSIS_FILE} names: run deepcorrect analyse "
                f"{folder} again, or remove {ANALYSIS_FILE}"
            )
    return {name: (folder / name).read_bytes() for name in names}


def _adapter(folder: Path, system: str) -> AdapterConfig:
    path = folder / ("adapter" if system == "deepcorrect" else f"adapter-{system}") / CONFIG_FILE
    _present(path)
    try:
        return AdapterConfig.model_validate(files.read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{path} is not an adapter's: {place}: {problem['msg']}") from None


def _subject(systems: dict[str, Any], corrected: list[str]) -> str | None:
    trained = [name for name in systems if name != "baseline"]
    preferred = [*(name for name in corrected if name == "deepcorrect"), *corrected, *trained]
    return preferred[0] if preferred else None
