"""The commands around rankings: targets and pictures, comparing two, correcting by budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import random_pixels
from PIL import Image
from test_cli import Said, command, on

import deepcorrect as dc
from deepcorrect import networks
from deepcorrect import ranking as room
from deepcorrect.correction._budget import filters_within
from deepcorrect.distortions import LevelledDistortion

SITES = ("features.0.0", "features.1.0")


def rank_call(folder: Path, *more: object) -> list[object]:
    return [
        *("rank", *on(folder, "validation"), "--sites", ",".join(SITES), "--images", 10),
        *("--distortion", "gaussian_blur:1.5", *more),
    ]


@pytest.fixture(scope="module")
def digits(digits_folder: Path) -> Path:
    return digits_folder


@pytest.fixture(scope="module")
def rankings(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One by the gradient, one by random numbers."""
    folder = tmp_path_factory.mktemp("rankings")
    for method in ("gradient", "random"):
        said = command(*rank_call(digits, "--method", method, "--out", folder / method))
        assert said.status == 0, said.err
    return folder / "gradient", folder / "random"


def assert_refused(said: Said, *parts: str) -> None:
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    for part in parts:
        assert part in said.err


# --- rank


def test_sites_are_chosen_by_structure(digits: Path) -> None:
    call = ["rank", *on(digits, "validation"), "--images", 4, "--method", "gradient"]
    call += ["--distortion", "gaussian_blur:1.5", "--json", "--sites"]
    said = command(*call, "auto")
    assert said.status == 0, said.err
    assert "note: sites: convolutions (" in said.err
    network = dc.load_model("digits_cnn")
    assert list(json.loads(said.out)["sites"]) == list(networks.convolutions(network))
    assert_refused(command(*call, "stem+sum"), "unknown choice of sites 'sum'", "'sums'")
    assert_refused(command(*call, "sums"), "the network has no sums: choose its convolutions")


def test_rank_writes_a_picture_too(rankings: tuple[Path, Path]) -> None:
    for folder in rankings:
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "ranking.json",
            "ranking.png",
            "ranking.safetensors",
            "ranking_levels.safetensors",
        }
        with Image.open(folder / "ranking.png") as picture:
            picture.load()
            assert picture.format == "PNG"


def test_list_targets() -> None:
    said = command("list", "targets", "--json")
    assert list(said.json) == ["labels", "prediction", "kl"]
    lines = command("list", "targets").out.splitlines()
    assert [line.split()[0] for line in lines] == list(said.json)


@pytest.mark.parametrize("target", ["labels", "prediction", "kl"])
def test_rank_measures_against_its_target(digits: Path, target: str) -> None:
    call = rank_call(digits, "--method", "gradient", "--json")
    said = command(*call, "--target", target)
    assert said.json["target"] == target
    assert said.json["schema"] == 3
    bare = command(*call)
    assert bare.json["target"] == "labels"
    if target != "prediction":  # which may be right on all ten
        assert (said.json["priorities"] == bare.json["priorities"]) == (target == "labels")


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """Images without labels."""
    folder = tmp_path / "loose"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(random_pixels(28, 28, 1, number)).save(folder / f"{number}.png")
    return folder


def test_images_without_labels_can_be_ranked_with(loose: Path) -> None:
    call = ["rank", "--model", "digits_cnn", "--data", f"folder:{loose}", "--method", "gradient"]
    call += ["--distortion", "gaussian_blur:1", "--json"]
    assert command(*call).json["target"] == "prediction"
    assert command(*call, "--target", "kl").json["target"] == "kl"
    assert_refused(command(*call, "--target", "labels"), "images without labels")


def test_an_unknown_target_is_refused(digits: Path) -> None:
    said = command(*rank_call(digits, "--target", "label"))
    assert said.status != 0
    assert said.out == ""
    assert "label" in said.err
    assert "Traceback" not in said.err
    for target in room.TARGETS:
        assert target in said.err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--model", "digits_cnn"], ["--data", "digits:test"], ["--method", "swap"]],
    ids=" ".join,
)
def test_rank_needs_a_model_and_data(arguments: list[str]) -> None:
    assert_refused(command("rank", *arguments), "give --model and --data")


# --- rank --compare


