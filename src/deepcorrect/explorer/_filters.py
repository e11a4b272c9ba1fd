"""A site's maps of one picture: clean, distorted, corrected, and under ideal correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcorrect.analysis import MEASURES
from deepcorrect.correction import AdaptedModel
from deepcorrect.explorer._setting import Setting
from deepcorrect.explorer._subject import CORRECTED, Subject
from deepcorrect.networks import logits_of, tap
from deepcorrect.ranking import Ranking, rank
from deepcorrect.runtime import device_of, inference, to_device, unknown

CLEAN, DISTORTED, IDEAL = "clean", "distorted", "ideal"
SHARE = 0.5
"""The share of each site's filters that ideal correction corrects where there is no adapter."""


@dataclass(frozen=True)
class FilterMaps:
    """One filter's maps of one picture.

    Attributes:
        filter: The number of the filter.
        priority: Its correction priority; None where nothing is distorted and nothing was ranked.
        corrected: Whether ideal correction, and the adapter if there is one, correct it.
        maps: H x W by name: `clean`, `distorted`, with an adapter `corrected`, and `ideal`.
        psnr: By name of all maps but the clean one, in dB against it; NaN where that is constant.
        ssim: The structural similarity with the clean map, likewise.
    """

    filter: int
    priority: float | None
    corrected: bool
    maps: dict[str, Tensor]
    psnr: dict[str, float]
    ssim: dict[str, float]


@dataclass(frozen=True)
class SiteMaps:
    """The maps of a site's filters.

    Attributes:
        site: The name of the site.
        filters: Their maps, the highest priority first.
        count: The number of the site's filters.
        ranked_by: Where the priorities come from, in words.
        ideal_answer: What the network says of the distorted picture under ideal correction.
    """

    site: str
    filters: tuple[FilterMaps, ...]
    count: int
    ranked_by: str
    ideal_answer: str


def site_maps(
    subject: Subject,
    adapter: str | None,
    picture: Tensor,
    setting: Setting,
    site: str,
    *,
    ranking: Ranking | None = None,
    filters: int = 8,
) -> SiteMaps:
    """Shows the maps of a site's filters with the highest priorities.

    Under ideal correction, the filters that the adapter corrects (without one, half of each
    convolution's filters, those of the highest priority) have their clean maps, at every site; a
    filter that is not corrected has what the network computes then. The corrected maps are those of
    the whole corrected network, whatever its gate decides.

    Args:
        subject: The network and its adapters.
        adapter: The adapter; None has no corrected maps.
        picture: C x H x W in [0, 1].
        setting: The distortion.
        site: One of `subject.sites(adapter)`.
        ranking: The priorities; None, or a ranking that lacks the site, ranks the filters on this
            picture by the default method.
        filters: The largest number of filters to show.

    Raises:
        InputError: There is no such site or adapter.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.explorer import Setting, open_subject, site_maps
        >>> subject = open_subject("digits", dc.load_model("digits_cnn"), {})
        >>> setting = Setting(("gaussian_blur",), 2)
        >>> found = site_maps(subject, None, torch.rand(1, 28, 28), setting, "features.0.0")
        >>> found.count, len(found.filters), list(found.filters[0].maps)
        (16, 8, ['clean', 'distorted', 'ideal'])
    """
    sites, adapted = subject.sites(adapter), subject.adapted(adapter)
    if site not in sites:
        raise unknown("site", site, sites)
    device = device_of(subject.model)
    clean = to_device(picture[None], device)
    with subject.asked(), inference(subject.model):
        priorities, ranked_by = _priorities(subject, picture, setting, sites, ranking, site)
        chosen = _chosen(adapted, priorities)
        maps, ideal_answer = _maps(subject, adapted, clean, setting.show(clean), site, chosen)
    values = None if priorities is None else priorities[site]
    count = maps[CLEAN].shape[0]
    order = list(range(count)) if values is None else values.argsort(descending=True).tolist()
    shown = order[:filters]
    quality = _quality({name: each[shown] for name, each in maps.items()})
    rows = tuple(
        FilterMaps(
            number,
            None if values is None else float(values[number]),
            number in set(chosen.get(site, ())),
            {name: each[number] for name, each in maps.items()},
            *({name: float(found[row]) for name, found in each.items()} for each in quality),
        )
        for row, number in enumerate(shown)
    )
    return SiteMaps(site, rows, count, ranked_by, ideal_answer)


def _priorities(
    subject: Subject,
    picture: Tensor,
    setting: Setting,
    sites: Sequence[str],
    ranking: Ranking | None,
    site: str,
) -> tuple[Mapping[str, Tensor] | None, str]:
    """The priorities of all sites, and where they come from."""
    if ranking is not None and set(sites) <= set(ranking.sites):
        return ranking.priorities, f"the ranking that was given ({ranking.method})"
    distortion = setting.only(min(picture.shape[-2:]))
    if distortion is None:
        return None, f"number, as nothing is distorted, at {site}"
    loader = [(picture[None], torch.zeros(1, dtype=torch.int64))]
    found = rank(
        subject.model, loader, [distortion], sites=sites, seed=setting.seed, target="prediction"
    )
    return found.priorities, f"priority for this picture ({found.method})"


def _chosen(
    adapted: AdaptedModel | None, priorities: Mapping[str, Tensor] | None
) -> dict[str, Sequence[int]]:
    """The filters that ideal correction corrects, by site."""
    if adapted is not None:
        return {site: list(config.filters) for site, config in adapted.config.sites.items()}
    if priorities is None:
        return {}
    return {
        site: values.argsort(descending=True)[: max(1, round(SHARE * len(values)))].tolist()
        for site, values in priorities.items()
    }


def _maps(
    subject: Subject,
    adapted: AdaptedModel | None,
    clean: Tensor,
    distorted: Tensor,
    site: str,
    chosen: Mapping[str, Sequence[int]],
) -> tuple[dict[str, Tensor], str]:
    """The site's maps by name, filters x H x W on the CPU; and the answer of ideal correction."""
    sites = list(dict.fromkeys([site, *chosen]))
    model = subject.model
    with torch.no_grad():
        with tap(model, sites) as taken:
            logits_of(model, clean)
        clean_maps = dict(taken)
        with tap(model, [site]) as taken:
            logits_of(model, distorted)
        found = {CLEAN: clean_maps[site], DISTORTED: taken[site]}
        if adapted is not None:
            with tap(adapted, [site]) as taken:
                adapted(distorted)
            found[CORRECTED] = taken[site]

        def swap(name: str, maps: Tensor) -> Tensor | None:
            swapped = maps.clone()
            swapped[:, list(chosen.get(name, ()))] = clean_maps[name][:, list(chosen.get(name, ()))]
            if name == site:
                found[IDEAL] = swapped
            return swapped

        with tap(model, sites, swap):
            rows = subject.readers[""](distorted)
    answer = subject.label(int(rows[0].argmax()))
    return {name: maps[0].float().cpu() for name, maps in found.items()}, answer


def _quality(maps: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """PSNR and SSIM of each map against the clean one, by name, (filters,)."""
    reference = maps[CLEAN][None]
    return [
        {name: measure(reference, each[None])[0] for name, each in maps.items() if name != CLEAN}
        for measure in (MEASURES["psnr"], MEASURES["ssim"])
    ]
