"""Streaming a method over batches, distortions and levels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from deepcorrect import sites as sites_room
from deepcorrect.classifier import input_size_of
from deepcorrect.computing import Precision, autocast, device_of, inference, placed
from deepcorrect.data import Batches, check_labels, count_of, no_images
from deepcorrect.distortions import Distortion, generator_for, parse_all
from deepcorrect.errors import unknown
from deepcorrect.progress import progress
from deepcorrect.ranking._methods import METHODS, Pair
from deepcorrect.ranking._ranking import Ranking
from deepcorrect.sites import Replay


def rank(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    method: str = "path",
    sites: Sequence[str] | None = None,
    seed: int = 0,
    precision: Precision = "float32",
) -> Ranking:
    """Scores every filter of the sites by its correction priority.

    Streams: memory is bounded by one batch, nothing is kept of the images.

    Args:
        model: takes images in [0, 1]; runs in inference mode where it is.
        loader: batches of (clean images, labels). The paper takes 1,000 to 5,000 images.
        distortions: specs such as `gaussian_blur` or `awgn:10,20`; without levels, the paper's
            grid for the input size.
        method: one of `deepcorrect.ranking.METHODS`; `swap` is the paper's.
        sites: dotted names of modules whose outputs are scored; None takes every convolution.
        seed: of the noise.
        precision: `bfloat16` runs the network faster and less exactly.

    Raises:
        InputError: an argument is not accepted, a label is outside the network's classes, or
            there is no image.
    """
    if method not in METHODS:
        raise unknown("ranking method", method, METHODS)
    score = METHODS[method].score
    names = list(sites_room.find(model, sites))
    started = time.monotonic()
    sums: dict[str, list[Tensor]] = {}

    def visit(number: int, site: str, pair: Pair) -> None:
        gains = score(pair, site)
        rows = sums.setdefault(site, [])
        if number == len(rows):
            rows.append(torch.zeros_like(gains))
        rows[number] += gains

    images, used = visit_pairs(
        model, loader, distortions, names, visit, f"ranking ({method})", seed, precision
    )
    by_level = {name: torch.stack(sums[name]) / images for name in names}
    return Ranking(by_level, method, used, images, time.monotonic() - started, seed)


def visit_pairs(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    sites: Sequence[str],
    visit: Callable[[int, str, Pair], None],
    task: str,
    seed: int,
    precision: Precision,
) -> tuple[int, tuple[Distortion, ...]]:
    """Calls `visit(level number from 0, site, pair)` for each batch, level and site in turn.

    Returns:
        The number of images, and the distortions with their levels.
    """
    device = device_of(model)
    drawing = generator_for(seed, task)
    seen = 0
    grid: tuple[Distortion, ...] = ()
    total = count_of(loader)
    generators: list[torch.Generator] = []
    with (
        inference(model),
        torch.no_grad(),
        autocast(device, precision),
        progress(task, total) as step,
    ):
        for images, truth in loader:
            if not len(images):
                continue
            if not grid:
                grid = parse_all(distortions, input_size_of(model, images))
                generators = [generator_for(seed, "rank", d.name, v) for d, v in _levels(grid)]
            labels = truth.to(device)
            with sites_room.tap(model, sites) as clean:
                check_labels(labels, model(placed(images, device)).shape[1])
            for number, (distortion, level) in enumerate(_levels(grid)):
                distorted = distortion(images, level, generators[number])
                replay = Replay(model, placed(distorted, device), sites)
                for site in sites:
                    visit(number, site, Pair(clean, replay, labels, drawing))
                    step(len(images) / (len(generators) * len(sites)))
            seen += len(images)
    if not seen:
        raise no_images(loader, "to rank with")
    return seen, grid


def _levels(grid: Sequence[Distortion]) -> Iterator[tuple[Distortion, float]]:
    for distortion in grid:
        for level in distortion.levels or ():
            yield distortion, level