def test_two_rankings_are_compared_by_their_numbers(rankings: tuple[Path, Path]) -> None:
    said = command("rank", "--compare", *rankings, "--beta", 0.25, "--json")
    assert (said.status, said.err) == (0, "")
    first, second = (dc.load_ranking(folder) for folder in rankings)
    expected = room.compare(first, second, 0.25)
    assert said.json == {
        "rankings": [str(folder) for folder in rankings],
        "beta": 0.25,
        "spearman": expected.spearman,
        "overlap": expected.overlap,
        "mean_spearman": expected.mean_spearman,
        "mean_overlap": expected.mean_overlap,
    }


def test_the_comparison_as_a_table(rankings: tuple[Path, Path]) -> None:
    said = command("rank", "--compare", *rankings)
    assert said.status == 0
    for part in (*SITES, "mean", "Spearman", "50%", "Give --model and --data"):
        assert part in said.out
    same = command("rank", "--compare", rankings[0], rankings[0])
    assert same.out.count("1.000") == 6


def test_two_rankings_are_compared_by_ideal_correction(
    digits: Path, rankings: tuple[Path, Path]
) -> None:
    call = ["rank", *on(digits, "test"), "--images", 20, "--compare", *rankings]
    said = command(*call, "--json")
    assert said.status == 0
    ideal = said.json["ideal"]
    assert ideal["images"] == 20
    assert list(ideal["areas"]) == list(SITES)
    means = [sum(values) / 2 for values in zip(*ideal["areas"].values(), strict=True)]
    assert ideal["mean_areas"] == pytest.approx(means)
    assert ideal["lead_of_first"] == pytest.approx(means[0] - means[1])
    low, high = ideal["lead_interval"]
    assert low <= ideal["lead_of_first"] <= high
    table = command(*call)
    assert "ideal area, A" in table.out
    assert f"A's mean area minus B's: {ideal['lead_of_first']:+.4f}" in table.out
    assert "resampling 20 images" in table.out


def test_a_ranking_has_no_lead_over_itself(digits: Path, rankings: tuple[Path, Path]) -> None:
    call = ["rank", *on(digits, "test"), "--images", 5, "--json", "--compare"]
    ideal = command(*call, rankings[0], rankings[0]).json["ideal"]
    assert (ideal["lead_of_first"], ideal["lead_interval"]) == (0, [0, 0])


def test_the_comparison_is_json_where_a_correlation_is_not_defined(tmp_path: Path) -> None:
    flat = dc.Ranking({"a": torch.ones(1, 3)}, "swap", (LevelledDistortion("awgn", (5,)),), 1, 1.0)
    flat.save(tmp_path)
    said = command("rank", "--compare", tmp_path, tmp_path, "--json")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    assert json.loads(said.out, parse_constant=refuse)["overlap"] == {"a": 1.0}


def test_what_cannot_be_compared_is_refused(rankings: tuple[Path, Path], tmp_path: Path) -> None:
    first = rankings[0]
    assert_refused(
        command("rank", "--compare", first, tmp_path),
        "holds no ranking: there is no file",
        "ranking_levels.safetensors",
    )
    assert_refused(command("rank", "--compare", tmp_path / "no", first), "there is no file")
    (tmp_path / "ranking_levels.safetensors").write_text("{}")
    assert_refused(command("rank", "--compare", first, tmp_path), "not a complete safetensors")
    beta = command("rank", "--compare", *rankings, "--beta", 0)
    assert_refused(beta, "beta=0.0 is not a share")
    half = command("rank", "--compare", *rankings, "--model", "digits_cnn")
    assert_refused(half, "give --model and --data, both")
    other = dc.Ranking({"a": torch.ones(1, 3)}, "swap", (LevelledDistortion("awgn", (5,)),), 1, 1.0)
    other.save(tmp_path / "other")
    assert_refused(command("rank", "--compare", first, tmp_path / "other"), "share no site")


# --- correct --budget


def correct_call(digits: Path, ranking: Path, out: Path, *more: object) -> list[object]:
    return [
        *("correct", *on(digits, "train"), "--images", 8, "--batch-size", 4, "--epochs", 1),
        *("--ranking", ranking, "--out", out, "--precision", "float32", "--keep", *more),
    ]


