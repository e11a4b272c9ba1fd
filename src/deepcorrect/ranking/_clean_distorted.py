"""Streaming pairs of clean and distorted images, block by block, level by level."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from accelerate import PartialState
from torch import Tensor, nn

from deepcorrect import networks
from deepcorrect.data import UNLABELLED, Batches, check_labels, count_of, no_images
from deepcorrect.distortions import Distortion, LevelledDistortion, parse_all
from deepcorrect.networks import input_size_of, multiply_adds, patching
from deepcorrect.networks.patching import Pass, Recorder
from deepcorrect.ranking._ranking import NetworkSize
from deepcorrect.runtime import (
    Precision,
    autocast,
    device_of,
    inference,
    progress,
    seeds_for,
    to_device,
)

TARGETS = {
    "labels": "the true classes",
    "prediction": "the class that the network gives the clean image",
    "kl": "all the probabilities that the network gives the clean image",
}
Target = Literal["labels", "prediction", "kl"]
"""What answers are measured against, one of `TARGETS`; the last two need no labels."""

BLOCK_IMAGES, BLOCK_VALUES = 64, 64 * 3 * 64 * 64


class Clean:
    """A block of undistorted images and what the network makes of them.

    Args:
        model: the network.
        sites: names of the sites that are looked at.
        images: N x C x H x W, on the model's device.
        labels: true classes, (N,).
        target: what answers are measured against.

    Attributes:
        maps: each site's output, N x C x H x W.
        target: the probabilities that answers are measured against, N x classes.
        classes: the most probable of them, (N,).
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[str], images: Tensor, labels: Tensor, target: Target
    ) -> None:
        self.model, self.sites, self.images = model, tuple(sites), images
        with networks.tap(model, sites) as maps:
            logits = model(images).float()
        self.maps = {site: maps[site] for site in self.sites}  # the network's order, not the run's
        if target == "labels":
            check_labels(labels, logits.shape[1])
            self.classes = labels
        else:
            self.classes = logits.argmax(1)
        one_hot = torch.nn.functional.one_hot(self.classes, logits.shape[1]).float()
        self.target = logits.softmax(1) if target == "kl" else one_hot

    def gain(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """How well answers fit the target: sum of t log p over the classes, a row.

        `images` says whose answers the rows of `logits` are; None: the block's, in order.

        For one-hot targets this is the log-probability of that class; for probabilities it is the
        negative Kullback-Leibler divergence from them, but for a constant.
        """
        target = self.target if images is None else self.target[images]
        return (target * logits.float().log_softmax(1)).sum(1)

    def slopes(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every site's output on these images, and the gain's gradient there."""
        return networks.gradients(
            self.model, images, self.sites, lambda logits: self.gain(logits).sum()
        )

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """The gain's gradients at the clean outputs."""
        return self.slopes(self.images)[1]


@dataclass
class Pair:
    """A block of images seen clean and distorted.

    Attributes:
        clean: the block.
        images: distorted, N x C x H x W.
        recorder: how passes that are re-run from sites are recorded.
        seed: for methods that draw.
    """

    clean: Clean
    images: Tensor
    recorder: Recorder
    seed: int = 0

    @cached_property
    def distorted(self) -> Pass:
        """The pass on the distorted images, which can be re-run from any site."""
        return self.recorder(self.images)

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """Each site's output on the distorted images, N x C x H x W."""
        with torch.no_grad(), networks.tap(self.clean.model, self.clean.sites) as maps:
            self.clean.model(self.images)
        return maps


Step = Callable[[float], None]


@dataclass(frozen=True)
class Walk:
    """What `visit_pairs` went through.

    Attributes:
        images: how many, those of other processes included.
        distortions: with their levels.
        target: what answers were measured against.
        maps: each site's channels, height and width.
        network: what it costs.
        state: the processes that shared the work; None where there is one.
    """

    images: int
    distortions: tuple[LevelledDistortion, ...]
    target: Target
    maps: dict[str, tuple[int, int, int]]
    network: NetworkSize
    state: PartialState | None

    def total(self, values: Tensor) -> Tensor:
        """The sum of all processes' `values`, exact for counts."""
        if self.state is None:
            return values
        shared = values.to(self.state.device)
        torch.distributed.all_reduce(shared)
        return shared.cpu()


def for_each_pair(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    sites: Sequence[str] | None,
    visit: Callable[[int, int, Pair, Step], None],
    task: str,
    seed: int,
    precision: Precision,
    target: Target | None = None,
) -> Walk:
    """Calls `visit(level number, number of the first image, pair, step)` for each block and level.

    Both numbers count from 0; `visit` reports with `step` what share of itself it has done. Of
    several processes (`accelerate launch`), each visits every so many-th block. Noise depends on
    the seed, the level and the image's number alone, so neither batches nor processes change it.

    Args:
        model: takes images in [0, 1]; runs in inference mode where it is.
        loader: batches of (clean images, labels), the same in every process.
        distortions: specs; without levels, the grid for the input size.
        sites: dotted names; None takes those that `sites.choose` finds with the first image.
        visit: what to do.
        task: what the progress line says.
        seed: of the noise.
        precision: of the network.
        target: None takes the labels, or the prediction where the first block has none.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.
    """
    device = device_of(model)
    state = _processes(device)
    index, count = (state.process_index, state.num_processes) if state else (0, 1)
    seen = blocks = rows = 0
    levels: list[tuple[LevelledDistortion, float]] = []
    grid: tuple[LevelledDistortion, ...] = ()
    maps: dict[str, tuple[int, int, int]] = {}
    record: Recorder | None = None
    chosen: tuple[str, ...] = ()
    first = torch.zeros(0)
    network = NetworkSize(0, 0)

    def recorder(images: Tensor) -> Pass:  # made when a method first asks for it
        nonlocal record
        if record is None:
            with autocast(device, "float32"):
                record = patching.recorder(model, _filled(first, rows), chosen)
        return record(images)

    with (
        inference(model),
        torch.no_grad(),
        autocast(device, precision),
        progress(task, count_of(loader)) as advance,
    ):
        for batch, truth in loader:
            if not len(batch):
                continue
            rows = rows or _block_size(batch, device)
            for images, labels in zip(batch.split(rows), truth.split(rows), strict=True):
                start, number = seen, blocks
                seen, blocks = seen + len(images), blocks + 1
                if number and number % count != index:
                    advance(len(images))
                    continue
                if target is None:
                    target = "prediction" if bool((labels == UNLABELLED).any()) else "labels"
                here = to_device(images, device)
                if not number:
                    chosen = tuple(networks.choose(model, here[:1], sites))
                clean = Clean(model, chosen, here, labels.to(device), target)
                if not number:
                    first = clean.images
                    grid = parse_all(distortions, input_size_of(model, images))
                    levels = [(kind, level) for kind in grid for level in kind.levels]
                    maps = {name: _shape(value) for name, value in clean.maps.items()}
                    parameters = sum(p.numel() for p in model.parameters())
                    network = NetworkSize(parameters, multiply_adds(model, clean.images[:1]))
                    if index:
                        continue
                share = len(images) / len(levels)
                for row, (kind, level) in enumerate(levels):
                    seeds = seeds_for(
                        seed, "rank", kind.name, level, first=start, count=len(images)
                    )
                    distorted = to_device(kind(here, level, seeds), device)
                    pair = Pair(clean, distorted, recorder, seed)
                    visit(row, start, pair, lambda done, share=share: advance(done * share))
    if not seen:
        raise no_images(loader, "to rank with")
    return Walk(seen, grid, target or "labels", maps, network, state)


def _shape(maps: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = maps.shape
    return channels, height, width


def _block_size(images: Tensor, device: torch.device) -> int:
    """Images a block: the batch's, but on a CPU so few that a block's activations stay small."""
    if device.type != "cpu":
        return len(images)
    fitting = max(4, BLOCK_VALUES // max(1, images[0].numel()))
    return min(len(images), BLOCK_IMAGES, fitting)


def _filled(images: Tensor, rows: int) -> Tensor:
    """`rows` images, repeated where there are fewer."""
    repeats = -(-max(2, rows) // len(images))
    filled = images.repeat(repeats, 1, 1, 1)[: max(2, rows)]
    return filled.contiguous(memory_format=torch.channels_last)


def _processes(device: torch.device) -> PartialState | None:
    """The processes of an `accelerate launch` or `torchrun`, if there are several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not torch.distributed.is_initialized():
        return None
    state = PartialState(cpu=device.type == "cpu")
    return state if state.num_processes > 1 else None
