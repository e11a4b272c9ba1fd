"""Rebuilds the tables and pictures of docs/results.md, and the README's table, from the kept
results, without training.

    make tables

What was not run says so, with the command that runs it.
"""

from __future__ import annotations

import json
import os
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.analysis.draw import features_table, ideal_table, maps_table
from benchmarks.deployment import pareto
from benchmarks.evidence import cifar_c, imagenet_c
from benchmarks.evidence.grid import HERE, PICTURES, RESULTS
from benchmarks.pages import DOCS, fill, not_run, table, with_interval
from deepcorrect.experiments import load_recipe
from deepcorrect.experiments._analyse import ANALYSIS_FILE, FOLDER
from deepcorrect.experiments._sections import TestTimeSection
from deepcorrect.experiments.report import distortion_name, headline
from deepcorrect.runtime import files

DEMO = HERE.parent / "results" / "demo" / "results.json"
"""What `make demo` measured."""
DOCUMENT = DOCS / "results.md"
README = DOCS.parent / "README.md"
LEARNING = DOCS / "images" / "evidence_learning.png"
PUBLISHED_CLEAN = 0.7028
PUBLISHED_BLUR = {"baseline": 0.250, "finetuned": 0.573, "deepcorrect": 0.6023}
PUBLISHED_NOISE = {"baseline": 0.315, "finetuned": 0.645, "deepcorrect": 0.6452}
PUBLISHED = {
    "allcnn_blur": PUBLISHED_BLUR,
    "allcnn_blur_long": PUBLISHED_BLUR,
    "allcnn_awgn": PUBLISHED_NOISE,
    "allcnn_awgn_long": PUBLISHED_NOISE,
}
"""The paper's top-1 of its CIFAR-100 network: clean, and the means."""


@dataclass(frozen=True)
class System:
    """One system of one recipe, in all of its seeds; `needs`: what it receives at test time;
    `precision`: what it was computed in."""

    name: str
    records: tuple[dict[str, Any], ...]
    needs: str
    precision: str = ""

    def values(self, read: Callable[[dict[str, Any]], float]) -> list[float]:
        """A number of each seed."""
        return [read(record) for record in self.records]

    def mean(self, read: Callable[[dict[str, Any]], float]) -> float:
        """A number's mean over the seeds."""
        return statistics.mean(self.values(read))

    def shown(self, read: Callable[[dict[str, Any]], float]) -> str:
        """The mean, and the half of its 95 % interval (Student's) where there are seeds for it."""
        return with_interval(self.values(read))


def difference(found: Sequence[System], name: str, other: str) -> str:
    """What a system's means are above another's, seed by seed; nothing of fewer than 3 seeds, or
    where one has seeds that the other lacks."""
    pair = [each for wanted in (name, other) for each in found if each.name == wanted]
    seeds = {len(each.records) for each in pair}
    if len(pair) < 2 or len(seeds) > 1 or min(seeds) < 3:
        return ""
    parts = []
    for kind in pair[0].records[0]["distortions"]:
        one, two = (each.values(mean_of(kind)) for each in pair)
        above = [mine - its for mine, its in zip(one, two, strict=True)]
        parts.append(f"{with_interval(above, '+')} ({kind})")
    return f"\n\n{label(name)} less {label(other)}, seed by seed: {', '.join(parts)}."


def systems(experiment: str) -> list[System]:
    """The systems of a recipe that was run, in the recipe's order."""
    found = sorted(RESULTS.glob(f"{experiment}/seed-*/results.json"))
    runs = [json.loads(path.read_text())["systems"] for path in found]
    names = list(runs[0]) if runs else []
    recipe = load_recipe(HERE / "recipes" / f"{experiment}.yaml").systems
    told = {name: each.needs for name, each in recipe.items() if isinstance(each, TestTimeSection)}
    return [
        System(
            name,
            tuple(run[name] for run in runs if name in run),
            told.get(name, ""),
            ", ".join(sorted({precision(path.parent, name) for path in found})),
        )
        for name in names
    ]


def precision(kept: Path, name: str) -> str:
    """What a system of a kept run was computed in."""
    own = kept / f"environment-{name}.json"
    path = own if own.exists() else kept / "environment.json"
    return str(files.read_json(path)["auto_precision"])


