"""The model card: front matter as the Hub expects it, and what the adapter's notes say, no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CLASSES, TinyCNN
from huggingface_hub import ModelCard
from test_adapter import FILTERS, adapted_tiny
from torch import Tensor

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel
from deepcorrect.correction._model_card import ENDS
from deepcorrect.networks import Classifier, costs

NOTES: dict[str, Any] = {
    "model": "timm:resnet18.a1_in1k",
    "license": "apache-2.0",
    "data": "folder:photos",
    "images_seen": 12000,
    "training_seconds": 61.4,
    "distortions": [
        {"name": "gaussian_blur", "levels": [1, 2.5]},
        {"name": "awgn", "levels": [20]},
    ],
}


def grid(top1: list[float], clean: float, mean: float) -> dict[str, Any]:
    levels = [1.0, 2.5][: len(top1)]
    return {"levels": levels, "top1": top1, "clean_top1": clean, "mean_top1": mean}


def saved(adapted: AdaptedModel, folder: Path, notes: dict[str, Any] | None = None) -> str:
    adapted.save_pretrained(folder, notes)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_saved_adapter_has_a_card_that_the_hubs_own_reader_takes(
    network: TinyCNN, tmp_path: Path
) -> None:
    text = saved(adapted_tiny(network), tmp_path, NOTES)
    front: Any = ModelCard(text).data
    assert front.library_name == "deepcorrect"
    assert front.pipeline_tag == "image-classification"
    assert front.base_model == "timm/resnet18.a1_in1k"
    assert front.license == "apache-2.0"
    assert {"deepcorrect", "gaussian_blur", "awgn"} <= set(front.tags or ())
    for said in (
        "# Correction adapter for TinyCNN",
        "`timm:resnet18.a1_in1k`",
        "8 filters of 3 sites",
        "`gaussian_blur:1,2.5`, `awgn:20`, on folder:photos",
        "12,000 images",
        f'dc.load_adapter(model, "{tmp_path.name}")',
        "The adapter's weights: apache-2.0",
    ):
        assert said in text
    for site, filters in FILTERS.items():
        assert f"| `{site}` | {len(filters)} |" in text


def test_accuracies_and_costs_are_those_that_were_measured(
    classifier: Classifier, tmp_path: Path
) -> None:
    adapted = adapted_tiny(classifier)
    after, before = (costs(m, classifier.preprocessing) for m in (adapted, classifier))
    units = after.parameters - before.parameters
    added = after.multiply_adds - before.multiply_adds
    notes = {
        "measured": {
            "data": "folder:test",
            "images": 1500,
            "baseline": {"gaussian_blur": grid([0.6, 0.25], 0.9, 0.5833)},
            "corrected": {"gaussian_blur": grid([0.8, 0.75], 0.895, 0.815)},
        },
        "cost": {
            "multiply_adds": added,
            "base_multiply_adds": before.multiply_adds,
            "base_parameters": before.parameters,
        },
    }
    text = saved(adapted, tmp_path, notes)
    assert "Top-1 on 1,500 images of folder:test" in text
    row = (
        "| `gaussian_blur` | 90.0% → 89.5% | 1: 60.0% → 80.0%; 2.5: 25.0% → 75.0% | 58.3% → 81.5% |"
    )
    assert row in text
    assert f"| parameters | {units:,} | {before.parameters:,} |" in text
    assert f"| multiply-adds per image | {added:,} | {before.multiply_adds:,} |" in text
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert f"| file | {size / 1e6:.2f} MB | |" in text


def test_what_is_not_known_is_not_said(network: TinyCNN, tmp_path: Path) -> None:
    text = saved(adapted_tiny(network), tmp_path)
    front = yaml.safe_load(text.split("---")[1])
    assert "base_model" not in front
    assert front["license"] == "unknown"
    assert "Not measured when it was saved" in text
    assert "None was stated for these weights" in text
    assert "Trained for" not in text
    text = saved(adapted_tiny(network), tmp_path, {"validation_mean_top1": 0.71})
    assert "on its validation images, clean and distorted: 71.0%" in text


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hf:microsoft/resnet-18", "microsoft/resnet-18"),
        ("timm:resnet18", None),
        ("torchvision:resnet18", None),
        ("hf:./folder", None),
        ("digits_cnn", None),
    ],
)
def test_the_base_model_is_named_where_the_hub_has_it(
    network: TinyCNN, tmp_path: Path, spec: str, expected: str | None
) -> None:
    (tmp_path / "folder").mkdir()
    front: Any = ModelCard(saved(adapted_tiny(network), tmp_path / "a", {"model": spec})).data
    assert front.base_model == expected


def test_what_a_user_adds_below_stays(network: TinyCNN, tmp_path: Path) -> None:
    adapted = adapted_tiny(network)
    saved(adapted, tmp_path)
    with (tmp_path / "README.md").open("a") as file:
        file.write("\n## Ethics\n\nNone.\n")
    text = saved(adapted, tmp_path, {"license": "mit"})
    assert text.count(ENDS) == 1
    assert text.endswith("## Ethics\n\nNone.\n")
    assert "license: mit" in text
    (tmp_path / "README.md").write_text("My own words.\n")
    assert saved(adapted, tmp_path).endswith(f"{ENDS}\n\nMy own words.\n")


def test_the_cards_example_runs(
    classifier: Classifier, tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, but for the network, which is not one that a name gives."""
    monkeypatch.chdir(tmp_path)
    text = saved(adapted_tiny(classifier), tmp_path / "mine", {"model": "digits_cnn"})
    example = text.split("```python\n")[1].split("```")[0]
    example = example.replace('dc.load_model("digits_cnn")', "network")
    names: dict[str, Any] = {"network": classifier, "images": images}
    with torch.no_grad():
        exec(example, names)
        assert names["logits"].shape == (len(images), CLASSES)
        assert isinstance(names["adapted"], dc.AdaptedModel)
        assert torch.equal(names["logits"], classifier(images))
