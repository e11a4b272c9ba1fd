"""The page: a run's files as one HTML document, with one function per section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from deepcorrect.experiments.report import _figures as figures
from deepcorrect.experiments.report import _numbers as numbers
from deepcorrect.experiments.report._analyses import analyses
from deepcorrect.experiments.report._looks import system_looks
from deepcorrect.experiments.report._numbers import NOTHING, distortion_name, percent, system_name
from deepcorrect.experiments.report._read import RunFiles
from deepcorrect.experiments.report._sites import filters, ideal
from deepcorrect.experiments.report._template import Cell, Chart, Row, Table, legend, render

STORED = {"clip": "clipped to [0, 1]", "quantize": "rounded to 8 bits"}


@dataclass(frozen=True)
class Section:
    """A section of the page: its id, its heading and its HTML."""

    key: str
    title: str
    content: Markup


def page(run: RunFiles) -> str:
    """The whole document. It refers to nothing but its own sections."""
    sections = [
        Section("accuracy", "Accuracy against level", _accuracy(run.results)),
        Section("costs", "Accuracy and costs", _costs(run.results)),
        Section("levels", "Accuracy at every level", _levels(run.results)),
        Section("ideal", "Ideal correction", ideal(run)),
        Section("filters", "The filters", filters(run.ranking, run.adapters)),
        Section("training", "Training", _training(run.history, run.results)),
        Section("examples", "Examples", render("examples.html", examples=run.examples)),
        Section("run", "How it was run", _how(run)),
    ]
    if run.analysis is not None:
        sections.insert(-2, Section("analyses", "Analyses", analyses(run, run.analysis)))
    return render(
        "page.html",
        name=str(run.results.get("name", "run")),
        facts=_facts(run),
        headline=numbers.headline(run.results, run.subject),
        sections=sections,
    )


def _facts(run: RunFiles) -> dict[str, str]:
    results = run.results
    facts = {
        "model": str(results["model"]),
        "data": str(results["data"]),
        "seed": str(results["seed"]),
        "date": numbers.moment(str(run.environment.get("date", "unknown"))),
    }
    if "seconds" in results:
        facts["took"] = numbers.duration(results["seconds"])
    return facts


def _accuracy(results: dict[str, Any]) -> Markup:
    looks = system_looks(results["systems"])
    rows = numbers.accuracy_table(results)
    panels = []
    for place, name in enumerate(numbers.distortions_of(results)):
        own = [row for row in rows if row.distortion == name]
        spoken = "; ".join(
            f"{system_name(row.system)} goes from {percent(row.clean)} on clean images to "
            f"{percent(row.top1[-1])} at level {row.levels[-1]:g}"
            if row.top1
            else f"{system_name(row.system)} {percent(row.clean)}"
            for row in own
        )
        drawing = figures.svg(
            figures.accuracy_panel(own, looks),
            f"accuracy{place}",
            f"Top-1 accuracy against level {numbers.under(name)}: {spoken}.",
        )
        panels.append(Chart(distortion_name(name), drawing))
    entries = legend(((look, system_name(name)) for name, look in looks.items()), "accuracy")
    return render("accuracy.html", entries=entries, panels=panels)


def _costs(results: dict[str, Any]) -> Markup:
    """One row per system: the paper's averages and what the system costs."""
    systems, names = results["systems"], numbers.distortions_of(results)
    base = systems["baseline"]
    rows = {(row.system, row.distortion): row for row in numbers.accuracy_table(results)}
    accuracies = {
        system: [
            next((row.clean for (of, _), row in rows.items() if of == system), None),
            *(row.mean if (row := rows.get((system, name))) else None for name in names),
        ]
        for system in systems
    }
    best = _best(accuracies.values())
    head = ["System", "Clean", *(f"Mean, {distortion_name(name)}" for name in names)]
    head += ["Trained parameters", "Share of network's", "Multiply-adds", "Added"]
    head += ["Latency", "Latency, clean", "Without gate", "Images seen", "Training time"]
    lines = []
    for system, record in systems.items():
        costs = [Cell(text) for text in _cost_texts(record, base, is_baseline=system == "baseline")]
        lines.append(Row(system_name(system), [*_accuracy_cells(accuracies[system], best), *costs]))
    images = base.get("test_images")
    return render(
        "costs.html",
        costs=Table(head, lines, "Accuracy and costs of each system"),
        parameters=base["parameters"],
        images=images,
        timed=numbers.how_timed(systems),
        uncertainty=_uncertainty(images) if images else "",
    )