def mean_of(kind: str) -> Callable[[dict[str, Any]], float]:
    """Reads the paper's average."""
    return lambda record: record["distortions"][kind]["mean_top1"]


def clean(record: dict[str, Any]) -> float:
    """Reads the clean top-1."""
    return next(iter(record["distortions"].values()))["clean_top1"]


def ece(record: dict[str, Any]) -> float:
    """Reads the calibration error, averaged over everything that was measured."""
    return statistics.mean(curve["mean_ece"] for curve in record["distortions"].values())


def levels(experiment: str, *others: str) -> str:
    """The paper's table of one distortion: clean, each level, the mean; beside the published where
    there is one, as it is and in proportion to our network's clean accuracy. Systems of `others`
    stand beside those of the first recipe."""
    found = systems(experiment)
    if not found:
        return missing(experiment, *others)
    absent = []
    for other in others:
        more = [each for each in systems(other) if each.name != "baseline"]
        found += more
        absent += [] if more else [other]
    (kind,) = found[0].records[0]["distortions"]
    steps = [f"{level:g}" for level in found[0].records[0]["distortions"][kind]["levels"]]
    published = PUBLISHED.get(experiment, {})
    scale = found[0].mean(clean) / PUBLISHED_CLEAN
    rows = []
    for system in found:
        each = [
            f"{system.mean(lambda r, n=n: r['distortions'][kind]['top1'][n]):.3f}"
            for n in range(len(steps))
        ]
        shown = f"{system.mean(clean):.3f}", *each, system.shown(mean_of(kind))
        theirs = published.get(system.name)
        beside = ["", ""] if theirs is None else [f"{theirs:.3f}", f"{theirs * scale:.3f}"]
        rows.append([label(system.name), *shown, *(beside if published else [])])
    head = ["the paper's mean", "the paper's, scaled"] if published else []
    accuracies = table(["", "clean", *steps, "mean", *head], rows)
    names = [each.name for each in found]
    corrected = [name for name in names if name.startswith("deepcorrect")]
    above = "".join(
        difference(found, one, other)
        for one in corrected
        for other in names
        if other.startswith("finetuned")
    )
    counts: dict[int, list[str]] = {}
    for each in found:
        counts.setdefault(len(each.records), []).append(label(each.name))
    said = "; ".join(
        f"{count} seed{'s' if count > 1 else ''}"
        + (f": {', '.join(of)}" if len(counts) > 1 else "")
        for count, of in counts.items()
    )
    said += f".{above}"
    return _with_missing(f"{accuracies}\n\n{costs(found)}\n\n{said}", absent)


def demo() -> str:
    """The demo: accuracies and costs of its systems, and what of them exceeds the intervals."""
    results = files.read_json(DEMO)
    found = results["systems"]
    base = found["baseline"]
    rows = []
    for name, record in found.items():
        means = [f"{100 * curve['mean_top1']:.1f}" for curve in record["distortions"].values()]
        keys = ("relative_latency", "relative_clean_latency", "relative_ungated_latency")
        times = [shown_latency([record], key) for key in keys]
        rows.append(
            [label(name), f"{100 * clean(record):.1f}", *means, *size(record, base), *times]
        )
    head = ["clean", *(f"mean, {distortion_name(kind)}" for kind in base["distortions"])]
    head += ["trained parameters", "multiply-adds", "latency"]
    head += ["latency, clean image", "latency, no gate"]
    said = " ".join(headline(results, "deepcorrect")).replace("\N{NO-BREAK SPACE}", " ")
    return f"{table(['', *head], rows)}\n\n{textwrap.fill(said, 115)}"


def shown_latency(records: Sequence[dict[str, Any]], key: str = "relative_latency") -> str:
    """Time for one image in proportion to the baseline's; a dash where it was not measured."""
    values = [record[key] for record in records if key in record]
    return f"{statistics.mean(values):.2f}" if values else "\N{EN DASH}"


