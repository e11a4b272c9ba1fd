"""Ideal against learned correction, at all corrected sites at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect import networks
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import Batches
from deepcorrect.distortions import LevelledDistortion, level_rows
from deepcorrect.ranking import LevelSums, Pair, Step, for_each_pair
from deepcorrect.runtime import inference, total

CORRECTIONS = ("baseline", "learned", "ideal")


@dataclass(frozen=True)
class IdealAgainstLearned:
    """Accuracy under ideal correction of the corrected filters, and under the learned one.

    Accuracies are shares of the images. Ideal correction is a reference, not an upper bound: the
    rest of the network still sees a distorted image, and units may produce outputs that serve it
    better than the clean ones.

    Attributes:
        distortions: with their levels.
        images: their number.
        clean_top1: the untouched network's accuracy on the clean images.
        learned_clean_top1: the corrected network's accuracy on the clean images.
        top1: by distortion, then `baseline`, `learned` and `ideal`, accuracies by level: those of
            the untouched network, of the corrected one, and of the untouched one with the clean
            outputs of the corrected filters swapped in at all corrected sites at once.
    """

    distortions: tuple[LevelledDistortion, ...]
    images: int
    clean_top1: float
    learned_clean_top1: float
    top1: dict[str, dict[str, list[float]]]

    def recovered(self, distortion: str) -> float | None:
        """The learned share of the ideal correction's gain, averaged over the levels; None if there
        is no such gain."""
        before, learned, ideal = (sum(self.top1[distortion][name]) for name in CORRECTIONS)
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
    """Measures the baseline, the learned and the ideal correction on the same distorted images.

    Args:
        adapted: its corrected filters are those that are swapped.
        loader: batches of (clean images, labels).
        distortions: without levels, the grid for the input size.
        seed: of the noise.
        task: the name of this analysis in the progress line.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.
    """
    network = adapted.network
    read: dict[nn.Module, nn.Module] = {}
    chosen = {site: list(config.filters) for site, config in adapted.config.sites.items()}
    right = LevelSums(len(CORRECTIONS), dtype=torch.long)
    clean_right = torch.zeros(2, dtype=torch.long)

    def visit(level: int, first: int, pair: Pair, step: Step) -> None:
        del first

        def swap(site: str, output: Tensor) -> Tensor:
            swapped = output.clone()
            swapped[:, chosen[site]] = pair.clean.maps[site][:, chosen[site]]
            return swapped

        def hits(model: nn.Module, images: Tensor) -> Tensor:
            if model not in read:
                read[model] = networks.as_logits(model, images)
            logits = networks.logits_of(read[model], images)
            return (logits.argmax(1) == pair.clean.classes).sum().cpu()

        if level == 0:
            clean = pair.clean.images
            clean_right.add_(torch.stack([hits(network, clean), hits(adapted, clean)]))
        baseline, learned = hits(network, pair.images), hits(adapted, pair.images)
        with networks.tap(network, chosen, swap):
            ideal = hits(network, pair.images)
        right.add(level, torch.stack([baseline, learned, ideal]))
        step(1)

    with inference(adapted):
        coverage = for_each_pair(
            network, loader, distortions, list(chosen), visit, task, seed, "float32", "labels"
        )
    shares = (right.total(coverage).double() / coverage.images).T.tolist()
    top1 = {
        name: {
            correction: values[rows] for correction, values in zip(CORRECTIONS, shares, strict=True)
        }
        for name, rows in level_rows(coverage.distortions).items()
    }
    clean, learned_clean = (total(clean_right).double() / coverage.images).tolist()
    return IdealAgainstLearned(coverage.distortions, coverage.images, clean, learned_clean, top1)
