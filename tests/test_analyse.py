"""`deepcorrect analyse`: what it leaves in a finished run's folder, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TEST, tiny_recipe, write_digits
from PIL import Image
from test_cli import Said, command

import deepcorrect as dc
from deepcorrect import analysis
from deepcorrect.data import ImageSet, loader
from deepcorrect.experiments._finished_run import FinishedRun, open_run
from deepcorrect.experiments._recipe import load_recipe
from deepcorrect.experiments._run import run
from deepcorrect.runtime import files

IMAGES = 30


@pytest.fixture(scope="module")
def finished(digits_test: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two betas, measured on other distortions than it was trained on. Tests must not
    change it."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(digits_test, folder)
    recipe = tiny_recipe(folder)
    recipe["ideal"] = {"images": 0}
    recipe["test_distortions"] = {"awgn": {"levels": [40]}, "contrast": {"levels": [2, 4]}}
    recipe["systems"]["gated"] = {**recipe["systems"]["finetuned"], "gate": 0.1}
    recipe["systems"]["wise"] = {**recipe["systems"]["gated"], "method": "wise_ft"}
    recipe["systems"]["wise"]["others"] = "mean"
    recipe["systems"]["half"] = {**recipe["systems"]["deepcorrect"], "beta": 0.5}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    place = tmp_path_factory.mktemp("runs") / "finished"
    run(load_recipe(path), place)
    return place


@pytest.fixture(scope="module")
def analysed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, analysed. Tests must not change it."""
    place = Path(shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "analysed"))
    said = command("analyse", place, "--images", IMAGES, "--classes", 4, "--json")
    assert said.status == 0, said.err
    assert said.json == found_in(place)
    return place


@pytest.fixture(scope="module")
def opened(analysed: Path) -> FinishedRun:
    return open_run(analysed)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def found_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "analysis.json").read_text(encoding="utf-8"))


def assert_refused(said: Said, *parts: str) -> None:
    assert (said.status, said.out) == (1, "")
    assert len(said.err.splitlines()) == 1
    for part in ("error: ", *parts):
        assert part in said.err


def test_it_holds_every_analysis_of_every_corrected_system(analysed: Path) -> None:
    found = found_in(analysed)
    assert (found["schema"], found["run"], found["subject"]) == (1, "tiny", "deepcorrect")
    assert list(found["maps"]) == list(found["ideal"]) == ["deepcorrect", "half"]
    for maps, against in zip(found["maps"].values(), found["ideal"].values(), strict=True):
        assert maps["images"] == against["images"] == IMAGES
        assert list(maps["distortions"]) == list(against["distortions"]) == ["awgn", "contrast"]
    systems = ["baseline", "finetuned", "gated", "wise", "deepcorrect", "half"]
    assert list(found["features"]["clean"]) == systems
    assert len(found["features"]["classes"]) == 4
    assert found["features"]["images"] == 4 * TEST  # all there are of four classes
    assert list(found["learning"]) == ["finetuned", "deepcorrect", "gated", "wise", "half"]
    assert [point["beta"] for point in found["beta"]] == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]


def test_pictures_are_pictures_and_stand_in_the_report(analysed: Path) -> None:
    page = (analysed / "report.html").read_text(encoding="utf-8")
    names = found_in(analysed)["figures"]
    assert {Path(name).stem for name in names} == {
        *("maps-deepcorrect", "maps-half", "ideal-deepcorrect", "ideal-half"),
        *("features", "learning", "beta"),
    }
    for name in names:
        with Image.open(analysed / name) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("L")).std() > 5
    assert page.count("data:image/png;base64,") >= len(names)
    assert '<section id="analyses">' in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert not list(analysed.rglob("*.tmp"))


