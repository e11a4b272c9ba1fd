"""Trains corrections with other choices than the default's, and keeps what each is worth.

    python -m benchmarks.defaults.search train [--network resnet20 ...]
        [--distortion gaussian_blur ...] [--images 10000] [--epochs 2] [--only NAME ...]
        [--minutes 60]
    python -m benchmarks.defaults.search draw

Each trial is `dc.correct` with some choices given (`trials.py` names them), on training images
of CIFAR-100, without labels, judged by 1,500 validation images at all levels. A trial that has been
run is not repeated. `draw` writes the tables of docs/correct.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import pages
from benchmarks.copies import COPY, gated_copy
from benchmarks.defaults import networks
from benchmarks.defaults.trials import ALONE, TRIALS
from benchmarks.kept import SEARCH, accuracies, run_once
from benchmarks.subjects import cifar_drawn, cifar_rows
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import ImageSet, loader
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments import correct
from deepcorrect.experiments._choices import BATCH_SIZE
from deepcorrect.networks import Classifier, trainable_parameters
from deepcorrect.ranking import Ranking, load_ranking, rank
from deepcorrect.runtime import files

JUDGED = 1_500
MOST_PARAMETERS, MOST_TIME = 0.505, 1.3
"""Of the network's: what a default may take."""


def run(
    network: str, distortion: str, images: int, epochs: int, trial: str, seed: int = 0
) -> dict[str, Any]:
    """Trains and judges one correction."""
    subject, kind = networks.network(network), distortion
    judged = loader(cifar_rows(subject, 0, JUDGED), 250)
    made: Any = None
    started, chosen = time.monotonic(), {}
    if trial == COPY:
        drawn = cifar_drawn(subject, images, seed)
        others = cifar_rows(subject, 2_000, 1_000)
        made, chosen = gated_copy(subject, drawn, others, kind, epochs, seed)
    elif trial != ALONE:
        made = corrected(subject, kind, images, epochs, dict(TRIALS[trial]), seed)
    seconds = time.monotonic() - started
    found = evaluate(made or subject, judged, [kind], seed, "auto", trial)
    own = sum(each.numel() for each in trainable_parameters(made)) if made else 0
    cost = made.config.notes["cost"] if isinstance(made, AdaptedModel) else {"latency": None}
    return {
        "network": network,
        "distortion": distortion,
        "images": images,
        "epochs": epochs,
        "trial": trial,
        "seed": seed,
        **accuracies(found),
        "parameters": round(own / sum(each.numel() for each in subject.parameters()), 3),
        "latency": cost["latency"],
        "chosen": chosen,
        "seconds": round(seconds, 1),
    }


def corrected(
    subject: Classifier, kind: str, images: int, epochs: int, settings: dict[str, Any], seed: int
) -> AdaptedModel:
    """The network, corrected with some choices given."""
    train = cifar_drawn(subject, images, seed)
    return correct(
        subject,
        loader(train, settings.get("batch_size", BATCH_SIZE), shuffle=True),
        distortions=kind,
        ranking=ranked(subject, train, kind, seed, settings.pop("sites", None)),
        validation=loader(cifar_rows(subject, JUDGED, 50), 50),
        epochs=epochs,
        seed=seed,
        **settings,
    )


def ranked(
    subject: Classifier, train: ImageSet, kind: str, seed: int, sites: str | None
) -> Ranking:
    """The ranking that `correct` would make, once for all trials."""
    of = "" if sites is None else f"-{sites}"
    place = Path(f"runs/defaults/{subject.name}-{kind}-{seed}{of}")
    if not place.exists():
        rank(subject, loader(train.select(range(250)), 50), kind, sites=sites, seed=seed).save(
            place
        )
    return load_ranking(place)


def shares(curves: dict[str, Any]) -> dict[str, list[float]]:
    """The top-1 accuracy on clean images and at each level, by distortion."""
    return {
        kind: [round(value, 4) for value in (curve["clean_top1"], *curve["top1"])]
        for kind, curve in curves.items()
    }


def draw() -> None:
    """Writes the tables: the best trials of each network and distortion first, and what the choice
    by the other networks gives."""
    columns = ("mean top-1", "clean", "adapter")
    found: dict[str, list[dict[str, Any]]] = {}
    for each in files.read_json(SEARCH):
        of = f"{each['network']}, {each['distortion']}, {each['images']:,} images"
        found.setdefault(of, []).append(each)
    tables = []
    for of, trials in found.items():
        rows = [
            [
                f"**{each['trial']}**" if each["trial"] == "default" else each["trial"],
                f"{each['mean']:.4f}",
                f"{each['clean']:.3f}",
                f"{each['parameters']:.0%}",
            ]
            for each in sorted(trials, key=lambda each: -each["mean"])
        ]
        tables.append(pages.table((of, *columns), rows))
    blocks = {"trials": "\n\n".join(tables), "left out": left_out("gaussian_blur", 10_000)}
    pages.fill(pages.DOCS / "correct.md", blocks)


def left_out(distortion: str, images: int) -> str:
    """For each network, its own best choices, and those that are best in the mean of the others."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for each in files.read_json(SEARCH):
        if (each["distortion"], each["images"], each["seed"]) == (distortion, images, 0):
            found.setdefault(each["network"], {})[each["trial"]] = each
    able = {
        name: {t for t, each in own.items() if _may_be_default(each)} for name, own in found.items()
    }
    rows = []
    for name, own in found.items():
        others = [each for other, each in found.items() if other != name]
        tried = set.intersection(*able.values())
        if not others or not tried:
            continue
        best = max(able[name], key=lambda trial: own[trial]["mean"])
        chosen = max(tried, key=lambda trial: sum(each[trial]["mean"] for each in others))
        shown = (own[best], own[chosen], own["default"], own.get(COPY), own[ALONE])
        cells = ["" if each is None else f"{100 * each['mean']:.1f}" for each in shown]
        cells[0], cells[1] = f"{cells[0]} ({best})", f"{cells[1]} ({chosen})"
        rows.append([name, *cells])
    of = f"{distortion}, {images:,} images"
    head = (of, "its own best", "best on the others", "default", "gated copy", "network")
    return pages.table(head, rows)


def _may_be_default(trial: dict[str, Any]) -> bool:
    """Whether it makes an adapter that takes no more than a default may."""
    cost = trial["latency"]
    return cost is not None and trial["parameters"] < MOST_PARAMETERS and cost["ratio"] < MOST_TIME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("train", "draw"))
    parser.add_argument("--network", nargs="*", default=["resnet20"])
    parser.add_argument("--distortion", nargs="*", default=["gaussian_blur"])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(TRIALS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9)
    given = parser.parse_args()
    if given.step == "draw":
        draw()
        return
    torch.set_num_threads(1)
    ends = time.monotonic() + 60 * given.minutes
    for trial in given.only:
        for name in given.network:
            for kind in given.distortion:
                if time.monotonic() > ends:
                    return
                asked = {
                    "network": name,
                    "distortion": kind,
                    "images": given.images,
                    "epochs": given.epochs,
                    "trial": trial,
                    "seed": given.seed,
                }
                if result := run_once(SEARCH, asked, run):
                    print(*(result[each] for each in SHOWN), flush=True)


SHOWN = ("network", "distortion", "trial", "mean", "clean", "levels", "parameters", "seconds")

if __name__ == "__main__":
    main()
