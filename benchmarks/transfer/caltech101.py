"""EfficientNet-Lite0 corrected without a label on Caltech-101, measured there and on ImageNet.

    DEEPCORRECT_SHARED=... python benchmarks/transfer/caltech101.py train [--trial NAME]
    DEEPCORRECT_SHARED=... python benchmarks/transfer/caltech101.py measure [--trial NAME]

`train` ranks the network's filters and trains one adapter for blur and noise on 28 of Caltech-101's
30 training images a class, whose labels are taken away first: the clean network's features and
answers are the target. The other two a class say how well a trial agrees with the clean network
(`agreement`), which is what trials were chosen by. `measure` gives the figures on images that
neither saw. What is finished is kept in runs/transfer-benchmark, so a stopped benchmark goes on;
figures are written to benchmarks/results/transfer/.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import deepcorrect as dc
from deepcorrect import files
from deepcorrect.data import UNLABELLED, ImageSet

sys.path.insert(0, str(Path(__file__).parents[1] / "ranking"))
from subjects import SHARED, efficientnet_lite0  # pyright: ignore

WORK = Path("runs/transfer-benchmark")
DISTORTIONS = ("gaussian_blur", "awgn")
HELD_OUT = (0, 15)  # of each class's 30 training images: agreement is measured on these
BETA = {
    "blocks.0.0.conv_pw": 1.0,
    "blocks.1.0.conv_pwl": 1.0,
    "blocks.1.1.conv_pwl": 1.0,
    "blocks.2.0.conv_pwl": 1.0,
    "blocks.2.1.conv_pwl": 1.0,
    "blocks.3.0.conv_pwl": 0.75,
    "blocks.3.1.conv_pwl": 0.75,
    "blocks.3.2.conv_pwl": 0.75,
    "blocks.4.0.conv_pwl": 0.75,
    "blocks.4.1.conv_pwl": 0.75,
    "blocks.4.2.conv_pwl": 0.75,
    "blocks.5.0.conv_pwl": 0.75,
    "blocks.5.3.conv_pwl": 0.75,
}
"""The narrow ends of the blocks, in all stages; the corrected share of each."""


@dataclass(frozen=True)
class Trial:
    """Settings of a correction: passes over random crops, which cost a quarter of whole images,
    then one over some whole images, which the units' batch norms will see."""

    crop: int = 112
    crop_epochs: int = 5
    learning_rate: float = 3e-3
    whole_images: int = 768
    whole_learning_rate: float = 5e-4
    features: float = 2.0
    logits: float = 1.0
    clean_share: float = 0.35
    batch_size: int = 32


TRIALS = {"first": Trial()}


class Pixels(Dataset[tuple[Tensor, int]]):
    """Decoded images in memory, 8 bits, without labels; mirrored and cut at random where asked.

    Args:
        images: the set.
        crop: side of a random crop, in pixels; None gives the whole image.
        mirrored: half of the images, at random, left to right.
    """

    def __init__(self, pixels: Tensor, crop: int | None = None, *, mirrored: bool = False) -> None:
        self.pixels, self.crop, self.mirrored = pixels, crop, mirrored

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.pixels[index].float() / 255
        if self.crop:
            room = image.shape[-1] - self.crop + 1
            top, left = torch.randint(room, (2,)).tolist()
            image = image[:, top : top + self.crop, left : left + self.crop]
        if self.mirrored and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, UNLABELLED


def decoded(images: ImageSet) -> Tensor:
    """All images of a set, N x 3 x 224 x 224, 8 bits."""
    return torch.stack([(images[i][0] * 255).round().byte() for i in range(len(images))])  # pyright: ignore


def training_pixels(network: dc.Classifier) -> tuple[Tensor, Tensor]:
    """Caltech-101's training images: those to train on, and those held out."""
    path = WORK / "train.safetensors"
    images = dc.open_data(f"parquet:{SHARED}/data/caltech101/train.parquet", network.preprocessing)
    if not path.exists():
        files.write_tensors(path, {"pixels": decoded(images)})
    pixels = files.read_tensors(path)["pixels"]
    seen = dict.fromkeys(images.labels, 0)
    held = []
    for label in images.labels:  # only to hold out as many of each class
        held.append(seen[label] in HELD_OUT)
        seen[label] += 1
    mask = torch.tensor(held)
    return pixels[~mask], pixels[mask]


def ranking_of(network: dc.Classifier, pixels: Tensor) -> dc.Ranking:
    """All candidate sites' filters, by the clean network's own answers."""
    folder = WORK / "ranking"
    if not (folder / "ranking.json").exists():
        rows = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:32]
        some = DataLoader(Pixels(pixels[rows]), 32)
        dc.rank(
            network,
            some,
            ["gaussian_blur:3", "awgn:40"],
            method="gradient",
            sites=list(BETA),
            target="kl",
            precision="auto",
        ).save(folder)
    return dc.load_ranking(folder)


def trained(network: dc.Classifier, name: str) -> Path:
    """The adapter of a trial, trained where it is not there yet."""
    trial, folder = TRIALS[name], WORK / name
    if (folder / "adapter" / "adapter_config.json").exists():
        return folder / "adapter"
    pixels, _ = training_pixels(network)
    unit = {"kind": "bottleneck", "affine": True}
    adapted = dc.correct(network, ranking_of(network, pixels), beta=BETA, unit=unit)
    print(dc.costs(network, network.preprocessing), dc.costs(adapted, network.preprocessing))
    seconds, seen = 0.0, 0
    some = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1))]
    for part, shown, crop, epochs, rate in (
        ("crops", pixels, trial.crop, trial.crop_epochs, trial.learning_rate),
        ("whole", some[: trial.whole_images], None, 1, trial.whole_learning_rate),
    ):
        batches: Any = DataLoader(
            Pixels(shown, crop, mirrored=True), trial.batch_size, shuffle=True, drop_last=True
        )
        history = dc.fit(
            adapted,
            batches,
            DISTORTIONS,
            checkpoint=folder / f"{part}.pt",
            task=f"{name}, {part}",
            epochs=epochs,
            batch_size=trial.batch_size,
            learning_rate=rate,
            clean_share=trial.clean_share,
            objective={"features": trial.features, "logits": trial.logits},
        )
        seconds, seen = seconds + history.seconds, seen + history.images_seen
    notes = {"labels": False, "images_seen": seen, "training_seconds": round(seconds, 1)}
    return adapted.save(folder / "adapter", notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train"])
    parser.add_argument("--trial", default="first", choices=TRIALS)
    given = parser.parse_args()
    network = efficientnet_lite0()
    trained(network, given.trial)


if __name__ == "__main__":
    main()