SUMMARY = {
    "resnet20_blur": "ResNet-20, Gaussian blur",
    "resnet20_awgn": "ResNet-20, Gaussian noise",
    "resnet20_both": "ResNet-20, one for both",
    "allcnn_blur": "the paper's network, Gaussian blur",
    "allcnn_awgn": "the paper's network, Gaussian noise",
}
"""The recipes of the summary, and what its rows are called."""
MAIN = ("baseline", "finetuned", "finetuned_gated", "deepcorrect")
"""The systems of the summary."""


def summary() -> str:
    """The main systems in one table: means over all distortions' averages, and clean accuracies."""

    def mean(record: dict[str, Any]) -> float:
        return statistics.mean(each["mean_top1"] for each in record["distortions"].values())

    rows, absent = [], []
    for experiment, called in SUMMARY.items():
        found = {each.name: each for each in systems(experiment)}
        if not found.keys() >= set(MAIN):
            absent.append(experiment)
            continue
        shown = [found[name] for name in MAIN]
        trained, _ = size(shown[-1].records[0], shown[0].records[0])
        means = [f"{100 * each.mean(mean):.1f}" for each in shown]
        cleans = [f"{100 * each.mean(clean):.1f}" for each in shown]
        rows.append([called, *means, *cleans, trained])
    names = [label(name) for name in MAIN]
    head = ["", *names, *[f"clean: {name}" for name in names], "DeepCorrect trains"]
    return _with_missing(table(head, rows) if rows else "", absent)


def size(record: dict[str, Any], base: dict[str, Any]) -> tuple[str, str]:
    """Trained parameters and multiply-adds of a system beside the baseline's."""
    trained = record["trainable_parameters"]
    more = record["multiply_adds"] / base["multiply_adds"] - 1
    return f"{trained:,} ({trained / base['parameters']:.0%})", f"{more:+.0%}"


def costs(found: Sequence[System]) -> str:
    """What systems cost beside the baseline."""
    base = found[0].records[0]
    rows = []
    for system in found:
        one = system.records[0]
        rows.append(
            [
                label(system.name),
                *size(one, base),
                shown_latency(system.records),
                f"{one['images_seen']:,}",
                f"{system.mean(lambda r: r['training_seconds']) / 60:.1f}",
                f"{system.mean(lambda r: r['relative_speed']):.2f}",
                f"{system.mean(ece):.3f}",
                system.precision,
            ]
        )
    head = ["trained parameters", "multiply-adds", "latency"]
    head += ["images seen", "minutes", "speed", "ECE"]
    return table(["", *head, "computed in"], rows)


def means(*experiments: str) -> str:
    """Several recipes on the same distortions: clean and mean of each, and the costs."""
    parts: list[System] = []
    absent = []
    for experiment in experiments:
        found = systems(experiment)
        if not found:
            absent.append(experiment)
        parts += [each for each in found if each.name != "baseline" or not parts]
    if not parts:
        return missing(*experiments)
    kinds = list(parts[0].records[0]["distortions"])
    rows = [
        [
            label(each.name),
            each.shown(clean),
            *[each.shown(mean_of(kind)) for kind in kinds],
            each.needs,
        ]
        for each in parts
    ]
    accuracies = table(["", "clean", *kinds, "needs"], rows)
    return _with_missing(f"{accuracies}\n\n{costs(parts)}", absent)


def ablations(experiment: str) -> str:
    """Systems of a recipe beside its first: accuracies, what their mean has above the first's, and
    what they cost."""
    found = systems(experiment)
    if not found:
        return missing(experiment)
    base, first, *_ = found
    kinds = list(base.records[0]["distortions"])

    def mean(system: System) -> float:
        return statistics.mean(system.mean(mean_of(kind)) for kind in kinds)

    rows = [
        [
            label(each.name),
            f"{each.mean(clean):.4f}",
            *[f"{each.mean(mean_of(kind)):.4f}" for kind in kinds],
            "" if each in (base, first) else f"{100 * (mean(each) - mean(first)):+.1f}",
            *size(each.records[0], base.records[0]),
            shown_latency(each.records),
        ]
        for each in found
    ]
    head = ["", "clean", *kinds, f"points above {label(first.name)}"]
    return table([*head, "trained parameters", "multiply-adds", "latency"], rows)


