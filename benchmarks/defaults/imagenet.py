"""EfficientNet-Lite0 corrected by `dc.correct` without a label, on pictures of Caltech-101.

    python -m benchmarks.defaults.imagenet [--images 600] [--epochs 2] [--only NAME ...]
        [--judged 650] [--out DIR]

Choices are compared by the agreement with the network's own answers on pictures of Caltech-101 that
are held back. What is kept beside it is the accuracy on ImageNet's validation pictures. A trial
that has been run is not repeated.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.defaults.search import shares
from benchmarks.defaults.trials import IMAGENET
from benchmarks.kept import run_once
from benchmarks.subjects import RESULTS, SHARED, efficientnet_lite0
from deepcorrect.data import loader, open_dataset
from deepcorrect.evaluation import compare
from deepcorrect.experiments import correct
from deepcorrect.networks import trainable_parameters

KEPT = RESULTS / "defaults" / "imagenet.json"
KINDS = ("gaussian_blur", "awgn")


def run(trial: str, images: int, epochs: int, judged: int, seed: int, out: Path | None) -> Any:
    """Trains one correction, and measures it on ImageNet's validation pictures."""
    subject = efficientnet_lite0()
    pictures = open_dataset(
        f"parquet:{SHARED}/data/caltech101/train.parquet", subject.preprocessing
    )
    val = open_dataset(f"parquet:{SHARED}/data/imagenet_val/test.parquet", subject.preprocessing)
    settings = {"batch_size": 32, **IMAGENET[trial]}
    batch = settings.pop("batch_size")
    train = loader(pictures.sample(images, seed=seed).without_labels(), batch, shuffle=True)
    started = time.monotonic()
    adapted = correct(
        subject,
        train,
        distortions=KINDS,
        epochs=epochs,
        seed=seed,
        checkpoint=Path(f"runs/defaults/{trial}-{images}-{epochs}-{seed}.pt"),
        **settings,
    )
    seconds = time.monotonic() - started
    if out is not None:
        adapted.save_pretrained(out)
    found = compare(
        subject, adapted, loader(val.sample(judged, seed=0), 50), KINDS, seed, "auto", trial
    )
    notes: Any = adapted.config.notes
    return {
        "trial": trial,
        "images": images,
        "epochs": epochs,
        "judged": judged,
        "seed": seed,
        "agreement": {each: shares(notes["measured"][each]) for each in ("baseline", "corrected")},
        "accuracy": {
            "baseline": shares(found.before.to_json()),
            "corrected": shares(found.after.to_json()),
        },
        "gain": round(found.gain, 4),
        "interval": round(found.interval, 4),
        "parameters": sum(each.numel() for each in trainable_parameters(adapted)),
        "latency": notes["cost"]["latency"],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--judged", type=int, default=650)
    parser.add_argument("--only", nargs="*", default=list(IMAGENET))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for the adapter of the last trial")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for trial in given.only:
        asked = {
            "trial": trial,
            "images": given.images,
            "epochs": given.epochs,
            "judged": given.judged,
            "seed": given.seed,
        }
        if result := run_once(KEPT, asked, partial(run, out=given.out)):
            for name in ("agreement", "accuracy"):
                print(trial, name, result[name], flush=True)


if __name__ == "__main__":
    main()
