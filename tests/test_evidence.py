"""The tables of docs/results.md: what they say of kept results, and of those that are not there."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import bootstrap

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.evidence import tables  # noqa: E402
from benchmarks.evidence.grid import HERE, SEEDS  # noqa: E402
from deepcorrect.recipe import load_recipe  # noqa: E402


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
    assert "| 25 (25%) | +20% | 1,000 | 1.5 | 0.80 | 0.100 |" in text


def test_what_was_not_run_says_how(kept: Path) -> None:
    assert "grid allcnn_blur" in tables.levels("allcnn_blur")
    assert "grid resnet20_blind" in tables.corruptions("resnet20_blind")
    text = tables.means("resnet20_blur", "resnet20_units")
    assert "grid resnet20_units" in text
    assert "DeepCorrect" in text


def test_every_table_has_its_place_and_every_recipe_loads() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    places = re.findall(r"<!-- table: (\w+) -->\n.*?<!-- end -->", text, re.DOTALL)
    assert sorted(places) == sorted(tables.BLOCKS)
    assert set(SEEDS) == {path.stem for path in (HERE / "recipes").glob("*.yaml")} - {"resnet20"}
    for name in SEEDS:
        assert load_recipe(HERE / "recipes" / f"{name}.yaml").name == name
