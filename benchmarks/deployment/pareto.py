"""Accuracy against latency: corrections of several kinds and sizes, and a gated fine-tuned copy.

    DEEPCORRECT_SHARED=... python -m benchmarks.deployment.pareto train [--network resnet20]
        [--distortion gaussian_blur ...] [--only NAME ...] [--seed 0 ...]
    python -m benchmarks.deployment.pareto draw

Everything is trained without labels on the same 10,000 of CIFAR-100's training images, shown twice,
with the same objective, share of clean images, batches and gate, whose thresholds are raised on
images that nothing was trained on. The gated copy's optimizer and learning rate are the best of
those of `benchmarks/copies.py` on validation images, with the same time for each. Accuracy is that
of 2,000 test images, at all levels and undistorted. Latency is that of one corrected image with one
thread, as a multiple of the folded baseline's; a fine-tuned copy has the network's layers, so that
it takes as long as the network. A trial that has been run is not repeated. `draw` writes the
pictures and the tables of docs/deployment.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from benchmarks import pages
from benchmarks.copies import BATCH, COPY, OBJECTIVE, gated_copy
from benchmarks.kept import PARETO, accuracies, run_once
from benchmarks.subjects import SHARED, cifar_drawn, cifar_network, cifar_rows
from deepcorrect.correction import WEIGHTS, GatedCopy
from deepcorrect.data import loader, open_dataset
from deepcorrect.deployment import measure_latency
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments import correct
from deepcorrect.networks import Classifier, choose, trainable_parameters
from deepcorrect.ranking import Ranking, load_ranking, rank
from deepcorrect.runtime import files

IMAGES, EPOCHS, JUDGED = 10_000, 2, 2_000
UNIT_SITES = "stem+sums"
LABEL = 0.6
"""The width of a label in the picture, in multiples of the baseline's time."""
INVERTED = {"kind": "inverted", "modulation": 8}

TRIALS: dict[str, dict[str, Any]] = {
    "weights, 10 %": {"beta": 0.1},
    "weights, 25 %": {"beta": 0.25},
    "weights, 50 %": {"beta": 0.5},
    "weights, default": {},
    "weights, 10 %, random filters": {"beta": 0.1, "method": "random"},
    "weights, 25 %, random filters": {"beta": 0.25, "method": "random"},
    "weights, 50 %, random filters": {"beta": 0.5, "method": "random"},
    "dense units": {"unit": "dense", "beta": 0.75},
    "inverted units": {"unit": {"kind": "inverted"}, "beta": 0.75},
    "inverted units, modulated": {"unit": INVERTED, "beta": 0.75},
    "weights 50 % and dense units": {"unit": "dense", "beta": 0.75, "weights": 0.5},
    COPY: {},
}
"""Weights are those of a share of each convolution's filters, or, by default, of those with the
highest gains per weight until they have half of the network's parameters; units correct three
quarters of the maps of the stem and of the blocks' sums."""


def train(network: str, distortion: str, trial: str, seed: int) -> dict[str, Any]:
    """Trains one of them, and measures it."""
    subject, kind = cifar_network(network), distortion
    images, others = cifar_drawn(subject, IMAGES, seed), cifar_rows(subject, 0, 1_000)
    model, chosen = (
        gated_copy(subject, images, others, kind, EPOCHS, seed)
        if trial == COPY
        else (corrected(subject, images, kind, seed, dict(TRIALS[trial])), {})
    )
    test = open_dataset(f"parquet:{SHARED}/data/cifar100/test.parquet", subject.preprocessing)
    found = evaluate(model, loader(test.select(range(JUDGED)), 250), [kind], seed, "auto", trial)
    trained = sum(each.numel() for each in trainable_parameters(model))
    return {
        "network": network,
        "distortion": distortion,
        "trial": trial,
        "seed": seed,
        **accuracies(found),
        "parameters": round(trained / sum(each.numel() for each in subject.parameters()), 3),
        "latency": {} if isinstance(model, GatedCopy) else latencies(model),
        "chosen": chosen,
    }


