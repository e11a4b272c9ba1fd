"""Given the same random numbers, are our random corruptions those of the benchmark?

    DEEPCORRECT_SHARED=... python -m benchmarks.distortions.same_draws [--images 500] [NAME ...]

Two draws of one corruption differ by chance, which hides small differences between ours and
imagecorruptions'. So here the peer's calls of `numpy.random` are answered with what ours draws for
the same image, and the results are compared pixel by pixel, and by what EfficientNet-Lite0 makes of
them. What is left is arithmetic. Frost is not here: its textures are not the benchmark's. Finished
cells stay in runs/, so a stopped benchmark goes on;
benchmarks/results/distortions/same_draws.json has all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.distortions.fidelity import WORK, right, stored
from benchmarks.distortions.subjects import (
    BATCH,
    CORRUPTIONS,
    DETERMINISTIC,
    RESULTS,
    SEVERITIES,
    as_bytes,
    as_tensor,
    network_and_images,
    our_seeds,
    ours_of,
    theirs,
)
from deepcorrect.distortions import KINDS
from deepcorrect.distortions._random import Draws
from deepcorrect.networks import Classifier
from deepcorrect.runtime import files

NAMES = tuple(name for name in CORRUPTIONS if name not in (*DETERMINISTIC, "frost"))
CPU = torch.device("cpu")
Answers = dict[str, Callable[..., Any]]


def as_rows(planes: Tensor) -> np.ndarray:
    """1 x C x H x W as H x W x C, or H x W where there is one plane."""
    return planes[0].permute(1, 2, 0).squeeze(2).double().numpy()


def normal(draws: Draws, channels: int, side: int) -> Answers:
    """The peer asks once for all values."""
    drawn = as_rows(draws.normal(channels, side, side))

    def answer(loc: float = 0.0, scale: float = 1.0, size: Any = None) -> np.ndarray:
        assert tuple(size) == drawn.shape
        return loc + scale * drawn

    return {"normal": answer}


def poisson(draws: Draws, photons: float) -> Answers:
    """The peer gives the means, from which ours draws its counts."""

    def answer(means: np.ndarray) -> np.ndarray:
        share = torch.from_numpy(means / photons).float().permute(2, 0, 1)[None]
        return as_rows(draws.poisson(share, photons))

    return {"poisson": answer}


class Salt:
    """scikit-image's generator: one chance to be replaced, then one to be white."""

    def __init__(self, draws: Draws, side: int) -> None:
        chance = as_rows(draws.bits(16, 3, side, side).float() + 0.5) / 2**15  # from -1 to 1
        self.answers = iter([1 - np.abs(chance), np.where(chance > 0, 0.0, 1.0)])

    def random(self, shape: Any) -> np.ndarray:
        """What ours drew: below the share of noise where ours is replaced, low where white."""
        found = next(self.answers)
        assert tuple(shape) == found.shape
        return found


def steps(draws: Draws, side: int, reach: int, rounds: int) -> Iterator[tuple[int, int]]:
    """Glass blur's, (right, down), in the order in which the peer goes through the pixels."""
    for _ in range(rounds):
        down, right_ = draws.integers(-reach, reach, 2, side, side)[0].tolist()
        for y in range(side - reach, reach, -1):
            for x in range(side - reach, reach, -1):
                yield right_[y][x], down[y][x]


def clouds(draws: Draws, side: int) -> Callable[..., np.ndarray]:
    """Fog's: each call takes the next numbers, row by row."""
    drawn = draws.uniform(side * side, low=-1, high=1)[0].double().numpy()
    used = 0

    def answer(low: float, high: float, shape: tuple[int, int]) -> np.ndarray:
        nonlocal used
        assert low == -high
        used += shape[0] * shape[1]
        return high * drawn[used - shape[0] * shape[1] : used].reshape(shape)

    return answer


def fields(draws: Draws, side: int) -> Callable[..., np.ndarray]:
    """The elastic transform's: how far to move right, then how far down."""
    down, right_ = draws.uniform(2, side, side, low=-1, high=1)[0].double().numpy()
    wanted = iter([right_, down])

    def answer(low: float, high: float, size: tuple[int, int]) -> np.ndarray:
        found = next(wanted)
        assert low == -high
        assert tuple(size) == found.shape
        return high * found

    return answer


