"""The strength of a trained correction, chosen on images that it was not trained on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_raise_gate import batches, loudness_network
from torch import nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, Strength, find_strength, set_strength
from deepcorrect.correction._raise_gate import GateAnswers, right_and_gain
from deepcorrect.runtime import InputError

KINDS = ["brightness:4,5"]
SENDS_ALL = dc.GateConfig(kinds=("awgn",), weights=((0.0,) * 38,), biases=(1.0,), false_alarms=0.5)
"""A gate that cannot tell images apart."""


def ready(unit: Any = "weights", shift: float = 0.0) -> AdaptedModel:
    """A network that tells dark images from bright ones, with a gate that sends every image.

    Its correction moves the brightness that it sees by `shift`.
    """
    adapted = dc.correct(loudness_network(), {"0": [0, 1, 2, 3]}, unit=unit)
    adapted.set_gate(SENDS_ALL)
    weights = adapted.corrected_site("0").weights
    if weights is not None:
        with torch.no_grad():  # in units of the norm of a filter's 27 weights, see FilterWeights
            weights.shift.fill_(shift * 27**0.5)
    return adapted


def kept_answers(shift: float) -> int:
    """How many images keep their answer with a shift, by the formula of the network's answer."""
    ((images, _),) = batches()
    dark = images.flatten(1).mean(1) < 0.5
    brighter = dc.Distortion("brightness")
    right = 0
    for shown in (images, brighter(images, 4), brighter(images, 5)):
        seen = nn.functional.conv2d(shown, torch.full((1, 3, 3, 3), 1 / 27), padding=1)
        right += int(((seen.flatten(1).mean(1) + shift < 0.5) == dark).sum())
    return right


@pytest.mark.parametrize(
    ("shift", "best"),
    [(-0.05, [1.0]), (-0.1, [1.0, 0.75, 0.5]), (-0.2, [0.5, 0.25])],
)
def test_a_correction_that_goes_too_far_is_weakened(shift: float, best: list[float]) -> None:
    """To where most images keep their answer, by the formula."""
    strengths = (1.0, 0.75, 0.5, 0.25)
    most = max(kept_answers(each * shift) for each in strengths)
    assert [each for each in strengths if kept_answers(each * shift) == most] == best
    adapted = ready(shift=shift)
    chosen = dc.choose_strength(adapted, batches(), KINDS, strengths=strengths)
    assert chosen in best
    weights = adapted.corrected_site("0").weights
    assert weights is not None
    wanted = torch.full((4,), chosen * shift * 27**0.5)
    torch.testing.assert_close(weights.shift.detach(), wanted)


def test_answers_count_before_how_sure_they_are() -> None:
    """One cell of four images, of which the gate sends the last three, or the last two."""
    found = GateAnswers(
        scores=torch.tensor([[[-1.0], [1.0], [2.0], [3.0]]]),
        before=torch.tensor([[9.0, 6.0, -2.0, -3.0]]),
        after=torch.tensor([[-5.0, -0.4, 1.0, -0.1]]),
    )
    right, gain = right_and_gain(found, torch.tensor([0.0]))
    fewer, more = right_and_gain(found, torch.tensor([1.0]))
    assert (right, fewer) == (2, 3)
    assert more - gain == pytest.approx(-float(found.gains[0, 1]))
    assert (found.gains[0] > 0).tolist() == [False, False, True, True]


def test_the_gate_is_raised_as_it_is_for_that_strength() -> None:
    adapted, other = ready(shift=-0.2), ready(shift=-0.2)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    found = find_strength(other, batches(), KINDS, seed=3)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    assert dc.choose_strength(adapted, batches(), KINDS, seed=3) == found.strength < 1
    assert found.gate == adapted.gate.config  # pyright: ignore
    weaken(other, found.strength)
    assert dc.raise_gate(other, batches(), KINDS, seed=3) == adapted.gate.config  # pyright: ignore
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def weaken(adapted: AdaptedModel, strength: float) -> None:
    assert adapted.gate is not None
    set_strength(adapted, Strength(strength=strength, gate=adapted.gate.config))


def test_weights_are_between_the_networks_and_the_trained_ones() -> None:
    adapted = ready()
    generator = torch.Generator().manual_seed(0)
    trained = {
        name: value + torch.randn(value.shape, generator=generator)
        for name, value in adapted.state_dict().items()
    }
    adapted.load_state_dict(trained)
    weaken(adapted, 0.25)
    for name, value in adapted.state_dict().items():
        neutral = 1.0 if name.endswith("scale") else 0.0
        torch.testing.assert_close(value, neutral + 0.25 * (trained[name] - neutral))
    ((images, _),) = batches()
    weaken(adapted, 1e-6)
    torch.testing.assert_close(adapted(images), adapted.network(images), rtol=1e-3, atol=1e-3)


def test_units_keep_their_strength_and_their_gate_is_raised() -> None:
    adapted = ready("bottleneck")
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    assert dc.choose_strength(adapted, batches(), KINDS) == 1
    assert all(torch.equal(before[name], value) for name, value in adapted.state_dict().items())
    mixed = ready("weights+bottleneck", shift=-0.2)
    own = {name: value.clone() for name, value in mixed.state_dict().items()}
    assert dc.choose_strength(mixed, batches(), KINDS) < 1
    changed = [n for n, value in mixed.state_dict().items() if not torch.equal(own[n], value)]
    assert changed == ["0/weights.shift"]


def test_a_gated_copy_is_weakened_as_a_correction_is() -> None:
    """The fair competitor: all of its weights are interpolated with the network's."""
    network = loudness_network()
    gated = dc.GatedCopy(network, dc.finetune(network))
    gated.set_gate(SENDS_ALL)
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        gated.tuned[0].bias.sub_(0.2)  # pyright: ignore
    strength = dc.choose_strength(gated, batches(), KINDS, strengths=(1, 0.5, 0.25))
    assert strength == 0.25
    torch.testing.assert_close(gated.state_dict()["0.bias"], torch.full((4,), -0.05))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("strengths", [(), (0, 1), (1.5,), (float("nan"),)])
def test_strengths_are_above_0_and_up_to_1(strengths: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="above 0 and up to 1"):
        dc.choose_strength(ready(), batches(), KINDS, strengths=strengths)


def test_without_a_gate_there_is_no_strength() -> None:
    adapted = ready()
    adapted.set_gate(None)
    with pytest.raises(InputError, match="has no gate"):
        dc.choose_strength(adapted, batches(), KINDS)


def test_of_a_copy_with_more_modules_the_gate_alone_is_raised() -> None:
    """There are no weights between the network's and those that it does not have."""
    found = []
    for choose in (dc.choose_strength, dc.raise_gate):
        network = loudness_network()
        tuned = dc.finetune(network)
        tuned.add_module("extra", nn.Linear(2, 2))
        gated = dc.GatedCopy(network, tuned, SENDS_ALL)
        with torch.no_grad():
            gated.tuned[0].bias.sub_(0.2)  # pyright: ignore
        before = {name: value.clone() for name, value in gated.state_dict().items()}
        assert choose(gated, batches(), KINDS) in (1.0, gated.gate and gated.gate.config)
        assert all(torch.equal(before[name], value) for name, value in gated.state_dict().items())
        found.append(gated.gate and gated.gate.config)
    assert found[0] == found[1] != SENDS_ALL