SHOWN = "gaussian_noise"
"""The corruption of the benchmark that the mixture has, too, as `awgn`."""


def corruptions(experiment: str) -> str:
    """Every corruption's mean accuracy over its severities, and each system's difference."""
    found = systems(experiment)
    if not found:
        return missing(experiment)

    def mean(system: System, kind: str) -> float:
        return system.mean(lambda r: statistics.mean(r["distortions"][kind]["top1"]))

    kinds = list(found[0].records[0]["distortions"])
    chosen = {kind: [kind] for kind in kinds}
    chosen["mean"] = kinds
    chosen[f"mean but {SHOWN}"] = [kind for kind in kinds if kind != SHOWN]
    rows = []
    for called, some in chosen.items():
        first, *rest = [statistics.mean(mean(each, kind) for kind in some) for each in found]
        rows.append([called, f"{first:.3f}", *[f"{one:.3f} ({one - first:+.3f})" for one in rest]])
    return f"{table(['', *[label(each.name) for each in found]], rows)}\n\n{costs(found)}"


def validation(experiment: str) -> str:
    """The best epoch's mean top-1 on the validation images of each trained system, seed 0."""
    path = RESULTS / experiment / "seed-0" / "history.json"
    if not path.exists():
        return missing(experiment)
    found = {each.name: each.records[0] for each in systems(experiment)}
    rows = [
        [
            label(name),
            f"{max(epoch['score'] for epoch in history['epochs']):.4f}",
            *size(found[name], found["baseline"]),
            f"{found[name]['training_seconds'] / 60:.1f}",
        ]
        for name, history in files.read_json(path).items()
    ]
    head = ["", "validation mean top-1", "trained parameters", "multiply-adds", "minutes"]
    return table(head, rows)


def of_kept(name: str, command: str, shown: Callable[[dict[str, Any]], str]) -> str:
    """What is shown of a file of results, or the command that makes it."""
    path = RESULTS / name
    return shown(files.read_json(path)) if path.exists() else not_run(command)


def test_time(found: dict[str, Any]) -> str:
    """What was tried at test time: accuracies on the validation images."""
    head = ["", *next(iter(found.values()))]
    rows = [[name, *[f"{value:.4f}" for value in each.values()]] for name, each in found.items()]
    return table(head, rows)


def competitors(found: dict[str, Any]) -> str:
    """What was tried for WiSE-FT and the adapters: accuracies on validation images."""
    head = ["", "clean", "gaussian_blur", "awgn", "mean", "trained parameters", "share", "minutes"]
    rows = [
        [
            name,
            *[f"{each[column]:.4f}" for column in head[1:5]],
            f"{each['parameters']:,}",
            "" if each["share"] is None else f"{each['share']:g}",
            f"{each['seconds'] / 60:.1f}",
        ]
        for name, each in found.items()
    ]
    return table(head, rows)


def test_time_mixed(found: dict[str, Any]) -> str:
    """What adapts at test time where images come sorted, and where they do not."""
    columns = list(next(iter(found.values()))["sorted"])
    head = ["", *(f"{column}, {order}" for column in columns for order in ("sorted", "mixed"))]
    rows = [
        [
            name,
            *[f"{each[order][column]:.4f}" for column in columns for order in ("sorted", "mixed")],
        ]
        for name, each in found.items()
    ]
    return table(head, rows)


def learning(*experiments: str) -> str:
    """A picture of validation accuracy against training images, and its Markdown."""
    histories = {
        each: json.loads(path.read_text())
        for each in experiments
        if (path := RESULTS / each / "seed-0" / "history.json").exists()
    }
    if not histories:
        return missing(*experiments)
    figure = Figure(figsize=(4 * len(histories), 3.2), layout="constrained")
    panels = figure.subplots(1, len(histories), squeeze=False)[0]
    for panel, (experiment, history) in zip(panels, histories.items(), strict=True):
        for name, one in history.items():
            each = one["images_seen"] / len(one["epochs"]) / 1000
            scores = [epoch["score"] for epoch in one["epochs"]]
            panel.plot(
                [each * (n + 1) for n in range(len(scores))], scores, "o-", label=label(name)
            )
        panel.set_title(experiment.replace("_", " "))
        panel.set_xlabel("training images, thousands")
        panel.set_ylabel("validation mean top-1")
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    LEARNING.parent.mkdir(parents=True, exist_ok=True)
    files.write_with(LEARNING, lambda path: figure.savefig(path, dpi=110, format="png"))
    return f"![Validation accuracy against training images](images/{LEARNING.name})"