def corrected(subject: Classifier, images: Any, kind: str, seed: int, trial: dict[str, Any]) -> Any:
    """A correction, by `dc.correct`'s own defaults where the trial says nothing."""
    method = trial.pop("method", "conductance")
    if "unit" in trial:
        sites = list(choose(subject, torch.rand(2, 3, 32, 32), UNIT_SITES))
        if "weights" in trial:
            rows = [each for each in choose(subject, torch.rand(2, 3, 32, 32)) if each not in sites]
            unit, share, own = trial["unit"], trial["beta"], trial.pop("weights")
            trial["unit"] = dict.fromkeys(rows, WEIGHTS) | dict.fromkeys(sites, unit)
            trial["beta"] = dict.fromkeys(rows, own) | dict.fromkeys(sites, share)
            sites = rows + sites
        trial["ranking"] = ranked(subject, images, kind, method, seed, sites)
    else:
        trial["ranking"] = ranked(subject, images, kind, method, seed, None)
    return correct(
        subject,
        loader(images, BATCH, shuffle=True),
        distortions=kind,
        validation=loader(cifar_rows(subject, 0, 50), 50),
        epochs=EPOCHS,
        seed=seed,
        objective=OBJECTIVE,
        **trial,
    )


def ranked(
    subject: Classifier, images: Any, kind: str, method: str, seed: int, sites: list[str] | None
) -> Ranking:
    """A ranking on the first 250 images, which is kept."""
    of = "all" if sites is None else f"{len(sites)}-sites"
    place = Path(f"runs/pareto/{subject.name}-{kind}-{method}-{of}-{seed}")
    if not place.exists():
        some = loader(images.select(range(250)), 50)
        rank(subject, some, kind, method, sites, seed).save(place)
    return load_ranking(place)


def latencies(adapted: Any) -> dict[str, float]:
    """The time of one corrected image as a multiple of the folded baseline's, by runtime."""
    image = torch.rand(1, 3, 32, 32)
    return {
        runtime: round(measure_latency(adapted, image, runtime).ratio, 3)
        for runtime in ("torch", "onnx")
    }


# --- what the page shows


