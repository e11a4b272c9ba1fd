"""The sections about sites: ideal-correction curves, and the filters with their priorities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from deepcorrect.correction import AdapterConfig
from deepcorrect.experiments.report import _figures as figures
from deepcorrect.experiments.report import _numbers as numbers
from deepcorrect.experiments.report._html import line_key, table, table_cell, table_row
from deepcorrect.experiments.report._numbers import distortion_name, percent, system_name
from deepcorrect.experiments.report._read import RunFiles
from deepcorrect.ranking import METHODS, Ranking

MANY_SITES = 12  # with more, the filters are shown as strips of colour instead of bars


def ideal(run: RunFiles) -> str:
    if run.ideal is None:
        return (
            "<p>The curves were not measured in this run. <code>ideal.images</code> in the recipe "
            "says on how many images to measure them.</p>"
        )
    ideal = run.ideal
    names = list(ideal["distorted_top1"])
    looks = figures.distortion_looks(names)
    limits = figures.ideal_limits(ideal)
    panels = ""
    for place, (site, curves) in enumerate(ideal["top1"].items()):
        ends = ", ".join(
            f"{percent(numbers.mean(ideal['distorted_top1'][name]))} without correction and "
            f"{percent(figures.level_mean(rows)[-1])} at beta {ideal['betas'][-1]:g} "
            f"{numbers.under(name)}"
            for name, rows in curves.items()
        )
        drawing = figures.svg(
            figures.ideal_panel(ideal, site, looks, limits),
            f"ideal{place}",
            f"Ideal correction at {site}: {ends}.",
        )
        area = f"<span>mean {percent(ideal['area'][site])}</span>"
        panels += f"<figure><figcaption>{escape(site)} {area}</figcaption>{drawing}</figure>"
    key = line_key({n: (look, distortion_name(n)) for n, look in looks.items()}, "ideal")
    return (
        "<p>Top-1 accuracy, averaged over the levels, against beta: the share of a site's filters "
        "whose output is replaced by the clean image's, highest priority first. Each site is "
        "corrected alone. Dashed: the baseline on the distorted images. The further a curve rises "
        "above it, the better the ranking chose.</p>"
        f'<p class="note">{ideal["images"]:,} images that the ranking did not see.</p>'
        f'{key}<div class="charts small {_four(ideal["top1"])}">{panels}</div>'
    )


def filters(ranking: Ranking | None, adapters: Mapping[str, AdapterConfig]) -> str:
    if ranking is None:
        return "<p>No system of this run corrects filters, so none were ranked.</p>"
    method = METHODS[ranking.method].summary if ranking.method in METHODS else ranking.method
    text = (
        f"<p>The correction priority of each site's filters, highest first, measured on "
        f"{ranking.images:,} images by the method <b>{escape(ranking.method)}</b> "
        f"({escape(method)}), averaged over all distortions and levels.</p>"
    )
    choices: dict[str, list[str]] = {}
    for system, config in adapters.items():
        same = [
            other
            for other in choices
            if adapters[other].sites.keys() == config.sites.keys()
            and all(
                adapters[other].sites[s].filters == config.sites[s].filters for s in config.sites
            )
        ]
        choices.setdefault(same[0] if same else system, []).append(system)
    show = _strips if len(ranking.sites) > MANY_SITES else _bars
    for place, (system, systems) in enumerate(choices.items()):
        filters = {site: value.filters for site, value in adapters[system].sites.items()}
        count = sum(map(len, filters.values()))
        total = sum(values.shape[1] for values in ranking.by_level.values())
        who = numbers.joined([system_name(name) for name in systems])
        verb = "correct" if len(systems) > 1 else "corrects"
        text += (
            f"<h3>{escape(who)} {verb} {count:,} of {total:,} filters at "
            f"{len(filters):,} of {len(ranking.sites):,} sites</h3>"
            f"{show(ranking, filters, f'filters{place}')}{_numbers_of(ranking, filters)}"
        )
    return text if choices else text + show(ranking, {}, "filters")


def _bars(ranking: Ranking, filters: Mapping[str, Sequence[int]], prefix: str) -> str:
    panels = ""
    for place, (site, priorities) in enumerate(ranking.priorities.items()):
        corrected = filters.get(site, ())
        drawing = figures.svg(
            figures.priority_panel(priorities.tolist(), ranking.order(site), corrected),
            f"{prefix}-{place}",
            f"Priorities of the {len(priorities)} filters of {site}: from "
            f"{float(priorities.max()):.3g} to {float(priorities.min()):.3g}; "
            f"{len(corrected)} are corrected.",
        )
        share = f"<span>{len(corrected)} of {len(priorities)}</span>"
        panels += f"<figure><figcaption>{escape(site)} {share}</figcaption>{drawing}</figure>"
    key = (
        f'<ul class="key"><li><i style="background:{figures.CORRECTED}"></i>corrected</li>'
        f'<li><i style="background:{figures.UNTOUCHED}"></i>left as it is</li></ul>'
        '<p class="note">Every panel has its own scale: filters are ranked within a site.</p>'
    )
    return f'{key}<div class="charts small {_four(ranking.sites)}">{panels}</div>'


def _strips(ranking: Ranking, filters: Mapping[str, Sequence[int]], prefix: str) -> str:
    del prefix
    every = ranking.priorities
    largest = max(float(values.abs().max()) for values in every.values())
    lines = ""
    for site, priorities in every.items():
        order, corrected = ranking.order(site), set(filters.get(site, ()))
        image = figures.strip_image(
            priorities[order].tolist(), [index in corrected for index in order], largest
        )
        spoken = (
            f"Priorities of {site}, from {float(priorities.max()):.3g} to "
            f"{float(priorities.min()):.3g}; {len(corrected)} of {len(order)} are corrected"
        )
        lines += (
            f'<tr><th scope="row">{escape(site)}</th>'
            f'<td><img alt="{escape(spoken)}" src="{image}"></td>'
            f"<td>{len(corrected)} of {len(order)}</td></tr>"
        )
    ramp = [step / 50 - 1 for step in range(101)]
    scale = figures.strip_image([abs(v) * v for v in ramp], [False] * 101, 1)
    return (
        f'<ul class="key"><li>&minus;{largest:.2g} <img alt="colour scale" src="{scale}"> '
        f'{largest:.2g}</li><li><i style="background:{figures.CORRECTED}"></i>'
        "underlined: corrected</li></ul>"
        '<div class="scroll"><table class="strips"><thead><tr><th scope="col">site</th>'
        '<td></td><th scope="col">corrected</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _numbers_of(ranking: Ranking, filters: Mapping[str, Sequence[int]]) -> str:
    lines = [
        table_row(site, [table_cell(numbers.number_ranges(filters[site]))])
        for site in ranking.sites
        if site in filters
    ]
    body = table(["Site", "Corrected filters"], lines, kind="text")
    return f"<details><summary>The corrected filters by number</summary>{body}</details>"


def _four(sites: Iterable[str]) -> str:
    """A class for few small panels, which may be larger."""
    return "four" if len(list(sites)) <= 8 else ""
