"""The parts of the page as HTML. Every name that comes from outside is escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor

from deepcorrect.distortions import kind_of
from deepcorrect.explorer._chart import Line, chart
from deepcorrect.explorer._compare import Answer, Comparison, Curve, Verdict
from deepcorrect.explorer._filters import CLEAN, FilterMaps, SiteMaps
from deepcorrect.explorer._folder import FolderComparison
from deepcorrect.explorer._runs import RunRow
from deepcorrect.explorer._setting import Setting
from deepcorrect.explorer._subject import BASELINE, CORRECTED
from deepcorrect.runtime import InputError

TITLES = {BASELINE: "Baseline", CORRECTED: "Corrected"}
OTHER_LOOKS = 6
DASH = "\N{EN DASH}"


def message(text: str) -> str:
    """A sentence in the place of a result."""
    return f'<p class="dc-note">{escape(text)}</p>'


def picture_url(pixels: Tensor) -> str:
    """A picture, C x H x W in [0, 1], as a PNG data URL."""
    values = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return _url(Image.fromarray(values[..., 0] if values.shape[2] == 1 else values))


def _url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def comparison(found: Comparison, setting: Setting, right: str) -> str:
    """The two pictures, both systems' answers, the gate and the latencies."""
    changed = "nothing is distorted" if setting.clean else setting.text
    pictures = _figure(found.clean, "Clean", f"The baseline says {_first(found.before)}") + _figure(
        found.distorted, "Distorted", changed
    )
    answers = "".join(
        _answer(TITLES[system], system, answer, found.right, found.milliseconds[system])
        for system, answer in found.answers.items()
    )
    gate = (
        _gate(found.verdict)
        if CORRECTED in found.answers
        else message("No adapter is chosen, so that only the untouched network answers.")
    )
    return (
        f'<div class="dc-pictures">{pictures}</div><p class="dc-right">Right is: '
        f'<b>{escape(right)}</b></p><div class="dc-answers">{answers}</div>{gate}'
    )


def _figure(pixels: Tensor, title: str, caption: str) -> str:
    return (
        f'<figure class="dc-picture"><img src="{picture_url(pixels)}" alt="{escape(title)}">'
        f"<figcaption><b>{escape(title)}</b> {escape(caption)}</figcaption></figure>"
    )


def _first(answer: Answer) -> str:
    return f"{answer.labels[0]} ({answer.probabilities[0]:.0%})"


def _answer(title: str, look: str, answer: Answer, right: int, milliseconds: float) -> str:
    state = "right" if answer.classes[0] == right else "wrong"
    rows = "".join(
        f'<tr class="{"is-right" if number == right else ""}"><th scope="row">{escape(label)}</th>'
        f'<td class="bar"><i class="{look}" style="width:{100 * share:.1f}%"></i></td>'
        f"<td>{share:.1%}</td></tr>"
        for number, label, share in zip(
            answer.classes, answer.labels, answer.probabilities, strict=True
        )
    )
    return (
        f'<section class="dc-answer"><h3>{escape(title)} <span class="badge {state}">{state}</span>'
        f'<span class="time">{milliseconds:.1f} ms</span></h3><table>{rows}</table></section>'
    )


def _gate(verdict: Verdict | None) -> str:
    if verdict is None:
        return message("The adapter has no gate: it corrects every picture.")
    said = (
        "looks distorted: the corrected network answers"
        if verdict.distorted
        else "looks clean: both networks answer"
        if verdict.means
        else "looks clean: the untouched network answers"
    )
    scores = "".join(
        f'<li class="{"above" if score > 0 else "below"}">{escape(kind)} <b>{score:+.2f}</b></li>'
        for kind, score in verdict.scores.items()
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{value:.2f}</td></tr>'
        for name, value in verdict.statistics.items()
    )
    return (
        f'<section class="dc-gate"><p>The gate says that the picture <b>{said}</b>. It compares '
        f'the score of each kind of distortion with 0:</p><ul class="scores">{scores}</ul>'
        f"<details><summary>The statistics that it reads</summary><p>Logarithms of means over the "
        f"differences between neighbouring pixels, and of a variance.</p><table>{rows}</table>"
        "</details></section>"
    )


def level_chart(found: Curve | None, setting: Setting, right: str) -> str:
    """The probability of the right class at every level."""
    if found is None:
        return message("Choose a kind of distortion to see all of its levels.")
    lines = [
        Line(
            f"{TITLES[system]}, right at {sum(found.correct[system])} of {len(found.levels)}",
            system,
            tuple(zip(found.levels, shares, strict=True)),
            found.correct[system],
        )
        for system, shares in found.confidence.items()
    ]
    drawn = chart(
        lines,
        found.unit,
        f"probability of {right}",
        mark=setting.level,
        title="Every level of this distortion",
        names={found.levels[0]: "clean"},
    )
    return drawn + (
        '<p class="dc-note">A filled mark is a right answer, and a ring a wrong one. The dashed '
        "line is the level that is chosen.</p>"
    )