def inside(experiment: str) -> str:
    """The analyses of a run: nearest neighbours of features, ideal correction, PSNR and SSIM."""
    folder = RESULTS / experiment / "seed-0"
    if not (folder / ANALYSIS_FILE).exists():
        return missing(experiment)
    found = files.read_json(folder / ANALYSIS_FILE)
    made = features_table(found), ideal_table(found), maps_table(found)
    parts = []
    for name, numbers in zip(PICTURES, made, strict=True):
        picture = os.path.relpath(folder / FOLDER / f"{name}.png", DOCS)
        parts += [f"![{name.partition('-')[0]}]({picture})", numbers]
    return "\n\n".join(parts)


def label(name: str) -> str:
    """How tables call a system."""
    known = {
        "deepcorrect": "DeepCorrect",
        "deepcorrect_units": "DeepCorrect, units",
        "finetuned": "fine-tuned",
        "finetuned_gated": "fine-tuned, gated",
    }
    return known.get(name, name.replace("_", " "))


def missing(*experiments: str) -> str:
    """What to say where there are no results."""
    return not_run(f"benchmarks.evidence.grid {' '.join(experiments)}")


def _with_missing(shown: str, absent: Sequence[str]) -> str:
    """What there are results of, and what to say of the others."""
    return "\n\n".join(part for part in (shown, missing(*absent) if absent else "") if part)


BLOCKS: dict[str, Callable[[], str]] = {
    "demo": demo,
    "summary": summary,
    "resnet20_blur": lambda: levels("resnet20_blur", "resnet20_blur_units"),
    "resnet20_awgn": lambda: levels("resnet20_awgn", "resnet20_awgn_units"),
    "allcnn_blur": lambda: levels("allcnn_blur"),
    "allcnn_awgn": lambda: levels("allcnn_awgn"),
    "allcnn_blur_long": lambda: levels("allcnn_blur_long"),
    "allcnn_awgn_long": lambda: levels("allcnn_awgn_long"),
    "alternatives": lambda: means("resnet20_both", "resnet20_alternatives"),
    "ranked": pareto.ranked_against_random,
    "rankings": lambda: ablations("resnet20_rankings"),
    "ablations": lambda: ablations("resnet20_ablations"),
    "blind": lambda: corruptions("resnet20_blind"),
    "resnet20_configurations": lambda: validation("resnet20_configurations"),
    "resnet20_alternatives_configurations": lambda: validation(
        "resnet20_alternatives_configurations"
    ),
    "competitors": lambda: of_kept(
        "competitors/results.json", "benchmarks.evidence.competitors", competitors
    ),
    "imagenet_c": imagenet_c.figures,
    "cifar_c_resnet20": lambda: cifar_c.figures("resnet20"),
    "cifar_c_allcnn": lambda: cifar_c.figures("allcnn"),
    "test_time": lambda: of_kept(
        "test_time/results.json", "benchmarks.evidence.test_time", test_time
    ),
    "test_time_mixed": lambda: of_kept(
        "test_time/mixed.json", "benchmarks.evidence.test_time --mixed", test_time_mixed
    ),
    "allcnn_configurations": lambda: validation("allcnn_configurations"),
    "allcnn_blur_inside": lambda: inside("allcnn_blur"),
    "allcnn_awgn_inside": lambda: inside("allcnn_awgn"),
    "learning": lambda: learning("resnet20_blur", "resnet20_awgn", "allcnn_blur", "allcnn_awgn"),
}


IN_README = ("demo",)


def main() -> None:
    """The command."""
    made = {name: block() for name, block in BLOCKS.items()}
    fill(DOCUMENT, made)
    fill(README, {name: made[name] for name in IN_README})
    print(f"{DOCUMENT}: {len(made)} blocks; {README}: {' and '.join(IN_README)}")


if __name__ == "__main__":
    main()
