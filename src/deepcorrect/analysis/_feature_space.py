"""The features of clean, distorted and corrected images: nearest neighbours, and t-SNE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepcorrect.data import Batches, count_of
from deepcorrect.distortions import (
    CLEAN,
    Cell,
    Distortion,
    LevelledDistortion,
    cells_of,
    distorted_batches,
    numbered_batches,
    parse_all,
)
from deepcorrect.networks import features, input_size_of, logits_of
from deepcorrect.runtime import InputError, device_of, inference, progress

PERPLEXITY = 30.0  # the usual one of t-SNE
ROWS = 512  # queries whose distances to all references are held at once
PURPOSE = "to compare the features of"


@dataclass(frozen=True)
class Neighbours:
    """Nearest-neighbour accuracy in feature space, as shares of the images.

    Attributes:
        distortions: with their levels.
        images: their number.
        clean: by system, the accuracy of its features of the clean images among the untouched
            network's features of them.
        untouched: by distortion and system, at each level, the accuracy of its features of the
            distorted images among the untouched network's features of the clean ones.
        own: the same among the system's own features of the clean images.
    """

    distortions: tuple[LevelledDistortion, ...]
    images: int
    clean: dict[str, float]
    untouched: dict[str, dict[str, list[float]]]
    own: dict[str, dict[str, list[float]]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "images": self.images,
            "clean": self.clean,
            "distortions": {
                kind.name: {
                    "levels": list(kind.levels),
                    "untouched": self.untouched[kind.name],
                    "own": self.own[kind.name],
                }
                for kind in self.distortions
            },
        }


def neighbour_accuracy(reference: Tensor, queries: Tensor, labels: Tensor) -> float:
    """The share of queries whose nearest reference, by Euclidean distance, has the same label.

    Args:
        reference: features N x D of N images.
        queries: features of the same images, N x D; an image's own reference is left out.
        labels: the images' classes, (N,).

    Raises:
        InputError: there are fewer than two images.

    Example:
        >>> import torch
        >>> from deepcorrect.analysis import neighbour_accuracy
        >>> features = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
        >>> neighbour_accuracy(features, features, torch.tensor([0, 0, 1, 1]))
        1.0
    """
    if len(labels) < 2:
        raise InputError(f"{len(labels)} image has no neighbour: at least 2 are needed")
    right = 0
    for start in range(0, len(queries), ROWS):
        some = queries[start : start + ROWS]
        far = torch.cdist(some, reference, compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.arange(len(some), device=far.device)
        far[rows, rows + start] = torch.inf
        right += int((labels[far.argmin(1)] == labels[start : start + ROWS]).sum())
    return right / len(labels)


def neighbours(
    untouched: nn.Module,
    systems: Mapping[str, nn.Module],
    loader: Batches,
    distortions: Sequence[str | Distortion],
    seed: int = 0,
    site: str | None = None,
) -> Neighbours:
    """Measures nearest-neighbour accuracy for several systems, one level at a time.

    Args:
        untouched: the network whose features of the clean images are the first reference.
        systems: the networks that see the distorted images.
        loader: batches of (clean images, labels).
        distortions: without levels, the grid for the input size.
        seed: of the noise.
        site: dotted name of the module whose output the features are; None takes what the last
            linear layer reads.

    Raises:
        InputError: a distortion is not accepted, the features cannot be read, or there are fewer
            than two images.
    """
    everyone = {**systems, "": untouched}
    total = count_of(loader)
    with progress("features", total) as advance:
        clean, labels = gather(everyone, loader, site=site)
        images = next(numbered_batches(loader, PURPOSE)).images
        grid = parse_all(distortions, input_size_of(untouched, images))
        reference = clean[""]
        among = {kind.name: {name: list[float]() for name in systems} for kind in grid}
        own = {kind.name: {name: list[float]() for name in systems} for kind in grid}
        cells = [(kind.name, cell) for kind in grid for cell in cells_of([kind])]
        for kind, cell in cells:
            found, _ = gather(systems, loader, cell, seed, site)
            for name, queries in found.items():
                among[kind][name].append(neighbour_accuracy(reference, queries, labels))
                own[kind][name].append(neighbour_accuracy(clean[name], queries, labels))
            advance(total / len(cells))
    at_first = {name: neighbour_accuracy(reference, clean[name], labels) for name in systems}
    return Neighbours(grid, len(labels), at_first, among, own)


def gather(
    systems: Mapping[str, nn.Module],
    loader: Batches,
    cell: Cell = CLEAN,
    seed: int = 0,
    site: str | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Each system's features of the images as they look in one cell.

    Args:
        systems: networks on the same device.
        loader: batches of (clean images, labels).
        cell: a distortion at one level, or the clean images.
        seed: of the noise.
        site: dotted name of the module whose output the features are; None takes the input of the
            last linear layer.

    Returns:
        The features by system, N x D, and the labels, (N,), on the CPU.

    Raises:
        InputError: the features cannot be read, or there is no image.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in systems}
    truth: list[Tensor] = []
    device = device_of(next(iter(systems.values())))
    with torch.no_grad(), ExitStack() as stack:
        for model in systems.values():
            stack.enter_context(inference(model))
        for batch in distorted_batches(loader, [cell], seed=seed, device=device, purpose=PURPOSE):
            for system, model in systems.items():
                with features(model, site) as read:
                    logits_of(model, batch.images)
                    parts[system].append(read().float().cpu())
            truth.append(batch.labels.cpu())
    return {name: torch.cat(some) for name, some in parts.items()}, torch.cat(truth)


def embed(groups: Sequence[Tensor], seed: int = 0) -> list[Tensor]:
    """Puts the features of several groups into one plane by t-SNE.

    L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008. In the plane,
    distances mean little beyond neighbourhood.

    Args:
        groups: features, each N x D with the same D.
        seed: of the optimisation; it starts from the principal components.

    Returns:
        The same groups, each N x 2.

    Raises:
        InputError: there are fewer than four points in total.
    """
    from sklearn.manifold import TSNE  # noqa: PLC0415  (slow to import)

    points = torch.cat(list(groups)).numpy()
    if len(points) < 4:
        raise InputError(f"{len(points)} points are too few for t-SNE: at least 4 are needed")
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    start = "pca" if points.shape[1] > 1 else "random"
    placing = TSNE(2, perplexity=perplexity, init=start, random_state=seed)
    plane = torch.from_numpy(np.asarray(placing.fit_transform(points), dtype=np.float32))
    return list(plane.split([len(group) for group in groups]))
