"""The explorer's computations: one picture, a site's maps, folders, runs, views and Spaces."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import torch
from conftest import Batch, with_convolutions_by_hand
from PIL import Image
from test_cli import command
from torch import Tensor

import deepcorrect as dc
from deepcorrect.cli import _explore
from deepcorrect.correction import gate_readings, shipped_adapters
from deepcorrect.distortions import cells_of, distorted_batches, parse_all
from deepcorrect.experiments.report import read_results
from deepcorrect.explorer import (
    Copied,
    Exhibits,
    Offer,
    Setting,
    Subject,
    compare,
    compare_folder,
    level_curve,
    open_subject,
    read_picture,
    run_rows,
    select_rows,
    shipped_pictures,
    site_maps,
    view_of,
    write_space,
)
from deepcorrect.explorer._handlers import Handlers
from deepcorrect.explorer._html import differences, run_charts
from deepcorrect.networks import Classifier, network_of, tap
from deepcorrect.runtime import InputError, files

SOURCE = Path(__file__).parent.parent / "src"
RUN = Path(__file__).parent.parent / "benchmarks" / "results" / "demo"
SITES = {"features.0.0": [1, 5, 6], "features.2.0": [0, 3, 40]}
NOISE = Setting(("awgn",), 60)


@pytest.fixture(scope="module")
def adapter(
    digits_model: Classifier, digits_batch: Batch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A correction of the digits network that changes its answers, with a gate."""
    adapted = dc.correct(digits_model, SITES, unit={"kind": "lite", "start": "he"})
    dc.fit_gate(adapted, [digits_batch], ["awgn:60"], false_alarms=0.1)
    return adapted.save_pretrained(tmp_path_factory.mktemp("explorer") / "noise")


@pytest.fixture(scope="module")
def subject(digits_model: Classifier, adapter: Path) -> Subject:
    return open_subject("digits", digits_model, {"noise": str(adapter)})


@pytest.fixture(scope="module")
def picture(digits_batch: Batch) -> Tensor:
    return digits_batch[0][0]


# --- one picture


def test_both_systems_answer_as_they_do_when_they_are_called(
    subject: Subject, picture: Tensor
) -> None:
    found = compare(subject, "noise", picture, NOISE)
    shown = found.distorted[None]
    with torch.no_grad():
        expected = {
            "baseline": subject.model(shown).softmax(1)[0],
            "corrected": subject.adapters["noise"](shown).softmax(1)[0],
        }
        clean = subject.model(picture[None]).softmax(1)[0]
    assert found.right == found.before.classes[0] == int(clean.argmax())
    for system, probabilities in expected.items():
        answer = found.answers[system]
        best = probabilities.topk(5)
        assert answer.classes == tuple(best.indices.tolist())
        assert answer.probabilities == pytest.approx(best.values.tolist(), abs=1e-6)
        assert answer.labels == tuple(str(number) for number in answer.classes)
        assert found.milliseconds[system] > 0


def test_the_noise_is_that_of_an_evaluation(picture: Tensor) -> None:
    cells = cells_of(parse_all("awgn:60:quantize", pixels=28))
    batches = distorted_batches([(picture[None], torch.zeros(1))], cells, seed=4)
    (batch,) = list(batches)
    setting = Setting(("awgn",), 60, quantize=True, seed=4)
    assert torch.equal(setting.show(picture[None]), batch.images)


def test_a_picture_that_the_gate_lets_through_has_the_baselines_answer(
    subject: Subject, digits_batch: Batch
) -> None:
    adapted = subject.adapters["noise"]
    distorted = dc.looks_distorted(adapted, digits_batch[0])
    assert 0 < int(distorted.sum()) < len(distorted), "both verdicts are wanted"
    for image, expected in zip(digits_batch[0][:24], distorted.tolist(), strict=False):
        found = compare(subject, "noise", image, Setting())
        assert found.verdict is not None
        assert found.verdict.distorted is expected
        assert any(score > 0 for score in found.verdict.scores.values()) is expected
        if not expected:
            assert found.answers["corrected"] == found.answers["baseline"]


