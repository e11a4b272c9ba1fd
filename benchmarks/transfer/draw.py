"""Tables and plot of docs/transfer.md, without measuring.

They come from benchmarks/results/transfer, and from the cards of the adapters that are shipped.

python -m benchmarks.transfer.draw
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.pages import DOCS, fill
from deepcorrect.correction import CONFIG_FILE, shipped_adapters
from deepcorrect.correction._shipped import FOLDER
from deepcorrect.experiments.report._looks import INK, SETTINGS
from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "transfer"
SETS = {"caltech101": "Caltech-101, SVM on features", "imagenet": "ImageNet training images, top-1"}
KINDS = {"gaussian_blur": "blur, sigma in pixels", "awgn": "noise, sigma of 255"}
SYSTEMS = {
    "baseline": ("baseline", INK),
    "seed 0": ("corrected, seed 0", "#0072b2"),
    "seed 1": ("corrected, seed 1", "#56b4e9"),
}


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row a set, distortion and system: clean, by level, mean; the gain and the paper's. A row
    more has the mean gain of the seeds."""
    lines = [
        "| | | clean | six levels, weakest first | mean | gain, points | the paper's gain |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, one in found.items():
        for kind, described in KINDS.items():
            for system, (label, _) in SYSTEMS.items():
                curve = one["systems"][system]["distortions"][kind]
                levels = ", ".join(f"{value:.3f}" for value in curve["top1"])
                gain = ""
                if system != "baseline":
                    gain = f"{one['gains_in_points'][system][kind]['mean_top1']:+.1f}"
                first = f"{SETS[name]}; {described}" if system == "baseline" else ""
                lines.append(
                    f"| {first} | {label} | {curve['clean_top1']:.3f} | {levels} | "
                    f"{curve['mean_top1']:.3f} | {gain} | |"
                )
            mean = one["gains_in_points"]["mean"][kind]
            lines.append(
                f"| | gain, mean of both, points | {mean['clean_top1']:+.1f} | | | "
                f"**{mean['mean_top1']:+.1f}** | {one['paper_gains_in_points'][kind]:+.1f} |"
            )
    return "\n".join(lines)


def shipped() -> str:
    """A row for each distortion and system of each shipped adapter, as measured for its card."""
    lines = [
        "| adapter, distortion | | clean | levels, weakest first | mean |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for name in shipped_adapters():
        measured = files.read_json(FOLDER / name / CONFIG_FILE)["notes"]["measured"]
        for kind in measured["corrected"]:
            for system in ("baseline", "corrected"):
                curve = measured[system][kind]
                levels = ", ".join(f"{value:.3f}" for value in curve["top1"])
                first = f"`{name}`, {kind}" if system == "baseline" else ""
                lines.append(
                    f"| {first} | {system} | {curve['clean_top1']:.3f} | {levels} | "
                    f"{curve['mean_top1']:.3f} |"
                )
        lines.append(
            f"| `{name}`, all | gain, points | | {measured['images']} pictures | "
            f"**{100 * measured['gain']:+.1f}** ± {100 * measured['interval']:.1f} |"
        )
    return "\n".join(lines)


def picture(found: dict[str, dict[str, Any]]) -> Figure:
    """Accuracy against level: a row a distortion, a column a set."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8.4, 5.6), layout="constrained")
        panels = figure.subplots(len(KINDS), len(found), sharey="col", squeeze=False)
        for row, (kind, described) in enumerate(KINDS.items()):
            for column, (name, one) in enumerate(found.items()):
                panel = panels[row, column]
                for system, (label, color) in SYSTEMS.items():
                    curve = one["systems"][system]["distortions"][kind]
                    values = [100 * value for value in (curve["clean_top1"], *curve["top1"])]
                    panel.plot([0, *curve["levels"]], values, "o-", ms=4, color=color, label=label)
                panel.set_ylim(0, 100)
                panel.set_xlabel(described)
                if row == 0:
                    panel.set_title(SETS[name], loc="left", fontsize=11)
                if column == 0:
                    panel.set_ylabel("accuracy, %")
        lines = panels[0, 0].get_lines()
        figure.legend(handles=lines, frameon=False, loc="outside upper left", ncols=3)
    return figure


def main() -> None:
    found = {
        name: files.read_json(RESULTS / f"{name}.json")
        for name in SETS
        if (RESULTS / f"{name}.json").exists()
    }
    fill(DOCS / "transfer.md", {"results": table(found), "shipped": shipped()})
    picture(found).savefig(DOCS / "images" / "transfer.png", dpi=130)


if __name__ == "__main__":
    main()
