"""Ranking all filters of a network."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepcorrect import networks
from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion
from deepcorrect.ranking._clean_distorted import Pair, Step, Target, for_each_pair
from deepcorrect.ranking._priorities import METHODS
from deepcorrect.ranking._ranking import Ranking
from deepcorrect.runtime import Precision, unknown

DEFAULT_METHOD = "conductance"


def rank(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    method: str = DEFAULT_METHOD,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    target: Target | None = None,
) -> Ranking:
    """Scores every filter of the sites by its correction priority.

    Streams: memory is bounded by one block of images, nothing is kept of the others. In a program
    that `accelerate launch` started on several processes, all of them call this together, with the
    same loader; they share the images, and all get the whole ranking.

    Args:
        model: takes images in [0, 1]; runs in inference mode where it is.
        loader: batches of (clean images, labels). The paper takes 1,000 to 5,000 images.
        distortions: specs such as `gaussian_blur` or `awgn:10,20`; without levels, the paper's
            grid for the input size.
        method: one of `deepcorrect.ranking.METHODS`; `swap` is the paper's.
        sites: dotted names of modules whose outputs are scored; None takes every convolution and
            every transformer's MLP, but those that do not serve (see `sites.choose`).
        seed: of the noise.
        precision: `bfloat16` runs the network faster and less exactly.
        target: what answers are measured against: `labels`; `prediction`, the class that the
            network gives the clean image; or `kl`, all the probabilities that it gives the clean
            image. None takes the labels where there are any, else the prediction.

    Raises:
        InputError: an argument is not accepted, a label is outside the network's classes, or
            there is no image.
    """
    if method not in METHODS:
        raise unknown("ranking method", method, METHODS)
    score = METHODS[method].score
    found = list(networks.find(model, sites))  # an unknown name is an error at once
    names = None if sites is None else found
    started = time.monotonic()
    sums: dict[str, dict[int, Tensor]] = defaultdict(dict)

    def visit(level: int, start: int, pair: Pair, step: Step) -> None:
        del start
        for site, gains in score(pair):
            before = sums[site].get(level)
            sums[site][level] = gains.cpu() if before is None else before + gains.cpu()
            step(1 / len(pair.clean.sites))

    walk = for_each_pair(
        model, loader, distortions, names, visit, f"ranking ({method})", seed, precision, target
    )
    rows = range(sum(len(kind.levels) for kind in walk.distortions))
    by_level = {}
    for name, shape in walk.maps.items():
        nothing = torch.zeros(shape[0], dtype=torch.float64)
        total = walk.total(torch.stack([sums[name].get(row, nothing) for row in rows]))
        by_level[name] = total / walk.images
    return Ranking(
        by_level,
        method,
        walk.distortions,
        walk.images,
        time.monotonic() - started,
        seed,
        walk.target,
        {name: (height, width) for name, (_, height, width) in walk.maps.items()},
        walk.network,
        METHODS[method].gains,
    )