def test_the_gates_statistics_are_what_their_names_say(
    subject: Subject, digits_batch: Batch
) -> None:
    images = digits_batch[0][:3]
    _, found = gate_readings(subject.adapters["noise"], images)
    read = (images - subject.model.mean) / subject.model.std
    across, down = read[..., 1:] - read[..., :-1], read[:, :, 1:] - read[:, :, :-1]
    halved = torch.nn.functional.avg_pool2d(read, 2)
    expected = {
        "luminance, scale 1, across, mean square": (across**2).mean((1, 2, 3)),
        "luminance, scale 1, down, mean magnitude": down.abs().mean((1, 2, 3)),
        "luminance, scale 2, across, mean magnitude": (halved[..., 1:] - halved[..., :-1])
        .abs()
        .mean((1, 2, 3)),
        "luminance, scale 3, variance": torch.nn.functional.avg_pool2d(read, 4).flatten(1).var(1),
    }
    for name, values in expected.items():
        torch.testing.assert_close(found[name], (values + 1e-5).log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kinds", [("gaussian_blur",), ("awgn", "fog"), ("resize",)])
def test_the_curve_is_the_comparison_at_every_level(
    subject: Subject, picture: Tensor, kinds: tuple[str, ...]
) -> None:
    weakest = 1.0 if kinds == ("resize",) else 0.0
    curve = level_curve(subject, "noise", picture, Setting(kinds, weakest), right=3)
    assert curve is not None
    assert curve.levels[0] == weakest
    assert curve.levels[1:] == Setting(kinds, weakest).levels(28)
    for place, level in enumerate(curve.levels):
        shown = Setting(kinds, level).show(picture[None])
        for system, its in (("baseline", None), ("corrected", "noise")):
            probabilities = subject.probabilities(shown, its)[0]
            assert curve.confidence[system][place] == pytest.approx(
                float(probabilities[3]), abs=1e-5
            )
            assert curve.correct[system][place] == (int(probabilities.argmax()) == 3)
    assert curve.accuracy("baseline") == sum(curve.correct["baseline"]) / len(curve.levels)


def test_without_a_kind_there_is_no_curve_and_the_picture_is_clean(
    subject: Subject, picture: Tensor
) -> None:
    assert level_curve(subject, None, picture, Setting()) is None
    found = compare(subject, None, picture, Setting())
    assert torch.equal(found.distorted, picture)
    assert (list(found.answers), found.verdict) == (["baseline"], None)


def test_what_is_not_offered_is_refused(subject: Subject, picture: Tensor) -> None:
    with pytest.raises(InputError, match="unknown adapter 'other'"):
        compare(subject, "other", picture, NOISE)
    with pytest.raises(InputError, match="class 10 is not one of the network's 10"):
        compare(subject, None, picture, NOISE, right=10)
    with pytest.raises(InputError, match="level 6 of 'fog'"):
        Setting(("fog",), 6)
    with pytest.raises(InputError, match="unknown site"):
        site_maps(subject, "noise", picture, NOISE, "head")


# --- a site's maps


def test_maps_are_those_of_the_networks_and_of_swapped_filters(
    subject: Subject, picture: Tensor
) -> None:
    site = "features.2.0"
    found = site_maps(subject, "noise", picture, NOISE, site, filters=64)
    distorted = NOISE.show(picture[None])
    model, adapted = subject.model, subject.adapters["noise"]
    with torch.no_grad():
        with tap(model, list(SITES)) as taken:
            model(picture[None])
        clean = dict(taken)
        with tap(adapted, [site]) as taken:
            adapted(distorted)
        corrected = taken[site][0]
        ideal: dict[str, Tensor] = {}

        def swapped(name: str, maps: Tensor) -> Tensor:
            maps[:, SITES[name]] = clean[name][:, SITES[name]]
            ideal[name] = maps.clone()
            return maps

        edits: dict[str, Any] = {
            name: (lambda maps, name=name: swapped(name, maps)) for name in SITES
        }
        normalised = (distorted - model.mean) / model.std
        logits = with_convolutions_by_hand(network_of(model), edits, normalised)
    assert found.ideal_answer == str(int(logits.argmax()))
    assert sorted(each.filter for each in found.filters) == list(range(64))
    for each in found.filters:
        assert each.corrected == (each.filter in SITES[site])
        torch.testing.assert_close(each.maps["clean"], clean[site][0, each.filter])
        torch.testing.assert_close(each.maps["corrected"], corrected[each.filter])
        torch.testing.assert_close(each.maps["ideal"], ideal[site][0, each.filter])
        if each.corrected:
            assert (each.psnr["ideal"], each.ssim["ideal"]) == (100.0, pytest.approx(1.0))


def test_the_quality_of_a_map_agrees_with_scikit_image(subject: Subject, picture: Tensor) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="needs the extra alternatives")
    found = site_maps(subject, "noise", picture, NOISE, "features.0.0", filters=4)
    for each in found.filters:
        clean, other = (each.maps[name].double().numpy() for name in ("clean", "distorted"))
        peak = clean.max() - clean.min()
        psnr = metrics.peak_signal_noise_ratio(clean, other, data_range=peak)
        assert each.psnr["distorted"] == pytest.approx(psnr, abs=1e-3)
        scaled = ((values - clean.min()) / peak for values in (clean, other))
        ssim = metrics.structural_similarity(*scaled, data_range=1.0)
        assert each.ssim["distorted"] == pytest.approx(ssim, abs=1e-3)


