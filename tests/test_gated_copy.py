"""A fine-tuned copy behind a gate: what it answers, how it is trained, and what it costs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from conftest import Batch, TinyCNN, cut, tiny_cnn
from test_gate import FILTERS, KINDS, half_distorted, soft_images
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.alternatives import lora, merge
from deepcorrect.networks import Branches, Classifier, features, find, tap
from deepcorrect.runtime import InputError

SETTINGS = {"precision": "float32", "channels_last": False, "epochs": 2}


@pytest.fixture
def clean() -> Tensor:
    return soft_images(120)


@pytest.fixture
def loader(clean: Tensor) -> list[Batch]:
    return cut(clean, torch.arange(120) % 5, 24)


@pytest.fixture
def gated(classifier: Classifier, loader: list[Batch]) -> dc.GatedCopy:
    """A copy with weights of its own, behind a gate."""
    gated = dc.GatedCopy(classifier, dc.finetune(classifier))
    with torch.no_grad():
        for parameter in gated.tuned.parameters():
            parameter.mul_(1.1)
    dc.fit_gate(gated, loader, KINDS)
    return gated


def answers(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def test_each_image_gets_the_answer_of_the_network_it_is_sent_to(
    classifier: Classifier, gated: dc.GatedCopy, clean: Tensor
) -> None:
    images, _ = half_distorted(clean)
    chosen = dc.looks_distorted(gated, images)
    assert 10 < int(chosen.sum()) < 110
    given = answers(gated, images)
    assert torch.equal(given[chosen], answers(gated.tuned, images[chosen]))
    assert torch.equal(given[~chosen], answers(classifier, images[~chosen]))
    with gated.ungated():
        assert torch.equal(answers(gated, images), answers(gated.tuned, images))
    gated.train()
    in_training = answers(copy.deepcopy(gated.tuned).train(), images)
    assert torch.equal(answers(gated, images), in_training), "training sends all to the copy"
    assert not classifier.training
    gated.eval().set_gate(None)
    assert torch.equal(answers(gated, images), answers(gated.tuned, images))


def test_its_gate_is_that_of_a_correction_of_the_same_network(
    classifier: Classifier, gated: dc.GatedCopy, loader: list[Batch]
) -> None:
    adapted = dc.correct(classifier, FILTERS)
    assert gated.gate is not None
    assert gated.gate.config == dc.fit_gate(adapted, loader, KINDS)


def test_however_the_network_is_wrapped_the_copy_runs_in_it(loader: list[Batch]) -> None:
    network = nn.Sequential(nn.Identity(), tiny_cnn())
    gated = dc.GatedCopy(network, dc.finetune(network))
    dc.fit_gate(gated, loader, KINDS)
    with torch.no_grad():
        gated.tuned.get_parameter("1.head.bias").add_(1)
    images = torch.rand(3, 3, 16, 16)
    assert torch.allclose(answers(gated, images), answers(network, images) + 1)
    with tap(gated, ["0", "1.stem"]) as maps:
        answers(gated, images)
    assert torch.equal(maps["0"], images)
    assert torch.equal(maps["1.stem"], answers(find(gated)["1.stem"], images))


def test_training_changes_the_copy_alone_and_resumes(
    classifier: Classifier, loader: list[Batch], tmp_path: Path
) -> None:
    before = copy.deepcopy(classifier.state_dict())

    def trained(checkpoint: Path | None, epochs: int) -> dc.GatedCopy:
        gated = dc.GatedCopy(classifier, dc.finetune(classifier))
        dc.fit_gate(gated, loader, KINDS)
        objective = {"logits": 1.0, "activations": 4.0}
        changes = {**SETTINGS, "epochs": epochs, "schedule": "step", "objective": objective}
        dc.fit(gated, loader, KINDS, checkpoint=checkpoint, **changes)
        return gated

    whole = trained(None, 2)
    path = tmp_path / "training.pt"
    trained(path, 2)
    resumed = trained(path, 2)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
        assert not torch.equal(value, before[name]) or not value.is_floating_point(), name
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    other = dc.GatedCopy(classifier, dc.finetune(classifier))
    with pytest.raises(InputError, match="made with another gate, training setting"):
        dc.fit(other, loader, KINDS, checkpoint=path, **SETTINGS)


def test_its_state_is_the_fine_tuned_copys(
    classifier: Classifier, gated: dc.GatedCopy, clean: Tensor
) -> None:
    tuned = dc.finetune(classifier)
    tuned.load_state_dict(gated.state_dict())
    assert torch.equal(answers(tuned, clean), answers(gated.tuned, clean))
    assert gated.gate is not None
    again = dc.GatedCopy(classifier, dc.finetune(classifier), gated.gate.config)
    again.load_state_dict(gated.state_dict())
    images, _ = half_distorted(clean)
    assert torch.equal(answers(again, images), answers(gated, images))
    assert torch.equal(answers(copy.deepcopy(gated), images), answers(gated, images))


def test_it_costs_two_networks_and_one_pass(classifier: Classifier, gated: dc.GatedCopy) -> None:
    one, both = (dc.costs(model, classifier.preprocessing) for model in (classifier, gated))
    assert gated.gate is not None
    own = sum(p.numel() for p in gated.gate.parameters())
    assert both.parameters == 2 * one.parameters + own
    assert both.trainable_parameters == one.parameters
    assert both.multiply_adds == one.multiply_adds


def test_parts_of_the_copy_can_be_trained_alone(classifier: Classifier) -> None:
    gated = dc.GatedCopy(classifier, dc.finetune(classifier, "norms"))
    count = sum(p.numel() for p in gated.trainable_parameters())
    assert count == 2 * 8 + 2 * 12  # weights and biases of two batch norms


def test_features_are_of_the_network_that_answered(
    classifier: Classifier, gated: dc.GatedCopy, clean: Tensor
) -> None:
    images, _ = half_distorted(clean)
    chosen = dc.looks_distorted(gated, images)
    found = []
    for model in (gated, gated.tuned, classifier):
        with features(model) as read, torch.no_grad():
            model(images)
            found.append(read())
    expected = torch.where(chosen[:, None], found[1], found[2])
    assert torch.allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize("file", ["network.pt2", "network.onnx"])
def test_fused_and_exported_it_answers_the_same(
    gated: dc.GatedCopy, clean: Tensor, tmp_path: Path, file: str
) -> None:
    images, _ = half_distorted(clean)
    fused = dc.fuse(gated)
    assert torch.allclose(answers(fused, images), answers(gated, images), atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    exported = dc.export(gated, tmp_path / file, images=images)
    assert exported.largest_difference < 1e-3


def test_a_network_beside_a_copy_with_more_modules_is_fused_too(
    classifier: Classifier, loader: list[Batch], clean: Tensor
) -> None:
    images, _ = half_distorted(clean)
    merged = merge(lora(classifier, 0.5))
    gated = dc.GatedCopy(classifier, merged)
    dc.fit_gate(gated, loader, KINDS)
    fused = dc.fuse(gated)
    assert torch.allclose(answers(fused, images), answers(gated, images), atol=1e-4)
    (place,) = (module for module in fused.modules() if isinstance(module, Branches))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in place.base.modules())


def test_what_is_no_copy_is_refused(classifier: Classifier, network: TinyCNN) -> None:
    with pytest.raises(InputError, match="shares parameters"):
        dc.GatedCopy(classifier, classifier)
    with pytest.raises(InputError, match="not a copy of the first"):
        dc.GatedCopy(classifier, TinyCNN(classes=7))
    adapted = dc.correct(network, FILTERS)
    with pytest.raises(InputError, match="corrected already"):
        dc.GatedCopy(adapted, copy.deepcopy(network))
    gated = dc.GatedCopy(network, dc.finetune(network))
    with pytest.raises(InputError, match="correct its `network` or its `tuned`"):
        dc.correct(gated, FILTERS)


def test_a_network_that_never_calls_what_was_copied_is_refused(network: TinyCNN) -> None:
    class Reads(nn.Module):
        def __init__(self, network: TinyCNN) -> None:
            super().__init__()
            self.inner = network

        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.conv2d(images, self.inner.stem.weight).mean((2, 3))

    model = Reads(network)
    gated = dc.GatedCopy(model, dc.finetune(model))
    with pytest.raises(InputError, match="never calls"):
        gated(torch.rand(2, 3, 16, 16))
