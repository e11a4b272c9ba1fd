"""What a network does to its input reaches nobody else: each sees the images as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TINY_SITES, Batch, TinyCNN, tiny_cnn
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.networks import features, tap
from deepcorrect.runtime import InputError

MEAN, STD = 0.4, 0.25
GRID = ["gaussian_blur:1,2", "awgn:20"]


class Plain(nn.Module):
    """A bare network that normalises its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner: TinyCNN = tiny_cnn()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner((images - MEAN) / STD)


class InPlace(Plain):
    """The same, in place: the caller's tensor is changed."""

    def forward(self, images: Tensor) -> Tensor:
        images -= MEAN
        images.div_(STD)
        return self.inner(images)


class OnViews(Plain):
    """The same, in place on views of the input."""

    def forward(self, images: Tensor) -> Tensor:
        images[:, 0].sub_(MEAN)
        images[:, 1:].sub_(MEAN)
        images.flatten(2).div_(STD)
        return self.inner(images)


@pytest.fixture(params=[InPlace, OnViews])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    return Plain().eval(), request.param().eval()


SITES = [f"inner.{site}" for site in TINY_SITES]


def test_every_measurement_is_that_of_the_same_network_out_of_place(
    pair: tuple[nn.Module, nn.Module], batches: list[Batch]
) -> None:
    before = [images.clone() for images, _ in batches]
    found: list[list[Any]] = []
    for network in pair:
        results: list[Any] = [dc.evaluate(network, batches, GRID)]
        results.append(dc.evaluate(network, batches, GRID, target="prediction"))
        for method in ("swap", "swap_logprob", "gradient", "conductance", "path", "change"):
            ranking = dc.rank(network, batches, GRID, method, SITES)
            results += [values.flatten().tolist() for values in ranking.by_level.values()]
            curves = dc.ideal_correction(network, batches, ranking, betas=[0.5])
            results.append({site: values.tolist() for site, values in curves.top1.items()})
        found.append(results)
    for one, other in zip(*found, strict=True):
        assert one == (other if not isinstance(one, list) else pytest.approx(other, abs=1e-4))
    for (images, _), kept in zip(batches, before, strict=True):
        assert torch.equal(images, kept)


def test_corrections_are_trained_gated_and_fused_alike(
    pair: tuple[nn.Module, nn.Module], batches: list[Batch]
) -> None:
    before = [images.clone() for images, _ in batches]
    many = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    states, answers = [], []
    for network in pair:
        adapted = dc.correct(network, {"inner.stem": [0, 3]}, unit={"kind": "lite", "width": 4})
        dc.fit_gate(adapted, [(many, torch.zeros(60))], ["awgn:20"])
        objective = {"logits": 1.0, "activations": 1.0, "features": 1.0}
        dc.fit(
            adapted, batches, GRID, validation=batches, epochs=2, precision="float32",
            objective=objective,
        )  # fmt: skip
        states.append(adapted.state_dict())
        with torch.no_grad():
            answers.append(adapted(before[0].clone()))
            fused = dc.fuse(adapted, before[0].clone())(before[0].clone())
        torch.testing.assert_close(fused, answers[-1], atol=1e-4, rtol=1e-4)
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    torch.testing.assert_close(answers[0], answers[1], atol=1e-4, rtol=1e-4)
    for (shown, _), kept in zip(batches, before, strict=True):
        assert torch.equal(shown, kept)


def test_maps_and_features_are_read_alike(
    pair: tuple[nn.Module, nn.Module], images: Tensor
) -> None:
    read = []
    for network in pair:
        with tap(network, SITES) as maps, features(network) as vectors, torch.no_grad():
            network(images.clone())
            read.append([vectors(), *maps.values()])
    for one, other in zip(*read, strict=True):
        torch.testing.assert_close(one, other)


# --- images and numbers that cannot be right


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((torch.rand(12, 3, 16, 16) - 0.45) / 0.2, "look normalised"),
        (torch.rand(12, 3, 16, 16) * 255, "divide them by 255"),
        ((torch.rand(12, 3, 16, 16) * 255).round(), "divide them by 255"),
        ((torch.rand(12, 3, 16, 16) * 255).long(), r"are int64: give floats in \[0, 1\]"),
        ((torch.rand(12, 3, 16, 16) * 2).byte(), "bytes of at most 1"),
        (torch.rand(12, 3, 16, 16).double() * 2 - 1, "look normalised"),
    ],
    ids=["normalised", "of 0 to 255", "whole", "integers", "bits", "from -1 to 1"],
)
def test_a_loader_of_other_values_is_refused_everywhere(
    classifier: dc.Classifier, images: Tensor, labels: Tensor, message: str
) -> None:
    loader = [(images, labels)]
    adapted = dc.correct(classifier, {"stem": [0]})
    calls = [
        lambda: dc.evaluate(classifier, loader, "awgn:20"),
        lambda: dc.rank(classifier, loader, "awgn:20"),
        lambda: dc.fit(adapted, loader, "awgn:20", epochs=1),
        lambda: dc.fit_gate(adapted, [(images.repeat(4, 1, 1, 1), labels)], "awgn:20"),
        lambda: dc.feature_transfer(classifier, loader, loader, "awgn:20"),
    ]
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()


def test_bicubic_overshoot_is_accepted_and_the_check_can_be_switched_off(
    classifier: dc.Classifier, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = nn.functional.interpolate((images > 0.5).float(), scale_factor=2, mode="bicubic")
    assert float(over.min()) < 0 < 1 < float(over.max())
    dc.evaluate(classifier, [(over[..., :16, :16], labels)], "awgn:20")
    monkeypatch.setenv("DEEPCORRECT_CHECK_IMAGES", "0")
    dc.evaluate(classifier, [(images * 255, labels)], "awgn:20")


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((33.3,), (0.3,), "mean 33.3 .* divided by 255: 0.1306"),
        ((0.13,), (78.6,), "std 78.6 .* divided by 255: 0.3082"),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "divided by 255: 0.4851, 0.4561, 0.4059"),
        ((-0.1, 0.5, 0.5), (0.2, 0.2, 0.2), r"mean -0.1, 0.5, 0.5 is not in \[0, 1\]"),
        ((0.5,), (0.0,), r"std 0 is not in \(0, 1\]"),
        ((0.5,), (-0.2,), r"std -0.2 is not in"),
        ((float("nan"),), (0.2,), "mean nan is not in"),
        ((300.0,), (0.2,), r"mean 300 is not in \[0, 1\]: it is that of images in \[0, 1\]$"),
        ((0.5, 0.5), (0.2, 0.2), "one value"),
    ],
)
def test_statistics_that_images_cannot_have_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        dc.Preprocessing(32, mean, std)