def test_filters_come_by_priority_of_the_ranking_or_of_the_picture(
    subject: Subject, picture: Tensor
) -> None:
    priorities = torch.arange(16.0)
    values = {site: torch.zeros(1, 64) for site in SITES} | {"features.0.0": priorities[None]}
    given = dc.Ranking(values, "swap", parse_all("awgn:60", pixels=28), images=1, seconds=0.0)
    found = site_maps(subject, "noise", picture, NOISE, "features.0.0", ranking=given, filters=3)
    assert [each.filter for each in found.filters] == [15, 14, 13]
    own = site_maps(subject, "noise", picture, NOISE, "features.0.0", filters=16)
    images = [(picture[None], torch.zeros(1, dtype=torch.int64))]
    ranked = dc.rank(
        subject.model, images, [dc.Distortion("awgn", (60,), quantize=True)],
        sites=list(SITES), target="prediction",
    )  # fmt: skip
    assert [each.filter for each in own.filters] == ranked.order("features.0.0")
    clean = site_maps(subject, "noise", picture, Setting(), "features.0.0")
    assert [each.filter for each in clean.filters] == list(range(8))
    assert all(each.priority is None for each in clean.filters)


# --- a folder


def test_a_folders_differences_are_those_of_its_images(
    subject: Subject, digits_batch: Batch, tmp_path: Path
) -> None:
    images = digits_batch[0][:20]
    for number, image in enumerate(images):
        pixels = (image[0] * 255).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    (tmp_path / "07_broken.png").write_bytes(b"nothing")
    found = compare_folder(subject, "noise", tmp_path, NOISE)
    shown = torch.cat([NOISE.show(each[None], first=n) for n, each in enumerate(images)])
    with torch.no_grad():
        base = subject.model(shown).argmax(1)
        corrected = subject.adapters["noise"](shown).argmax(1)
        clean = subject.model(images).argmax(1)
    assert (found.images, found.unreadable) == (20, ("07_broken.png",))
    differ = (base != corrected).nonzero().flatten().tolist()
    assert differ, "some difference is wanted"
    assert [each.name for each in found.differences] == [f"{n:02}.png" for n in differ]
    for number, each in zip(differ, found.differences, strict=True):
        assert each.answers["baseline"].classes[0] == base[number]
        assert each.answers["corrected"].classes[0] == corrected[number]
        assert each.before.classes[0] == clean[number]
    assert found.agreeing == {
        "baseline": int((base == clean).sum()),
        "corrected": int((corrected == clean).sum()),
    }
    assert "07_broken" not in differences(found, NOISE)
    assert compare_folder(subject, "noise", tmp_path, NOISE, limit=3).images == 3


# --- runs


