"""A gate that lets both networks answer the images that it takes for clean."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import GatedModel
from deepcorrect.networks import features, mean_answers
from deepcorrect.runtime import InputError

CLEAN = torch.full((3, 3, 16, 16), 0.5)
NOISE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MIXED = torch.cat([CLEAN[:1], NOISE[:1], CLEAN[1:], NOISE[1:]])
LOOKS_CLEAN = torch.tensor([True, False, True, True, False])


def gate(**others: Any) -> dc.GateConfig:
    return dc.GateConfig(
        kinds=("awgn",), weights=((1.0,) * 38,), biases=(300.0,), false_alarms=0.05, **others
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def adapter() -> dc.AdaptedModel:
    adapted = dc.correct(network(), {"0": [1, 5]}, unit="weights")
    changed = {name: value + 0.7 for name, value in adapted.state_dict().items()}
    adapted.load_state_dict(changed)
    adapted.set_gate(gate(others="mean"))
    return adapted.eval()


def gated_copy() -> dc.GatedCopy:
    base = network()
    tuned = dc.finetune(base)
    with torch.no_grad():
        for each in tuned.parameters():
            each.add_(0.3)
    return dc.GatedCopy(base, tuned, gate(others="mean"))


def with_batch_statistics_of_its_own() -> dc.AdaptedModel:
    wrapped = dc.Classifier(network(), dc.Preprocessing(16, (0.1,) * 3, (0.9,) * 3))
    adapted = dc.correct(wrapped, {"0": [1, 5]}, unit="bottleneck")
    with torch.no_grad():
        for each in adapted.parameters():
            each.add_(0.3)
    adapted.set_gate(gate(others="mean"))
    return adapted.eval()


MODELS = {"weights": adapter, "copy": gated_copy, "units": with_batch_statistics_of_its_own}


def expected(model: GatedModel, images: Tensor) -> Tensor:
    """By hand: probabilities averaged where images look clean."""
    with torch.no_grad(), model.ungated():
        corrected = model(images).softmax(1)
    with torch.no_grad():
        own = model.network(images).softmax(1)
    looks_clean = ~dc.looks_distorted(model, images)[:, None]
    return torch.where(looks_clean, (corrected + own) / 2, corrected)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("images", [MIXED, MIXED[:1], MIXED[1:2], CLEAN, NOISE], ids=len)
def test_images_that_look_clean_get_the_mean_of_both_probabilities(
    make: Any, images: Tensor
) -> None:
    model = make()
    before = images.clone()
    with torch.no_grad():
        found = model(images).softmax(1)
    torch.testing.assert_close(found, expected(model, before), rtol=1e-4, atol=1e-5)
    assert torch.equal(images, before)
    assert (~dc.looks_distorted(model, MIXED)).equal(LOOKS_CLEAN)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_fused_and_exported_networks_answer_alike(make: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make()
    fused = dc.fuse(model, MIXED)
    with torch.no_grad():
        found = fused(MIXED).softmax(1)
    wanted = expected(model, MIXED)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    for batch in (None, 5):
        path = tmp_path / f"{batch}.onnx"
        dc.export(model, path, images=MIXED, batch_size=batch)
        session = onnxruntime.InferenceSession(str(path))
        for images in (MIXED, MIXED.flip(0)) if batch else (MIXED, MIXED[:1], MIXED[1:2]):
            (logits,) = session.run(None, {"images": images.numpy()})
            shown = torch.from_numpy(np.asarray(logits)).softmax(1)
            torch.testing.assert_close(shown, expected(model, images), rtol=1e-3, atol=1e-4)


def test_eight_bits_answer_alike(tmp_path: Path) -> None:
    """Against both networks, rounded alike: what the file says without the gate's choice."""
    pytest.importorskip("onnxruntime")
    images = torch.rand(32, 3, 16, 16) * torch.tensor([0.02, 1.0]).repeat(16).view(-1, 1, 1, 1)
    loaders = [[(images + shift, torch.zeros(32, dtype=torch.long))] for shift in (0, 0.001)]
    answers = {}
    model = adapter()
    for others in ("network", "mean"):
        model.set_gate(gate(others=others))
        done = dc.quantize(model, tmp_path / f"{others}.onnx", loaders[0], loaders[1], "awgn:40")
        with torch.no_grad():
            answers[others] = dc.load_exported(done.path)(MIXED).softmax(1)
        wanted = expected(model, MIXED) if others == "mean" else model(MIXED).softmax(1)
        torch.testing.assert_close(answers[others], wanted, rtol=0.05, atol=0.02)
    change = (answers["mean"] - answers["network"]).abs().amax(1) > 1e-3
    assert torch.equal(change, LOOKS_CLEAN)


def test_objects_that_hold_the_logits_are_averaged() -> None:
    first, second = torch.randn(2, 2, 5)
    found = mean_answers({"logits": first, "loss": None}, {"logits": second, "loss": None})
    torch.testing.assert_close(found["logits"], mean_answers(first, second))
    with pytest.raises(InputError, match="others='network'"):
        mean_answers({"a": first, "b": first}, {"a": second, "b": second})


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_the_mean_has_the_type_of_the_logits(kind: torch.dtype) -> None:
    assert mean_answers(torch.zeros(1, 2, dtype=kind), torch.ones(1, 2, dtype=kind)).dtype == kind


