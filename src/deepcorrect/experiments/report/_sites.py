"""The sections about sites: ideal-correction curves, and the filters with their priorities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from deepcorrect.correction import AdapterConfig
from deepcorrect.experiments.report import _figures as figures
from deepcorrect.experiments.report import _numbers as numbers
from deepcorrect.experiments.report._looks import CORRECTED, UNTOUCHED, distortion_looks
from deepcorrect.experiments.report._numbers import distortion_name, percent, system_name
from deepcorrect.experiments.report._read import RunFiles
from deepcorrect.experiments.report._template import Cell, Chart, Row, Table, legend, render
from deepcorrect.ranking import METHODS, Ranking

MANY_SITES = 12  # with more sites, the filters are shown as strips of colour instead of bars


def ideal(run: RunFiles) -> Markup:
    """The section about ideal correction."""
    if run.ideal is None:
        return render("ideal.html", ideal=None)
    ideal = run.ideal
    looks = distortion_looks(list(ideal["distorted_top1"]))
    limits = figures.ideal_limits(ideal)
    panels = []
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
        panels.append(Chart(site, drawing, f"mean {percent(ideal['area'][site])}"))
    entries = legend(((look, distortion_name(name)) for name, look in looks.items()), "ideal")
    return render("ideal.html", ideal=ideal, entries=entries, panels=panels)


def filters(ranking: Ranking | None, adapters: Mapping[str, AdapterConfig]) -> Markup:
    """The section about the filters' priorities and which filters each adapter corrects."""
    if ranking is None:
        return render("filters.html", ranking=None)
    show = _strips if len(ranking.sites) > MANY_SITES else _bars
    choices: list[dict[str, Any]] = []
    for place, systems in enumerate(_same_filters(adapters)):
        filters = {site: value.filters for site, value in adapters[systems[0]].sites.items()}
        choices.append(
            {
                "title": _title(ranking, systems, filters),
                "numbers": _numbers_of(ranking, filters),
                **show(ranking, filters, f"filters{place}"),
            }
        )
    if not choices:
        choices = [{"title": "", "numbers": None, **show(ranking, {}, "filters")}]
    ramp = [step / 50 - 1 for step in range(101)]
    return render(
        "filters.html",
        ranking=ranking,
        method=METHODS[ranking.method].summary if ranking.method in METHODS else ranking.method,
        choices=choices,
        corrected=CORRECTED,
        untouched=UNTOUCHED,
        largest=f"{_largest(ranking):.2g}",
        scale=figures.strip_image([abs(v) * v for v in ramp], [False] * 101, 1),
    )


def _same_filters(adapters: Mapping[str, AdapterConfig]) -> list[list[str]]:
    """Systems in groups that correct the same filters of the same sites."""
    groups: dict[Any, list[str]] = {}
    for system, config in adapters.items():
        chosen = frozenset((site, value.filters) for site, value in config.sites.items())
        groups.setdefault(chosen, []).append(system)
    return list(groups.values())


def _title(ranking: Ranking, systems: Sequence[str], filters: Mapping[str, Sequence[int]]) -> str:
    count = sum(map(len, filters.values()))
    total = sum(values.shape[1] for values in ranking.by_level.values())
    verb = "correct" if len(systems) > 1 else "corrects"
    return (
        f"{numbers.joined([system_name(name) for name in systems])} {verb} {count:,} of "
        f"{total:,} filters at {len(filters):,} of {len(ranking.sites):,} sites"
    )


def _bars(ranking: Ranking, filters: Mapping[str, Sequence[int]], prefix: str) -> dict[str, Any]:
    """Each site's priorities as a bar chart."""
    panels = []
    for place, (site, priorities) in enumerate(ranking.priorities.items()):
        corrected = filters.get(site, ())
        drawing = figures.svg(
            figures.priority_panel(priorities.tolist(), ranking.order(site), corrected),
            f"{prefix}-{place}",
            f"Priorities of the {len(priorities)} filters of {site}: from "
            f"{float(priorities.max()):.3g} to {float(priorities.min()):.3g}; "
            f"{len(corrected)} are corrected.",
        )
        panels.append(Chart(site, drawing, f"{len(corrected)} of {len(priorities)}"))
    return {"panels": panels, "strips": []}


def _strips(ranking: Ranking, filters: Mapping[str, Sequence[int]], prefix: str) -> dict[str, Any]:
    """Each site's priorities as a strip of colours."""
    del prefix
    largest = _largest(ranking)
    strips = []
    for site, priorities in ranking.priorities.items():
        order, corrected = ranking.order(site), set(filters.get(site, ()))
        marks = [index in corrected for index in order]
        count = f"{len(corrected)} of {len(order)}"
        strips.append(
            {
                "site": site,
                "image": figures.strip_image(priorities[order].tolist(), marks, largest),
                "label": f"Priorities of {site}, from {float(priorities.max()):.3g} to "
                f"{float(priorities.min()):.3g}; {count} are corrected",
                "count": count,
            }
        )
    return {"panels": [], "strips": strips}


def _largest(ranking: Ranking) -> float:
    """The largest absolute priority of all sites."""
    return max(float(values.abs().max()) for values in ranking.priorities.values())


def _numbers_of(ranking: Ranking, filters: Mapping[str, Sequence[int]]) -> Table:
    """The corrected filters of each site, by number."""
    lines = [
        Row(site, [Cell(numbers.number_ranges(filters[site]))])
        for site in ranking.sites
        if site in filters
    ]
    return Table(["Site", "Corrected filters"], lines, kind="text")
