"""The section about a run's analyses: what `deepcorrect analyse` measured and drew."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from deepcorrect.experiments.report import _numbers as numbers
from deepcorrect.experiments.report._html import table, table_cell, table_row
from deepcorrect.experiments.report._numbers import NOTHING, distortion_name, percent, system_name
from deepcorrect.experiments.report._read import RunFiles


def analyses(run: RunFiles) -> str:
    """The section; empty where nothing was analysed."""
    found = run.analysis
    if found is None:
        return ""
    text = ""
    for system, maps in found["maps"].items():
        text += f"<h3>Filters' maps: {escape(system_name(system))}</h3>"
        text += (
            f"<p>PSNR and SSIM of every corrected filter's map of the distorted image against the "
            f"untouched network's map of the clean one, on {maps['images']:,} test images. Marks "
            "are medians over a site's filters, thick lines hold the middle half, thin ones nine "
            "tenths.</p>"
            f"{_picture(run, f'analysis/maps-{system}.png', 'PSNR and SSIM by site')}"
            f"{_maps_table(maps)}"
        )
    for system, against in found["ideal"].items():
        text += f"<h3>Ideal against learned: {escape(system_name(system))}</h3>"
        text += (
            "<p>Ideal: the corrected filters' clean outputs swapped in at all corrected sites "
            f"together, on {against['images']:,} test images.</p>"
            f"{_picture(run, f'analysis/ideal-{system}.png', 'Accuracy by level')}"
            f"{_ideal_table(against)}"
        )
    near = found["features"]
    text += (
        "<h3>Features</h3><p>t-SNE of the features of "
        f"{near['images']:,} test images of {len(near['classes'])} classes, clean, distorted, and "
        "distorted but corrected, in one plane a distortion; grey: the clean ones. The number is "
        "the share of images whose nearest clean feature of another image, by the untouched "
        "network, is of their class. The table has its mean over the levels, and in brackets that "
        "among the system's own clean features.</p>"
        f"{_picture(run, 'analysis/features.png', 't-SNE of features')}{_features_table(near)}"
    )
    if found["learning"]:
        text += "<h3>Accuracy against training images seen</h3>"
        text += _picture(run, "analysis/learning.png", "Validation accuracy by images seen")
    if found.get("beta"):
        text += "<h3>Accuracy against beta</h3>"
        text += _picture(run, "analysis/beta.png", "Accuracy by beta")
    return text


def _picture(run: RunFiles, name: str, label: str) -> str:
    if name not in run.pictures:
        return ""
    data = base64.b64encode(run.pictures[name]).decode()
    wide = escape(f"data:image/png;base64,{data}")
    return f'<p class="picture"><img alt="{escape(label)}" src="{wide}"></p>'


def _maps_table(maps: Mapping[str, Any]) -> str:
    head = ["Distortion", "PSNR before, dB", "after", "gain", "filters improved"]
    head += ["SSIM before", "after", "gain", "filters improved"]
    lines = []
    for name, found in maps["distortions"].items():
        cells: list[str] = []
        for measure, digits in (("psnr", 1), ("ssim", 3)):
            spread = found[measure]["all"]
            for key, sign in (("before", ""), ("after", ""), ("gain", "+")):
                value = spread[key]
                cells.append(NOTHING if value is None else f"{value:{sign}.{digits}f}")
            share = spread["improved"]
            cells.append(NOTHING if share is None else percent(share))
        lines.append(table_row(distortion_name(name), [table_cell(cell) for cell in cells]))
    note = '<p class="note">Medians over all corrected filters, each averaged over images and '
    return table(head, lines, "Maps before and after correction") + note + "levels.</p>"


def _ideal_table(against: Mapping[str, Any]) -> str:
    head = ["Distortion", "Baseline", "Learned", "Ideal", "Learned share of the ideal gain"]
    lines = []
    for name, found in against["distortions"].items():
        cells = [percent(numbers.mean(found[key])) for key in ("baseline", "learned", "ideal")]
        share = found["recovered"]
        cells.append(NOTHING if share is None else percent(share))
        lines.append(table_row(distortion_name(name), [table_cell(cell) for cell in cells]))
    note = '<p class="note">Top-1 accuracy, averaged over the levels; clean images: baseline '
    note += f"{percent(against['clean_top1'])}, learned {percent(against['learned_clean_top1'])}."
    return table(head, lines, "Ideal against learned correction") + note + "</p>"


def _features_table(near: Mapping[str, Any]) -> str:
    names = list(near["distortions"])
    lines = []
    for system, clean in near["clean"].items():
        cells = [percent(clean)]
        for name in names:
            found = near["distortions"][name]
            among, own = (numbers.mean(found[key][system]) for key in ("untouched", "own"))
            cells.append(f"{percent(among)} ({percent(own)})")
        lines.append(table_row(system_name(system), [table_cell(cell) for cell in cells]))
    head = ["System", "Clean", *(distortion_name(name) for name in names)]
    return table(head, lines, "Nearest-neighbour accuracy in feature space")
