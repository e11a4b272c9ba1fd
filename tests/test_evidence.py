"""The tables of docs/results.md: what they say of kept results, and of those that are not there."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import bootstrap

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import pages  # noqa: E402
from benchmarks.deployment import pareto  # noqa: E402
from benchmarks.evidence import corruptions, tables  # noqa: E402
from benchmarks.evidence.grid import HERE, SEEDS, keep, missing, text_of  # noqa: E402
from benchmarks.evidence.streams import (  # noqa: E402
    accuracies,
    grid_cells,
    in_memory,
    right_mixed,
    right_sorted,
)
from deepcorrect.correction import GateConfig, GatedCopy, Strength  # noqa: E402
from deepcorrect.correction._gate import statistic_names  # noqa: E402
from deepcorrect.data import ImageSet, loader  # noqa: E402
from deepcorrect.distortions import GROUPS, Distortion, parse_all  # noqa: E402
from deepcorrect.evaluation import ALEXNET_REFERENCE, evaluate  # noqa: E402
from deepcorrect.experiments._recipe import load_recipe  # noqa: E402
from deepcorrect.networks import Classifier  # noqa: E402
from deepcorrect.runtime import files  # noqa: E402


def record(mean: float) -> dict[str, Any]:
    curve = {"levels": [1, 2], "top1": [mean, mean], "clean_top1": 0.7, "mean_top1": mean}
    return {
        "trainable_parameters": 25,
        "parameters": 100,
        "multiply_adds": 120,
        "images_seen": 1000,
        "training_seconds": 90.0,
        "relative_speed": 0.8,
        "distortions": {"gaussian_blur": {**curve, "mean_ece": 0.1}},
    }


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    means = {"baseline": [0.2, 0.2, 0.2], "deepcorrect": [0.40, 0.41, 0.45]}
    for seed in range(3):
        systems = {name: record(values[seed]) for name, values in means.items()}
        systems["baseline"] |= {"trainable_parameters": 0, "multiply_adds": 100}
        path = tmp_path / "resnet20_blur" / f"seed-{seed}" / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"systems": systems}))
        files.write_json(path.with_name("environment.json"), {"auto_precision": "bfloat16"})
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    return tmp_path


def test_means_and_intervals_are_over_the_seeds(kept: Path) -> None:
    text = tables.levels("resnet20_blur")
    found = re.search(r"DeepCorrect .* (\d\.\d+) ± (\d\.\d+)", text)
    assert found is not None
    values = [0.40, 0.41, 0.45]
    assert float(found[1]) == pytest.approx(statistics.mean(values))
    assert float(found[2]) == pytest.approx(4.3027 * statistics.stdev(values) / 3**0.5, abs=1e-4)
    wide = bootstrap((values,), statistics.mean, vectorized=False, rng=0).confidence_interval
    assert float(found[2]) > (wide.high - wide.low) / 2, "three seeds say little"
    assert re.search(r"baseline .* 0\.2000 \|", text), "a constant has no interval"
    assert "| 25 (25%) | +20% | \N{EN DASH} | 1,000 | 1.5 | 0.80 | 0.100 | bfloat16 |" in text
    path = kept / "resnet20_blur" / "seed-0" / "results.json"
    results = json.loads(path.read_text())
    results["systems"]["deepcorrect"]["relative_latency"] = 1.2345
    path.write_text(json.dumps(results))
    assert "| 25 (25%) | +20% | 1.23 | 1,000 |" in tables.levels("resnet20_blur")


def test_what_a_system_was_computed_in_is_of_its_own_run(kept: Path) -> None:
    own = kept / "resnet20_blur" / "seed-1" / "environment-deepcorrect.json"
    files.write_json(own, {"auto_precision": "float32"})
    found = {each.name: each.precision for each in tables.systems("resnet20_blur")}
    assert found == {"baseline": "bfloat16", "deepcorrect": "bfloat16, float32"}


def test_the_published_figures_are_in_proportion_to_our_clean_accuracy(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "scaled" not in tables.levels("resnet20_blur"), "the paper has no such network"
    monkeypatch.setattr(tables, "PUBLISHED", {"resnet20_blur": {"deepcorrect": 0.6}})
    baseline, corrected = tables.levels("resnet20_blur").splitlines()[2:4]
    assert baseline.endswith("|  |  |")
    assert corrected.endswith(f"| 0.600 | {0.6 * 0.7 / 0.7028:.3f} |")


def test_validation_figures_are_those_of_the_best_epoch(kept: Path) -> None:
    history = {"deepcorrect": {"epochs": [{"score": 0.3}, {"score": 0.45}, {"score": 0.4}]}}
    files.write_json(kept / "resnet20_blur" / "seed-0" / "history.json", history)
    text = tables.validation("resnet20_blur")
    assert "| DeepCorrect | 0.4500 | 25 (25%) | +20% | 1.5 |" in text
    assert tables.validation("allcnn_blur") == tables.missing("allcnn_blur")


def test_differences_are_seed_by_seed(kept: Path) -> None:
    """Of systems that vary together the difference is surer than either."""
    assert "seed by seed" not in tables.levels("resnet20_blur")
    for seed, tuned in enumerate([0.39, 0.40, 0.43]):
        path = kept / "resnet20_blur" / f"seed-{seed}" / "results.json"
        results = json.loads(path.read_text())
        results["systems"]["finetuned"] = record(tuned)
        path.write_text(json.dumps(results))
    above = [0.01, 0.01, 0.02]
    half = 4.3027 * statistics.stdev(above) / 3**0.5
    shown = f"{statistics.mean(above):+.4f} ± {half:.4f} (gaussian_blur)."
    assert f"DeepCorrect less fine-tuned, seed by seed: {shown}" in tables.levels("resnet20_blur")
    few = [*tables.systems("resnet20_blur")[:2]]
    few[1] = tables.System("finetuned", few[1].records[:2], "")
    assert not tables.difference(few, "finetuned", "baseline")


def test_systems_stand_beside_the_first_of_their_recipe(kept: Path) -> None:
    for seed in range(3):
        path = kept / "resnet20_blur" / f"seed-{seed}" / "results.json"
        results = json.loads(path.read_text())
        results["systems"]["other"] = record(0.40)
        path.write_text(json.dumps(results))
    rows = tables.ablations("resnet20_blur").splitlines()
    assert rows[2].startswith("| baseline | 0.7000 | 0.2000 |  | 0 (0%) |")
    assert rows[3].startswith("| DeepCorrect | 0.7000 | 0.4200 |  | 25 (25%) | +20% |")
    assert rows[4].startswith("| other | 0.7000 | 0.4000 | -2.0 |")


def test_systems_of_other_recipes_stand_beside_a_recipe_s_own(kept: Path) -> None:
    assert "grid resnet20_blur_units`" in tables.levels("resnet20_blur", "resnet20_blur_units")
    found = files.read_json(kept / "resnet20_blur" / "seed-0" / "results.json")["systems"]
    units = {"baseline": found["baseline"], "deepcorrect_units": record(0.5)}
    folder = kept / "resnet20_blur_units" / "seed-0"
    files.write_json(folder / "results.json", {"systems": units})
    files.write_json(folder / "environment.json", {"auto_precision": "bfloat16"})
    text = tables.levels("resnet20_blur", "resnet20_blur_units")
    assert "| DeepCorrect, units | 0.700 | 0.500 | 0.500 | 0.5000 |" in text
    assert text.endswith("3 seeds: baseline, DeepCorrect; 1 seed: DeepCorrect, units.")
    assert tables.levels("resnet20_blur").endswith("\n\n3 seeds.")


def test_ranked_filters_and_random_ones_are_compared_seed_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pareto, "PARETO", tmp_path / "pareto.json")
    assert "pareto train" in pareto.ranked_against_random()
    one = {"network": "n", "distortion": "d"}
    means = {"weights, 10 %": [0.5, 0.52, 0.54], "weights, 10 %, random filters": [0.49, 0.5, 0.53]}
    trials = [
        {**one, "trial": trial, "seed": seed, "mean": mean}
        for trial, values in means.items()
        for seed, mean in enumerate(values)
    ]
    alone = {**one, "trial": "weights, 25 %", "seed": 0, "mean": 0.6}
    other = {**one, "trial": "weights, 25 %, random filters", "seed": 1, "mean": 0.6}
    files.write_json(tmp_path / "pareto.json", [*trials, alone, other])
    half = 4.3027 * statistics.stdev([1, 2, 1]) / 3**0.5
    rows = pareto.ranked_against_random().splitlines()[2:]
    assert rows == [f"| n, d, 10 % | 52.0 | 50.7 | +1.3 ± {half:.1f} | 3 |"]


def test_what_was_not_run_says_how(kept: Path) -> None:
    assert "grid allcnn_blur" in tables.levels("allcnn_blur")
    assert "grid resnet20_blind" in tables.corruptions("resnet20_blind")
    assert "grid allcnn_awgn" in tables.inside("allcnn_awgn")
    assert "grid resnet20_ablations" in tables.ablations("resnet20_ablations")
    assert "test_time`" in tables.BLOCKS["test_time"]()
    assert "test_time --mixed`" in tables.BLOCKS["test_time_mixed"]()
    assert "competitors`" in tables.BLOCKS["competitors"]()
    text = tables.means("resnet20_blur", "resnet20_alternatives")
    assert "grid resnet20_alternatives" in text
    assert "DeepCorrect" in text


def test_the_summary_has_the_main_systems_side_by_side(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SUMMARY", {"resnet20_blur": "a network"})
    for path in kept.glob("resnet20_blur/*/results.json"):
        results = json.loads(path.read_text())
        results["systems"] |= {"finetuned": record(0.3), "finetuned_gated": record(0.35)}
        path.write_text(json.dumps(results))
    row = "| a network | 20.0 | 30.0 | 35.0 | 42.0 | 70.0 | 70.0 | 70.0 | 70.0 | 25 (25%) |"
    assert row in tables.summary().splitlines()
    monkeypatch.setattr(tables, "SUMMARY", {"allcnn_blur": "another"})
    assert "grid allcnn_blur" in tables.summary()


class Adapting(Classifier):
    """Counts how often it is told that a level begins."""

    begun = 0

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        self.begun += 1


def test_a_frozen_network_answers_a_mixed_stream_as_a_sorted_one(
    digits_test: ImageSet, digits_model: Classifier
) -> None:
    """And a system that adapts is told of each level, or only of the stream's beginning."""
    images = digits_test.sample(30, seed=0)
    kinds = parse_all(["gaussian_blur:1,2", "awgn:60"], 28)
    pair, cells = in_memory(images), grid_cells(kinds)
    told = Adapting(digits_model.network, digits_model.preprocessing)
    ordered = right_sorted({"a": digits_model, "b": told}, pair, cells, seed=3, size=8)
    assert told.begun == 4
    found = right_mixed(told, pair, cells, seed=3, size=7)
    assert told.begun == 5
    assert torch.equal(ordered["a"], found)
    assert torch.equal(ordered["b"], found)
    grid = evaluate(digits_model, loader(images, 30), kinds, seed=3)
    means = {"clean": grid.clean_top1, **{k: c.mean_top1 for k, c in grid.curves.items()}}
    assert accuracies(found, kinds) == pytest.approx(means, abs=1e-4)


