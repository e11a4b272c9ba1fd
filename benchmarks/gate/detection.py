"""What a gate tells apart: how many images it takes for distorted, clean ones and at each level.

    DEEPCORRECT_SHARED=... python -m benchmarks.gate.detection

Fitted on CIFAR-100's training images and on Caltech-101's, seen on images of neither: CIFAR-100's
validation rows, and ImageNet's, which are other pictures than the gate knows. For blur and noise;
on CIFAR-100 for all of ImageNet-C together, too. Its time is a share of the network's on the same
batch, medians of turns that both take. Printed as the rows of a table, written to
results/gate/detection.json.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import deepcorrect as dc
from benchmarks.subjects import SHARED, cifar_network, cifar_rows, efficientnet_lite0
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import ImageSet
from deepcorrect.distortions import parse_all
from deepcorrect.runtime import files, seeds_for

RESULTS = Path(__file__).parent.parent / "results" / "gate"
BLUR_AND_NOISE = ["gaussian_blur", "awgn"]
FALSE_ALARMS = 0.05
SEEN = 500
TURNS = 7


def tensor_of(images: ImageSet) -> Tensor:
    """All images, N x C x H x W."""
    return torch.cat([batch for batch, _ in dc.loader(images, 100)])


class Subject(NamedTuple):
    """A corrected network, the images and distortions to fit a gate on, and those to see it on."""

    adapted: AdaptedModel
    fitted_on: ImageSet
    images: Tensor
    kinds: list[str]
    scale: float = 1.0


def subjects() -> dict[str, Subject]:
    """What is measured."""
    cifar, lite = cifar_network("resnet20"), efficientnet_lite0()
    shown = dc.open_dataset(
        f"parquet:{SHARED}/data/imagenet_sample/test.parquet", lite.preprocessing
    )
    caltech = dc.open_dataset(f"parquet:{SHARED}/data/caltech101/train.parquet", lite.preprocessing)
    small = Subject(
        dc.correct(cifar, {"conv1": [0]}),
        cifar_rows(cifar, 0, 2000),
        tensor_of(cifar_rows(cifar, 2000, SEEN)),
        BLUR_AND_NOISE,
    )
    elsewhere = Subject(
        dc.correct(lite, {"blocks.0.0.conv_pw": [0]}),
        caltech.sample(2000, 0),
        tensor_of(shown.sample(SEEN, 0)),
        BLUR_AND_NOISE,
    )
    return {
        "CIFAR-100": small,
        "CIFAR-100, ImageNet-C": small._replace(kinds=["imagenet_c"]),
        "Caltech-101, seen on ImageNet": elsewhere,
        "Caltech-101 at scales from 0.5, seen on ImageNet": elsewhere._replace(scale=0.5),
    }


def measured(subject: Subject) -> dict[str, Any]:
    """Shares of images that are taken for distorted."""
    adapted, images, kinds = subject.adapted, subject.images, subject.kinds
    batches = dc.loader(subject.fitted_on, 100)
    dc.fit_gate(adapted, batches, kinds, FALSE_ALARMS, scale=subject.scale)

    def share(some: Tensor) -> float:
        found = [dc.looks_distorted(adapted, part) for part in some.split(100)]
        return float(torch.cat(found).float().mean())

    found: dict[str, Any] = {"clean": share(images), "distorted": {}}
    for kind in parse_all(kinds, images.shape[-1]):
        found["distorted"][kind.name] = {
            str(level): share(
                kind(images, level, seeds_for(kind.name, level, first=0, count=len(images)))
            )
            for level in kind.levels
        }
    return found


def time_share(adapted: AdaptedModel, images: Tensor) -> float:
    """The gate's time on a batch over the untouched network's."""
    assert adapted.gate is not None
    spent: dict[torch.nn.Module, list[float]] = {adapted.network: [], adapted.gate: []}
    with torch.inference_mode():
        for turn in range(TURNS + 1):
            for module, seconds in spent.items():
                started = time.perf_counter()
                module(images)
                if turn:
                    seconds.append(time.perf_counter() - started)
    network, gate = (statistics.median(seconds) for seconds in spent.values())
    return gate / network


def main() -> None:
    found: dict[str, Any] = {"false_alarms": FALSE_ALARMS, "images": SEEN, "subjects": {}}
    for name, subject in subjects().items():
        record = measured(subject)
        record["time_share"] = time_share(subject.adapted, subject.images[:32])
        found["subjects"][name] = record
        print(f"{name}: {record['time_share']:.1%} of the network's time")
        print(f"| {name} | clean | {record['clean']:.0%} |")
        for kind, shares in record["distorted"].items():
            row = ", ".join(f"{share:.0%}" for share in shares.values())
            print(f"| {name} | `{kind}` | {row} |", flush=True)
    files.write_json(RESULTS / "detection.json", found)


if __name__ == "__main__":
    main()
