"""Trains corrections with other choices than the default's, and keeps what each is worth.

    python -m benchmarks.defaults.search train [--network resnet20 ...]
        [--distortion gaussian_blur ...] [--images 10000] [--epochs 2] [--only NAME ...]
        [--minutes 60]
    python -m benchmarks.defaults.search draw

Each trial is `dc.correct` with some choices given (`trials.py` names them), on training images
of CIFAR-100, without labels, judged by 1,500 validation images at all levels. A trial that has been
run is not repeated. `draw` writes the table of docs/correct.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import pages
from benchmarks.defaults import networks
from benchmarks.defaults.trials import ALONE, TRIALS
from benchmarks.kept import accuracies, run_once
from benchmarks.subjects import RESULTS, cifar_drawn, cifar_rows
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import ImageSet, loader
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments import correct
from deepcorrect.experiments._choices import BATCH_SIZE
from deepcorrect.networks import Classifier, trainable_parameters
from deepcorrect.ranking import Ranking, load_ranking, rank
from deepcorrect.runtime import files

KEPT = RESULTS / "defaults" / "trials.json"
JUDGED = 1_500


def run(
    network: str, distortion: str, images: int, epochs: int, trial: str, seed: int = 0
) -> dict[str, Any]:
    """Trains and judges one correction."""
    subject, kind = networks.network(network), distortion
    judged = loader(cifar_rows(subject, 0, JUDGED), 250)
    made, seconds = None, 0.0
    if trial != ALONE:
        started = time.monotonic()
        made = corrected(subject, kind, images, epochs, dict(TRIALS[trial]), seed)
        seconds = time.monotonic() - started
    found = evaluate(made or subject, judged, [kind], seed, "auto", trial)
    own = sum(each.numel() for each in trainable_parameters(made)) if made else 0
    cost = made.config.notes["cost"] if made else {"base_parameters": 1, "latency": None}
    return {
        "network": network,
        "distortion": distortion,
        "images": images,
        "epochs": epochs,
        "trial": trial,
        "seed": seed,
        **accuracies(found),
        "parameters": round(own / cost["base_parameters"], 3),
        "latency": cost["latency"],
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
        ranking=ranked(subject, train, kind, seed),
        validation=loader(cifar_rows(subject, JUDGED, 50), 50),
        epochs=epochs,
        seed=seed,
        **settings,
    )


def ranked(subject: Classifier, train: ImageSet, kind: str, seed: int) -> Ranking:
    """The ranking that `correct` would make, once for all trials."""
    place = Path(f"runs/defaults/{subject.name}-{kind}-{seed}")
    if not place.exists():
        rank(subject, loader(train.select(range(250)), 50), kind, seed=seed).save(place)
    return load_ranking(place)


def shares(curves: dict[str, Any]) -> dict[str, list[float]]:
    """The top-1 accuracy on clean images and at each level, by distortion."""
    return {
        kind: [round(value, 4) for value in (curve["clean_top1"], *curve["top1"])]
        for kind, curve in curves.items()
    }


def draw() -> None:
    """Writes the table: the best trials of each network and distortion first."""
    columns = ("mean top-1", "clean", "adapter")
    found: dict[str, list[dict[str, Any]]] = {}
    for each in files.read_json(KEPT):
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
    pages.fill(pages.DOCS / "correct.md", {"trials": "\n\n".join(tables)})


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
                if result := run_once(KEPT, asked, run):
                    print(*(result[each] for each in SHOWN), flush=True)


SHOWN = ("network", "distortion", "trial", "mean", "clean", "levels", "parameters", "seconds")

if __name__ == "__main__":
    main()
