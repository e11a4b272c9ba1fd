"""Trains corrections with other choices than the default's, and keeps what each is worth.

    python -m benchmarks.defaults.search [--network resnet20 ...] [--distortion gaussian_blur ...]
        [--images 10000] [--epochs 2] [--only NAME ...] [--minutes 60] [--list]

Each trial is `dc.correct` with some choices given (`trials.py` names them), on training images
of CIFAR-100, without labels, judged by 1,500 validation images at all levels. A trial that has been
run is not repeated. `tables.py` draws conclusions.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.defaults.networks import network
from benchmarks.defaults.trials import TRIALS
from benchmarks.subjects import RESULTS, SHARED, cifar_rows
from deepcorrect.correction import WEIGHTS
from deepcorrect.data import ImageSet, loader, open_dataset
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments import correct
from deepcorrect.networks import Classifier, choose, trainable_parameters
from deepcorrect.ranking import Ranking, load_ranking, rank
from deepcorrect.runtime import files

KEPT = RESULTS / "defaults" / "trials.json"
JUDGED = 1_500


def run(
    name: str, kind: str, images: int, epochs: int, trial: str, seed: int = 0
) -> dict[str, Any]:
    """Trains and judges one correction."""
    subject = network(name)
    settings = dict(TRIALS[trial])
    batch = settings.pop("batch_size", 64)
    if "first" in settings:
        sites = list(choose(subject, torch.rand(2, 3, 32, 32)))
        units = dict.fromkeys(sites, WEIGHTS)
        settings["unit"] = {**units, sites[0]: settings.pop("first")}
    train = training_images(subject, images, seed)
    judged = loader(cifar_rows(subject, 0, JUDGED), 250)
    started = time.monotonic()
    adapted = correct(
        subject,
        loader(train, batch, shuffle=True),
        distortions=kind,
        ranking=ranked(subject, train, kind, seed),
        validation=loader(cifar_rows(subject, JUDGED, 50), 50),
        epochs=epochs,
        seed=seed,
        **settings,
    )
    seconds = time.monotonic() - started
    found = evaluate(adapted, judged, [kind], seed, "auto", trial)
    (curve,) = found.curves.values()
    own = sum(each.numel() for each in trainable_parameters(adapted))
    return {
        "network": name,
        "distortion": kind,
        "images": images,
        "epochs": epochs,
        "trial": trial,
        "seed": seed,
        "mean": round(found.mean_top1, 4),
        "clean": round(curve.clean.top1 if curve.clean else 0.0, 4),
        "levels": [round(value, 4) for value in curve.top1],
        "parameters": round(own / adapted.config.notes["cost"]["base_parameters"], 3),
        "latency": adapted.config.notes["cost"]["latency"],
        "seconds": round(seconds, 1),
    }


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


def training_images(subject: Classifier, count: int, seed: int) -> ImageSet:
    """The first of CIFAR-100's training images in a random order, without the validation images."""
    every = open_dataset(f"parquet:{SHARED}/data/cifar100/train-*.parquet", subject.preprocessing)
    rows = read_rows()
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
    return every.select([row for row in order if row not in rows][:count])


def read_rows() -> set[int]:
    """The rows of the validation images."""
    kept = json.loads((SHARED / "models" / "cifar100_validation_rows.json").read_text())
    return set(kept["rows"] if isinstance(kept, dict) else kept)


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """What distinguishes one trial from another."""
    return tuple(
        result[name] for name in ("network", "distortion", "images", "epochs", "trial", "seed")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="*", default=["resnet20"])
    parser.add_argument("--distortion", nargs="*", default=["gaussian_blur"])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(TRIALS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ends = time.monotonic() + 60 * given.minutes
    for trial in given.only:
        for name in given.network:
            for kind in given.distortion:
                kept = files.read_json(KEPT) if KEPT.exists() else []
                asked = (name, kind, given.images, given.epochs, trial, given.seed)
                if asked in map(key, kept) or time.monotonic() > ends:
                    continue
                result = run(*asked)
                kept = files.read_json(KEPT) if KEPT.exists() else []
                files.write_json(KEPT, [*kept, result])
                print(*(result[each] for each in SHOWN), flush=True)


SHOWN = ("network", "distortion", "trial", "mean", "clean", "levels", "parameters", "seconds")

if __name__ == "__main__":
    main()
