"""A corrected network as an ordinary module: inside others, emptied, in DataParallel, with PEFT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZE, tiny_cnn
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.alternatives import front_end
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import Preprocessing
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, optional_import

UNIT = {"kind": "bottleneck", "start": "he"}
GATE = dc.GateConfig(kinds=("awgn",), weights=((1.0,) * 38,), biases=(300.0,), false_alarms=0.05)
KNOWN = Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def adapted(seed: int = 0, gate: bool = False) -> AdaptedModel:
    classifier = Classifier(tiny_cnn(), KNOWN, "tiny").eval()
    made = dc.correct(classifier, {"stem": [1, 4], "pointwise": [2]}, unit=UNIT, seed=seed)
    made.set_gate(GATE if gate else None)
    return made


def gated_copy(seed: int = 0) -> dc.GatedCopy:
    network = tiny_cnn()
    made = dc.GatedCopy(network, dc.finetune(network))
    with torch.no_grad():
        for parameter in made.tuned.parameters():
            parameter.add_(seed * 0.01)
    return made


def adapter_set(seed: int = 0) -> dc.AdapterSet:
    network = tiny_cnn()
    names = {"blur": {"stem": [1, 4]}, "noise": {"stem": [0], "pointwise": [2]}}
    return dc.AdapterSet(
        {name: dc.correct(network, sites, unit=UNIT, seed=seed) for name, sites in names.items()}
    )


def answers(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


@pytest.fixture
def images() -> Tensor:
    flat = torch.linspace(0, 1, SIZE).expand(2, 3, SIZE, SIZE)
    return torch.cat([torch.rand(2, 3, SIZE, SIZE), flat])


KINDS: list[Callable[[int], nn.Module]] = [adapted, gated_copy, adapter_set]


@pytest.mark.parametrize("made", KINDS)
def test_a_module_around_saves_and_loads_what_is_its_own(made: Callable[[int], nn.Module]) -> None:
    one, other = (nn.ModuleDict({"before": nn.Linear(2, 2), "deep": made(n)}) for n in (1, 2))
    network = copy.deepcopy(tiny_cnn().state_dict())
    saved = one.state_dict()
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in saved.items())
    found = other.load_state_dict(saved)
    assert not found.missing_keys
    assert not found.unexpected_keys
    assert saved.keys() == other.state_dict().keys()
    for name, value in other.state_dict().items():
        assert torch.equal(value, saved[name]), name
    untouched: Any = other["deep"].network
    for name, value in getattr(untouched, "network", untouched).state_dict().items():
        assert torch.equal(value, network[name]), name


@pytest.mark.parametrize("made", KINDS)
def test_a_module_around_says_what_does_not_fit(made: Callable[[int], nn.Module]) -> None:
    around = nn.Sequential(made(1))
    saved = around.state_dict()
    first = next(name for name in saved if name.endswith("weight"))
    lacking = {name: value for name, value in saved.items() if name != first}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"" + first):
        around.load_state_dict(lacking)
    found = around.load_state_dict({**lacking, "0.stem.odd": torch.ones(1)}, strict=False)
    assert found.missing_keys == [first]
    odd = {**saved, "0.units.stem.residual.0.weight": torch.ones(1)}
    with pytest.raises(RuntimeError, match=r"(Unexpected key|belongs to no adapter)"):
        around.load_state_dict(odd)
    with pytest.raises(RuntimeError, match=r"shape"):
        around.load_state_dict({**saved, first: torch.ones(1)})


def test_what_is_not_finite_is_not_loaded_from_around() -> None:
    around = nn.Sequential(adapted())
    saved = around.state_dict()
    broken = {name: torch.full_like(value, float("nan")) for name, value in saved.items()
              if value.is_floating_point()}  # fmt: skip
    before = {name: value.clone() for name, value in saved.items()}
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        around.load_state_dict(broken, strict=False)
    assert all(torch.equal(value, before[name]) for name, value in around.state_dict().items())


@pytest.mark.parametrize("gate", [False, True])
def test_constants_survive_a_module_that_was_emptied(images: Tensor, gate: bool) -> None:
    model = adapted(gate=gate)
    expected = answers(model, images)
    own = copy.deepcopy(model.state_dict())
    network = copy.deepcopy(model.network.state_dict())
    model.to("meta").to_empty(device="cpu")
    model.load_state_dict(own)
    model.network.load_state_dict(network)
    assert torch.equal(answers(model, images), expected)
    for tensor in (*model.parameters(), *model.buffers()):
        assert tensor.device.type == "cpu"


def test_constants_of_a_front_end_and_of_a_fused_network_survive(images: Tensor) -> None:
    model = adapted()
    modulated = dc.correct(model.network, {"stem": [1, 4]}, unit={**UNIT, "modulation": 4})
    for made in (front_end(model.network, 0.5), dc.fuse(model), dc.fuse(modulated)):
        expected, state = answers(made, images), copy.deepcopy(made.state_dict())
        made.to_empty(device="cpu").load_state_dict(state)
        assert torch.equal(answers(made, images), expected)


def test_a_network_in_data_parallel_is_exported_as_the_network_inside(
    images: Tensor, tmp_path: Path
) -> None:
    expected = answers(adapted(), images)
    inside = dc.correct(
        nn.DataParallel(adapted().network), {"stem": [1, 4], "pointwise": [2]}, unit=UNIT
    )
    for number, model in enumerate((nn.DataParallel(adapted()), inside)):
        written = dc.export(model, tmp_path / f"{number}.pt2", images=images)
        found = answers(dc.load_exported(written.path), images)
        assert torch.allclose(found, expected, atol=1e-4)
        assert torch.allclose(answers(dc.fuse(model, images), images), expected, atol=1e-4)


class Encoder(nn.Module):
    """Torch's transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.patches(images).flatten(2).transpose(1, 2)).mean(1)


def test_a_layer_norm_that_torch_reads_itself_is_corrected(images: Tensor) -> None:
    network = Encoder().eval()
    model = dc.correct(network, {"layer.norm1": [0, 3]}, unit={"kind": "full", "start": "he"})
    with torch.enable_grad():  # torch calls the layers where gradients are computed
        expected = model(images).detach()
    assert torch.allclose(answers(model, images), expected, atol=1e-5)
    assert not torch.allclose(answers(network, images), expected, atol=1e-3)


def test_an_addition_that_torch_ignores_in_inference_is_to_be_merged_first(images: Tensor) -> None:
    peft = optional_import("peft", "alternatives")
    network = Encoder().eval()
    config = peft.LoraConfig(r=2, target_modules=["linear1"], init_lora_weights=False)
    with_lora = peft.get_peft_model(copy.deepcopy(network), config).eval()
    for site in ("linear1", "linear1.base_layer", "linear2"):
        with pytest.raises(InputError, match=r"linear1 is a peft Linear.* merge_and_unload"):
            dc.correct(with_lora.base_model.model, {f"layer.{site}": [0, 3]}, unit=UNIT)
    merged = with_lora.merge_and_unload().eval()
    model = dc.correct(merged, {"layer.linear1": [0, 3]})  # units start as the identity
    assert torch.allclose(answers(model, images), answers(merged, images), atol=1e-5)
    assert not torch.allclose(answers(merged, images), answers(network, images), atol=1e-3)
