"""Camera distortions, compared with Pillow, closed forms and the photon transfer model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from deepcorrect.distortions import GROUPS, KINDS, Distortion, Parameters
from deepcorrect.distortions._camera import WHEEL
from deepcorrect.distortions._noise import GAMMA, READ_ELECTRONS, WHITE_ELECTRONS
from deepcorrect.distortions._random import Draws

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- resize


@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (32, 32), (50, 41)], ids=str)
@pytest.mark.parametrize("factor", [1.25, 1.5, 2, 3, 4, 6, 8, 100])
def test_resize_is_pillows_bilinear_there_and_back(factor: float, shape: tuple[int, int]) -> None:
    image = noise(2, *shape)
    (height, width), (low, narrow) = shape, (max(1, round(side / factor)) for side in shape)
    for ours, plane in zip(Distortion("resize")(image[None], factor)[0], image, strict=True):
        picture = Image.fromarray(plane.numpy())
        shrunk = picture.resize((narrow, low), Image.Resampling.BILINEAR)
        theirs = np.asarray(shrunk.resize((width, height), Image.Resampling.BILINEAR))
        assert torch.allclose(ours, torch.tensor(theirs), atol=1e-5)


def test_resize_keeps_a_flat_image() -> None:
    image = torch.full((1, 3, 20, 30), 0.3)
    assert torch.allclose(Distortion("resize")(image, 3.7), image)


# --- bit depth


@pytest.mark.parametrize("lost", range(1, 8))
def test_bit_depth_leaves_evenly_spaced_values(lost: int) -> None:
    image = torch.linspace(0, 1, 4096).view(1, 1, 64, 64)
    result = Distortion("bit_depth")(image, lost)
    kept = 2 ** (8 - lost)
    assert torch.allclose(result.unique(), torch.linspace(0, 1, kept))
    assert float((result - image).abs().max()) <= 0.5 / (kept - 1) + 1e-6
    assert torch.equal(Distortion("bit_depth")(result, lost), result)


def test_bit_depth_takes_the_nearest_value() -> None:
    image = noise(2, 3, 20, 20)
    values = np.linspace(0, 1, 8)
    nearest = values[np.abs(image.numpy()[..., None] - values).argmin(-1)]
    assert torch.allclose(Distortion("bit_depth")(image, 5).double(), torch.tensor(nearest))


# --- low light


@pytest.mark.parametrize("stops", [1, 2, 3])
@pytest.mark.parametrize("value", [0.35, 0.55, 0.7])
def test_low_light_has_the_noise_of_photons_and_of_reading(stops: int, value: float) -> None:
    """In electrons, the mean is the light's; the variance is the mean plus the read noise's."""
    result = Distortion("low_light")(
        torch.full((4, 3, 100, 100), value), stops, torch.arange(4)
    ).double()
    white = WHITE_ELECTRONS / 2**stops
    electrons = result**GAMMA * white
    mean = value**GAMMA * white
    deviation = math.sqrt(mean + READ_ELECTRONS**2)
    assert 3.5 * deviation < mean < white - 3.5 * deviation  # almost no value is clipped
    assert float(electrons.mean()) == pytest.approx(mean, abs=4 * deviation / 120_000**0.5)
    assert float(electrons.std()) == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize("stops", [1, 4, 6])
def test_without_light_half_of_the_read_noise_remains(stops: int) -> None:
    """Negative numbers become black; the other half is a half-normal number of electrons."""
    black = Distortion("low_light")(torch.zeros(2, 3, 100, 100), stops, torch.arange(2)).double()
    electrons = black**GAMMA * WHITE_ELECTRONS / 2**stops
    assert float((electrons == 0).double().mean()) == pytest.approx(0.5, abs=0.01)
    above = electrons[electrons > 0].mean()
    assert float(above) == pytest.approx(READ_ELECTRONS * math.sqrt(2 / math.pi), rel=0.03)


def test_low_light_keeps_the_brightness() -> None:
    image = noise(8, 3, 32, 32) * 0.4 + 0.4
    for stops in (1, 2, 3):
        result = Distortion("low_light")(image, stops, torch.arange(8))
        assert float(result.mean()) == pytest.approx(float(image.mean()), abs=0.01)


# --- occlusion


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1), st.integers(4, 40), st.integers(4, 40), st.integers(0, 2**40))
def test_occlusion_is_one_grey_rectangle_of_that_share(
    share: float, height: int, width: int, seed: int
) -> None:
    image = noise(3, height, width) * 0.4
    result = Distortion("occlusion")(image[None], share, torch.tensor([seed]))[0]
    covered = (result == 0.5).all(0)
    tall, wide = (round(side * math.sqrt(share)) for side in (height, width))
    assert int(covered.sum()) == tall * wide
    assert abs(tall * wide - share * height * width) <= (height + width) / 2 + 1
    if tall and wide:
        rows, columns = covered.any(1).nonzero().flatten(), covered.any(0).nonzero().flatten()
        assert (len(rows), len(columns)) == (tall, wide)
        assert int(rows[-1] - rows[0]) + 1 == tall
        assert int(columns[-1] - columns[0]) + 1 == wide
    assert torch.equal(result[:, ~covered], image[:, ~covered])


def test_occlusion_falls_everywhere_alike() -> None:
    result = Distortion("occlusion")(torch.zeros(900, 1, 8, 8), 0.25, torch.arange(900))
    tops = (result[:, 0] == 0.5).any(2).float().argmax(1)
    lefts = (result[:, 0] == 0.5).any(1).float().argmax(1)
    for places in (tops, lefts):
        assert scipy.stats.chisquare(torch.bincount(places, minlength=5).numpy()).pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([tops, lefts]).float())[0, 1])) < 0.15


def test_no_gradient_passes_a_cover_and_all_of_it_beside() -> None:
    images = (noise(2, 3, 8, 8) * 0.4).requires_grad_()
    result = Distortion("occlusion")(images, 0.25, torch.tensor([1, 2]))
    result.sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, (result != 0.5).float())


# --- colour cast


@pytest.mark.parametrize("stops", [0.5, 1, 2, 3])
def test_a_colour_cast_is_a_gain_of_red_and_the_inverse_of_blue_in_linear_light(
    stops: float,
) -> None:
    image = noise(3, 9, 13) * 0.6
    results = Distortion("colour_cast")(image.expand(60, -1, -1, -1), stops, torch.arange(60))
    linear = image.double() ** GAMMA
    warm, cold = (
        (linear * torch.tensor([2 ** (s / 2), 1, 2 ** (-s / 2)]).view(3, 1, 1)).clamp(0, 1)
        ** (1 / GAMMA)
        for s in (stops, -stops)
    )
    sides = []
    for result in results.double():
        is_warm = torch.allclose(result, warm, atol=1e-5)
        assert is_warm != torch.allclose(result, cold, atol=1e-5)
        assert torch.equal(result[1], image[1].double())
        sides.append(is_warm)
    assert scipy.stats.binomtest(sum(sides), 60).pvalue > 1e-3


def test_a_grey_image_has_no_colour_to_cast() -> None:
    image = noise(2, 1, 9, 13)
    assert torch.equal(Distortion("colour_cast")(image, 2, torch.arange(2)), image)


# --- rolling mixture


@pytest.mark.parametrize("parameters", ["cifar", "imagenet"])
@pytest.mark.parametrize("severity", [1, 2, 5])
def test_a_rolling_mixture_is_one_of_eight_pairs_with_the_second_a_step_weaker(
    severity: int, parameters: Parameters
) -> None:
    images, seeds = noise(12, 3, 10, 12), torch.arange(12)
    mixed = Distortion("rolling_mixture", parameters=parameters)(images, severity, seeds)
    for place, (image, ours) in enumerate(zip(images.split(1), mixed, strict=True)):
        candidates = []
        for first, second in WHEEL:
            draws = Draws([place], CPU).for_image(0)
            result = image
            for name, step in ((first, severity), (second, max(1, severity - 1))):
                kind = KINDS[name]
                level = kind.levels(parameters)[step - 1]
                result = kind.apply(result, draws, level, parameters)
            candidates.append(torch.allclose(result[0], ours, atol=1e-6))
        assert sum(candidates) == 1


def test_every_pair_of_the_wheel_is_drawn_alike() -> None:
    picks = (Draws(range(800), CPU).uniform(1).flatten() * len(WHEEL)).int()
    assert scipy.stats.chisquare(torch.bincount(picks, minlength=8).numpy()).pvalue > 1e-3


def test_the_wheel_is_made_of_registered_kinds_with_five_levels() -> None:
    for name in {name for pair in WHEEL for name in pair}:
        kind = KINDS[name]
        assert min(len(kind.small_levels), len(kind.large_levels)) >= 5
    assert all(first != second for first, second in WHEEL)
    assert len(set(WHEEL)) == 8


# --- all six


@pytest.mark.parametrize("name", GROUPS["camera"])
def test_a_cameras_kinds_state_their_unit_source_and_a_grid_that_rises(name: str) -> None:
    kind = KINDS[name]
    assert kind.unit
    assert kind.source
    assert kind.summary.endswith(".")
    for grid in (kind.small_levels, kind.large_levels):
        assert list(grid) == sorted(set(grid))
        assert all(kind.weakest < level <= kind.strongest for level in grid)