def results(mean: float, latency: float | None) -> dict[str, Any]:
    def record(top1: float, **others: Any) -> dict[str, Any]:
        curve = {"levels": [1, 2], "top1": [top1, 0.1], "clean_top1": 0.9, "mean_top1": top1}
        return {"trainable_parameters": 5, "multiply_adds": 200, "distortions": {"awgn": curve}} | (
            others
        )

    base = record(0.3, trainable_parameters=0, multiply_adds=100)
    return {"systems": {"baseline": base, "fixed": record(mean, relative_latency=latency)}}


def test_rows_of_runs_are_chosen_and_sorted() -> None:
    rows = run_rows({"first": results(0.6, None), "second": results(0.5, 1.25)})
    assert [(row.run, row.system) for row in rows] == [
        ("first", "baseline"),
        ("first", "fixed"),
        ("second", "baseline"),
        ("second", "fixed"),
    ]
    assert (rows[0].work, rows[1].work, rows[0].latency) == (1.0, 2.0, 1.0)
    everything = ({"first", "second"}, {"baseline", "fixed"}, {"awgn"})
    by_mean = select_rows(rows, *everything)
    assert [row.mean for row in by_mean] == [0.6, 0.5, 0.3, 0.3]
    by_latency = select_rows(rows, *everything, "latency")
    assert [row.latency for row in by_latency] == [1.0, 1.0, 1.25, None]  # unknown ones last
    assert [row.run for row in select_rows(rows, {"second"}, {"fixed"}, {"awgn"})] == ["second"]
    assert select_rows(rows, {"first"}, {"fixed"}, {"fog"}) == []
    with pytest.raises(InputError, match="unknown order of rows"):
        select_rows(rows, *everything, "colour")


class Components:
    """In Gradio's place: a component is what it is given."""

    class Error(Exception):
        """An error that the page shows."""

        def __init__(self, said: str, print_exception: bool) -> None:
            super().__init__(said)
            assert not print_exception

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *given, **more: (name, *given, more)


def test_uploaded_runs_stand_beside_those_that_are_offered(
    digits_model: Classifier, tmp_path: Path
) -> None:
    offer = {"digits": Offer(lambda: digits_model)}
    exhibits = Exhibits(offer, {"first": results(0.6, None)}, read_results=files.read_json)
    handlers = Handlers(exhibits, Components())
    paths = []
    for number, mean in enumerate((0.5, 0.7)):
        paths.append(tmp_path / str(number) / "results.json")
        files.write_json(paths[-1], {**results(mean, 1.25), "name": "mine"})
    added, no_run, row, *names, table, charts = handlers.take_runs(list(map(str, paths)), "run")
    assert list(added) == ["mine", "mine (2)"]
    assert not no_run[-1]["visible"]
    assert row[-1]["visible"]
    expected = ["first", *added], ["baseline", "fixed"], ["awgn"]
    assert [each[1] for each in names] == [each[-1]["value"] for each in names] == list(expected)
    means = [shown[3] for shown in table[1] if shown[1] == "fixed"]
    assert means == [60.0, 50.0, 70.0], "sorted by run"
    assert charts.count("<polyline") == 6
    (best, *_), _ = handlers.show_runs(*expected, "mean accuracy", added)
    assert best[0] == "mine (2)"
    added, no_run, row, *_, charts = Handlers(
        Exhibits(offer, read_results=files.read_json), Components()
    ).take_runs(None, "run")
    assert (added, no_run[-1]["visible"], row[-1]["visible"], charts) == ({}, True, False, "")


def test_a_file_that_is_no_runs_results_is_refused_without_its_folder(
    digits_model: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"schema": 1, "systems": {}}')
    offer = {"digits": Offer(lambda: digits_model)}
    handlers = Handlers(Exhibits(offer, read_results=read_results), Components())
    with pytest.raises(Components.Error, match=r"^results\.json is not what a run writes"):
        handlers.take_runs([str(path)], "run")


def test_names_from_files_are_escaped_on_the_page() -> None:
    evil = "<img src=x onerror=alert(1)>"
    rows = run_rows({evil: results(0.6, None), "second": results(0.5, 1.25)})
    drawn = run_charts(rows, rows)
    assert "<img" not in drawn
    assert "&lt;img" in drawn