def test_a_network_that_changes_the_answers_afterwards_is_refused() -> None:
    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images) / 4

    batches = [(torch.rand(16, 3, 16, 16), torch.zeros(16)) for _ in range(2)]
    adapted = dc.correct(Tempered().eval(), {"inner.0": [1, 5]}, unit="weights")
    with pytest.raises(InputError, match="changes these afterwards: choose others='network'"):
        dc.fit_gate(adapted, batches, ["awgn:40"], 0.25, others="mean")


def test_an_adapter_for_a_part_of_another_network_has_no_mean(tmp_path: Path) -> None:
    adapter().save_pretrained(tmp_path)
    larger = nn.Sequential(network(), nn.ReLU(), nn.Linear(5, 3)).eval()
    with pytest.raises(InputError, match="only a part of the network"):
        dc.load_adapter(larger, tmp_path)


def test_it_is_kept_with_the_adapter_and_said_in_its_card(tmp_path: Path) -> None:
    adapted = adapter()
    adapted.save_pretrained(tmp_path)
    again = dc.load_adapter(network(), tmp_path)
    assert again.gate is not None
    assert again.gate.config.others == "mean"
    with torch.no_grad():
        assert torch.equal(again(MIXED), adapted(MIXED))
    assert "the mean of the base network's" in (tmp_path / "README.md").read_text()
    assert "others" not in gate().model_dump(mode="json"), "gates are stored as they were before"
    assert dc.GateConfig(**gate(others="mean").model_dump(mode="json")).others == "mean"


def test_switched_off_it_is_the_network() -> None:
    adapted = adapter()
    with torch.no_grad():
        own = adapted.network(MIXED)
        with adapted.disable_adapter():
            assert torch.equal(adapted(MIXED), own)
        adapted.set_gate(gate())
        found = adapted(MIXED)
    assert torch.equal(found[LOOKS_CLEAN], own[LOOKS_CLEAN])


def test_gates_are_raised_against_the_mean() -> None:
    """An image is sent only where the corrected network is surer than the mean of both."""
    adapted = adapter()
    labels = torch.zeros(8)
    batches = [(torch.rand(8, 3, 16, 16) * 0.2 + 0.4, labels) for _ in range(4)]
    fitted = dc.fit_gate(adapted, batches, ["awgn:40"], 0.25, others="mean")
    assert fitted.others == "mean"
    raised = dc.raise_gate(adapted, batches, ["awgn:40"])
    assert raised.others == "mean"
    assert dc.choose_strength(adapted, batches, ["awgn:40"]) in (1, 0.7, 0.5, 0.3)
    assert adapted.gate is not None
    assert adapted.gate.config.others == "mean"


def test_only_logits_have_a_mean() -> None:
    batches = [(torch.rand(16, 3, 16, 16), torch.zeros(16)) for _ in range(2)]
    ends = nn.Sequential(*network(), nn.Softmax(1)).eval()
    adapted = dc.correct(ends, {"0": [1, 5]}, unit="weights")
    with pytest.raises(InputError, match="returns probabilities: choose others='network'"):
        dc.fit_gate(adapted, batches, ["awgn:40"], 0.25, others="mean")
    with pytest.raises(InputError, match="one of network, mean"):
        dc.fit_gate(adapted, batches, ["awgn:40"], 0.25, others="both")  # pyright: ignore
    with pytest.raises(InputError, match=r"returns \(2, 1\)"):
        mean_answers(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(InputError, match="returns dict: choose"):
        mean_answers({}, {})


def test_features_of_two_networks_are_refused() -> None:
    adapted = adapter()
    with torch.no_grad(), features(adapted) as read:
        adapted(NOISE)
        assert read().shape == (2, 8)  # all by one network
        for images in (MIXED, CLEAN):
            adapted(images)
            with pytest.raises(InputError, match="the mean of two networks"):
                read()
    with torch.no_grad(), adapted.ungated(), features(adapted) as read:
        adapted(MIXED)
        assert read().shape == (5, 8)
    with torch.no_grad(), adapted.disable_adapter(), features(adapted) as read:
        adapted(MIXED)
        assert read().shape == (5, 8)


def test_sure_and_opposed_networks_are_averaged_without_overflow() -> None:
    far = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    found = mean_answers(far, -far)
    torch.testing.assert_close(found, torch.full((2, 2), math.log(0.5)))


def test_without_a_gate_nobody_is_asked() -> None:
    images = [(torch.rand(8, 3, 16, 16), torch.zeros(8)) for _ in range(8)]
    with pytest.raises(InputError, match="give a gate"):
        dc.correct(network(), images, distortions="awgn:40", gate="none", others="mean")
    with pytest.raises(InputError, match="goes with images"):
        dc.correct(network(), {"0": [1]}, others="mean")


def test_correct_trains_for_it() -> None:
    told: list[Any] = []
    images = [(torch.rand(16, 3, 16, 16) * 0.1 + 0.4, torch.zeros(16)) for _ in range(8)]
    adapted = dc.correct(
        network(), images, distortions="awgn:40", others="mean", epochs=1, explain=told.append
    )
    values = {name: value for name, value, _ in told[0].explained()}
    assert (values["others"], values["clean_share"], values["levels"]) == ("mean", "0.1", "all")
    assert adapted.gate is not None
    assert adapted.gate.config.others == "mean"
    untouched = copy.deepcopy(adapted.network)
    with torch.no_grad(), adapted.disable_adapter():
        assert torch.equal(adapted(MIXED), untouched(MIXED))
