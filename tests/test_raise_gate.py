"""Raising a gate's thresholds to where the correction helps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
import torch
from conftest import Batch
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel
from deepcorrect.correction._raise_gate import GateAnswers, _rises, gate_answers, margins, rises
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


def gained(scores: Tensor, gains: Tensor, rises: Sequence[float]) -> float:
    """What the images gain that are above a threshold."""
    return float(gains[(scores > torch.tensor(rises)).any(1)].sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_of_one_kind_gains_most(seed: int) -> None:
    """Against every threshold that is possible, one by one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(60, 1, generator=generator)
    gains = 0.5 * torch.randn(60, generator=generator).double() + 0.3 * scores[:, 0] - 0.2
    tried = [0.0, *scores[scores > 0].tolist()]
    found = _rises(scores, gains).tolist()
    assert found[0] in tried
    assert gained(scores, gains, found) == pytest.approx(
        max(gained(scores, gains, [each]) for each in tried)
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_thresholds_of_two_kinds_gain_nearly_most(seed: int) -> None:
    """Against every pair of thresholds; where slight images lose and strong ones gain."""
    generator = torch.Generator().manual_seed(seed)
    strength = 4 * torch.rand(50, generator=generator)
    scores = strength[:, None] + 0.7 * torch.randn(50, 2, generator=generator)
    gains = (strength - 1.5 + 0.3 * torch.randn(50, generator=generator)).double()
    tried = [[0.0, *column[column > 0].tolist()] for column in scores.T]
    best = max(gained(scores, gains, pair) for pair in product(*tried))
    found = gained(scores, gains, _rises(scores, gains).tolist())
    assert found >= best - 0.05 * abs(best)
    assert found > gained(scores, gains, [0.0, 0.0])


def test_an_image_that_two_kinds_send_is_kept_back_by_both() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-1.0, -1.0]])
    gains = torch.tensor([-1.0, 1.0, -9.0]).double()
    rises = _rises(scores, gains)
    assert (scores > rises).any(1).tolist() == [False, True, False]


def test_what_is_lost_alone_stays_lost() -> None:
    """Nothing is gained by any threshold: nothing is sent."""
    scores, gains = torch.tensor([[1.0, 5.0], [2.0, -1.0]]), torch.tensor([-9.0, -1.0]).double()
    assert not (scores > _rises(scores, gains)).any()


def test_thresholds_rise_no_higher_than_needed() -> None:
    scores, gains = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([1.0, 0.0]).double()
    assert _rises(scores, gains).tolist() == [0, 0]


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


def test_the_answers_to_each_cell_are_those_of_both_networks(adapted: AdaptedModel) -> None:
    """Contrast has no randomness, so that each cell can be computed alone."""
    harm(adapted)
    ((images, labels),) = batches()
    parts = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    (found,) = gate_answers(adapted, parts, ["contrast:1,3"], seed=0)
    contrast = dc.Distortion("contrast")
    cells = [images, contrast(images, 1), contrast(images, 3)]
    truth = adapted.network(images).argmax(1)
    assert adapted.gate is not None
    for row, cell in enumerate(cells):
        with torch.no_grad():
            assert torch.allclose(found.scores[row], adapted.gate.scores(cell), atol=1e-4)
            before = adapted.network(cell)
            with adapted.ungated():
                after = adapted(cell)
        for logits, found_margins in ((before, found.before), (after, found.after)):
            dark = logits[:, 0] - logits[:, 1]
            assert torch.allclose(
                found_margins[row], torch.where(truth == 0, dark, -dark), atol=1e-3
            )
            assert (found_margins[row] > 0).equal(logits.argmax(1) == truth)
    assert (found.before[0] > 0).all()
    assert not (found.after[0] > 0).all()


