"""What a run's report shows, and what it does with folders that are not whole or not friendly."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from deepcorrect.correction import AdapterConfig
from deepcorrect.correction._config import SiteConfig
from deepcorrect.correction._unit_config import unit_config
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.experiments.report import (
    AccuracyRow,
    accuracy_figure,
    accuracy_table,
    headline,
    write_report,
)
from deepcorrect.ranking import IdealCorrection, Ranking
from deepcorrect.runtime import InputError, files, generator_for

FOUR_SITES = {"conv1": 16, "conv2": 32, "conv3": 32, "conv4": 64}
RESNET20 = {
    "conv1": 16,
    **{
        f"layer{stage}.{block}.conv{number}": 8 * 2**stage
        for stage in (1, 2, 3)
        for block in range(3)
        for number in (1, 2)
    },
}
GRIDS = {
    "gaussian_blur": LevelledDistortion("gaussian_blur", (0.5, 1, 1.5, 2, 2.5, 3)),
    "awgn": LevelledDistortion("awgn", (5, 10, 15, 20, 25, 30)),
}
LOSS = {
    "baseline": {"gaussian_blur": 0.9, "awgn": 0.7},
    "finetuned": {"gaussian_blur": 0.33, "awgn": 0.12},
    "deepcorrect": {"gaussian_blur": 0.25, "awgn": 0.16},
}
CLEAN = {"baseline": 0.981, "finetuned": 0.962, "deepcorrect": 0.979}
COSTS = {
    "baseline": (0, 61_226, 6_435_712),
    "finetuned": (61_226, 61_226, 6_435_712),
    "deepcorrect": (12_345, 73_571, 7_100_345),
}


def results_of(systems: tuple[str, ...] = tuple(LOSS)) -> dict[str, Any]:
    """`results.json` of three systems whose accuracy falls with the level."""
    return {
        "schema": 1,
        "name": "demo",
        "model": "digits_cnn",
        "data": "digits:test",
        "seed": 0,
        "seconds": 123.4,
        "systems": {system: record_of(system) for system in systems},
    }


def record_of(system: str) -> dict[str, Any]:
    clean = CLEAN.get(system, 0.9)
    trainable, parameters, multiply_adds = COSTS.get(system, (777, 61_226, 6_435_712))
    curves: dict[str, Any] = {}
    for name, grid in GRIDS.items():
        levels = grid.levels
        loss = LOSS.get(system, {}).get(name, 0.5)
        top1 = [round(clean - loss * (i / len(levels)) ** 1.5, 3) for i in range(1, 7)]
        curves[name] = {
            "levels": list(levels),
            "clip": name == "awgn",
            "quantize": False,
            "top1": top1,
            "top5": [min(1.0, value + 0.01) for value in top1],
            "clean_top1": clean,
            "clean_top5": 1.0,
            "mean_top1": (clean + sum(top1)) / 7,
        }
    return {
        "trainable_parameters": trainable,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "images_seen": 0 if system == "baseline" else 40_000,
        "training_seconds": 0.0 if system == "baseline" else 83.2,
        "test_images": 1000,
        "latency_ms": 2.31,
        "relative_latency": 1.24,
        "relative_clean_latency": 1.03,
        "relative_ungated_latency": 1.21,
        "fused": True,
        "runtime": "torch",
        "threads": 1,
        "distortions": curves,
    }


def ranking_of(sites: dict[str, int]) -> Ranking:
    """Priorities of which most are near zero and a few large, as real ones are."""
    drawing = torch.Generator().manual_seed(0)
    by_level = {
        site: 0.04 * torch.randn(1, channels, generator=drawing).exp() * 0.5 ** (place / 6)
        - 0.02
        + 0.002 * torch.randn(12, channels, generator=drawing)
        for place, (site, channels) in enumerate(sites.items())
    }
    return Ranking(by_level, "swap", tuple(GRIDS.values()), 150, 12.5)


def ideal_of(sites: dict[str, int]) -> IdealCorrection:
    """The first so many of 150 images are right."""
    before = torch.linspace(0.9, 0.2, 6).repeat(2) * torch.tensor([0.8] * 6 + [1.0] * 6)
    betas, images = (0.1, 0.25, 0.5, 0.75, 0.9), torch.arange(150)
    top1 = {
        site: before[:, None]
        + (0.97 - before[:, None]) * (1 - torch.exp(-3 * torch.tensor(betas))) / (1 + place / 5)
        for place, site in enumerate(sites)
    }
    right = {site: images < 150 * shares[..., None] for site, shares in top1.items()}
    return IdealCorrection(betas, tuple(GRIDS.values()), right, images < 150 * before[:, None])


def history_of(system: str) -> dict[str, Any]:
    faster = 0.5 if system == "deepcorrect" else 0.3
    epochs = [
        {
            "number": number,
            "loss": 0.2 + 2 * math.exp(-faster * number),
            "score": 0.88 - 0.4 * math.exp(-faster * number),
            "seconds": 7.0,
        }
        for number in range(12)
    ]
    return {"epochs": epochs, "best": 10, "images_seen": 40_000}


def examples_of(systems: list[str], pixels: int, labels: list[str]) -> dict[str, Any]:
    strips: dict[str, Any] = {}
    for name, grid in GRIDS.items():
        levels = [0.0, *grid.levels]
        rows = []
        for place, label in enumerate(labels):
            image = torch.zeros(1, 1, pixels, pixels)
            quarter = pixels // 4
            image[:, :, quarter:-quarter, quarter * (1 + place % 2) : quarter * 3] = 0.9
            cells = []
            for number, level in enumerate(levels):
                shown = grid(image, level, generator_for(0, level)) if level else image
                wrong = {"baseline": number > 2, "finetuned": number > 5}
                answers = {s: labels[place - 1] if wrong.get(s) else label for s in systems}
                cells.append({"png": png_of(shown[0, 0]), "answers": answers})
            rows.append({"label": label, "cells": cells})
        strips[name] = {"levels": levels, "rows": rows}
    return {"systems": systems, "distortions": strips}


def png_of(image: torch.Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray((image.clamp(0, 1) * 255).byte().numpy()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_run(
    folder: Path,
    sites: dict[str, int] | None = None,
    *,
    pixels: int = 28,
    labels: tuple[str, ...] = ("7", "2", "1"),
    results: dict[str, Any] | None = None,
) -> Path:
    """A run's folder as `deepcorrect run` leaves it."""
    sites = sites or FOUR_SITES
    results = results or results_of()
    systems = list(results["systems"])
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "results.json", results)
    methods = {name: "finetune" for name in systems if name != "baseline"}
    methods |= {name: "deepcorrect" for name in systems if "correct" in name}
    lines = [f"  {name}:\n    method: {method}\n" for name, method in methods.items()]
    files.write_text(folder / "recipe.yaml", "name: demo\nsystems:\n" + "".join(lines))
    environment = {"date": "2026-03-04T05:06:07+00:00", "torch": "2.13.0", "threads": 2}
    files.write_json(folder / "environment.json", environment)
    ranking = ranking_of(sites)
    ranking.save(folder)
    files.write_json(folder / "ideal.json", {**ideal_of(sites).to_json(), "seconds": 3.0})
    for name in (name for name, method in methods.items() if method == "deepcorrect"):
        chosen = ranking.top(0.5 if name == "deepcorrect" else 0.25)
        config = AdapterConfig(
            base="digits_cnn",
            fingerprint="0" * 64,
            sites={
                site: SiteConfig(
                    filters=tuple(filters),
                    channels=sites[site],
                    unit=unit_config("bottleneck", place),
                )
                for place, (site, filters) in enumerate(chosen.items())
            },
        )
        place = folder / ("adapter" if name == "deepcorrect" else f"adapter-{name}")
        files.write_json(place / "adapter_config.json", config.model_dump(mode="json"))
    histories = {name: history_of(name) for name in methods}
    files.write_json(folder / "history.json", histories)
    files.write_json(folder / "examples.json", examples_of(systems, pixels, list(labels)))
    return folder


