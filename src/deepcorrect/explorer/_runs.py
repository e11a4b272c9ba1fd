"""The accuracy tables of one or several runs, as rows that can be chosen and sorted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepcorrect.runtime import unknown


@dataclass(frozen=True)
class RunRow:
    """One system of one run under one distortion. Accuracies are shares of the test images.

    Attributes:
        run: The run's name.
        system: The system's name in `results.json`.
        distortion: The distortion's name.
        clean: The top-1 accuracy on clean images.
        mean: The paper's average, over clean images and every level.
        levels: The levels of the distortion.
        top1: The top-1 accuracy at each level.
        parameters: The number of trainable parameters.
        work: The multiply-adds as a multiple of the baseline's; None if they were not counted.
        latency: The time for a distorted image as a multiple of the baseline's; None if it was not
            measured.
    """

    run: str
    system: str
    distortion: str
    clean: float
    mean: float
    levels: tuple[float, ...]
    top1: tuple[float, ...]
    parameters: int
    work: float | None
    latency: float | None


SORTS: dict[str, Callable[[RunRow], Any]] = {
    "mean accuracy": lambda row: -row.mean,
    "clean accuracy": lambda row: -row.clean,
    "worst level": lambda row: -min(row.top1),
    "parameters": lambda row: row.parameters,
    "multiply-adds": lambda row: _last(row.work),
    "latency": lambda row: _last(row.latency),
    "run": lambda row: row.run,
    "system": lambda row: row.system,
}
"""What rows can be sorted by: accuracies from the highest, costs from the lowest."""


def run_rows(results: Mapping[str, Mapping[str, Any]]) -> list[RunRow]:
    """The rows of several runs.

    Args:
        results: The content of each run's `results.json`, by the run's name.

    Example:
        >>> from deepcorrect.explorer import run_rows
        >>> curve = {"levels": [5], "top1": [0.6], "clean_top1": 0.9, "mean_top1": 0.75}
        >>> record = {"trainable_parameters": 0, "multiply_adds": 8, "distortions": {"awgn": curve}}
        >>> [row] = run_rows({"first": {"systems": {"baseline": record}}})
        >>> row.run, row.system, row.mean, row.work
        ('first', 'baseline', 0.75, 1.0)
    """
    rows: list[RunRow] = []
    for run, found in results.items():
        base = found["systems"]["baseline"]
        for system, record in found["systems"].items():
            is_base = record is base
            latency = 1.0 if is_base else record.get("relative_latency")
            work = (
                record["multiply_adds"] / base["multiply_adds"] if base["multiply_adds"] else None
            )
            rows += [
                RunRow(
                    run,
                    system,
                    distortion,
                    curve["clean_top1"],
                    curve["mean_top1"],
                    tuple(curve["levels"]),
                    tuple(curve["top1"]),
                    record["trainable_parameters"],
                    work,
                    latency,
                )
                for distortion, curve in record["distortions"].items()
            ]
    return rows


def select_rows(
    rows: Sequence[RunRow],
    runs: Collection[str],
    systems: Collection[str],
    distortions: Collection[str],
    sort: str = "mean accuracy",
) -> list[RunRow]:
    """The rows of some runs, systems and distortions, sorted.

    Args:
        rows: All rows.
        runs: The names of the runs to keep.
        systems: The names of the systems to keep.
        distortions: The names of the distortions to keep.
        sort: One of `SORTS`. Rows that are equal in it keep their order.

    Raises:
        InputError: `sort` is not one of them.

    Example:
        >>> from deepcorrect.explorer import run_rows, select_rows
        >>> select_rows([], ["first"], ["baseline"], ["awgn"], "latency")
        []
    """
    if sort not in SORTS:
        raise unknown("order of rows", sort, SORTS)
    kept = [
        row
        for row in rows
        if row.run in runs and row.system in systems and row.distortion in distortions
    ]
    return sorted(kept, key=SORTS[sort])


def _last(value: float | None) -> float:
    """Sorts what is not known behind all else."""
    return float("inf") if value is None else value
