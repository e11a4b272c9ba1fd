"""Ideal correction: accuracy with the clean outputs of a ranking's first filters swapped in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion, LevelledDistortion, cells_of, level_rows
from deepcorrect.ranking._clean_distorted import Pair, Step, for_each_pair
from deepcorrect.ranking._ranking import Ranking, count_for
from deepcorrect.runtime import Precision, total

BETAS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""The paper's shares of filters."""


@dataclass(frozen=True)
class IdealCorrection:
    """What a ranking could give back: accuracy by corrected share (paper, section III-B).

    The higher the curves of a ranking, the better its choice of filters.

    Attributes:
        betas: corrected shares.
        distortions: with their levels.
        right: for each site, whether each image is classified correctly, bool (levels, betas,
            images); the levels are those of all distortions, one after the other.
        distorted_right: the same without correction, bool (levels, images).
    """

    betas: tuple[float, ...]
    distortions: tuple[LevelledDistortion, ...]
    right: dict[str, Tensor]
    distorted_right: Tensor

    @property
    def images(self) -> int:
        """Number of images."""
        return self.distorted_right.shape[1]

    @property
    def top1(self) -> dict[str, Tensor]:
        """For each site, accuracies (levels, betas)."""
        return {site: values.double().mean(2) for site, values in self.right.items()}

    @property
    def distorted_top1(self) -> Tensor:
        """The baseline's accuracy at each level, (levels,)."""
        return self.distorted_right.double().mean(1)

    def area(self, site: str) -> float:
        """Mean accuracy of a site's curve over all betas and levels."""
        return float(self.right[site].double().mean())

    @property
    def by_image(self) -> Tensor:
        """Each image's mean over all sites, betas and levels, (images,): these are resampled for an
        interval of the mean area, or of the difference of two."""
        return torch.stack([right.double().mean((0, 1)) for right in self.right.values()]).mean(0)

    def to_json(self) -> dict[str, Any]:
        """Plain values: top1 by site and distortion, one row per level, one column per beta."""
        sections = level_rows(self.distortions)
        return {
            "schema": 1,
            "betas": list(self.betas),
            "images": self.images,
            "levels": {kind.name: list(kind.levels) for kind in self.distortions},
            "distorted_top1": {
                name: self.distorted_top1[rows].tolist() for name, rows in sections.items()
            },
            "top1": {
                site: {name: values[rows].tolist() for name, rows in sections.items()}
                for site, values in self.top1.items()
            },
            "area": {site: self.area(site) for site in self.top1},
        }


@dataclass(frozen=True)
class Lead:
    """By how much one ranking's mean area exceeds another's.

    Attributes:
        mean: the difference.
        low, high: its 95 % interval.
    """

    mean: float
    low: float
    high: float


def lead(first: IdealCorrection, second: IdealCorrection, resamples: int = 2000) -> Lead:
    """The difference of two mean areas on the same images, with its percentile bootstrap interval
    over resampled images (Efron and Tibshirani 1993, chapter 13)."""
    values = first.by_image - second.by_image
    drawing = torch.Generator().manual_seed(0)
    picks = torch.randint(len(values), (resamples, len(values)), generator=drawing)
    means = values[picks].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return Lead(float(values.mean()), low, high)


def ideal_correction(
    model: nn.Module,
    loader: Batches,
    ranking: Ranking,
    betas: Sequence[float] = BETAS,
    distortions: Sequence[str | Distortion] | None = None,
    seed: int = 1,
    precision: Precision = "float32",
) -> IdealCorrection:
    """Measures accuracy against the share of ideally corrected filters, one site at a time.

    The outputs of a site's first filters on the distorted image are replaced by those on the clean
    one (paper, section III-B).

    Args:
        model: takes images in [0, 1]; runs in inference mode, on the device that it is on.
        loader: batches of (clean images, labels), preferably not those of the ranking.
        ranking: its first filters are swapped.
        betas: shares of a site's filters, each above 0 and at most 1.
        distortions: None takes those of the ranking.
        seed: of the noise.
        precision: `bfloat16` runs faster and less exactly.

    Raises:
        InputError: beta, a distortion or a label is not accepted, or there is no image.

    Example:
        >>> import torch, deepcorrect as dc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 10, 16), torch.nn.Flatten())
        >>> batches = [(torch.rand(2, 3, 16, 16), torch.tensor([3, 8]))]
        >>> ranking = dc.rank(model, batches, "gaussian_blur:2", "gradient", ["0"])
        >>> curves = dc.ideal_correction(model, batches, ranking, betas=[0.5, 1.0])
        >>> tuple(curves.top1["0"].shape)  # (levels, betas)
        (1, 2)
    """
    chosen = {
        site: [ranking.order(site)[: count_for(beta, values.shape[1])] for beta in betas]
        for site, values in ranking.by_level.items()
    }
    found: dict[tuple[int, str, int], Tensor] = {}  # level, site ('' for none), first image

    def visit(level: int, first: int, pair: Pair, step: Step) -> None:
        classes = pair.clean.classes
        found[level, "", first] = pair.distorted.logits.argmax(1) == classes
        for site, choices in chosen.items():
            rows = []
            for filters in choices:
                maps = pair.distorted.maps[site].clone()
                maps[:, filters] = pair.clean.maps[site][:, filters]
                rows.append(pair.distorted.from_site(site, maps).argmax(1) == classes)
            found[level, site, first] = torch.stack(rows)
            step(1 / len(chosen))

    grid = ranking.distortions if distortions is None else distortions
    target = "labels" if ranking.target == "labels" else "prediction"
    coverage = for_each_pair(
        model, loader, grid, ranking.sites, visit, "ideal correction", seed, precision, target
    )
    levels = len(cells_of(coverage.distortions))
    right = {site: torch.zeros(levels, len(betas), coverage.images).byte() for site in chosen}
    before = torch.zeros(levels, coverage.images).byte()
    for (level, site, first), values in found.items():
        rows = right[site][level] if site else before[level]
        rows[..., first : first + values.shape[-1]] = values
    return IdealCorrection(
        tuple(betas),
        coverage.distortions,
        {site: total(values).bool() for site, values in right.items()},
        total(before).bool(),
    )