def _cost_texts(record: dict[str, Any], base: dict[str, Any], *, is_baseline: bool) -> list[str]:
    """A system's parameters, their share, its multiply-adds, those added, latencies, images and
    training time."""
    trained = record["trainable_parameters"]
    texts = [
        f"{trained:,}",
        numbers.ratio(trained, base["parameters"]),
        numbers.compact(record["multiply_adds"]),
    ]
    latencies = numbers.latencies(record, is_baseline=is_baseline)
    if is_baseline:
        return [*texts, NOTHING, *latencies, NOTHING, NOTHING]
    return [
        *texts,
        numbers.added_multiply_adds(record, base),
        *latencies,
        f"{record['images_seen']:,}",
        numbers.duration(record["training_seconds"]),
    ]


def _uncertainty(images: int) -> str:
    """Half the 95 % normal interval of a share measured on `images` images, at its widest."""
    return numbers.points(1.96 * (0.25 / images) ** 0.5, signed=False)


def _levels(results: dict[str, Any]) -> Markup:
    """One table per distortion: top-1 accuracy of each system at each level."""
    parts = []
    for name in numbers.distortions_of(results):
        rows = [row for row in numbers.accuracy_table(results) if row.distortion == name]
        best = _best((row.clean, *row.top1, row.mean) for row in rows)
        head = ["System", "clean", *(f"{level:g}" for level in rows[0].levels), "mean"]
        lines = [
            Row(system_name(row.system), _accuracy_cells((row.clean, *row.top1, row.mean), best))
            for row in rows
        ]
        curve = results["systems"][rows[0].system]["distortions"][name]
        stored = [text for key, text in STORED.items() if curve.get(key)]
        parts.append(
            {
                "title": distortion_name(name),
                "unit": ", ".join([numbers.level_unit(name), *stored]),
                "table": Table(head, lines, f"Top-1 accuracy {numbers.under(name)}"),
            }
        )
    return render("levels.html", parts=parts)


def _training(history: dict[str, Any], results: dict[str, Any]) -> Markup:
    systems = [name for name in results["systems"] if history.get(name, {}).get("epochs")]
    looks = system_looks(results["systems"])
    best = {name: history[name]["best"] + 1 for name in systems}
    panels = []
    for place, (key, label, title) in enumerate(
        (("loss", "training loss", "Training loss"), ("score", "mean top-1 accuracy", "Validation"))
    ):
        curves = {
            name: [
                (epoch["number"] + 1, epoch[key])
                for epoch in history[name]["epochs"]
                if epoch.get(key) is not None
            ]
            for name in systems
        }
        curves = {name: curve for name, curve in curves.items() if curve}
        if not curves:
            panels.append(Chart(title, None))
            continue
        spoken = "; ".join(
            f"{system_name(name)} goes from {curve[0][1]:.3g} to {curve[-1][1]:.3g}"
            for name, curve in curves.items()
        )
        drawing = figures.svg(
            figures.history_panel(curves, best, looks, label, share=key == "score"),
            f"training{place}",
            f"{title} by epoch: {spoken}.",
        )
        panels.append(Chart(title, drawing))
    kept = [f"{system_name(name)}'s of epoch {best[name]}" for name in systems]
    return render(
        "training.html",
        kept=numbers.joined(kept),
        entries=legend(((looks[name], system_name(name)) for name in systems), "training"),
        panels=panels if systems else [],
    )


def _how(run: RunFiles) -> Markup:
    lines = [Row(key, [Cell(str(value))]) for key, value in run.environment.items()]
    return render(
        "run.html", recipe=run.recipe, environment=Table(["", "Value"], lines, kind="text")
    )


def _best(rows: Iterable[Sequence[float | None]]) -> list[float]:
    """The highest value of each column, as shown."""
    columns = zip(*rows, strict=True)
    return [max((numbers.tenths(v) for v in c if v is not None), default=0.0) for c in columns]


def _accuracy_cells(values: Sequence[float | None], best: Sequence[float]) -> list[Cell]:
    """Accuracies as cells, the best of each column marked."""
    return [
        Cell(NOTHING) if value is None else Cell(percent(value), numbers.tenths(value) == top)
        for value, top in zip(values, best, strict=True)
    ]
