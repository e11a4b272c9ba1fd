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
from typing import Any

import torch
from torch import Tensor

import deepcorrect as dc
from benchmarks.ranking.subjects import SHARED, cifar_network, cifar_rows, efficientnet_lite0
from deepcorrect import files
from deepcorrect.adapter import AdaptedModel
from deepcorrect.data import ImageSet
from deepcorrect.distortions import parse_all, seeds_for
from deepcorrect.gate import Gate

RESULTS = Path(__file__).parent.parent / "results" / "gate"
BLUR_AND_NOISE = ["gaussian_blur", "awgn"]
FALSE_ALARMS = 0.05
SEEN = 500
TURNS = 7


def tensor_of(images: ImageSet) -> Tensor:
    """All images, N x C x H x W."""
    return torch.cat([batch for batch, _ in dc.loader(images, 100)])


def subjects() -> dict[str, tuple[AdaptedModel, ImageSet, Tensor, list[str]]]:
    """A corrected network, the images to fit a gate on, those to see it on, the distortions."""
    cifar, lite = cifar_network("resnet20"), efficientnet_lite0()
    shown = dc.open_data(f"parquet:{SHARED}/data/imagenet_sample/test.parquet", lite.preprocessing)
    caltech = dc.open_data(f"parquet:{SHARED}/data/caltech101/train.parquet", lite.preprocessing)
    corrected = dc.correct(cifar, {"conv1": [0]})
    fitted_on = cifar_rows(cifar, 0, 2000)
    unseen = tensor_of(cifar_rows(cifar, 2000, SEEN))
    return {
        "CIFAR-100": (corrected, fitted_on, unseen, BLUR_AND_NOISE),
        "CIFAR-100, ImageNet-C": (corrected, fitted_on, unseen, ["imagenet_c"]),
        "Caltech-101, seen on ImageNet": (
            dc.correct(lite, {"blocks.0.0.conv_pw": [0]}),
            caltech.sample(2000, 0),
            tensor_of(shown.sample(SEEN, 0)),
            BLUR_AND_NOISE,
        ),
    }


def measured(
    adapted: AdaptedModel, fitted_on: ImageSet, images: Tensor, kinds: list[str]
) -> dict[str, Any]:
    """Shares of images that are taken for distorted."""
    gate = Gate(dc.fit_gate(adapted, dc.loader(fitted_on, 100), kinds, FALSE_ALARMS))
    known = adapted.network
    assert isinstance(known, dc.Classifier)

    def share(some: Tensor) -> float:
        with torch.inference_mode():
            normalised = [(part - known.mean) / known.std for part in some.split(100)]
            return float(torch.cat([gate(part) for part in normalised]).float().mean())

    found: dict[str, Any] = {"clean": share(images), "distorted": {}}
    for kind in parse_all(kinds, images.shape[-1]):
        found["distorted"][kind.name] = {
            str(level): share(
                kind(images, level, seeds_for(kind.name, level, first=0, count=len(images)))
            )
            for level in kind.levels or ()
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
    for name, (adapted, fitted_on, images, kinds) in subjects().items():
        record = measured(adapted, fitted_on, images, kinds)
        record["time_share"] = time_share(adapted, images[:32])
        found["subjects"][name] = record
        print(f"{name}: {record['time_share']:.1%} of the network's time")
        print(f"| {name} | clean | {record['clean']:.0%} |")
        for kind, shares in record["distorted"].items():
            row = ", ".join(f"{share:.0%}" for share in shares.values())
            print(f"| {name} | `{kind}` | {row} |", flush=True)
    files.write_json(RESULTS / "detection.json", found)


if __name__ == "__main__":
    main()
