"""Raising a gate's thresholds to where the correction helps."""

from __future__ import annotations

import pytest
import torch
from conftest import Batch
from torch import nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel
from deepcorrect.correction._raise_gate import _threshold
from deepcorrect.runtime import InputError

KINDS = ["awgn:20,60,100"]


def loudness_network() -> nn.Module:
    """Tells images by their mean; noise does not confuse it."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    network.load_state_dict(
        {
            "0.weight": torch.full((4, 3, 3, 3), 1 / 27),
            "0.bias": torch.zeros(4),
            "3.weight": torch.tensor([[-40.0] * 4, [40.0] * 4]),
            "3.bias": torch.tensor([80.0, -80.0]),
        }
    )
    return network.eval()


def batches() -> list[Batch]:
    """Smooth images, half of them darker."""
    ramp = torch.linspace(-0.1, 0.1, 16).expand(3, 16, 16)
    shades = torch.tensor([0.3, 0.7]).repeat(16).view(-1, 1, 1, 1)
    return [
        (
            ramp * torch.rand(32, 3, 1, 1, generator=torch.Generator().manual_seed(0)) + shades,
            torch.zeros(32),
        )
    ]


@pytest.fixture
def adapted() -> AdaptedModel:
    corrected = dc.correct(loudness_network(), {"0": [0, 1, 2, 3]}, unit="weights")
    dc.fit_gate(corrected, batches(), KINDS, false_alarms=0.1)
    return corrected


def sent(adapted: AdaptedModel) -> list[float]:
    """The share of the images that is corrected, clean and at each level."""
    ((images, _),) = batches()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) / 255
    shown = [images + level * noise for level in (0, 20, 60, 100)]
    return [float(dc.looks_distorted(adapted, each).float().mean()) for each in shown]


def harm(adapted: AdaptedModel) -> None:
    """Makes the corrected network answer every image as dark."""
    with torch.no_grad():
        adapted.state_dict()["0/weights.shift"].fill_(-100.0)


def test_a_correction_that_only_harms_corrects_nothing(adapted: AdaptedModel) -> None:
    assert sent(adapted)[1:] == [1.0, 1.0, 1.0]
    harm(adapted)
    raised = dc.raise_gate(adapted, batches(), KINDS)
    assert adapted.config.gate == raised
    assert max(sent(adapted)) < 0.25  # other noise than that which it was raised with


def test_a_correction_that_changes_nothing_keeps_its_gate(adapted: AdaptedModel) -> None:
    before = adapted.config.gate
    assert dc.raise_gate(adapted, batches(), KINDS) == before


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_loses_least(seed: int) -> None:
    """Against every threshold that is possible, one by one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(60, 2, generator=generator)
    gains = 0.5 * torch.randn(60, generator=generator).double() + 0.3 * scores[:, 0] - 0.2
    counts = (scores[:, 0] > 0) & (scores[:, 1] <= 0)

    def lost(threshold: float) -> float:
        return float(gains[counts & (scores[:, 0] <= threshold)].sum())

    found = _threshold(scores, gains, 0)
    tried = [0.0, *scores[counts, 0].tolist()]
    assert found in tried
    assert lost(found) == pytest.approx(min(lost(each) for each in tried))


def test_a_kind_is_judged_by_images_that_no_other_classifier_sends() -> None:
    scores = torch.tensor([[1.0, 5.0], [2.0, -1.0]])
    gains = torch.tensor([-9.0, 1.0]).double()
    assert _threshold(scores, gains, 0) == 0


def test_images_of_one_kind_raise_the_threshold_of_another_that_sends_them(
    adapted: AdaptedModel,
) -> None:
    """Blur is not among the gate's kinds, but images that are raised with may be blurred."""
    gate = adapted.config.gate
    assert gate is not None
    sends_all = gate.model_copy(update={"biases": tuple(each + 1e6 for each in gate.biases)})
    adapted.set_gate(sends_all)
    harm(adapted)
    dc.raise_gate(adapted, batches(), ["gaussian_blur:1"])
    ((images, _),) = batches()
    assert not dc.looks_distorted(adapted, images).any()


def test_a_gate_is_needed() -> None:
    bare = dc.correct(loudness_network(), {"0": [0]}, unit="weights")
    with pytest.raises(InputError, match="fit_gate"):
        dc.raise_gate(bare, batches(), KINDS)


def test_a_gated_copy_has_its_gate_raised_too() -> None:
    network = loudness_network()
    copy = dc.GatedCopy(network, loudness_network())
    dc.fit_gate(copy, batches(), KINDS, false_alarms=0.1)
    before = copy.gate.config if copy.gate else None
    assert dc.raise_gate(copy, batches(), KINDS) == before