def results(network: str, kind: str) -> dict[str, list[dict[str, Any]]]:
    """The results of each trial, one for each seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in files.read_json(PARETO):
        if (each["network"], each["distortion"]) == (network, kind):
            found.setdefault(each["trial"], []).append(each)
    return {trial: found[trial] for trial in TRIALS if trial in found}


def mean(runs: list[dict[str, Any]], name: str) -> float:
    """The mean of a figure over seeds."""
    return sum(each[name] for each in runs) / len(runs)


def panels() -> Iterator[tuple[str, str]]:
    """The networks and distortions that there are figures of."""
    seen = [(each["network"], each["distortion"]) for each in files.read_json(PARETO)]
    yield from dict.fromkeys(seen)


def draw() -> None:
    """Writes the picture and the table."""
    shown = list(panels())
    figure, axes = plt.subplots(
        1, len(shown), figsize=(7.5 * len(shown), 4.2), squeeze=False, layout="constrained"
    )
    for axis, (network, kind) in zip(axes[0], shown, strict=True):
        draw_panel(axis, network, kind)
    figure.savefig(pages.DOCS / "images" / "pareto.svg")
    tables = "\n\n".join(table(*each) for each in shown)
    pages.fill(pages.DOCS / "deployment.md", {"pareto": tables})


def draw_panel(axis: Axes, network: str, kind: str) -> None:
    """One point for each kind of correction, with a line to its label."""
    points = []
    for trial, runs in results(network, kind).items():
        if "random" in trial:
            continue
        time, top1 = runs[0]["latency"].get("onnx", 1.0), 100 * mean(runs, "mean")
        marker, colour = ("s", "#b4451f") if trial == COPY else ("o", "#1f5fb4")
        axis.plot(time, top1, marker, color=colour)
        points.append((top1, time, f"{trial} ({mean(runs, 'parameters'):.0%})"))
    axis.set(
        title=f"{network}, {kind} (in brackets: of the network's parameters)",
        xlabel="time of a corrected image, of the baseline's (ONNX Runtime)",
        ylabel="mean top-1 accuracy, %",
    )
    axis.set_xlim(0.9, 1.3 * axis.get_xlim()[1])
    axis.margins(y=0.15)
    axis.grid(alpha=0.3)
    apart = 0.05 * (axis.get_ylim()[1] - axis.get_ylim()[0])
    line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "relpos": (0, 0.5)}
    placed: list[tuple[float, float]] = []
    for top1, time, text in sorted(points, reverse=True):
        near = [at for at, other in placed if abs(other - time) < LABEL]
        at = min([top1, *(each - apart for each in near)])
        placed.append((at, time))
        place = (time + 0.06, at)
        axis.annotate(text, (time, top1), place, va="center", fontsize=9, arrowprops=line)


def table(network: str, kind: str) -> str:
    """The figures of all trials."""
    of = f"{network}, {kind}"
    head = (of, "mean", "clean", "trained parameters", "latency, PyTorch", "ONNX", "seeds")
    rows = []
    for trial, runs in results(network, kind).items():
        spread = max(each["mean"] for each in runs) - min(each["mean"] for each in runs)
        scatter = f" ({100 * spread:.1f} apart)" if len(runs) > 1 else ""
        times = [runs[0]["latency"].get(each) for each in ("torch", "onnx")]
        rows.append(
            [
                trial,
                f"{100 * mean(runs, 'mean'):.1f}{scatter}",
                f"{100 * mean(runs, 'clean'):.1f}",
                f"{100 * mean(runs, 'parameters'):.0f}%",
                *("1 by construction" if time is None else f"{time:.2f}" for time in times),
                str(len(runs)),
            ]
        )
    return pages.table(head, rows)


def ranked_against_random() -> str:
    """The same share of filters, ranked and at random: means, and the difference seed by seed."""
    if not PARETO.exists():
        return pages.not_run("benchmarks.deployment.pareto train")
    rows = []
    for network, kind in panels():
        found = results(network, kind)
        for trial in found:
            if not (pairs := paired(found[trial], found.get(f"{trial}, random filters", []))):
                continue
            above = [100 * (ranked - random) for ranked, random in pairs]
            means = [f"{100 * statistics.mean(each):.1f}" for each in zip(*pairs, strict=True)]
            difference = pages.with_interval(above, "+", 1)
            of = f"{network}, {kind}, {trial.removeprefix('weights, ')}"
            rows.append([of, *means, difference, str(len(pairs))])
    head = ["filters", "by conductance", "random", "difference, points", "seeds"]
    return pages.table(head, rows)


def paired(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """The mean accuracies of the seeds that both have."""
    of = {each["seed"]: each["mean"] for each in other}
    return [(each["mean"], of[each["seed"]]) for each in one if each["seed"] in of]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("train", "draw"))
    parser.add_argument("--network", nargs="*", default=["resnet20"])
    parser.add_argument("--distortion", nargs="*", default=["gaussian_blur"])
    parser.add_argument("--only", nargs="*", default=list(TRIALS), choices=list(TRIALS))
    parser.add_argument("--seed", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    if given.step == "draw":
        draw()
        return
    torch.set_num_threads(1)
    for seed in given.seed:
        for network in given.network:
            for kind in given.distortion:
                for trial in given.only:
                    asked = {"network": network, "distortion": kind, "trial": trial, "seed": seed}
                    if result := run_once(PARETO, asked, train):
                        print(result, flush=True)


if __name__ == "__main__":
    main()