def test_a_copy_is_measured_as_it_is_and_at_its_strength_behind_its_gate(
    digits_model: Classifier, tmp_path: Path
) -> None:
    tuned = {name: value + 1 for name, value in digits_model.state_dict().items()}
    path = tmp_path / "copy.safetensors"
    files.write_tensors(path, tuned)
    assert list(corruptions.given_systems(digits_model, [], [("copy", path)])) == [
        "network as it is",
        "copy",
    ]
    row = (1.0,) * len(statistic_names(1))
    gate = GateConfig(kinds=("awgn",), weights=(row,), biases=(0.0,), false_alarms=0.1)
    chosen = Strength(strength=0.25, gate=gate).model_dump(mode="json")
    files.write_json(corruptions.strength_beside(path), chosen)
    found = corruptions.given_systems(digits_model, [], [("copy", path)])
    as_it_is, gated = found["copy"].build(), found["copy, gated"].build()
    assert isinstance(gated, GatedCopy)
    assert gated.gate is not None
    assert gated.gate.config == gate
    for name, value in digits_model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(as_it_is.state_dict()[name], value + 1)
            torch.testing.assert_close(gated.state_dict()[name], value + 0.25)


def test_corruptions_are_kept_system_by_system_and_not_measured_again(
    digits_test: ImageSet, digits_model: Classifier, tmp_path: Path
) -> None:
    images, kept = digits_test.sample(12, seed=0), tmp_path / "kept.json"
    kinds = ("gaussian_noise", "fog")
    one = {"one": corruptions.Measured(lambda: digits_model)}
    corruptions.measure_systems(one, images, kept, size=5, kinds=kinds[:1])
    assert list(corruptions.read(kept, images=12)["one"]) == ["clean", "gaussian_noise"]
    built: list[str] = []

    def other() -> Classifier:
        built.append("other")
        return digits_model

    both = {**one, "other": corruptions.Measured(other, mixed=True)}
    for _ in range(2):
        corruptions.measure_systems(both, images, kept, size=5, kinds=kinds)
    assert built == ["other"]
    found = corruptions.read(kept, images=12)
    assert found["one"] == found["other"], "it does not adapt"
    grid = evaluate(digits_model, loader(images, 5), ["gaussian_noise", "fog"])
    errors = corruptions.summary(found["one"], None)
    assert errors["clean"] == pytest.approx(1 - grid.clean_top1)
    for kind, curve in grid.curves.items():
        assert errors["by_corruption"][kind]["errors"] == pytest.approx([1 - x for x in curve.top1])
    with pytest.raises(SystemExit, match="figures of images 12, not 13"):
        corruptions.read(kept, images=13)


