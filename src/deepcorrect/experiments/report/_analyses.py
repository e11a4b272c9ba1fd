"""The section about a run's analyses: what `deepcorrect analyse` measured and drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from deepcorrect.experiments.report import _numbers as numbers
from deepcorrect.experiments.report._numbers import NOTHING, distortion_name, percent, system_name
from deepcorrect.experiments.report._read import RunFiles
from deepcorrect.experiments.report._template import Cell, Row, Table, render


def analyses(run: RunFiles, found: Mapping[str, Any]) -> Markup:
    """The section about what is in `analysis.json`."""
    return render(
        "analyses.html",
        run=run,
        analysis={"beta": None, **found},
        tables={
            "maps": {system: _maps_table(maps) for system, maps in found["maps"].items()},
            "ideal": {system: _ideal_table(ideal) for system, ideal in found["ideal"].items()},
            "features": _features_table(found["features"]),
        },
    )


def _maps_table(maps: Mapping[str, Any]) -> Table:
    head = ["Distortion", "PSNR before, dB", "after", "gain", "filters improved"]
    head += ["SSIM before", "after", "gain", "filters improved"]
    lines = []
    for name, found in maps["distortions"].items():
        cells: list[Cell] = []
        for measure, digits in (("psnr", 1), ("ssim", 3)):
            spread = found[measure]["all"]
            for key, sign in (("before", ""), ("after", ""), ("gain", "+")):
                value = spread[key]
                cells.append(Cell(NOTHING if value is None else f"{value:{sign}.{digits}f}"))
            cells.append(_share(spread["improved"]))
        lines.append(Row(distortion_name(name), cells))
    return Table(head, lines, "Maps before and after correction")


def _ideal_table(against: Mapping[str, Any]) -> Table:
    head = ["Distortion", "Baseline", "Learned", "Ideal", "Learned share of the ideal gain"]
    lines = []
    for name, found in against["distortions"].items():
        means = [_share(numbers.mean(found[key])) for key in ("baseline", "learned", "ideal")]
        lines.append(Row(distortion_name(name), [*means, _share(found["recovered"])]))
    return Table(head, lines, "Ideal against learned correction")


def _features_table(near: Mapping[str, Any]) -> Table:
    names = list(near["distortions"])
    lines = []
    for system, clean in near["clean"].items():
        cells = [_share(clean)]
        for name in names:
            found = near["distortions"][name]
            among, own = (numbers.mean(found[key][system]) for key in ("untouched", "own"))
            cells.append(Cell(f"{percent(among)} ({percent(own)})"))
        lines.append(Row(system_name(system), cells))
    head = ["System", "Clean", *(distortion_name(name) for name in names)]
    return Table(head, lines, "Nearest-neighbour accuracy in feature space")


def _share(value: float | None) -> Cell:
    """A share as percent, or a dash if it was not measured."""
    return Cell(NOTHING if value is None else percent(value))
