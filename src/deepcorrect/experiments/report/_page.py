"""The page: a run's files as one HTML document, a function a section."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from deepcorrect.experiments.report import _figures as figures
from deepcorrect.experiments.report import _numbers as numbers
from deepcorrect.experiments.report._analyses import analyses
from deepcorrect.experiments.report._html import line_key, table, table_cell, table_row
from deepcorrect.experiments.report._numbers import NOTHING, distortion_name, percent, system_name
from deepcorrect.experiments.report._read import RunFiles
from deepcorrect.experiments.report._sites import filters, ideal
from deepcorrect.experiments.report._style import STYLE

STORED = {"clip": "clipped to [0, 1]", "quantize": "rounded to 8 bits"}


def page(run: RunFiles) -> str:
    """The whole document; it names no address but its own sections."""
    sections = {
        "accuracy": ("Accuracy against level", _accuracy(run.results)),
        "costs": ("Accuracy and costs", _summary(run.results)),
        "levels": ("Accuracy at every level", _levels(run.results)),
        "ideal": ("Ideal correction", ideal(run)),
        "filters": ("The filters", filters(run.ranking, run.adapters)),
        "training": ("Training", _training(run.history, run.results)),
        **({"analyses": ("Analyses", analyses(run))} if run.analysis else {}),
        "examples": ("Examples", _examples(run.examples)),
        "run": ("How it was run", _how(run)),
    }
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in sections.items())
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{content}</section>'
        for key, (title, content) in sections.items()
    )
    name = escape(str(run.results.get("name", "run")))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} {NOTHING} DeepCorrect report</title>\n<style>\n{STYLE}</style></head>\n"
        f"<body><main><h1>{name}</h1>{_facts(run)}{_headline(run)}"
        f'<nav aria-label="Sections">{links}</nav>\n{body}'
        f"<footer>Written by DeepCorrect. The same figures are in <code>results.json</code>, "
        "beside this file.</footer></main></body></html>\n"
    )


def _facts(run: RunFiles) -> str:
    results = run.results
    facts = {
        "model": results["model"],
        "data": results["data"],
        "seed": results["seed"],
        "date": numbers.moment(str(run.environment.get("date", "unknown"))),
    }
    if "seconds" in results:
        facts["took"] = numbers.duration(results["seconds"])
    shown = (f"{key} <b>{escape(str(value))}</b>" for key, value in facts.items())
    return f'<p class="facts">{" &middot; ".join(shown)}</p>'


def _headline(run: RunFiles) -> str:
    sentences = numbers.headline(run.results, run.subject)
    return f'<div class="headline">{"".join(f"<p>{escape(s)}</p>" for s in sentences)}</div>'


def _accuracy(results: dict[str, Any]) -> str:
    looks = figures.system_looks(results["systems"])
    rows = numbers.accuracy_table(results)
    panels = ""
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
        panels += (
            f"<figure><figcaption>{escape(distortion_name(name))}</figcaption>{drawing}</figure>"
        )
    key = line_key({name: (look, system_name(name)) for name, look in looks.items()}, "accuracy")
    return f'{key}<div class="charts">{panels}</div>'


def _summary(results: dict[str, Any]) -> str:
    """One row a system: the paper's averages and what the system costs."""
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
    head += ["Images seen", "Training time"]
    lines = []
    for system, record in systems.items():
        trained = record["trainable_parameters"]
        costs = [numbers.compact(record["multiply_adds"]), *([NOTHING] * 3)]
        if system != "baseline":
            costs[1] = numbers.added_multiply_adds(record, base)
            costs[2] = f"{record['images_seen']:,}"
            costs[3] = numbers.duration(record["training_seconds"])
        shares = [f"{trained:,}", numbers.ratio(trained, base["parameters"])]
        cells = _accuracy_cells(accuracies[system], best)
        lines.append(
            table_row(system_name(system), cells + [table_cell(c) for c in (*shares, *costs)])
        )
    return (
        f"{table(head, lines, 'Accuracy and costs of each system')}"
        '<p class="note">Mean: the paper\'s average of top-1 accuracy, over the clean images and '
        f"every level. The network has {base['parameters']:,} parameters. Multiply-adds are of "
        f"convolutions and linear layers, for one image. Bold: the highest.{_uncertainty(base)}</p>"
    )


def _uncertainty(record: dict[str, Any]) -> str:
    """How far chance can move an accuracy: the normal interval of a share, at its widest."""
    images = record.get("test_images")
    if not images:
        return ""
    widest = numbers.points(1.96 * (0.25 / images) ** 0.5, signed=False)
    return (
        f" On {images:,} test images, one accuracy is uncertain by up to {widest} either way "
        f"(95{numbers.SPACE}%); all systems are measured on the same images."
    )


