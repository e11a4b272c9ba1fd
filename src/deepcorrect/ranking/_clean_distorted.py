"""Streams pairs of clean and distorted images, block by block and level by level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from deepcorrect import networks
from deepcorrect.data import Batches, check_labels, count_of, target_for
from deepcorrect.distortions import (
    CLEAN,
    Cell,
    Distortion,
    LevelledDistortion,
    NumberedBatch,
    cells_of,
    numbered_batches,
    parse_all,
    shared_batches,
)
from deepcorrect.networks import (
    input_size_of,
    logits_of,
    multiply_adds,
    patching,
    ungated,
)
from deepcorrect.networks.patching import Pass, Recorder
from deepcorrect.ranking._description import NetworkSize, Target
from deepcorrect.ranking._finite import Place
from deepcorrect.runtime import (
    Advance,
    Precision,
    autocast,
    device_of,
    forked_random,
    inference,
    memory_of,
    process_count,
    progress,
    to_device,
    together,
    total,
    widest_float,
)

TARGETS = {
    "labels": "the true classes",
    "prediction": "the class that the network assigns to the clean image",
    "kl": "all the probabilities that the network assigns to the clean image",
}
"""What each `Target` says."""

PURPOSE = "to rank with"
BLOCK_IMAGES, BLOCK_VALUES = 64, 64 * 3 * 64 * 64
COPIES = 16
"""How often all sites' maps fit into a GPU's memory. Up to six copies of them, or of their
gradients, are held at a time, and a pass keeps what its own gradients need."""


class Clean:
    """A block of undistorted images, and the network's outputs for them.

    Args:
        model: the network.
        sites: names of the sites whose outputs are recorded.
        images: N x C x H x W, on the model's device.
        labels: true classes, (N,).
        target: what answers are measured against.
        place: where the block is in the loader, for messages.

    Attributes:
        maps: each site's output, N x C x H x W.
        target: the probabilities that answers are measured against, N x classes.
        classes: the most probable of them, (N,).
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[str],
        images: Tensor,
        labels: Tensor,
        target: Target,
        place: Place | None = None,
    ) -> None:
        self.model, self.sites, self.images = model, tuple(sites), images
        self.place = place or Place()
        with networks.tap(model, sites) as maps:
            logits = logits_of(model, images).float()
        self.place.check(logits, CLEAN)
        self.maps = {site: maps[site] for site in self.sites}  # the network's order, not the run's
        if target == "labels":
            check_labels(labels, logits.shape[1])
            self.classes = labels
        else:
            self.classes = logits.argmax(1)
        one_hot = torch.nn.functional.one_hot(self.classes, logits.shape[1]).float()
        self.target = logits.softmax(1) if target == "kl" else one_hot

    def gain(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """How well answers fit the target: the sum of t log p over the classes, one per row.

        For one-hot targets this is the log-probability of that class; for probabilities it is the
        negative Kullback-Leibler divergence from them, up to a constant.

        Args:
            logits: rows x classes.
            images: for each row the place of its image in the block, (rows,); None if the rows are
                the block's images in order.
        """
        target = self.target if images is None else self.target[images]
        return (target * logits.float().log_softmax(1)).sum(1)

    def gradients_on(
        self, images: Tensor, cell: Cell = CLEAN
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every site's output on these images, and the gradient of the gain with respect to it.

        Args:
            images: N x C x H x W, which are the block's, or on the way to them from this cell.
            cell: a distortion and its level.
        """

        def gain(logits: Tensor) -> Tensor:
            self.place.check(logits, cell)
            return self.gain(logits).sum()

        return networks.gradients(self.model, images, self.sites, gain)

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """The gain's gradients at the clean outputs."""
        return self.gradients_on(self.images)[1]


@dataclass
class Pair:
    """A block of images, clean and at one level of a distortion.

    Attributes:
        clean: the block.
        images: the distorted images, N x C x H x W.
        recorder: records a pass so that it can be re-run from a site.
        seed: for methods that draw random numbers.
        cell: the distortion and its level.
    """

    clean: Clean
    images: Tensor
    recorder: Recorder
    seed: int = 0
    cell: Cell = CLEAN

    @cached_property
    def distorted(self) -> Pass:
        """The pass on the distorted images, which can be re-run from any site."""
        recorded = self.recorder(self.images)
        self.clean.place.check(recorded.logits, self.cell)
        return recorded

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """Each site's output on the distorted images, N x C x H x W."""
        with torch.no_grad(), networks.tap(self.clean.model, self.clean.sites) as maps:
            logits = logits_of(self.clean.model, self.images)
        self.clean.place.check(logits, self.cell)
        return maps


Step = Advance
"""Takes the finished share of the work on one pair."""


@dataclass(frozen=True)
class Coverage:
    """What `for_each_pair` covered.

    Attributes:
        images: their number, including those of other processes.
        distortions: with their levels.
        target: what answers were measured against.
        maps: each site's channels, height and width.
        network: the network's size.
    """

    images: int
    distortions: tuple[LevelledDistortion, ...]
    target: Target
    maps: dict[str, tuple[int, int, int]]
    network: NetworkSize


class LevelSums:
    """Sums over blocks of images, one for each level, which `total` adds up over all processes.

    Args:
        *shape: of each level's sum.
        dtype: of the sums.
    """

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        self._nothing = torch.zeros(shape, dtype=dtype)
        self._sums: dict[int, Tensor] = {}

    def add(self, level: int, values: Tensor) -> None:
        """Adds what was found on one block at a level, where it is: no device is waited for."""
        if widest_float(values.device) != self._nothing.dtype:
            values = values.cpu()
        before = self._sums.get(level)
        before = self._nothing.to(values.device) if before is None else before
        self._sums[level] = before + values

    def total(self, coverage: Coverage) -> Tensor:
        """The sums of all processes, levels x shape."""
        levels = range(len(cells_of(coverage.distortions)))
        rows = [self._sums.get(level, self._nothing).cpu() for level in levels]
        return total(torch.stack(rows))


Visit = Callable[[int, int, Pair, Step], None]
"""Called with the level's number, the number of the block's first image, the pair, and a function
that takes the finished share of the work on this pair."""


def for_each_pair(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    sites: Sequence[str] | str | None,
    visit: Visit,
    task: str,
    seed: int,
    precision: Precision,
    target: Target | None = None,
) -> Coverage:
    """Calls `visit` for each block of images at each level of each distortion.

    With several processes, each visits the blocks of its own batches. Noise depends on the seed,
    the level and the image's number alone, so neither batches nor processes change it.

    Args:
        model: takes images in [0, 1]; runs in inference mode, on the device that it is on.
        loader: batches of (clean images, labels), the same in every process.
        distortions: specs; without levels, the grid for the input size.
        sites: dotted names, a choice, or None; see `networks.choose`, which sees the first image.
        visit: see `Visit`.
        task: the name of this work in the progress line.
        seed: of the noise.
        precision: of the network.
        target: what answers are measured against; None follows `deepcorrect.data.target_for`.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.
    """
    device, processes, images_seen = device_of(model), process_count(), 0
    with (
        together(),
        inference(model),
        ungated(model),  # every image's filters are compared
        torch.no_grad(),
        autocast(device, precision),
        progress(task, count_of(loader)) as advance,
    ):
        batches = shared_batches(loader, PURPOSE)
        head = next(batches) if processes == 1 else _first(loader)
        model = networks.as_logits(model, head.images)
        setup = _setup(model, head, distortions, sites, target)
        blocks = _blocks(head if processes == 1 else None, batches, setup.block_size)
        del head  # so that its images are freed as those of the other batches are
        for batch, (images, labels, first) in blocks:
            images_seen += len(images)
            here = to_device(images, device)
            place = Place(first, batch if processes == 1 else None)
            clean = Clean(model, setup.sites, here, labels.to(device), setup.target, place)
            share = len(images) * processes / len(setup.cells)
            for row, cell in enumerate(setup.cells):
                distorted = cell.show(here, seed, range(first, first + len(images)))
                pair = Pair(clean, distorted, setup.recorder, seed, cell)
                visit(row, first, pair, lambda done, share=share: advance(done * share))
        images_seen = int(total(torch.tensor(images_seen)))
    return Coverage(images_seen, setup.distortions, setup.target, setup.maps, setup.network)


def _first(loader: Batches) -> NumberedBatch:
    """The first batch, which settles the same in every process."""
    with forked_random():  # a loader that shuffles begins with it again
        return next(numbered_batches(loader, PURPOSE))


@dataclass(frozen=True)
class _Setup:
    """What the first batch settles for all blocks."""

    block_size: int
    sites: tuple[str, ...]
    target: Target
    distortions: tuple[LevelledDistortion, ...]
    cells: list[Cell]
    maps: dict[str, tuple[int, int, int]]
    network: NetworkSize
    recorder: Recorder


def _setup(
    model: nn.Module,
    batch: NumberedBatch,
    distortions: Sequence[str | Distortion] | str,
    sites: Sequence[str] | str | None,
    target: Target | None,
) -> _Setup:
    device = device_of(model)
    one = to_device(batch.images[:1], device)
    target = target or target_for(batch.labels)
    chosen = tuple(networks.choose(model, one, sites))
    grid = parse_all(distortions, input_size_of(model, batch.images))
    with networks.tap(model, chosen) as outputs:
        model(one)
    maps = {site: _shape(outputs[site]) for site in chosen}
    block_size = _block_size(batch.images, sum(map(math.prod, maps.values())), device)
    block = to_device(batch.images[:block_size], device)
    parameters = sum(p.numel() for p in model.parameters())
    network = NetworkSize(parameters, multiply_adds(model, one))
    recorder = _recorder(model, _example(block, block_size), chosen)
    return _Setup(block_size, chosen, target, grid, cells_of(grid), maps, network, recorder)


def _recorder(model: nn.Module, example: Tensor, sites: Sequence[str]) -> Recorder:
    """Records passes; it is made when a method first asks, as that exports the network's graph."""
    made: list[Recorder] = []

    def record(images: Tensor) -> Pass:
        if not made:
            with autocast(device_of(model), "float32"):
                made.append(patching.recorder(model, example, sites))
        return made[0](images)

    return record


def _blocks(
    batch: NumberedBatch | None, others: Iterator[NumberedBatch], size: int
) -> Iterator[tuple[int, NumberedBatch]]:
    """A batch if there is one, and then the others, in blocks of at most `size` images.

    Beside each block is the number of its batch.
    """
    number = 0
    if batch is None:
        batch = next(others, None)
    while batch is not None:
        images, labels, first = batch
        for place in range(0, len(images), size):
            rows = slice(place, place + size)
            yield number, NumberedBatch(images[rows], labels[rows], first + place)
        batch, number = next(others, None), number + 1


def _shape(maps: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = maps.shape
    return channels, height, width


def _block_size(images: Tensor, maps: int, device: torch.device) -> int:
    """Images per block: on a CPU as many as keep a block's activations small, on a GPU as many as
    fit its memory, where an image's maps at the sites have `maps` values."""
    if device.type != "cpu":
        fitting = memory_of(device) // max(1, COPIES * 4 * maps)
        return min(len(images), max(4, fitting))
    fitting = max(4, BLOCK_VALUES // max(1, images[0].numel()))
    return min(len(images), BLOCK_IMAGES, fitting)


def _example(images: Tensor, rows: int) -> Tensor:
    """`rows` images, at least two, repeated if there are fewer."""
    rows = max(2, rows)
    repeats = -(-rows // len(images))
    return to_device(images.repeat(repeats, 1, 1, 1)[:rows], images.device)
