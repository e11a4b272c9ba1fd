"""A run's folder as one value. All checks of its files are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deepcorrect.correction import CONFIG_FILE, AdapterConfig
from deepcorrect.experiments.report._schema import (
    PNG,
    Analysis,
    Environment,
    Examples,
    Histories,
    Ideal,
    Results,
    check,
)
from deepcorrect.ranking import Ranking, load_ranking
from deepcorrect.runtime import InputError, files, parse_yaml

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
SCHEMAS: dict[str, type[BaseModel]] = {
    "results.json": Results,
    "environment.json": Environment,
    "history.json": Histories,
    "examples.json": Examples,
}


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


def read_results(path: Path) -> dict[str, Any]:
    """Reads the `results.json` of one run.

    Args:
        path: A run's folder, or the file itself.

    Raises:
        InputError: There is no such file, or it is not what a run writes.

    Example:
        >>> from pathlib import Path
        >>> from deepcorrect.experiments.report import read_results
        >>> read_results(Path("nowhere"))
        Traceback (most recent call last):
        ...
        deepcorrect.runtime._errors.InputError: there is no run nowhere: give a run's folder, or ...
    """
    if not path.exists():
        raise InputError(f"there is no run {path}: give a run's folder, or its results.json")
    file = path / "results.json" if path.is_dir() else path
    results = _needed(file, NEEDED["results.json"])
    _check_results(file, results)
    check(file, results, Results)
    return results


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
    _check_results(folder / "results.json", results)
    systems = results["systems"]
    for name, model in SCHEMAS.items():
        check(folder / name, values[name], model)
    _present(folder / "recipe.yaml")
    recipe = files.read_yaml_text(folder / "recipe.yaml")
    corrected = [name for name in _corrected(folder, recipe) if name in systems]
    ideal, analysis = folder / "ideal.json", folder / ANALYSIS_FILE
    analysed = _needed(analysis, ANALYSIS_KEYS) if analysis.exists() else None
    if analysed is not None:
        check(analysis, analysed, Analysis)
    return RunFiles(
        results=results,
        environment=values["environment.json"],
        history=values["history.json"],
        examples=values["examples.json"],
        recipe=recipe,
        ranking=_ranking(folder, needed=bool(corrected)),
        ideal=_checked(ideal, Ideal) if ideal.exists() else None,
        analysis=analysed,
        pictures=_pictures(folder, analysed["figures"] if analysed else ()),
        adapters={name: _adapter(folder, name) for name in corrected},
        subject=_subject(systems, corrected),
    )


def _check_results(path: Path, results: dict[str, Any]) -> None:
    """Checks the schema of `results.json`, and that every system has its keys."""
    systems = results["systems"]
    if results.get("schema") != 1 or not isinstance(systems, dict) or "baseline" not in systems:
        names = ", ".join(systems) if isinstance(systems, dict) else repr(systems)
        raise InputError(
            f"{path} has schema {results.get('schema')!r} and systems {names}: "
            "schema 1 and a system 'baseline' are needed"
        )
    for name, record in systems.items():
        _check_keys(path, record, SYSTEM_KEYS, f"of system {name!r} ")


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


def _checked(path: Path, model: type[BaseModel]) -> Any:
    value = files.read_json(path)
    check(path, value, model)
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
        systems = parse_yaml(recipe, str(folder / "recipe.yaml"))["systems"]
        return [name for name, system in systems.items() if system["method"] == "deepcorrect"]
    except (KeyError, TypeError, AttributeError):
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
    pictures = {name: (folder / name).read_bytes() for name in names}
    for name, content in pictures.items():
        if not content.startswith(PNG):
            raise InputError(f"{folder / name} is not a PNG image")
    return pictures


def _adapter(folder: Path, system: str) -> AdapterConfig:
    name = "adapter" if system == "deepcorrect" else f"adapter-{system}"
    if Path(name).name != name:
        raise InputError(f"{folder / 'recipe.yaml'} has a system {system!r}, which names no folder")
    path = folder / name / CONFIG_FILE
    _present(path)
    return files.read_json_as(path, AdapterConfig)


def _subject(systems: dict[str, Any], corrected: list[str]) -> str | None:
    trained = [name for name in systems if name != "baseline"]
    preferred = [*(name for name in corrected if name == "deepcorrect"), *corrected, *trained]
    return preferred[0] if preferred else None