def _levels(results: dict[str, Any]) -> str:
    """One table a distortion: top-1 accuracy of each system at each level."""
    tables = ""
    for name in numbers.distortions_of(results):
        rows = [row for row in numbers.accuracy_table(results) if row.distortion == name]
        best = _best((row.clean, *row.top1, row.mean) for row in rows)
        head = ["System", "clean", *(f"{level:g}" for level in rows[0].levels), "mean"]
        lines = [
            table_row(
                system_name(row.system), _accuracy_cells((row.clean, *row.top1, row.mean), best)
            )
            for row in rows
        ]
        curve = results["systems"][rows[0].system]["distortions"][name]
        stored = [text for key, text in STORED.items() if curve.get(key)]
        about = ", ".join([numbers.level_unit(name), *stored])
        title = escape(distortion_name(name))
        tables += f"<h3>{title} <span>({escape(about)})</span></h3>"
        tables += table(head, lines, f"Top-1 accuracy {numbers.under(name)}")
    return f'<p class="note">Top-1 accuracy. Bold: the highest at that level.</p>{tables}'


def _training(history: dict[str, Any], results: dict[str, Any]) -> str:
    systems = [name for name in results["systems"] if history.get(name, {}).get("epochs")]
    if not systems:
        return "<p>No system of this run was trained.</p>"
    looks = figures.system_looks(results["systems"])
    best = {name: history[name]["best"] + 1 for name in systems}
    panels = ""
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
            panels += f"<figure><figcaption>{title}</figcaption><p>Not measured.</p></figure>"
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
        panels += f"<figure><figcaption>{title}</figcaption>{drawing}</figure>"
    shown = {name: (looks[name], system_name(name)) for name in systems}
    kept = numbers.joined([f"{system_name(name)}'s of epoch {best[name]}" for name in systems])
    return (
        f"<p>A ring marks the epoch whose model was kept: {escape(kept)}. Validation is mean top-1 "
        "accuracy, over clean images and every level of every distortion. Systems may be "
        "trained on different objectives, so that their losses need not compare.</p>"
        f'{line_key(shown, "training")}<div class="charts">{panels}</div>'
    )


def _examples(examples: dict[str, Any]) -> str:
    tables = ""
    for name, strip in examples["distortions"].items():
        head = "".join(
            f'<th scope="col">{f"{level:g}" if level else "clean"}</th>'
            for level in strip["levels"]
        )
        bodies = "".join(
            _example(row, examples["systems"], strip["levels"]) for row in strip["rows"]
        )
        tables += (
            f'<h3>{escape(distortion_name(name))}</h3><div class="scroll">'
            f'<table class="examples"><thead><tr><th scope="col">level</th>{head}</tr></thead>'
            f"{bodies}</table></div>"
        )
    legend = (
        '<p>Test images at every level, with each system\'s answer: <span class="right">&#10003; '
        'right</span>, <span class="wrong">&#10007; wrong</span>.</p>'
    )
    return legend + tables if tables else "<p>No examples were drawn.</p>"


def _example(row: dict[str, Any], systems: Sequence[str], levels: Sequence[float]) -> str:
    label = escape(str(row["label"]))
    images = "".join(
        f'<td><img alt="{label} at level {level:g}"{_pixels(cell["png"])} '
        f'src="data:image/png;base64,{escape(cell["png"])}"></td>'
        for cell, level in zip(row["cells"], levels, strict=True)
    )
    lines = f'<tr><th scope="row">true label<br><b>{label}</b></th>{images}</tr>'
    for system in systems:
        answers = "".join(_answer(cell["answers"][system], row["label"]) for cell in row["cells"])
        lines += f'<tr><th scope="row">{escape(system_name(system))}</th>{answers}</tr>'
    return f"<tbody>{lines}</tbody>"


def _answer(answer: str, label: str) -> str:
    kind, mark = ("right", "&#10003;") if answer == label else ("wrong", "&#10007;")
    text = escape(str(answer))
    return f'<td class="{kind}"><span class="answer" title="{text}">{mark} {text}</span></td>'


def _pixels(png: str) -> str:
    """A class for images so small that they are shown enlarged, with their pixels sharp."""
    try:
        width = int.from_bytes(base64.b64decode(png[:32])[16:20], "big")
    except binascii.Error:
        return ""
    return ' class="pixels"' if width <= 64 else ""


def _how(run: RunFiles) -> str:
    lines = [table_row(key, [table_cell(str(value))]) for key, value in run.environment.items()]
    return (
        f"<details><summary>Recipe</summary><pre>{escape(run.recipe)}</pre></details>"
        "<details><summary>Environment</summary>"
        f"{table(['', 'Value'], lines, kind='text')}</details>"
    )


def _best(rows: Iterable[Sequence[float | None]]) -> list[float]:
    """The highest value of each column, as shown."""
    columns = zip(*rows, strict=True)
    return [max((numbers.tenths(v) for v in c if v is not None), default=0.0) for c in columns]


def _accuracy_cells(values: Sequence[float | None], best: Sequence[float]) -> list[str]:
    return [
        table_cell(NOTHING)
        if value is None
        else table_cell(percent(value), numbers.tenths(value) == top)
        for value, top in zip(values, best, strict=True)
    ]