def test_no_level_loses_for_the_gain_of_others() -> None:
    """Two levels that the gate cannot tell apart: one gains, the other loses, the first more."""
    sure = torch.full((100,), 9.0)
    gains, loses = sure.clone(), sure.clone()
    gains[:50], loses[:10] = -9, -9
    scores = torch.stack([torch.full((100, 1), each) for each in (-1.0, 2.0, 2.0, 3.0)])
    before = torch.stack([sure, gains, sure, gains])
    found = GateAnswers(scores, before, torch.stack([sure, sure, loses, sure]))
    assert 2 <= float(rises(found)) < 3  # the last level alone is corrected
    better = GateAnswers(scores, before, torch.stack([sure, sure, sure, sure]))
    assert float(rises(better)) == 0


def test_what_a_level_loses_counts_tenfold() -> None:
    """Three of 1,000 slightly distorted images are lost by a threshold that others gain by."""
    sure = torch.full((1000,), 9.0)
    lost, gained = sure.clone(), torch.full((1000,), -9.0)
    lost[:3] = -9
    scores = torch.full((3, 1000, 1), -1.0)
    scores[1, :3] = 2
    scores[2] = 3
    for count, raised in ((5, True), (29, True), (31, False), (200, False)):
        scores[2, :count] = 2
        found = GateAnswers(
            scores, torch.stack([sure, sure, gained]), torch.stack([sure, lost, sure])
        )
        assert (float(rises(found)) == 2) is raised
        assert float(rises(found, loss=1)) == 0


def test_answers_that_are_no_numbers_are_the_worst() -> None:
    """A correction that overflows for some images harms there, and may help elsewhere."""
    logits = torch.tensor([[1.0, 3.0], [torch.nan, 1.0], [torch.inf, torch.inf]])
    found = margins(logits, torch.tensor([1, 1, 0]))
    assert found.tolist() == [2, -torch.inf, -torch.inf]
    sure, lost = torch.full((100,), 9.0), torch.full((100,), -9.0)
    scores = torch.stack([torch.full((100, 1), each) for each in (-1.0, 2.0, 3.0)])
    after = torch.stack([sure, torch.full((100,), -torch.inf), sure])
    answers = GateAnswers(scores, torch.stack([sure, sure, lost]), after)
    assert 2 <= float(rises(answers)) < 3
    huge = after.clone()
    huge[1, 1:] = 9
    for one in (-torch.inf, -1e4, -1e30, 1e30):
        huge[1, 0] = one
        found = rises(GateAnswers(scores, torch.stack([sure, lost, lost]), huge))
        assert float(found) == 0, "one answer of many says nothing of the others"
    nothing = GateAnswers(
        scores, torch.stack([sure, sure, lost]), torch.full_like(after, -torch.inf)
    )
    assert float(rises(nothing)) >= 3


def test_images_that_are_the_same_stay_together() -> None:
    """A threshold keeps all of them back or none: the first half gains nothing on its own."""
    scores = torch.ones(4, 1)
    for gains in ([-1.0, -1.0, 1.5, 1.5], [-1.0, -1.0, 0.5, 0.5]):
        rise = _rises(scores, torch.tensor(gains, dtype=torch.float64))
        assert float(rise) == (0.0 if sum(gains) > 0 else 1.0)


def test_margins_are_those_to_the_best_of_the_other_answers() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.5], [1.0, 3.0, 2.5], [4.0, 0.0, 4.0]])
    assert margins(logits, torch.tensor([1, 0, 2])).tolist() == [0.5, -2.0, 0.0]


@pytest.mark.parametrize("scale", [0.01, 0.3, 5.0])
def test_it_does_not_matter_how_sure_a_network_is_of_its_answers(scale: float) -> None:
    """A copy that answers as another one does, and is less sure, has the same gate."""
    gates = []
    for factor in (1.0, scale):
        copy = dc.GatedCopy(loudness_network(), loudness_network())
        dc.fit_gate(copy, batches(), KINDS, false_alarms=0.1)
        with torch.no_grad():
            for value in copy.state_dict().values():
                value.add_(0.05)  # some answers change
            for name in ("3.weight", "3.bias"):
                copy.state_dict()[name].mul_(factor)
        fitted = copy.gate and copy.gate.config
        gates.append(dc.raise_gate(copy, batches(), KINDS))
        assert gates[-1] != fitted
    assert gates[0].biases == pytest.approx(gates[1].biases, abs=1e-6)


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