@pytest.mark.parametrize(
    ("budget", "unit"), [("parameters=1500", "bottleneck"), ("multiply_adds=0.3", "full")]
)
def test_correct_keeps_to_a_budget(
    digits: Path, rankings: tuple[Path, Path], tmp_path: Path, budget: str, unit: str
) -> None:
    call = correct_call(digits, rankings[0], tmp_path / "a", "--budget", budget, "--unit", unit)
    said = command(*call, "--json")
    assert said.status == 0, said.err
    kind, _, number = budget.partition("=")
    ranking = dc.load_ranking(rankings[0])
    adapted = dc.load_adapter(dc.load_model("digits_cnn"), tmp_path / "a")
    sites = {name: list(site.filters) for name, site in adapted.config.sites.items()}
    assert sites == filters_within(ranking, {kind: float(number)}, unit)
    parameters = sum(p.numel() for p in adapted.units.parameters())
    assert said.json["trainable_parameters"] == parameters
    if kind == "parameters":
        assert parameters <= 1500


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("0.2", "--budget '0.2' is not accepted: give parameters=X, multiply_adds=X or latency=X"),
        ("parameters", "--budget 'parameters' is not accepted"),
        ("parameters=few", "--budget 'parameters=few' is not accepted"),
        ("flops=1e6", "flops"),
        ("parameters=-3", "greater than 0"),
        ("parameters=nan", "budget"),
        ("parameters=2", "no unit fits the budget"),
        ("latency=-0.1", "latency"),
        ("latency=soon", "--budget 'latency=soon' is not accepted"),
    ],
)
def test_a_bad_budget_is_refused(
    digits: Path, rankings: tuple[Path, Path], tmp_path: Path, budget: str, message: str
) -> None:
    call = correct_call(digits, rankings[0], tmp_path / "a", "--budget", budget)
    assert_refused(command(*call), message)
    assert not (tmp_path / "a").exists()


def test_correct_keeps_to_a_latency(
    digits: Path, rankings: tuple[Path, Path], tmp_path: Path
) -> None:
    free = ("--budget", "latency=0", "--runtime", "onnx", "--beta", 0.25)
    said = command(*correct_call(digits, rankings[0], tmp_path / "a", *free), "--json")
    assert said.status == 0, said.err
    adapted = dc.load_adapter(dc.load_model("digits_cnn"), tmp_path / "a")
    assert {site.corrected_by for site in adapted.config.sites.values()} == {"weights"}
    sites = {name: list(site.filters) for name, site in adapted.config.sites.items()}
    assert sites == dc.load_ranking(rankings[0]).top(0.25)
    latency = said.json["cost"]["latency"]
    assert (latency["runtime"], latency["batch"]) == ("onnx", 1)
    assert "latency per corrected image (onnx" in (tmp_path / "a" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "only the adapter is left"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--runtime", "onnx"), "--runtime says where a latency is measured"),
        (("--budget", "parameters=0.2", "--runtime", "onnx"), "--runtime says where"),
        (("--budget", "latency=0.1", "--runtime", "tvm"), "tvm"),
    ],
)
def test_a_runtime_that_is_not_accepted(
    digits: Path, rankings: tuple[Path, Path], tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    assert_refused(command(*correct_call(digits, rankings[0], tmp_path / "a", *more)), message)


def test_a_share_and_a_budget_exclude_each_other(
    digits: Path, rankings: tuple[Path, Path], tmp_path: Path
) -> None:
    both = ("--beta", 0.5, "--budget", "parameters=0.2")
    said = command(*correct_call(digits, rankings[0], tmp_path / "a", *both))
    assert_refused(said, "--beta and --budget exclude each other", "give one of them")


def test_half_of_the_parameters_are_corrected_if_neither_is_given(
    digits: Path, rankings: tuple[Path, Path], tmp_path: Path
) -> None:
    assert command(*correct_call(digits, rankings[0], tmp_path / "a")).status == 0
    adapted = dc.load_adapter(dc.load_model("digits_cnn"), tmp_path / "a")
    ranking = dc.load_ranking(rankings[0])
    half = dc.correct(adapted.network, ranking, unit="weights", budget={"parameters": 0.5})
    assert adapted.config.sites == half.config.sites


def test_a_budget_needs_a_ranking_of_gains(
    digits: Path, rankings: tuple[Path, Path], tmp_path: Path
) -> None:
    call = correct_call(digits, rankings[1], tmp_path / "a", "--budget", "parameters=0.2")
    assert_refused(command(*call), "method 'random'", "rank by a method that measures gains")
