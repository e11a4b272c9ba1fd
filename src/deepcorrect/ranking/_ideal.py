"""Ideal correction: accuracy with the clean outputs of a ranking's first filters swapped in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.computing import Precision
from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion
from deepcorrect.ranking._methods import Pair
from deepcorrect.ranking._rank import visit_pairs
from deepcorrect.ranking._ranking import Ranking, count_for

BETAS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""The paper's shares of filters."""


@dataclass(frozen=True)
class IdealCorrection:
    """The yardstick of a ranking (paper, section III-B): higher curves, better choices.

    Attributes:
        betas: corrected shares.
        distortions: with their levels.
        top1: for each site, accuracies (levels, betas); levels of all distortions in a row.
        distorted_top1: the baseline's accuracy at each level, (levels,).
        images: number of images.
    """

    betas: tuple[float, ...]
    distortions: tuple[Distortion, ...]
    top1: dict[str, Tensor]
    distorted_top1: Tensor
    images: int

    def area(self, site: str) -> float:
        """Mean accuracy of a site's curve over all betas and levels."""
        return float(self.top1[site].mean())

    def to_json(self) -> dict[str, Any]:
        """Plain values: top1 by site and distortion, a row a level, a column a beta."""
        sections: list[tuple[str, slice]] = []
        start = 0
        for distortion in self.distortions:
            end = start + len(distortion.levels or ())
            sections.append((distortion.name, slice(start, end)))
            start = end
        return {
            "schema": 1,
            "betas": list(self.betas),
            "images": self.images,
            "levels": {d.name: list(d.levels or ()) for d in self.distortions},
            "distorted_top1": {n: self.distorted_top1[rows].tolist() for n, rows in sections},
            "top1": {
                site: {name: values[rows].tolist() for name, rows in sections}
                for site, values in self.top1.items()
            },
            "area": {site: self.area(site) for site in self.top1},
        }


def ideal_correction(
    model: nn.Module,
    loader: Batches,
    ranking: Ranking,
    betas: Sequence[float] = BETAS,
    distortions: Sequence[str | Distortion] | None = None,
    seed: int = 1,
    precision: Precision = "float32",
) -> IdealCorrection:
    """Measures a ranking's ideal-correction curves, one site at a time.

    Args:
        model: takes images in [0, 1].
        loader: batches of (clean images, labels), best others than the ranking's.
        ranking: whose first filters are swapped.
        betas: shares of a site's filters, each above 0 and up to 1.
        distortions: None takes the ranking's.
        seed: of the noise.
        precision: `bfloat16` runs faster and less exactly.

    Raises:
        InputError: beta, a distortion or a label is not accepted, or there is no image.
    """
    chosen = {
        site: [ranking.order(site)[: count_for(beta, values.shape[1])] for beta in betas]
        for site, values in ranking.by_level.items()
    }
    grid = ranking.distortions if distortions is None else distortions
    right: dict[str, list[Tensor]] = {site: [] for site in ranking.sites}
    before: list[Tensor] = []

    def visit(number: int, site: str, pair: Pair) -> None:
        if site == ranking.sites[0]:
            if number == len(before):
                before.append(torch.zeros(()))
            before[number] += _right(pair.distorted.logits, pair.labels)
        if number == len(right[site]):
            right[site].append(torch.zeros(len(betas)))
        for column, filters in enumerate(chosen[site]):
            maps = pair.distorted.maps[site].clone()
            maps[:, filters] = pair.clean[site][:, filters]
            logits = pair.distorted.from_site(site, maps)
            right[site][number][column] += _right(logits, pair.labels)

    images, used = visit_pairs(
        model, loader, grid, ranking.sites, visit, "ideal correction", seed, precision
    )
    top1 = {site: torch.stack(counts) / images for site, counts in right.items()}
    return IdealCorrection(tuple(betas), used, top1, torch.stack(before) / images, images)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).sum().cpu()