def angle(draws: Draws) -> Callable[..., float]:
    """One angle, whatever its range."""
    return lambda low, high: float(draws.uniform(low=low, high=high)[0])


def answers(name: str, seed: int, severity: int, side: int) -> Answers:
    """What `numpy.random` is to give the peer for one image: what ours draws for it."""
    draws = Draws([seed], CPU)
    numbers: Any = (KINDS[name].severities or {})["imagenet"][severity - 1]
    if name in ("gaussian_noise", "speckle_noise"):
        return normal(draws, 3, side)
    if name == "spatter":
        return normal(draws, 1, side)
    if name == "snow":
        return {**normal(draws, 1, side), "uniform": angle(draws)}
    if name == "motion_blur":
        return {"uniform": angle(draws)}
    if name == "shot_noise":
        return poisson(draws, numbers[0])
    if name == "impulse_noise":
        return {"default_rng": lambda _: Salt(draws, side)}
    if name == "glass_blur":
        turns = steps(draws, side, numbers[1], numbers[2])
        return {"randint": lambda *_, **__: np.array(next(turns))}
    if name == "fog":
        return {"uniform": clouds(draws, 2 ** int(np.ceil(np.log2(side))))}
    assert name == "elastic_transform"
    return {"uniform": fields(draws, side)}


def theirs_with_ours_draws(images: Tensor, name: str, severity: int, first: int) -> Tensor:
    """The peer's of a batch, as floats, whose images count from `first`."""
    seeds = our_seeds(len(images), name, severity, 0, first)
    made = []
    for image, seed in zip(as_bytes(images), seeds.tolist(), strict=True):
        with ExitStack() as patched:
            for function, answer in answers(name, seed, severity, images.shape[-1]).items():
                patched.enter_context(patch.object(np.random, function, answer))
            made.append(theirs(image, name, severity))
    return as_tensor(np.stack(made))


def cell(
    network: Classifier, images: Tensor, labels: Tensor, name: str, severity: int
) -> dict[str, Any]:
    """One corruption at one severity."""
    path = WORK / f"{name}-{severity}-same-{len(images)}.json"
    if path.exists():
        return files.read_json(path)
    mean, largest, differing = 0.0, 0.0, 0.0
    hits: list[Tensor] = []
    for first in range(0, len(images), BATCH):
        part, wanted = images[first : first + BATCH], labels[first : first + BATCH]
        own = stored(ours_of(part, name, severity, 0, first))
        peer = theirs_with_ours_draws(part, name, severity, first)
        apart = (own - peer).abs() * 255
        mean += float(apart.mean()) * len(part) / len(images)
        differing += float((apart > 1.5).float().mean()) * len(part) / len(images)
        largest = max(largest, float(apart.max()))
        hits.append(torch.stack([right(network, made, wanted) for made in (own, peer)]))
    ours_right, peer_right = torch.cat(hits, 1)
    found = {
        "images": len(images),
        "mean_difference": mean,
        "largest_difference": largest,
        "share_above_one": differing,
        "top1": [float(ours_right.mean()), float(peer_right.mean())],
        "top1_difference": float(ours_right.mean() - peer_right.mean()),
        "answers_that_differ": float((ours_right != peer_right).double().mean()),
    }
    files.write_json(path, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours against imagecorruptions, the same draws.")
    parser.add_argument("names", nargs="*", help="corruptions; default all")
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no draws of {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    network, images, labels = network_and_images(options.images)
    path = RESULTS / "same_draws.json"
    for name in options.names or NAMES:
        for severity in SEVERITIES:
            found = cell(network, images, labels, name, severity)
            done = files.read_json(path) if path.exists() else {"cells": {}}
            done["cells"].setdefault(name, {})[str(severity)] = found
            files.write_json(path, done)
            print(name, severity, {k: v for k, v in found.items() if k != "images"}, flush=True)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
