"""A run's folder: opening it, finished steps that are not repeated, and the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from deepcorrect.experiments._recipe import Recipe
from deepcorrect.runtime import (
    InputError,
    Inputs,
    check_inputs,
    console,
    files,
    from_main,
    is_main_process,
    parse_yaml,
)
from deepcorrect.training import CHECKPOINTING

RECIPE_FILE, RESULTS_FILE, HISTORY_FILE = "recipe.yaml", "results.json", "history.json"
INPUTS_FILE = "inputs.json"
CHECKPOINTS = "checkpoints"
Made = TypeVar("Made")


def once(
    path: Path,
    make: Callable[[], Made],
    read: Callable[[Path], Made] = files.read_json,
    write: Callable[[Path, Made], object] = files.write_json,
) -> Made:
    """Returns what a step made, from the step's file if an earlier run has written it.

    Files are written whole or not at all, so a file that exists is the file of a finished step. All
    processes of a run make a step together, and rank zero alone reads and writes its file.

    Args:
        path: the file that marks the step as finished; `write` must write it last.
        make: computes the step's result. It is not called if the file exists.
        read: reads the result from `path`.
        write: writes the result to `path`.
    """
    finished, known = from_main(lambda: (True, read(path)) if path.exists() else (False, None))
    if finished:
        return cast("Made", known)
    made = make()
    from_main(lambda: _written(write, path, made))
    return made


def _written(write: Callable[[Path, Made], object], path: Path, made: Made) -> None:
    write(path, made)  # what it returns is nobody's


def open_folder(recipe: Recipe, folder: Path, inputs: Inputs, *, resume: bool) -> None:
    """Writes the recipe into a new folder, or checks that the folder holds a run of this recipe.

    Every file in the folder is made from these inputs, since no step is made with others.

    Args:
        recipe: the experiment.
        folder: the run's folder.
        inputs: what the figures depend on beside the recipe, see `Setup.inputs`.
        resume: whether the run may have begun.

    Raises:
        InputError: the folder holds something else, a run of another recipe or with other weights
            or images, or a run of this recipe although `resume` is false.
    """
    files.check_folder(folder)
    path = folder / RECIPE_FILE
    if not path.exists():
        if not files.is_empty(folder):
            raise InputError(f"{folder} is not empty and not a run: choose another --out")
        files.write_text(path, recipe.to_yaml())
        files.write_json(folder / INPUTS_FILE, inputs)
        return
    if not resume:
        raise InputError(f"{folder} already holds a run: give --resume to go on, or another --out")
    files.remove_temporary(folder)
    before = _flat(files.read_yaml(path))
    now = _flat(parse_yaml(recipe.to_yaml(), "the recipe"))
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key) and key.rpartition(".")[2] not in CHECKPOINTING
    )
    if changed:
        shown = ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed[:4])
        raise InputError(
            f"{folder} holds a run of another recipe ({shown}): resume it with the same recipe "
            f"(deepcorrect run {path} --out {folder} --resume), or choose another --out"
        )
    before = once(folder / INPUTS_FILE, lambda: inputs)
    check_inputs(f"the run in {folder}", before, inputs, "restore it, or choose another --out")


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    if not isinstance(value, dict):
        return {key: value}
    result: dict[str, Any] = {}
    for name, inner in value.items():
        result.update(_flat(inner, f"{key}.{name}" if key else str(name)))
    return result


def share_file(folder: Path, system: str) -> Path:
    """The file of the share of fine-tuned weights in a system, and how it was found."""
    return folder / CHECKPOINTS / f"{system}.share.json"


def adapter_folder(folder: Path, system: str) -> Path:
    """Where a corrected system's adapter is."""
    return folder / ("adapter" if system == "deepcorrect" else f"adapter-{system}")


def log(folder: Path, event: str, **values: Any) -> None:
    """Adds a line to `log.jsonl`; rankings, choices and measurements are also shown on the console.

    Of several processes, rank zero does.
    """
    if not is_main_process():
        return
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **values}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    if event in ("ranked", "chosen", "measured"):
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        console().print(f"{event}: {shown}", markup=False)
