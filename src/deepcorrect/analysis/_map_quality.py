"""How near every corrected filter's map comes to the clean one, before and after correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepcorrect import networks, ranking
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import Batches
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.ranking import Pair, Step, for_each_pair
from deepcorrect.runtime import inference

MEASURES = {"psnr": ranking.psnr, "ssim": ranking.ssim}


@dataclass(frozen=True)
class Spread:
    """Many filters in four numbers; None where none of them can be measured.

    Attributes:
        before, after: medians over the filters.
        gain: median of each filter's after less before.
        improved: share of the filters with a gain above 0.
    """

    before: float | None
    after: float | None
    gain: float | None
    improved: float | None

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Of (2, filters): before and after. Filters that are not a number are left out."""
        before, after = values[:, values.isfinite().all(0)]
        if not len(before):
            return cls(None, None, None, None)
        gains = after - before
        return cls(
            float(before.quantile(0.5)),
            float(after.quantile(0.5)),
            float(gains.quantile(0.5)),
            float((gains > 0).double().mean()),
        )


@dataclass(frozen=True)
class MapQuality:
    """PSNR and SSIM of the corrected filters' maps against the clean network's of the clean image.

    Attributes:
        distortions: with their levels.
        images: how many.
        values: by measure and site, means over the images, (levels, 2, filters) in float64: the
            untouched network's and the corrected one's maps of the distorted image. Levels of all
            distortions in a row. Images whose clean map is constant are left out of a filter's
            mean; not a number where all are, or where the map is too small for SSIM.
    """

    distortions: tuple[LevelledDistortion, ...]
    images: int
    values: dict[str, dict[str, Tensor]]

    def rows(self, distortion: str) -> slice:
        """Which rows of `values` are a distortion's levels."""
        start = 0
        for kind in self.distortions:
            end = start + len(kind.levels)
            if kind.name == distortion:
                return slice(start, end)
            start = end
        raise KeyError(distortion)

    def of(self, measure: str, distortion: str, site: str | None = None) -> Tensor:
        """Means over a distortion's levels, (2, filters): of one site, or of all in a row."""
        by_site = self.values[measure]
        chosen = by_site.values() if site is None else [by_site[site]]
        return torch.cat([values[self.rows(distortion)].mean(0) for values in chosen], 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values: for each distortion, over all filters, by level and by site."""
        filters = {site: values.shape[2] for site, values in self.values["psnr"].items()}
        found: dict[str, Any] = {}
        for kind in self.distortions:
            rows = self.rows(kind.name)
            found[kind.name] = {"levels": list(kind.levels)}
            for measure, by_site in self.values.items():
                together = torch.cat(list(by_site.values()), 2)[rows]
                found[kind.name][measure] = {
                    "all": vars(Spread.of(self.of(measure, kind.name))),
                    "by_level": [vars(Spread.of(values)) for values in together],
                    "sites": {
                        site: {
                            "all": vars(Spread.of(self.of(measure, kind.name, site))),
                            "by_level": [vars(Spread.of(level)) for level in values[rows]],
                        }
                        for site, values in by_site.items()
                    },
                }
        return {"images": self.images, "filters": filters, "distortions": found}


def map_quality(
    adapted: AdaptedModel,
    loader: Batches,
    distortions: tuple[LevelledDistortion, ...],
    seed: int = 0,
    task: str = "maps",
) -> MapQuality:
    """Measures every corrected filter's map, one block of images at a time.

    A map is a site's output at one of its filters. Corrections of earlier sites act too, so a
    map after correction is what the corrected network computes, all in all.

    Args:
        adapted: its sites and filters are measured.
        loader: batches of (clean images, labels).
        distortions: without levels, the grid for the input size.
        seed: of the noise.
        task: what the progress line says.

    Raises:
        InputError: a distortion or a label is not accepted, or there is no image.
    """
    chosen = {site: list(config.filters) for site, config in adapted.config.sites.items()}
    sums: dict[tuple[int, str], Tensor] = {}  # totals and counts, (2, measures, 2, filters)

    def visit(level: int, start: int, pair: Pair, step: Step) -> None:
        del start
        with networks.tap(adapted, chosen) as corrected:
            adapted(pair.images)
        for site, filters in chosen.items():
            clean = pair.clean.maps[site][:, filters]
            compared = (pair.maps[site][:, filters], corrected[site][:, filters])
            values = torch.stack(
                [
                    torch.stack([measure(clean, maps) for maps in compared])
                    for measure in MEASURES.values()
                ]
            ).double()
            found = torch.stack([values.nansum(2), (~values.isnan()).double().sum(2)]).cpu()
            sums[level, site] = sums[level, site] + found if (level, site) in sums else found
        step(1)

    with inference(adapted):
        walk = for_each_pair(
            adapted.network, loader, distortions, list(chosen), visit, task, seed, "float32"
        )
    levels = range(sum(len(kind.levels) for kind in walk.distortions))
    values: dict[str, dict[str, Tensor]] = {measure: {} for measure in MEASURES}
    for site, filters in chosen.items():
        nothing = torch.zeros(2, len(MEASURES), 2, len(filters), dtype=torch.float64)
        totals = walk.total(torch.stack([sums.get((level, site), nothing) for level in levels]))
        means = totals[:, 0] / totals[:, 1]
        for place, measure in enumerate(MEASURES):
            values[measure][site] = means[:, place]
    return MapQuality(walk.distortions, walk.images, values)