# --- pictures


def test_what_is_no_picture_is_refused_with_its_reason() -> None:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(buffer, "PNG")  # a small file of 60 million pixels
    assert len(buffer.getvalue()) < 50_000
    with pytest.raises(InputError, match="60,000,000 pixels, and the limit is 50,000,000"):
        read_picture(buffer.getvalue(), "bomb.png")
    whole = io.BytesIO()
    Image.effect_noise((60, 60), 40).save(whole, "PNG")
    with pytest.raises(InputError, match=r"cut\.png cannot be read: it is damaged"):
        read_picture(whole.getvalue()[:900], "cut.png")
    with pytest.raises(InputError, match=r"page\.png cannot be read: it is"):
        read_picture(b"%PDF-1.7 and more", "page.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run", "drawing.png")


def test_the_shipped_digits_are_read_as_what_they_are(digits_model: Classifier) -> None:
    shipped = shipped_pictures()
    for name in ("digit 3", "digit 5", "digit 8"):
        shown = shipped[name].tensor(digits_model.preprocessing)
        assert int(digits_model(shown[None]).argmax()) == int(name[-1])
    assert {"balloon", "lighthouse", "wall clock"} < shipped.keys()
    assert sum(len(each.content) for each in shipped.values()) < 300_000


# --- views


@pytest.fixture(scope="module")
def exhibits(digits_model: Classifier, adapter: Path) -> Exhibits:
    return Exhibits({"digits": Offer(lambda: digits_model, {"noise": str(adapter)})})


def test_a_view_survives_its_address(exhibits: Exhibits) -> None:
    asked = {
        "network": "digits",
        "adapter": "noise",
        "picture": "lighthouse",
        "kinds": "awgn fog",  # a plus sign in an address is a space
        "level": "3",
        "bits": "32",
        "seed": "7",
        "right": "4",
        "site": "features.2.0",
        "tab": "filters",
    }
    view, notes = view_of(asked, exhibits)
    assert notes == []
    assert view.setting == Setting(("awgn", "fog"), 3, quantize=False, seed=7)
    again, notes = view_of(dict(parse_qsl(view.query(), keep_blank_values=True)), exhibits)
    assert (again, notes) == (view, [])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"network": "/etc/passwd"}, "network '/etc/passwd' is not offered here"),
        ({"picture": "../../etc/passwd"}, "picture '../../etc/passwd' is not offered here"),
        ({"adapter": "hf:someone/else"}, "adapter 'hf:someone/else' is not offered here"),
        ({"kinds": "sharpness"}, "unknown distortion 'sharpness'"),
        ({"kinds": "awgn", "level": "9000"}, "level 9000 is not from 0 to 30"),
        ({"kinds": "awgn", "level": "nan"}, "level nan is not from 0 to 30"),
        ({"kinds": "awgn+fog+snow+frost"}, "4 kinds of distortion are named"),
        ({"seed": "-1"}, "seed -1 is not from 0"),
        ({"right": "10"}, "class 10 is not one of the network's"),
        ({"level": "x"}, "could not convert"),
    ],
)
def test_an_address_that_does_not_fit_shows_the_first_view_and_says_so(
    query: dict[str, str], said: str, exhibits: Exhibits
) -> None:
    view, notes = view_of(query, exhibits)
    assert len(notes) == 1
    assert notes[0].startswith(said)
    first, _ = view_of({}, exhibits)
    assert view == first


# --- the command and Spaces