def maps(found: SiteMaps) -> str:
    """A site's filters, each with its maps side by side."""
    names = list(found.filters[0].maps) if found.filters else []
    heads = "".join(f"<span>{escape(name)}</span>" for name in names)
    rows = "".join(_filter(each) for each in found.filters)
    return (
        f'<div class="dc-maps" style="--maps:{len(names)}"><p>{len(found.filters)} of '
        f"{found.count} filters of <code>{escape(found.site)}</code>, by "
        f"{escape(found.ranked_by)}. "
        f"With ideal correction the network says <b>{escape(found.ideal_answer)}</b>. "
        f'Choose a filter to enlarge it.</p><div class="heads">{heads}</div>{rows}</div>'
    )


def _filter(each: FilterMaps) -> str:
    low = min(float(values.min()) for values in each.maps.values())
    high = max(float(values.max()) for values in each.maps.values())
    cells = ""
    for name, values in each.maps.items():
        quality = "" if name == CLEAN else _quality(each.psnr[name], each.ssim[name])
        cells += (
            f'<span class="map"><img src="{_map_url(values, low, high)}" '
            f'alt="filter {each.filter}, {escape(name)}">'
            f"<small><i>{escape(name)}</i> {quality}</small></span>"
        )
    priority = "" if each.priority is None else f", priority {each.priority:.3g}"
    state = "" if each.corrected else ", not corrected"
    return (
        f'<details class="filter"><summary><span class="title">Filter {each.filter}{priority}'
        f'{state}</span><span class="row">{cells}</span></summary></details>'
    )


def _quality(psnr: float, ssim: float) -> str:
    shown = [
        DASH if math.isnan(value) else form.format(value)  # NaN where the clean map is constant
        for value, form in ((psnr, "{:.1f} dB"), (ssim, "{:.2f}"))
    ]
    return " · ".join(shown)


def _map_url(values: Tensor, low: float, high: float) -> str:
    """A map in greys that all maps of the filter share."""
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    return _url(Image.fromarray((scaled * 255).round().byte().numpy()))


def run_charts(rows: Sequence[RunRow], all_rows: Sequence[RunRow]) -> str:
    """A chart for each distortion, with a line for each system of each run.

    Args:
        rows: The rows to draw.
        all_rows: The rows of all runs, in whose order each system of each run has its colour.
    """
    if not rows:
        return message("No row is chosen: choose a run, a system and a distortion.")
    keys = list(dict.fromkeys((row.run, row.system) for row in all_rows))
    several = len({run for run, _ in keys}) > 1
    charts = []
    for distortion in dict.fromkeys(row.distortion for row in all_rows):
        shown = {(row.run, row.system): row for row in rows if row.distortion == distortion}
        lines = [
            Line(
                f"{run}: {system}" if several else system,
                f"other-{place % OTHER_LOOKS}{' dashed' * (place >= OTHER_LOOKS)}",
                tuple(sorted(zip((0.0, *row.levels), (row.clean, *row.top1), strict=True))),
            )
            for place, (run, system) in enumerate(keys)
            if (row := shown.get((run, system))) is not None
        ]
        if lines:
            across, up = unit_of(distortion), "top-1 accuracy"
            charts.append(chart(lines, across, up, title=distortion, names={0.0: "clean"}))
    return f'<div class="dc-charts">{"".join(charts)}</div>'


def unit_of(distortion: str) -> str:
    """What a level of a distortion means; `level` for one that is not registered here."""
    try:
        return kind_of(distortion).unit
    except InputError:
        return "level"


def differences(found: FolderComparison, setting: Setting) -> str:
    """The images on which the two systems differ."""
    counts = " and ".join(
        f"the {'baseline' if system == BASELINE else 'corrected network'} {count} times"
        for system, count in found.agreeing.items()
    )
    bad = f" {len(found.unreadable)} could not be read." if found.unreadable else ""
    cards = "".join(
        f'<figure class="dc-card"><img src="{picture_url(each.distorted)}" '
        f'alt="{escape(each.name)}"><figcaption><code>{escape(each.name)}</code>'
        f"<span>clean: {escape(_first(each.before))}</span>"
        + "".join(
            f'<span><i class="key {system}"></i>{TITLES[system]}: {escape(_first(answer))}</span>'
            for system, answer in each.answers.items()
        )
        + "</figcaption></figure>"
        for each in found.differences
    )
    return (
        f'<p class="dc-note">They differ on <b>{len(found.differences)} of {found.images}</b> '
        f"images under {escape(setting.text)}. The baseline's answer for the clean image is given "
        f'for the distorted one by {counts}.{bad}</p><div class="dc-cards">{cards}</div>'
    )
