"""What a network does to its input reaches nobody else: each sees the images as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TINY_SITES, Batch, TinyCNN, tiny_cnn
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.networks import features, tap

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