def test_a_space_holds_what_it_needs_and_no_path_of_this_machine(
    adapter: Path, tmp_path: Path, digits_folder: Path
) -> None:
    options = ["--model", "digits_cnn", "--adapter", str(adapter), "--run", str(RUN)]
    options += ["--images", str(digits_folder / "test"), "--export-space", str(tmp_path / "space")]
    said = command("explore", *options, "--json")
    assert said.status == 0, said.err
    space = tmp_path / "space"
    assert said.json == {"space": str(space)}
    kept = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "README.md", "requirements.txt"} < kept
    assert {"adapter/noise/adapter_config.json", "run/demo/results.json"} < kept
    assert not any("recipe" in name for name in kept)
    assert sum(name.startswith("images/test/") for name in kept) == 40
    text = (space / "app.py").read_text(encoding="utf-8")
    arguments = next(
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS"
    )
    assert arguments[:4] == ["--model", "digits_cnn", "--adapter", "adapter/noise"]
    assert str(tmp_path) not in text
    assert str(adapter.parent) not in text
    front = (space / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "sdk: gradio" in front
    assert "app_file: app.py" in front
    wanted = (space / "requirements.txt").read_text(encoding="utf-8")
    assert wanted == f"deepcorrect-torch[explore]=={dc.__version__}\n"
    again = command("explore", *options)
    assert again.status == 1
    assert "is not empty" in again.err


def test_a_space_copies_the_users_own_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text("def network(): ...", encoding="utf-8")
    copied = [Copied("--model", tmp_path / "net.py", "python:{}:network")]
    space = write_space(tmp_path / "space", [], copied, "1.0", ["timm"])
    assert "python:model/net.py:network" in (space / "app.py").read_text(encoding="utf-8")
    assert (space / "model" / "net.py").is_file()
    with pytest.raises(InputError, match="there is no"):
        write_space(tmp_path / "other", [], [Copied("--run", tmp_path / "nowhere")], "1.0")
    monkeypatch.chdir(tmp_path / "space")
    with pytest.raises(InputError, match="exists and is not empty"):
        write_space(Path(), [], copied, "1.0")
    with pytest.raises(InputError, match="is a file"):
        write_space(tmp_path / "net.py", [], copied, "1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.py", "space"]


COPYING = """
import shutil, sys, time
from pathlib import Path
from deepcorrect.explorer import Copied, write_space
copyfile = shutil.copyfile
def slowly(source, place):
    print("copying", flush=True)
    copyfile(source, place)
    time.sleep(60)
shutil.copyfile = slowly
write_space(Path(sys.argv[1]), [], [Copied("--model", Path(sys.argv[2]), "python:{}:net")], "1.0")
"""


@pytest.mark.parametrize("before", ["absent", "empty"])
def test_a_space_whose_writing_is_killed_is_not_there_and_is_written_again(
    before: str, tmp_path: Path
) -> None:
    source, space = tmp_path / "net.py", tmp_path / "made" / "space"
    source.write_text("def net(): ...", encoding="utf-8")
    if before == "empty":
        space.mkdir(parents=True)
    copied = [Copied("--model", source, "python:{}:net")]
    process = subprocess.Popen(
        [sys.executable, "-c", COPYING, str(space), str(source)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"copying\n"
        with pytest.raises(InputError, match="another process is working in"):
            write_space(space, [], copied, "1.0")
    finally:
        process.kill()
        process.communicate()
    assert space.exists() == (before == "empty")
    assert files.is_empty(space)
    assert len(list(space.parent.glob(".*"))) == 1
    write_space(space, [], copied, "1.0")
    assert [path.name for path in space.parent.iterdir()] == ["space"]
    kept = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert kept == {"app.py", "README.md", "requirements.txt", "model/net.py"}


def test_the_adapters_that_are_shipped_for_a_network_are_offered() -> None:
    shipped = [name for name in shipped_adapters() if name.startswith("efficientnet_lite0/")]
    assert shipped
    assert _explore._shipped_for("efficientnet_lite0") == dict(zip(shipped, shipped, strict=True))
    assert _explore._shipped_for("digits_cnn") == {}


@pytest.mark.parametrize("flag", ["--adapter", "--ranking", "--weights"])
def test_what_belongs_to_a_network_needs_one(flag: str) -> None:
    said = command("explore", flag, "something")
    assert said.status == 1
    assert f"{flag} belongs to a network: give --model, too" in said.err


def test_digits_are_offered_first_to_a_network_of_digits(exhibits: Exhibits) -> None:
    assert exhibits.pictures("digits")[:3] == ["digit 3", "digit 5", "digit 8"]
    with pytest.raises(InputError, match="there is no network"):
        Exhibits({})
