"""Ranking all filters of a network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from deepcorrect import networks
from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion
from deepcorrect.networks import logits_of
from deepcorrect.ranking._clean_distorted import LevelSums, Pair, Step, Target, for_each_pair
from deepcorrect.ranking._priorities import METHODS
from deepcorrect.ranking._ranking import Ranking
from deepcorrect.runtime import InputError, Precision, check_seed, unknown

DEFAULT_METHOD = "conductance"


def rank(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    method: str = DEFAULT_METHOD,
    sites: Sequence[str] | str | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    target: Target | None = None,
) -> Ranking:
    """Scores every filter of the sites by its correction priority.

    The priority of a filter is what the network gains when the filter's output on the distorted
    image is replaced by its output on the clean one (paper, section III), or an estimate of that
    gain (see `deepcorrect.ranking.METHODS`).

    Images are streamed: memory holds one block of them at a time. In a program that `accelerate
    launch` started as several processes, all of them call this function together with the same
    loader; they share the images, and each returns the whole ranking.

    Args:
        model: takes images in [0, 1]; runs in inference mode, on the device that it is on.
        loader: batches of (clean images, labels). The paper takes 1,000 to 5,000 images.
        distortions: specs such as `gaussian_blur` or `awgn:10,20`; without levels, the paper's
            grid for the input size.
        method: one of `deepcorrect.ranking.METHODS`; `swap` is the paper's.
        sites: dotted names of modules whose outputs are scored; or, as one text, a choice by the
            network's structure: `stem`, `sums`, `bottlenecks`, `mlps`, `convolutions`, several of
            them joined by `+`, or `auto`. None takes every convolution and every transformer's MLP.
            Those of a choice or of None that cannot be corrected are left out (see
            `networks.choose`).
        seed: of the noise.
        precision: `bfloat16` runs the network faster and less exactly.
        target: what answers are measured against: `labels`; `prediction`, the class that the
            network assigns to the clean image; or `kl`, all the probabilities that it assigns to
            it. None takes the labels where every image of the first batch has one, else the
            prediction (see `deepcorrect.data.target_for`).

    Returns:
        The priorities of every filter at every level of every distortion.

    Raises:
        InputError: an argument is not accepted, a label is outside the network's classes, there is
            no image, or the network's answer to one is NaN or infinite.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...     torch.nn.Linear(4, 10))
        >>> images = [(torch.rand(4, 3, 16, 16), torch.arange(4))]
        >>> ranking = dc.rank(network, images, ["gaussian_blur:1,2", "awgn:20"])
        >>> ranking.sites, tuple(ranking.by_level["0"].shape)  # (levels, filters)
        (('0',), (3, 4))
    """
    seed = check_seed(seed)
    if method not in METHODS:
        raise unknown("ranking method", method, METHODS)
    score = METHODS[method].score
    if isinstance(sites, str):  # an unknown name is an error at once
        networks.parse_choice(sites)
    else:
        found = list(networks.find(model, sites))
        sites = None if sites is None else found
    started = time.monotonic()
    sums: dict[str, LevelSums] = {}

    def visit(level: int, first: int, pair: Pair, step: Step) -> None:
        finite = {}
        for site, gains in score(pair):
            finite[site] = gains.isfinite().all()
            sums.setdefault(site, LevelSums(len(gains))).add(level, gains)
            step(1 / len(pair.clean.sites))
        # a device is waited for once, not for each site
        if not bool(torch.stack(list(finite.values())).all()):
            raise _not_finite(
                pair, next(each for each, is_so in finite.items() if not is_so), first
            )

    coverage = for_each_pair(
        model, loader, distortions, sites, visit, f"ranking ({method})", seed, precision, target
    )
    by_level = {
        site: sums.get(site, LevelSums(channels)).total(coverage) / coverage.images
        for site, (channels, _, _) in coverage.maps.items()
    }
    return Ranking(
        by_level,
        method,
        coverage.distortions,
        coverage.images,
        time.monotonic() - started,
        seed,
        coverage.target,
        {name: (height, width) for name, (_, height, width) in coverage.maps.items()},
        coverage.network,
        METHODS[method].gains,
        _weights(networks.find(model, coverage.maps)),
    )


def _not_finite(pair: Pair, site: str, first: int) -> InputError:
    """The error for priorities that are not finite, which names the image that made them so."""
    pair.clean.place.check(logits_of(pair.clean.model, pair.images), pair.cell)
    maps = (*pair.clean.maps.values(), *pair.maps.values())
    broken = [(~each.isfinite()).flatten(1).any(1) for each in maps]
    image = next((first + int(each.int().argmax()) for each in broken if bool(each.any())), first)
    return pair.clean.place.refusal(image, pair.cell, f"output or gradient at {site!r}")


def _weights(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """The number of weights of each filter, for sites whose filters have some."""
    counts = {
        site: networks.weights_per_filter(networks.original(module))
        for site, module in modules.items()
    }
    return {site: count for site, count in counts.items() if count}
