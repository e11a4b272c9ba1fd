"""Ranking's estimates against Captum and closed forms; the controls; targets without labels."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from conftest import CLASSES, TINY_SITES, Batch, cut, with_convolutions_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ranking import BLUR, DIGITS_SITES, blurred, clean_maps, pair_of
from torch import Tensor, nn

from deepcorrect.networks import Classifier
from deepcorrect.networks.patching import Replay
from deepcorrect.ranking import METHODS, Pair, Target, ideal_correction, rank
from deepcorrect.ranking._clean_distorted import Clean
from deepcorrect.ranking._priorities import Score, conductance, gradient, input_path, path
from deepcorrect.ranking._priorities import change as change_of
from deepcorrect.ranking._priorities import psnr as psnr_of
from deepcorrect.runtime import InputError

SITE = DIGITS_SITES[1]


class TwoClasses(nn.Module):
    """One convolution, then everything linear: the margin is linear in the site's maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Linear(6 * 8 * 8, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).flatten(1))


@pytest.fixture(scope="module")
def blurred_pair(digits_model: Classifier, digits_batch: Batch) -> Pair:
    """Every convolution behind which no shortcut goes."""
    return pair_of(digits_model, digits_batch, DIGITS_SITES)


def log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).log_softmax(1)


def whole_gain(pair: Pair, site: str) -> float:
    """What swapping all of a site's filters gains, by a full pass with hooks."""
    mean, std = pair.clean.model.mean, pair.clean.model.std
    network = pair.clean.model.network
    assert isinstance(mean, Tensor)
    assert isinstance(std, Tensor)
    assert isinstance(network, nn.Module)
    clean = clean_maps(pair.clean.model, pair.clean.images, [site])[site]
    normalised = (pair.images - mean) / std
    with torch.no_grad():
        before = network(normalised).log_softmax(1)
        after = with_convolutions_by_hand(network, {site: lambda _: clean.clone()}, normalised)
    return float((pair.clean.target * (after.log_softmax(1) - before)).sum())


# --- where everything is linear


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_every_estimate_has_its_closed_form_where_the_margin_is_linear(
    seed: int, steps: int
) -> None:
    """With margin m, log p = -log(1 + exp(-m)), whose derivative is the sigmoid of -m. The maps go
    straight from distorted to clean, whether the maps themselves are moved or the images, so that
    each filter scores its part of the margin's change times a mean of that along the way."""
    torch.manual_seed(seed)
    network = TwoClasses().eval()
    nn.init.normal_(network.head.weight, 0, 0.3)
    images, labels = torch.rand(5, 1, 8, 8), torch.randint(2, (5,))
    pair = pair_of(network, (images, labels), ["conv"])
    weight = (network.head.weight[1] - network.head.weight[0]).detach().double().view(6, 8, 8)
    bias = float((network.head.bias[1] - network.head.bias[0]).detach())
    clean, distorted = (
        clean_maps(network, each, ["conv"])["conv"].double() for each in (images, blurred(images))
    )
    signs = (labels * 2 - 1).double()
    starts = signs * ((distorted * weight).sum((1, 2, 3)) + bias)
    parts = signs[:, None] * ((clean - distorted) * weight).sum((2, 3))  # each filter's

    def slopes(places: Tensor) -> Tensor:
        return torch.sigmoid(-(starts[:, None] + places * parts.sum(1)[:, None]))

    middles = (torch.arange(steps) + 0.5) / steps
    ends = torch.arange(steps + 1) / steps
    trapezoid = torch.ones(steps + 1)
    trapezoid[0] = trapezoid[-1] = 0.5
    expected: dict[Score, Tensor] = {
        partial(path, steps=steps): slopes(middles).mean(1),
        partial(input_path, steps=steps): slopes(middles).mean(1),
        partial(conductance, steps=steps): (slopes(ends) * trapezoid).sum(1) / steps,
        gradient: slopes(torch.zeros(1))[:, 0],
    }
    for method, slope in expected.items():
        [(site, found)] = method(pair)
        assert site == "conv"
        assert torch.allclose(found, (parts * slope[:, None]).sum(0), atol=1e-5)