def test_filters_values_are_beside_the_summaries(analysed: Path, opened: FinishedRun) -> None:
    summary = found_in(analysed)["maps"]["half"]["distortions"]
    values = files.read_tensors(analysed / "analysis" / "maps-half.safetensors")
    sites = opened.corrected["half"].config.sites
    assert {name.split("/", 1)[1] for name in values} == set(sites)
    rows = values["psnr/features.3.0"][:2]  # the first distortion's levels
    first = next(iter(summary.values()))
    assert len(first["levels"]) in (1, 2)
    rows = rows[: len(first["levels"])].mean(0)
    assert rows.shape == (2, len(sites["features.3.0"].filters))
    gain = (rows[1] - rows[0]).quantile(0.5)
    assert first["psnr"]["sites"]["features.3.0"]["all"]["gain"] == pytest.approx(float(gain))


def test_the_yardstick_is_that_of_the_adapter_on_the_same_sample(
    analysed: Path, opened: FinishedRun
) -> None:
    shown = loader(opened.test.sample(IMAGES, 0), 7)
    again = analysis.ideal_against_learned(opened.corrected["half"], shown, opened.distortions)
    assert found_in(analysed)["ideal"]["half"] == again.to_json()


def test_systems_are_those_that_the_run_measured(opened: FinishedRun) -> None:
    every = {"baseline": opened.model, **opened.others, **opened.corrected}
    assert list(opened.others) == ["finetuned", "gated", "wise"]
    for name, model in every.items():
        grid = dc.evaluate(model, opened.batches(opened.test), opened.distortions)
        for kind, curve in opened.results["systems"][name]["distortions"].items():
            assert list(grid.curves[kind].top1) == pytest.approx(curve["top1"])


def test_it_says_what_it_found_and_the_same_seed_finds_the_same(
    analysed: Path, copied: Path
) -> None:
    said = command("analyse", copied, "--images", IMAGES, "--classes", 4)
    assert said.status == 0, said.err
    assert "nearest clean feature is of the same class" in said.out
    assert str(copied / "analysis.json") in said.out.replace("\n", "")
    first, second = found_in(analysed), found_in(copied)
    assert first.pop("seconds") > 0
    assert second.pop("seconds") > 0
    assert first == second


def test_systems_can_be_chosen(finished: Path) -> None:
    assert list(open_run(finished, ["half"]).corrected) == ["half"]


def test_a_run_without_a_checkpoint_of_a_system_leaves_its_features_out(copied: Path) -> None:
    (copied / "checkpoints" / "finetuned.pt").unlink()
    assert list(open_run(copied).others) == ["gated", "wise"]
    files.write_checkpoint(copied / "checkpoints" / "finetuned.pt", {"best_state": {"a": 1}})
    said = command("analyse", copied)
    assert_refused(said, "finetuned.pt is not the checkpoint of the run's system 'finetuned'")


def test_a_system_whose_gate_is_missing_is_not_analysed_without_one(copied: Path) -> None:
    (copied / "checkpoints" / "gated.strength.json").unlink()
    assert_refused(
        command("analyse", copied), "gated.strength.json is missing", "'gated' has no gate"
    )


def test_what_is_no_finished_run_is_refused(copied: Path, tmp_path: Path) -> None:
    assert_refused(command("analyse", tmp_path / "nowhere"), "has no recipe.yaml")
    (copied / "results.json").unlink()
    assert_refused(command("analyse", copied), "has no results.json", "--resume")


def test_unknown_systems_and_modules_are_refused(finished: Path) -> None:
    said = command("analyse", finished, "--system", "finetuned")
    assert_refused(said, "unknown corrected system 'finetuned'", "deepcorrect, half")
    said = command("analyse", finished, "--features", "nonsense")
    assert_refused(said, "unknown module 'nonsense'")
    assert not (finished / "analysis.json").exists()


def test_several_processes_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_refused(command("analyse", finished), "one process")


def test_a_report_says_which_picture_is_missing(analysed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(analysed, tmp_path / "run"))
    (folder / "analysis" / "features.png").unlink()
    assert_refused(command("report", folder), "has no analysis/features.png", "analyse")