def test_a_difference_in_mce_has_the_interval_of_its_images() -> None:
    """Against the mean and the standard error of what each image has."""
    names = GROUPS["imagenet_c"]
    generator = torch.Generator().manual_seed(0)
    rights = {
        name: {
            kind: (torch.rand(5 if kind != "clean" else 1, 400, generator=generator) < share).int()
            for kind in ("clean", *names)
        }
        for name, share in (("a", 0.5), ("b", 0.6))
    }
    found = {
        name: {kind: ["".join(map(str, row.tolist())) for row in each] for kind, each in of.items()}
        for name, of in rights.items()
    }
    assert corruptions.whole({**found, "half": {"clean": ["1"]}}) == ["a", "b"]
    mce = {name: corruptions.summary(found[name], ALEXNET_REFERENCE)["mce"] for name in found}
    change, half = corruptions.interval(found, "b", "a", ALEXNET_REFERENCE)
    assert change == pytest.approx(mce["b"] - mce["a"])
    references = [ALEXNET_REFERENCE.errors[kind][1] for kind in names]
    each = sum(
        (rights["a"][kind].double().mean(0) - rights["b"][kind].double().mean(0)) / reference
        for kind, reference in zip(names, references, strict=True)
    ) / len(names)
    assert isinstance(each, torch.Tensor)
    assert half == pytest.approx(1.96 * float(each.std()) / 20, rel=0.1)
    changes = {
        (kind, row + 1): rights["a"][kind][row].double() - rights["b"][kind][row].double()
        for kind in names
        for row in range(5)
    }
    (said,) = corruptions.least_gains({corruptions.BASELINE: found["b"], "worse": found["a"]})
    behind = sum(x.mean() < -1.96 * x.std() / 20 for x in changes.values())
    (kind, severity), least = min(changes.items(), key=lambda pair: float(pair[1].mean()))
    assert f"interval at {int(behind)} of 75 levels" in said
    assert (
        f"under {kind.replace('_', ' ')} of severity {severity}: {100 * least.mean():+.1f}" in said
    )
    shown = 100 * (1 - rights["a"]["fog"].double().mean())
    assert f"| fog | {shown:.1f} |" in corruptions.by_corruption(found)


