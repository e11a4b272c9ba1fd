"""How hard each frost texture is for a network: theirs, ours, and ours with other crystals.

    DEEPCORRECT_SHARED=... python -m benchmarks.distortions.crystals [--texture N] [--needle ...]

Two textures with the same colours and spectrum need not be equally hard: straight crystals hide
more than the same power spread evenly. So the length of each texture's crystals, and their number,
were chosen by how often EfficientNet-Lite0 keeps its answer under frost of severity 3, on images of
Caltech-101's training set: the images that `fidelity` judges by play no part.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import deepcorrect as dc
from benchmarks.distortions.textures import FILES, SEEDS, theirs
from benchmarks.subjects import SHARED, efficientnet_lite0
from deepcorrect.distortions._frost import TEXTURES, synthesised
from deepcorrect.networks import Classifier
from deepcorrect.runtime import autocast

IMAGES, LOOKED_AT, SURE, BATCH, CUTS, SIDE = 300, 900, 0.6, 50, 4, 224
PICTURE, ICE = 0.7, 0.7  # weights at severity 3


def sure_ones(network: Classifier) -> tuple[Tensor, Tensor]:
    """Images whose answer the network is sure of, and these answers."""
    data = f"parquet:{SHARED}/data/caltech101/train.parquet"
    images = dc.open_dataset(data, network.preprocessing).sample(LOOKED_AT, 0)
    shown, answers = [], []
    with torch.no_grad():
        for batch, _ in dc.loader(images, BATCH):
            best = network(batch).softmax(1).max(1)
            shown.append(batch[best.values > SURE])
            answers.append(best.indices[best.values > SURE])
    return torch.cat(shown)[:IMAGES], torch.cat(answers)[:IMAGES]


def kept(network: Classifier, images: Tensor, answers: Tensor, ice: Tensor, wraps: bool) -> float:
    """The share of answers that stay under random cuts of a texture, which may repeat (`wraps`)."""
    if wraps:
        ice = torch.cat([ice, ice[:, : SIDE - 1]], 1)
        ice = torch.cat([ice, ice[:, :, : SIDE - 1]], 2)
    rng, right = np.random.default_rng(0), 0
    for _ in range(CUTS):
        for part, wanted in zip(images.split(BATCH), answers.split(BATCH), strict=True):
            tops, lefts = (rng.integers(0, s - SIDE + 1, len(part)) for s in ice.shape[1:])
            cut = [ice[:, t : t + SIDE, x : x + SIDE] for t, x in zip(tops, lefts, strict=True)]
            frosted = (PICTURE * part + ICE * torch.stack(cut)).clamp(0, 1)
            with torch.no_grad(), autocast(frosted.device, "auto"):
                said = network((frosted * 255 + 1e-3).floor() / 255).argmax(1)
            right += int((said == wanted).sum())
    return right / (CUTS * len(images))


def main() -> None:
    parser = argparse.ArgumentParser(description="How hard each frost texture is.")
    parser.add_argument("--texture", type=int, choices=SEEDS, help="default: all")
    parser.add_argument("--needle", nargs="*", default=[], help="length,density to try")
    options = parser.parse_args()
    network = efficientnet_lite0()
    images, answers = sure_ones(network)
    for number, file in zip(SEEDS, FILES, strict=True):
        if options.texture not in (None, number):
            continue
        look = TEXTURES[number]
        print(f"{file} theirs: {kept(network, images, answers, theirs(file), False):.3f}")
        others = [each.split(",") for each in options.needle]
        for length, density in [look.needle, *((int(a), float(b)) for a, b in others)]:
            ice = synthesised(replace(look, needle=(length, density)), number)
            share = kept(network, images, answers, ice, True)
            print(f"{file} ours, needle {length},{density:g}: {share:.3f}", flush=True)


if __name__ == "__main__":
    main()
