"""How close every corrected filter's map is to the clean one, before and after correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepcorrect import networks, ranking
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import Batches
from deepcorrect.distortions import LevelledDistortion, level_rows
from deepcorrect.ranking import LevelSums, Pair, Step, for_each_pair
from deepcorrect.runtime import inference, widened

MEASURES = {"psnr": ranking.psnr, "ssim": ranking.ssim}


@dataclass(frozen=True)
class Spread:
    """A summary of many filters; None where no filter can be measured.

    Attributes:
        before, after: medians over the filters.
        gain: median over the filters of after minus before.
        improved: share of the filters with a gain above 0.
    """

    before: float | None
    after: float | None
    gain: float | None
    improved: float | None

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Summarises (2, filters), before and after; filters with a NaN are left out."""
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
    """PSNR and SSIM of the corrected filters' maps against the untouched network's clean ones.

    Attributes:
        distortions: with their levels.
        images: their number.
        values: by measure and site, means over the images, (levels, 2, filters) in float64: of the
            untouched and of the corrected network's maps of the distorted image. The levels are
            those of all distortions, one after the other. Images whose clean map is constant are
            left out of a filter's mean; NaN where all are, or where the map is too small for SSIM.
    """

    distortions: tuple[LevelledDistortion, ...]
    images: int
    values: dict[str, dict[str, Tensor]]

    def rows(self, distortion: str) -> slice:
        """Which rows of `values` are a distortion's levels."""
        return level_rows(self.distortions)[distortion]

    def of(self, measure: str, distortion: str, site: str | None = None) -> Tensor:
        """Means over a distortion's levels, (2, filters): of one site, or of all sites."""
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
                all_filters = torch.cat(list(by_site.values()), 2)[rows]
                found[kind.name][measure] = {
                    "all": vars(Spread.of(self.of(measure, kind.name))),
                    "by_level": [vars(Spread.of(values)) for values in all_filters],
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
    """Measures the map of every corrected filter, one block of images at a time.

    A map is the output of a site at one of its filters. The corrections of earlier sites act too,
    so a map after correction is what the whole corrected network computes there.

    Args:
        adapted: its corrected filters are measured.
        loader: batches of (clean images, labels); labels are not read.
        distortions: with their levels.
        seed: of the noise.
        task: the name of this analysis in the progress line.

    Raises:
        InputError: a distortion is not accepted, or there is no image.
    """
    chosen = {site: list(config.filters) for site, config in adapted.config.sites.items()}
    sums = {  # of values, and how many they are
        site: LevelSums(2, len(MEASURES), 2, len(filters)) for site, filters in chosen.items()
    }

    def visit(level: int, first: int, pair: Pair, step: Step) -> None:
        del first
        with networks.tap(adapted, chosen) as corrected:
            adapted(pair.images)
        for site, filters in chosen.items():
            clean = pair.clean.maps[site][:, filters]
            compared = (pair.maps[site][:, filters], corrected[site][:, filters])
            measured = [
                torch.stack([measure(clean, maps) for maps in compared])
                for measure in MEASURES.values()
            ]
            values = widened(torch.stack(measured))
            found = torch.stack([values.nansum(2), widened(~values.isnan()).sum(2)])
            sums[site].add(level, found)
        step(1)

    with inference(adapted):
        coverage = for_each_pair(
            adapted.network,
            loader,
            distortions,
            list(chosen),
            visit,
            task,
            seed,
            "float32",
            "prediction",
        )
    values: dict[str, dict[str, Tensor]] = {measure: {} for measure in MEASURES}
    for site in chosen:
        totals = sums[site].total(coverage)
        means = totals[:, 0] / totals[:, 1]
        for place, measure in enumerate(MEASURES):
            values[measure][site] = means[:, place]
    return MapQuality(coverage.distortions, coverage.images, values)