def test_every_table_has_its_place_and_every_recipe_loads() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    places = re.findall(r"<!-- (\w+) -->\n.*?<!-- end -->", text, re.DOTALL)
    assert sorted(places) == sorted(tables.BLOCKS)
    assert set(SEEDS) == {path.stem for path in (HERE / "recipes").glob("*.yaml")} - {"resnet20"}
    for name in SEEDS:
        assert load_recipe(HERE / "recipes" / f"{name}.yaml").name == name


def test_blocks_of_a_page_are_written_between_their_marks_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    before = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n"
    page.write_text(before, encoding="utf-8")
    with pytest.raises(SystemExit, match="0 blocks '<!-- three -->'"):
        pages.fill(page, {"one": "new", "three": "x"})
    assert page.read_text(encoding="utf-8") == before
    pages.fill(page, {"one": r"\g<1>", "two": pages.table(["", "n"], [["row", "1"]])})
    assert page.read_text(encoding="utf-8") == (
        "a\n<!-- one -->\n\\g<1>\n<!-- end -->\nb\n"
        "<!-- two -->\n|  | n |\n| --- | ---: |\n| row | 1 |\n<!-- end -->\n"
    )


def run_folder(folder: Path, means: dict[str, float]) -> Path:
    """The files of a finished run that are kept, of made-up means."""
    folder.mkdir()
    systems = {name: record(mean) | {"measuring_seconds": 10.0} for name, mean in means.items()}
    files.write_json(folder / "results.json", {"seconds": 100.0 * len(systems), "systems": systems})
    trained = {name: {"best": 0} for name in means if name != "baseline"}
    files.write_json(folder / "history.json", trained)
    files.write_json(folder / "environment.json", {"of": folder.name})
    return folder