# --- Captum


def test_gradient_is_captums_gradient_times_the_difference(
    blurred_pair: Pair, digits_model: Classifier, digits_batch: Batch
) -> None:
    images, labels = digits_batch
    for site, found in gradient(blurred_pair):
        layer = digits_model.network.get_submodule(site)
        slope = captum.attr.LayerGradientXActivation(
            partial(log_probabilities, digits_model), layer, multiply_by_inputs=False
        ).attribute(blurred(images), target=labels)
        assert isinstance(slope, Tensor)
        clean = clean_maps(digits_model, images, [site])[site]
        difference = clean - clean_maps(digits_model, blurred(images), [site])[site]
        expected = (slope * difference).sum((0, 2, 3)).double()
        assert torch.allclose(found, expected, atol=1e-3, rtol=1e-4)


def test_input_path_is_captums_internal_influence_times_the_difference(
    blurred_pair: Pair, digits_model: Classifier, digits_batch: Batch
) -> None:
    images, labels = digits_batch
    for site, found in input_path(blurred_pair, 3):
        influence = captum.attr.InternalInfluence(
            partial(log_probabilities, digits_model), digits_model.network.get_submodule(site)
        ).attribute(
            images,
            baselines=blurred(images),
            target=labels,
            n_steps=3,
            method="riemann_middle",
        )
        assert isinstance(influence, Tensor)
        clean = clean_maps(digits_model, images, [site])[site]
        difference = clean - clean_maps(digits_model, blurred(images), [site])[site]
        expected = (influence * difference).sum((0, 2, 3)).double()
        assert torch.allclose(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
def test_conductance_is_captums_both_ways_along_the_path(
    blurred_pair: Pair, digits_model: Classifier, digits_batch: Batch, steps: int
) -> None:
    """Captum takes each step's gradient at its end, so the way back takes it at its beginning;
    the trapezoid rule is the mean of the two."""
    images, labels = digits_batch
    for site, found in conductance(blurred_pair, steps):
        captums = captum.attr.LayerConductance(
            partial(log_probabilities, digits_model), digits_model.network.get_submodule(site)
        )

        def along(start: Tensor, end: Tensor, captums: Any = captums) -> Tensor:
            return captums.attribute(
                end, baselines=start, target=labels, n_steps=steps, method="riemann_trapezoid"
            )

        there, back = along(blurred(images), images), along(images, blurred(images))
        expected = ((there - back) / 2).sum((0, 2, 3)).double()
        assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("site", DIGITS_SITES)
def test_path_is_captums_integrated_gradients(
    digits_model: Classifier, digits_batch: Batch, site: str
) -> None:
    """No shortcut passes these sites, so that Captum's path from input to input is the same."""
    images, labels = digits_batch
    pair = pair_of(digits_model, digits_batch, [site])
    attributed = captum.attr.LayerIntegratedGradients(
        partial(log_probabilities, digits_model), digits_model.network.get_submodule(site)
    ).attribute(
        images,
        baselines=blurred(images),
        target=labels,
        n_steps=4,
        method="riemann_middle",
    )
    assert isinstance(attributed, Tensor)
    expected = attributed.sum((0, 2, 3)).double()
    [(_, found)] = path(pair, 4)
    assert torch.allclose(found, expected, atol=1e-3, rtol=1e-4)


# --- completeness


@pytest.mark.parametrize("target", ["labels", "kl"])
def test_path_is_complete(digits_model: Classifier, digits_batch: Batch, target: Target) -> None:
    """With many steps, the filters' priorities sum to the gain of swapping all of them."""
    images, labels = digits_batch
    pair = pair_of(digits_model, (images[:12], labels[:12]), DIGITS_SITES, target)
    coarse, fine = (dict(path(pair, steps)) for steps in (4, 32))
    for site in DIGITS_SITES:
        gain = whole_gain(pair, site)
        assert float(fine[site].sum()) == pytest.approx(gain, rel=2e-2, abs=1e-2)
        assert float(coarse[site].sum()) == pytest.approx(gain, rel=0.2, abs=1e-2)


def test_path_on_an_awkward_network_is_complete_too(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    pair = pair_of(classifier, (images, labels), TINY_SITES)
    for site, found in path(pair, 64):
        assert float(found.sum()) == pytest.approx(whole_gain(pair, site), rel=1e-2, abs=1e-3)


def test_conductance_is_complete(
    blurred_pair: Pair, digits_model: Classifier, digits_batch: Batch
) -> None:
    """Its filters sum to the gain of undoing the distortion, at every site that all passes."""
    images, labels = digits_batch
    with torch.no_grad():
        clean, distorted = (log_probabilities(digits_model, x) for x in (images, blurred(images)))
    gain = float((clean - distorted)[range(len(labels)), labels].sum())
    for _, found in conductance(blurred_pair, 64):
        assert float(found.sum()) == pytest.approx(gain, rel=1e-2)


def test_estimates_agree_with_the_swap_on_what_matters(
    digits_model: Classifier, digits_batch: Batch
) -> None:
    """They are of the same quantity: filters that gain much by the swap lead them too."""
    site = DIGITS_SITES[0]
    images, labels = digits_batch
    batches = cut(images[:24], labels[:24], 24)
    swapped = rank(digits_model, batches, [BLUR], "swap_logprob", [site]).priorities[site]
    for method in ("gradient", "conductance", "input_path", "path"):
        estimated = rank(digits_model, batches, [BLUR], method, [site]).priorities[site]
        assert float(torch.corrcoef(torch.stack([swapped, estimated]))[0, 1]) > 0.5, method


# --- controls


def test_change_and_psnr_are_what_numpy_makes_of_the_maps(
    blurred_pair: Pair, digits_model: Classifier, digits_batch: Batch
) -> None:
    images, _ = digits_batch
    changes, ratios = dict(change_of(blurred_pair)), dict(psnr_of(blurred_pair))
    for site in DIGITS_SITES:
        clean, distorted = (
            clean_maps(digits_model, each, [site])[site].double().numpy()
            for each in (images, blurred(images))
        )
        errors = ((clean - distorted) ** 2).mean((2, 3))
        assert np.allclose(changes[site].numpy(), errors.sum(0), rtol=1e-4)
        peaks = clean.max((2, 3)) - clean.min((2, 3))
        decibels = np.minimum(10 * np.log10(peaks**2 / errors), 100)
        assert np.allclose(-ratios[site].numpy(), decibels.sum(0), rtol=1e-4)


def test_psnr_of_a_map_that_is_a_tenth_of_its_range_off_is_20_db() -> None:
    ramp = torch.linspace(0, 2, 16).view(1, 1, 4, 4)

    def pair(offset: float) -> Pair:
        conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(conv.weight, 1)
        model = nn.Sequential(conv, nn.Flatten()).eval()
        with torch.no_grad():
            clean = Clean(model, ["0"], ramp, torch.tensor([0]), "labels")
        return Pair(clean, ramp + offset, partial(Replay, model, sites=["0"]))

    for offset, decibels in ((0.2, 20.0), (2.0, 0.0), (20.0, -20.0), (0.0, 100.0)):
        [(_, found)] = psnr_of(pair(offset))
        assert float(-found) == pytest.approx(decibels, abs=1e-3)


# --- targets


def relabelled(batches: list[Batch], value: int = -1) -> list[Batch]:
    return [(images, torch.full_like(labels, value)) for images, labels in batches]


@pytest.mark.parametrize("method", ["swap", "swap_logprob", "gradient", "path"])
def test_the_prediction_is_a_label(
    classifier: Classifier, batches: list[Batch], method: str
) -> None:
    with torch.no_grad():
        predicted = [(images, classifier(images).argmax(1)) for images, _ in batches]
    labelled = rank(classifier, predicted, ["awgn:40"], method, target="labels")
    for source in (batches, relabelled(batches)):
        found = rank(classifier, source, ["awgn:40"], method, target="prediction")
        assert (labelled.target, found.target) == ("labels", "prediction")
        for site in TINY_SITES:
            assert torch.allclose(found.by_level[site], labelled.by_level[site], atol=1e-6)


def test_images_without_labels_are_measured_against_the_prediction(
    classifier: Classifier, batches: list[Batch]
) -> None:
    bare = relabelled(batches)
    found = rank(classifier, bare, ["gaussian_blur:1"], "gradient")
    assert found.target == "prediction"
    assert rank(classifier, batches, ["gaussian_blur:1"], "gradient").target == "labels"
    assert rank(classifier, bare, ["gaussian_blur:1"], "gradient", target="kl").target == "kl"
    with pytest.raises(InputError, match="label -1"):
        rank(classifier, bare, ["gaussian_blur:1"], "gradient", target="labels")
    curves = ideal_correction(classifier, bare, found, [1.0])
    assert curves.images == 12
    site = TINY_SITES[0]  # what the clean answer is, it is again
    assert bool(curves.right[site].all())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_answer_fits_the_probabilities_as_the_clean_answer_does(seed: int) -> None:
    """Its gain is minus the entropy, sum of t log t; any other's is that minus the divergence."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.randn(6, 3, 4, 4) * 4
    with torch.no_grad():
        logits = model(images)
        clean = Clean(model, ["0"], images, torch.full((6,), -1), "kl")
        best = clean.gain(logits)
        other = torch.randn(6, CLASSES) * 3
        worse = clean.gain(other)
    shares = logits.double().softmax(1)
    assert torch.allclose(best.double(), (shares * shares.log()).sum(1), atol=1e-5)
    divergence = (shares * (shares.log() - other.double().log_softmax(1))).sum(1)
    assert torch.allclose((best - worse).double(), divergence, atol=1e-4)
    assert bool((worse <= best + 1e-6).all())


def test_swaps_under_kl_are_divergences_taken_back(classifier: Classifier, images: Tensor) -> None:
    bare = [(images, torch.full((12,), -1))]
    found = rank(classifier, bare, ["gaussian_blur:1"], "swap_logprob", ["stem"], target="kl")
    clean = clean_maps(classifier, images, ["stem"])["stem"]
    distorted = blurred(images, 1)
    normalised = (distorted - classifier.mean) / classifier.std
    with torch.no_grad():
        shares = classifier(images).double().softmax(1)

        def divergence(logits: Tensor) -> float:
            other = logits.double().log_softmax(1)
            return float((shares * (shares.log() - other)).sum(1).mean())

        before = divergence(classifier(distorted))
        for index in range(8):

            def swap(maps: Tensor, i: int = index) -> Tensor:
                maps[:, i] = clean[:, i]
                return maps

            after = divergence(
                with_convolutions_by_hand(classifier.network, {"stem": swap}, normalised)
            )
            assert math.isclose(
                float(found.by_level["stem"][0, index]), before - after, abs_tol=1e-5
            )


# --- sites that do not run once


class Odd(nn.Module):
    """A convolution that runs twice, and one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.twice(self.twice(images).relu()).mean((2, 3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("site", ["twice", "never"])
def test_a_site_that_does_not_run_once_is_refused(site: str, method: str) -> None:
    batches = [(torch.rand(3, 3, 8, 8), torch.zeros(3).long())]
    with pytest.raises(InputError, match=f"site '{site}' runs [02] times"):
        rank(Odd().eval(), batches, [BLUR], method, [site])