class Page(HTMLParser):
    """What a browser would find in a page: ids, references, addresses it would load, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.unnamed: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(html)
        self.references += re.findall(r"url\((#[^)]*)\)", html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        for key in ("href", "xlink:href", "src", "srcset", "data", "poster", "action"):
            value = given.get(key) or ""
            (self.references if value.startswith("#") else self.addresses).append(value)
        named = given.get("alt") or given.get("aria-label") or given.get("aria-hidden")
        if tag in ("img", "svg") and not named:
            self.unnamed.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th") and self.cells:
            self.cells[-1].append("")
            self.in_cell = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.cells[-1][-1] += data

    def row(self, head: str) -> list[str]:
        """The first table row that begins with `head`."""
        return next(row for row in self.cells if row and row[0] == head)


def report_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def report(run: Path) -> Page:
    return report_of(run)


def test_the_report_is_written_beside_the_results(run: Path) -> None:
    assert write_report(run) == run / "report.html"
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]


def test_the_same_run_gives_the_same_report(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_the_page_loads_nothing_and_runs_nothing(run: Path, report: Page) -> None:
    html = write_report(run).read_text(encoding="utf-8")
    assert all(not a or a.startswith("data:image/png;base64,") for a in report.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(report.tags)
    assert not re.search(r"https?:|@import|url\((?!#)", html)


def test_every_id_is_unique_and_every_reference_has_its_target(report: Page) -> None:
    assert len(report.ids) == len(set(report.ids))
    assert report.references
    assert {reference[1:] for reference in report.references} <= set(report.ids)


def test_every_picture_says_what_it_shows(report: Page) -> None:
    assert not report.unnamed


def test_the_table_shows_accuracies_costs_and_time_of_every_system(report: Page) -> None:
    shown = [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in report.row("DeepCorrect")]
    record = record_of("deepcorrect")["distortions"]
    assert shown == [
        "DeepCorrect",
        "97.9 %",
        f"{100 * record['gaussian_blur']['mean_top1']:.1f} %",
        f"{100 * record['awgn']['mean_top1']:.1f} %",
        "12,345",
        "20.2 %",
        "7.10 M",
        "+10.3 %",
        "1.24",
        "1.03",
        "1.21",
        "40,000",
        "1 min 23 s",
    ]
    assert report.row("Baseline")[1].startswith("98.1")
    assert report.row("Baseline")[8:11] == ["2.31\N{NO-BREAK SPACE}ms", *["\N{EN DASH}"] * 2]
    assert report.row("Fine-tuned")[4] == "61,226"


def test_runs_that_measured_no_latency_show_a_dash(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    results = results_of()
    for record in results["systems"].values():
        for key in [key for key in record if "latency" in key]:
            del record[key]
    files.write_json(folder / "results.json", results)
    page = report_of(folder)
    for name in ("Baseline", "DeepCorrect"):
        assert page.row(name)[8:11] == ["\N{EN DASH}"] * 3


def test_the_page_says_which_networks_are_timed_fused(tmp_path: Path) -> None:
    folder, results = write_run(tmp_path), results_of()
    said = "measured in turns in PyTorch"
    assert f"{said} with 1 thread, of fused networks." in text_of(folder)
    results["systems"]["finetuned"]["fused"] = False
    files.write_json(folder / "results.json", results)
    assert f"{said} with 1 thread, of fused networks (Fine-tuned: unfused)." in text_of(folder)
    for record in results["systems"].values():  # as runs of earlier versions have it
        del record["fused"], record["threads"], record["runtime"]
    files.write_json(folder / "results.json", results)
    assert f"{said}, of unfused networks." in text_of(folder)


def text_of(folder: Path) -> str:
    return " ".join(report_of(folder).text.split())


def test_every_accuracy_of_every_system_is_on_the_page(report: Page) -> None:
    for record in results_of()["systems"].values():
        for curve in record["distortions"].values():
            for value in (*curve["top1"], curve["clean_top1"], curve["mean_top1"]):
                assert f"{100 * value:.1f}\N{NO-BREAK SPACE}%" in report.text


def test_model_data_date_recipe_and_environment_are_named(report: Page) -> None:
    for text in ("digits_cnn", "digits:test", "4 March 2026, 05:06 UTC", "2.13.0", "method:"):
        assert text in report.text


def test_examples_mark_right_and_wrong_answers_without_colour(report: Page) -> None:
    labelled = next(i for i, row in enumerate(report.cells) if row[0] == "true label7")
    baseline, finetuned, corrected = report.cells[labelled + 1 : labelled + 4]
    assert baseline == ["Baseline", *["✓ 7"] * 3, *["✗ 1"] * 4]
    assert finetuned == ["Fine-tuned", *["✓ 7"] * 6, "✗ 1"]
    assert corrected == ["DeepCorrect", *["✓ 7"] * 7]


def test_corrected_filters_are_listed_by_site_and_number(run: Path, report: Page) -> None:
    config = files.read_json(run / "adapter" / "adapter_config.json")
    row = next(row for row in report.cells if row[0] == "conv1" and len(row) == 2)
    numbers: list[int] = []
    for part in row[1].split(", "):
        first, _, last = part.partition("\N{EN DASH}")
        numbers += range(int(first), int(last or first) + 1)
    assert numbers == config["sites"]["conv1"]["filters"]


def test_the_accuracy_table_has_a_row_for_each_distortion_and_system() -> None:
    results = results_of()
    rows = accuracy_table(results)
    assert [(row.distortion, row.system) for row in rows] == [
        (kind, system) for kind in GRIDS for system in LOSS
    ]
    curve = results["systems"]["baseline"]["distortions"]["gaussian_blur"]
    assert rows[0] == AccuracyRow(
        "gaussian_blur",
        "baseline",
        0.981,
        (0.5, 1, 1.5, 2, 2.5, 3),
        tuple(curve["top1"]),
        curve["mean_top1"],
        1000,
    )


def test_the_figure_has_a_panel_a_distortion_and_starts_each_line_at_the_clean_accuracy() -> None:
    figure = accuracy_figure(results_of())
    assert isinstance(figure, Figure)
    assert [panel.get_title("left") for panel in figure.axes] == ["Gaussian blur", "Gaussian noise"]
    for panel in figure.axes:
        starts = [[float(np.asarray(v)[0]) for v in line.get_data()] for line in panel.get_lines()]
        assert starts == [[0.0, clean] for clean in CLEAN.values()]


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    accuracy_figure(results_of())
    assert dict(matplotlib.rcParams) == before


def test_the_run_and_its_report_import_no_plotting_until_they_draw() -> None:
    code = (
        "import sys, deepcorrect.experiments, deepcorrect.experiments.report\n"
        "print({'matplotlib', 'sklearn'} & {name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def headline_of(**mean_top1: float) -> str:
    results = results_of(tuple(mean_top1))
    for name, mean in mean_top1.items():
        curves = results["systems"][name]["distortions"]
        curves.pop("awgn")
        curves["gaussian_blur"] |= {"mean_top1": mean, "clean_top1": 0.9}
    subject = "deepcorrect" if "deepcorrect" in mean_top1 else None
    return " ".join(headline(results, subject)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_headline_gives_the_gain_and_the_change_on_clean_images() -> None:
    text = headline_of(baseline=0.461, deepcorrect=0.812)
    assert "from 46.1 % to 81.2 % (+35.1 points) under Gaussian blur" in text
    assert "accuracy on clean images does not change (90.0 % to 90.0 %)" in text
    assert "12,345 parameters (20.2 % of the network's 61,226)" in text


def test_the_headline_says_so_when_the_correction_loses() -> None:
    text = headline_of(baseline=0.5, finetuned=0.62, deepcorrect=0.45)
    assert "from 50.0 % to 45.0 % (\N{MINUS SIGN}5.0 points)" in text
    assert "Fine-tuned is 17.0 points ahead under Gaussian blur" in text


@pytest.mark.parametrize(
    ("finetuned", "said"),
    [
        (0.7, "10.0 points behind under Gaussian blur"),
        (0.8003, "level under Gaussian blur."),
        # two shares near 80 % of 1,000 images differ by 3.5 points in one of twenty comparisons
        (0.81, "level under Gaussian blur (+1.0 points, within the interval of ± 3.5)"),
        (0.85, "5.0 points ahead under Gaussian blur"),
    ],
)
def test_the_headline_compares_every_other_system(finetuned: float, said: str) -> None:
    text = headline_of(baseline=0.5, finetuned=finetuned, deepcorrect=0.8)
    assert f"Fine-tuned is {said}" in text


def test_a_gain_within_the_interval_is_said_to_be() -> None:
    text = headline_of(baseline=0.5, deepcorrect=0.52)
    assert "to 52.0 % (+2.0 points, within the interval of ± 4.4) under Gaussian blur" in text


def test_the_headline_of_a_baseline_alone_states_its_accuracy() -> None:
    assert "The baseline's mean top-1 accuracy is 50.0 %" in headline_of(baseline=0.5)


def test_many_distortions_are_averaged_in_the_headline() -> None:
    results = results_of()
    for record in results["systems"].values():
        curve = record["distortions"]["awgn"]
        record["distortions"] = {f"kind{i}": curve for i in range(5)}
    text = " ".join(headline(results, "deepcorrect"))
    assert "over 5 distortions" in text
    assert "of 5 distortions" in text


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    hostile = "<script>alert('&amp;\"$x^')"
    results = results_of((*LOSS, hostile))
    results |= {"name": hostile, "model": hostile, "data": hostile}
    for record in results["systems"].values():
        record["distortions"][hostile] = record["distortions"]["awgn"]
    folder = write_run(tmp_path, {hostile: 16, "conv2": 8}, labels=(hostile, "2"), results=results)
    files.write_text(
        folder / "recipe.yaml", f"# {hostile}\nsystems: {{deepcorrect: {{method: deepcorrect}}}}"
    )
    files.write_json(folder / "environment.json", {"date": hostile, hostile: hostile})
    page = report_of(folder)
    assert "script" not in page.tags
    assert page.text.count(hostile) > 20
    assert "<script" not in write_report(folder).read_text(encoding="utf-8")


def test_without_ideal_json_the_page_says_that_curves_were_not_measured(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "ideal.json").unlink()
    assert "The curves were not measured" in report_of(folder).text


def test_a_run_that_only_fine_tunes_needs_no_ranking_and_no_adapter(tmp_path: Path) -> None:
    folder = write_run(tmp_path, results=results_of(("baseline", "finetuned")))
    for name in ("ranking.json", "ranking.safetensors", "ranking_levels.safetensors", "ideal.json"):
        (folder / name).unlink()
    page = report_of(folder)
    assert "none were ranked" in page.text
    assert "Fine-tuned takes mean top-1 accuracy from" in page.text


def test_several_correction_systems_each_show_their_filters(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path, results=results_of((*LOSS, "correct_small"))))
    assert "DeepCorrect corrects 72 of 144 filters at 4 of 4 sites" in page.text
    assert "correct_small corrects 36 of 144 filters at 4 of 4 sites" in page.text


def test_training_without_validation_is_drawn_without_a_score(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    history = files.read_json(folder / "history.json")
    for system in history.values():
        system["epochs"] = [{**epoch, "score": None} for epoch in system["epochs"]]
    files.write_json(folder / "history.json", history)
    assert "Not measured." in report_of(folder).text


@pytest.mark.parametrize("sites", [{"only": 1}, {f"s{i}": 512 for i in range(60)}])
def test_one_site_or_sixty_every_one_is_named(tmp_path: Path, sites: dict[str, int]) -> None:
    folder = write_run(tmp_path, sites)
    page = report_of(folder)
    assert all(page.text.count(site) >= 3 for site in sites)
    assert len(page.ids) == len(set(page.ids))
    assert (folder / "report.html").stat().st_size < 2e6


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "recipe.yaml",
        "environment.json",
        "history.json",
        "examples.json",
        "ranking.json",
        "ranking_levels.safetensors",
        "adapter/adapter_config.json",
    ],
)
def test_a_missing_file_is_named_in_one_line_and_no_report_is_written(
    run: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report.html"))
    (folder / name).unlink()
    with pytest.raises(InputError, match=re.escape(Path(name).name)) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema 2"),
        ({"systems": {}}, "baseline"),
        ({"systems": {"baseline": {"parameters": 1}}}, "lacks trainable_parameters"),
    ],
)
def test_results_of_another_kind_are_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    folder = write_run(tmp_path)
    files.write_json(folder / "results.json", results_of() | change)
    with pytest.raises(InputError, match=said):
        write_report(folder)


def change(folder: Path, name: str, *keys: Any, to: Any) -> None:
    """Changes one value of a JSON file of a run."""
    value = place = json.loads((folder / name).read_text(encoding="utf-8"))
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


SYSTEM = ("systems", "baseline")
CURVE = (*SYSTEM, "distortions", "awgn")


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("results.json", ("systems",), ["baseline"]),
        ("results.json", (*SYSTEM, "parameters"), -1),
        ("results.json", (*SYSTEM, "parameters"), 2.5),
        ("results.json", (*SYSTEM, "training_seconds"), "long"),
        ("results.json", (*SYSTEM, "latency_ms"), float("nan")),
        ("results.json", (*CURVE, "levels"), []),
        ("results.json", (*CURVE, "top1"), [0.5]),
        ("results.json", (*CURVE, "top1"), [0.5, 0.4, 0.3, 0.2, 0.1, 1.5]),
        ("results.json", (*CURVE, "mean_top1"), None),
        ("results.json", ("seed",), True),
        ("results.json", ("seconds",), 1e999),
        ("history.json", ("deepcorrect", "best"), 99),
        ("history.json", ("deepcorrect", "epochs", 3, "number"), 7),
        ("history.json", ("deepcorrect", "epochs", 0, "score"), "good"),
        ("history.json", ("deepcorrect",), [1, 2]),
        ("examples.json", ("distortions", "awgn", "rows", 0, "cells"), []),
        ("examples.json", ("distortions", "awgn", "rows", 0, "cells", 0, "png"), "bm8="),
        ("examples.json", ("distortions", "awgn", "rows", 0, "cells", 0, "png"), '"><script>'),
        ("examples.json", ("distortions", "awgn", "rows", 0, "cells", 0, "answers"), {}),
        ("examples.json", ("distortions", "awgn", "levels"), ["high"]),
        ("ideal.json", ("betas",), [0.1]),
        ("ideal.json", ("distorted_top1", "awgn"), [0.5]),
        ("ideal.json", ("top1", "conv1", "awgn"), [[0.5]]),
        ("ideal.json", ("levels", "awgn"), []),
        ("ideal.json", ("area", "conv1"), [0.5]),
        ("ideal.json", ("area",), True),
        ("adapter/adapter_config.json", ("sites", "conv1", "filters"), ["one"]),
    ],
)
def test_values_that_no_run_writes_are_refused_by_file_and_key(
    run: Path, tmp_path: Path, name: str, keys: tuple[Any, ...], value: Any
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report.html"))
    change(folder, name, *keys, to=value)
    with pytest.raises(InputError, match=re.escape(Path(name).name)) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    "figure", ["../outside.png", "/etc/passwd", "analysis/../../outside.png", "analysis/.png"]
)
def test_no_picture_outside_the_run_is_read(run: Path, tmp_path: Path, figure: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    (tmp_path / "outside.png").write_bytes(b"secret")
    near = {"images": 1, "classes": [], "clean": {}, "distortions": {}}
    analysis = {"subject": "deepcorrect", "maps": {}, "ideal": {}, "features": near, "learning": {}}
    files.write_json(folder / "analysis.json", analysis | {"figures": [figure]})
    with pytest.raises(InputError, match=r"analysis.json is not what a run writes: figures"):
        write_report(folder)


@pytest.mark.parametrize("system", ["../../elsewhere", "a/b"])
def test_no_adapter_outside_the_run_is_read(run: Path, tmp_path: Path, system: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    results["systems"][system] = results["systems"]["deepcorrect"]
    files.write_json(folder / "results.json", results)
    files.write_text(
        folder / "recipe.yaml", f"systems: {{{json.dumps(system)}: {{method: deepcorrect}}}}"
    )
    with pytest.raises(InputError, match="names no folder"):
        write_report(folder)
