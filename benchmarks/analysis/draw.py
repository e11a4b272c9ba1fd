"""The run that docs/analysis.md shows, its analyses, and the page's pictures and tables.

python -m benchmarks.analysis.draw             # from benchmarks/results/analysis alone: the tables
python -m benchmarks.analysis.draw --measure   # runs and analyses first; some minutes on 2 cores

A run that was stopped goes on.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import DOCS, fill, table
from deepcorrect.experiments import ANALYSIS_FILE, analyse, load_recipe, run
from deepcorrect.runtime import files

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "analysis"
PICTURES = DOCS / "images" / "analysis"
RUN = ROOT / "runs" / "analysis"
IMAGES = 150
SHOWN = ("maps-deepcorrect", "ideal-deepcorrect", "features", "learning", "beta")


def measure() -> None:
    recipe = load_recipe(Path(__file__).parent / "digits.yaml")
    run(recipe, RUN, resume=True)
    analyse(RUN, IMAGES)
    for name in (ANALYSIS_FILE, "results.json", "environment.json"):
        files.write_bytes(RESULTS / name, (RUN / name).read_bytes())
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in SHOWN:
        if (RUN / "analysis" / f"{name}.png").exists():
            shutil.copy(RUN / "analysis" / f"{name}.png", PICTURES)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def maps_table(found: dict[str, Any]) -> str:
    headings = ["distortion", "PSNR before, dB", "after", "gain", "filters improved, %"]
    headings += ["SSIM before", "after", "gain", "filters improved, %"]
    rows = []
    for name, measures in found["maps"]["deepcorrect"]["distortions"].items():
        row = [f"`{name}`"]
        for key, digits in (("psnr", 1), ("ssim", 3)):
            before, after, gain, improved = measures[key]["all"].values()
            row += [f"{before:.{digits}f}", f"{after:.{digits}f}", f"{gain:+.{digits}f}"]
            row.append(percent(improved))
        rows.append(row)
    return table(headings, rows)


def ideal_table(found: dict[str, Any]) -> str:
    headings = ["system", "distortion", "baseline", "learned", "ideal", "learned share of the gain"]
    rows = []
    for name, one in found["ideal"].items():
        for kind, curves in one["distortions"].items():
            shares = [percent(mean(curves[key])) for key in ("baseline", "learned", "ideal")]
            rows.append([f"`{name}`", f"`{kind}`", *shares, percent(curves["recovered"])])
    return table(headings, rows)


def features_table(found: dict[str, Any]) -> str:
    near = found["features"]
    kinds = near["distortions"]
    headings = ["system", "clean"]
    headings += [f"{text}`{kind}`" for kind in kinds for text in ("", "own, ")]
    rows = []
    for name, clean in near["clean"].items():
        row = [f"`{name}`", percent(clean)]
        for kind in kinds.values():
            row += [percent(mean(kind[key][name])) for key in ("untouched", "own")]
        rows.append(row)
    return table(headings, rows)


def learning_table(found: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", percent(one["best_top1"]), f"{one['images_to_within_a_point']:,}"]
        for name, one in found["learning"].items()
    ]
    return table(["system", "best mean top-1, %", "images to within a point of it"], rows)


def beta_table(found: dict[str, Any]) -> str:
    points = found["beta"]
    kinds = list(dict.fromkeys(point["distortion"] for point in points))
    headings = ["beta", *(f"mean, `{kind}`" for kind in kinds), "clean", "trained parameters"]
    headings.append("added multiply-adds, %")
    rows = []
    for beta in dict.fromkeys(point["beta"] for point in points):
        own = {point["distortion"]: point for point in points if point["beta"] == beta}
        first = own[kinds[0]]
        row = [f"{beta:g}" if beta else "0 (baseline)"]
        row += [percent(own[kind]["mean_top1"]) for kind in kinds]
        row += [percent(first["clean_top1"]), f"{first['trainable_parameters']:,}"]
        rows.append([*row, percent(first["added_multiply_adds"])])
    return table(headings, rows)


def main() -> None:
    if "--measure" in sys.argv[1:]:
        measure()
    found = files.read_json(RESULTS / ANALYSIS_FILE)
    makers = {
        "maps": maps_table,
        "ideal": ideal_table,
        "features": features_table,
        "learning": learning_table,
        "beta": beta_table,
    }
    if "beta" not in found:  # of a run with one beta
        del makers["beta"]
    fill(DOCS / "analysis.md", {name: make(found) for name, make in makers.items()})


if __name__ == "__main__":
    main()
