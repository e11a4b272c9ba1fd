"""Ideal against learned correction, at all corrected sites together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepcorrect import networks
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import Batches
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.ranking import Pair, Step, for_each_pair
from deepcorrect.runtime import inference

RIVALS = ("baseline", "learned", "ideal")


@dataclass(frozen=True)
class IdealAgainstLearned:
    """What the corrected filters could give back, and what their units do. Shares of the images.

    The ideal is an upper yardstick, not a bound: units may move maps to where the rest of the
    network, which stays distorted, makes more of them than of the clean ones.

    Attributes:
        distortions: with their levels.
        images: how many.
        clean_top1: the untouched network's accuracy on the clean images.
        learned_clean_top1: the corrected network's.
        top1: by distortion, then `baseline`, `learned` and `ideal`, accuracies by level: the
            untouched network's; the corrected one's; and the untouched network's with the clean
            outputs of the corrected filters swapped in at all corrected sites together.
    """

    distortions: tuple[LevelledDistortion, ...]
    images: int
    clean_top1: float
    learned_clean_top1: float
    top1: dict[str, dict[str, list[float]]]

    def recovered(self, distortion: str) -> float | None:
        """Share of the ideal correction's gain, averaged over the levels, that is learned; None
        where there is no such gain."""
        before, learned, ideal = (sum(self.top1[distortion][name]) for name in RIVALS)
        return (learned - before) / (ideal - before) if ideal > before else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "images": self.images,
            "clean_top1": self.clean_top1,
            "learned_clean_top1": self.learned_clean_top1,
            "distortions": {
                kind.name: {
                    "levels": list(kind.levels),
                    **self.top1[kind.name],
                    "recovered": self.recovered(kind.name),
                }
                for kind in self.distortions
            },
        }


def ideal_against_learned(
    adapted: AdaptedModel,
    loader: Batches,
    distortions: tuple[LevelledDistortion, ...],
    seed: int = 0,
    task: str = "ideal against learned",
) -> IdealAgainstLearned:
    """Measures the three accuracies on the same distorted images.

    Args:
        adapted: its sites and filters are those that are swapped.
        loader: batches of (clean images, labels).
        distortions: without levels, the grid for the input size.
        seed: of the noise.
        task: what the progress line says.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.
    """
    network = adapted.network
    chosen = {site: list(config.filters) for site, config in adapted.config.sites.items()}
    right: dict[int, Tensor] = {}
    clean_right = torch.zeros(2, dtype=torch.long)

    def visit(level: int, start: int, pair: Pair, step: Step) -> None:
        del start

        def swap(site: str, output: Tensor) -> Tensor:
            swapped = output.clone()
            swapped[:, chosen[site]] = pair.clean.maps[site][:, chosen[site]]
            return swapped

        def hits(logits: Tensor) -> Tensor:
            return (logits.argmax(1) == pair.clean.classes).sum().cpu()

        if level == 0:
            clean = pair.clean.images
            clean_right.add_(torch.stack([hits(network(clean)), hits(adapted(clean))]))
        baseline, learned = hits(network(pair.images)), hits(adapted(pair.images))
        with networks.tap(network, chosen, swap):
            ideal = hits(network(pair.images))
        counts = torch.stack([baseline, learned, ideal])
        right[level] = right[level] + counts if level in right else counts
        step(1)

    with inference(adapted):
        walk = for_each_pair(
            network, loader, distortions, list(chosen), visit, task, seed, "float32", "labels"
        )
    levels = range(sum(len(kind.levels) for kind in walk.distortions))
    nothing = torch.zeros(len(RIVALS), dtype=torch.long)
    counts = walk.total(torch.stack([right.get(level, nothing) for level in levels]))
    shares = (counts.double() / walk.images).T.tolist()
    top1: dict[str, dict[str, list[float]]] = {}
    start = 0
    for kind in walk.distortions:
        end = start + len(kind.levels)
        top1[kind.name] = {
            name: values[start:end] for name, values in zip(RIVALS, shares, strict=True)
        }
        start = end
    clean, learned_clean = (walk.total(clean_right).double() / walk.images).tolist()
    return IdealAgainstLearned(walk.distortions, walk.images, clean, learned_clean, top1)