EVERY = ["finetuned", "finetuned_gated", "deepcorrect"]
"""The trained systems of a recipe of the paper's table."""


def test_a_changed_system_alone_is_run_again_and_put_beside_the_others(tmp_path: Path) -> None:
    recipe = load_recipe(HERE / "recipes" / "resnet20_both.yaml")
    kept = tmp_path / "kept"
    assert missing(recipe, kept) == EVERY
    first = run_folder(tmp_path / "first", {"baseline": 0.2, **dict.fromkeys(EVERY, 0.5)})
    files.write_json(first / "analysis.json", {"seed": 0})
    files.write_bytes(first / "analysis" / "features.png", b"a picture")
    keep(recipe, EVERY, first, kept)
    assert files.read_json(kept / "analysis.json") == {"seed": 0}
    assert (kept / "analysis" / "features.png").read_bytes() == b"a picture"
    assert missing(recipe, kept) == []
    assert text_of(load_recipe(kept / "recipe.yaml")) == text_of(recipe)

    changed = load_recipe(
        HERE / "recipes" / "resnet20_both.yaml", ["systems.deepcorrect.budget.parameters=0.25"]
    )
    assert missing(changed, kept) == ["deepcorrect"]
    again = run_folder(tmp_path / "again", {"baseline": 0.2, "deepcorrect": 0.45})
    files.write_json(kept / "environment-gone.json", {"of": "a system that the recipe had"})
    keep(changed, ["deepcorrect"], again, kept)
    assert missing(changed, kept) == []
    assert not (kept / "environment-gone.json").exists()
    results = files.read_json(kept / "results.json")
    assert results["data"] == "CIFAR-100, 10,000 test images"
    means = {
        name: each["distortions"]["gaussian_blur"]["mean_top1"]
        for name, each in results["systems"].items()
    }
    assert list(means.items()) == [
        ("baseline", 0.2),
        ("finetuned", 0.5),
        ("finetuned_gated", 0.5),
        ("deepcorrect", 0.45),
    ]
    assert results["seconds"] == 2 * 100 + 2 * (90 + 10)
    assert list(files.read_json(kept / "history.json")) == EVERY
    assert files.read_json(kept / "environment.json") == {"of": "first"}
    assert files.read_json(kept / "environment-deepcorrect.json") == {"of": "again"}
    keep(changed, EVERY, first, kept)
    assert not (kept / "environment-deepcorrect.json").exists(), "all are of one run"

    other = load_recipe(HERE / "recipes" / "resnet20_both.yaml", ["ranking.images=100"])
    assert missing(other, kept) == ["deepcorrect"], "fine-tuning reads no ranking"
    other = load_recipe(HERE / "recipes" / "resnet20_both.yaml", ["selection.images=100"])
    assert missing(other, kept) == EVERY, "what all share has changed"


def test_where_a_run_is_analysed_all_of_its_systems_are_run_again(tmp_path: Path) -> None:
    path = HERE / "recipes" / "allcnn_awgn.yaml"
    files.write_text(tmp_path / "recipe.yaml", text_of(load_recipe(path)))
    assert missing(load_recipe(path), tmp_path) == []
    changed = load_recipe(path, ["systems.finetuned.training.epochs=1"])
    assert missing(changed, tmp_path) == EVERY
