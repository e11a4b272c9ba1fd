"""Distortions: blur against OpenCV, noise against its statistics, specs against their grammar."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepcorrect.distortions import KINDS, Distortion, LevelledDistortion, parse_all
from deepcorrect.distortions._blur import kernel_size
from deepcorrect.runtime import InputError, generator_for

BLUR = Distortion("gaussian_blur")
NOISE = Distortion("awgn")
CIFAR_SIGMAS = (0.5, 1, 1.5, 2, 2.5, 3)
CIFAR_KERNELS = (3, 5, 7, 9, 11, 13)
IMAGENET_SIGMAS = (1, 2, 3, 4, 5, 6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opencv_blur(image: Tensor, kernel: int, sigma: float) -> Tensor:
    """C x H x W, blurred by OpenCV in float32 with a border of zeros."""
    blurred = cv2.GaussianBlur(
        image.permute(1, 2, 0).contiguous().numpy(),
        (kernel, kernel),
        sigma,
        sigmaY=sigma,
        borderType=cv2.BORDER_CONSTANT,
    )
    return torch.from_numpy(np.atleast_3d(blurred)).permute(2, 0, 1)


# --- Gaussian blur


def test_kernel_sizes_are_the_papers() -> None:
    assert [kernel_size(sigma) for sigma in CIFAR_SIGMAS] == list(CIFAR_KERNELS)
    assert [kernel_size(s) for s in IMAGENET_SIGMAS] == [4 * s + 1 for s in range(1, 7)]


@pytest.mark.parametrize(
    ("shape", "sigmas"),
    [
        ((1, 28, 28), CIFAR_SIGMAS),
        ((3, 32, 32), CIFAR_SIGMAS),
        ((3, 227, 227), IMAGENET_SIGMAS),
        ((1, 227, 227), IMAGENET_SIGMAS),
        ((3, 20, 45), CIFAR_SIGMAS),
    ],
    ids=str,
)
def test_blur_is_opencvs(shape: tuple[int, int, int], sigmas: tuple[float, ...]) -> None:
    image = torch.rand(shape, generator=seeded())
    blurred = BLUR(image.expand(len(sigmas), *shape), torch.tensor(sigmas))
    for ours, sigma in zip(blurred, sigmas, strict=True):
        theirs = opencv_blur(image, int(4 * sigma + 1) // 2 * 2 + 1, sigma)
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [4, 6])
def test_blur_wider_than_the_image_is_still_opencvs(sigma: float) -> None:
    image = torch.rand(3, 7, 5, generator=seeded())
    theirs = opencv_blur(image, 4 * int(sigma) + 1, sigma)
    assert torch.allclose(BLUR(image[None], sigma)[0], theirs, atol=1e-5, rtol=0)


def test_blur_zero_is_the_identity() -> None:
    images = torch.rand(2, 3, 9, 11, generator=seeded())
    assert torch.equal(BLUR(images, 0.0), images)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0, 4, width=32), min_size=1, max_size=5),
    st.integers(1, 13),
    st.integers(1, 13),
)
def test_levels_of_a_batch_are_those_of_single_images(
    sigmas: list[float], height: int, width: int
) -> None:
    images = torch.rand(len(sigmas), 2, height, width, generator=seeded())
    together = BLUR(images, torch.tensor(sigmas))
    alone = torch.cat([BLUR(image[None], s) for image, s in zip(images, sigmas, strict=True)])
    assert torch.allclose(together, alone, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 5, width=32), st.integers(1, 20))
def test_blur_neither_brightens_nor_leaves_the_range(sigma: float, size: int) -> None:
    images = torch.rand(1, 1, size, size, generator=seeded())
    blurred = BLUR(images, sigma)
    assert float(blurred.min()) >= 0
    assert float(blurred.max()) <= float(images.max()) + 1e-6
    assert float(blurred.sum()) <= float(images.sum()) * (1 + 1e-5)


def test_blur_is_stronger_at_higher_levels() -> None:
    image = torch.rand(1, 3, 64, 64, generator=seeded())
    contrasts = [float(BLUR(image, s)[:, :, 20:44, 20:44].std()) for s in CIFAR_SIGMAS]
    assert contrasts == sorted(contrasts, reverse=True)
    assert len(set(contrasts)) == len(contrasts)


def test_gradient_of_blur_is_blur() -> None:
    """The kernel is symmetric and the border zero, so the blur is its own adjoint."""
    images = torch.rand(2, 1, 8, 9, generator=seeded()).requires_grad_()
    sigmas = torch.tensor([0.7, 2.0])
    weights = torch.rand(2, 1, 8, 9, generator=seeded(1))
    (BLUR(images, sigmas) * weights).sum().backward()
    assert images.grad is not None
    assert torch.allclose(images.grad, BLUR(weights, sigmas), atol=1e-6)


# --- noise


@pytest.mark.parametrize("level", [5.0, 30.0, 100.0])
def test_noise_has_the_stated_moments_and_is_not_clipped(level: float) -> None:
    images = torch.full((4, 3, 128, 128), 0.5)
    noise = (NOISE(images, level, seeded()) - images).double() * 255
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 * level / count**0.5
    assert abs(float(noise.std()) / level - 1) < 4 / (2 * count) ** 0.5
    kurtosis = float((noise**4).mean() / noise.var() ** 2)
    assert abs(kurtosis - 3) < 4 * (24 / count) ** 0.5
    black = NOISE(torch.zeros(1, 3, 32, 32), level, seeded())
    assert float(black.min()) < -level / 255


def test_noise_is_independent_between_pixels_channels_and_images() -> None:
    noise = NOISE(torch.zeros(4, 3, 64, 64), 255.0, seeded())
    limit = 5 / (noise.numel() / 4) ** 0.5
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < limit
    assert abs(float((noise[0] * noise[1]).mean())) < limit
    assert abs(float((noise[..., 1:] * noise[..., :-1]).mean())) < limit
    assert abs(float((noise[..., 1:, :] * noise[..., :-1, :]).mean())) < limit


def test_noise_of_each_image_has_its_own_level() -> None:
    noise = NOISE(torch.zeros(3, 3, 64, 64), torch.tensor([0.0, 10.0, 40.0]), seeded()) * 255
    assert torch.equal(noise[0], torch.zeros(3, 64, 64))
    assert noise[1].std() == pytest.approx(10, rel=0.05)
    assert noise[2].std() == pytest.approx(40, rel=0.05)


def test_same_seed_same_noise() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(NOISE(images, 10, seeded(7)), NOISE(images, 10, seeded(7)))
    assert not torch.equal(NOISE(images, 10, seeded(7)), NOISE(images, 10, seeded(8)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 6),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_a_batch_cut_in_two_gets_the_same_noise(
    count: int, place: int, channels: int, height: int, width: int
) -> None:
    images = torch.rand(count, channels, height, width, generator=seeded())
    place = min(place, count - 1)
    generator = seeded(5)
    parts = [NOISE(part, 20, generator) for part in (images[:place], images[place:])]
    assert torch.equal(torch.cat(parts), NOISE(images, 20, seeded(5)))


def test_clip_keeps_the_range_and_quantize_gives_8_bits() -> None:
    images = torch.rand(2, 3, 16, 16, generator=seeded())
    plain = NOISE(images, 60, seeded())
    clipped = Distortion("awgn", clip=True)(images, 60, seeded())
    stored = Distortion("awgn", quantize=True)(images, 60, seeded())
    assert torch.equal(clipped, plain.clamp(0, 1))
    assert float((stored * 255 - (stored * 255).round()).abs().max()) < 1e-4
    assert float((stored - clipped).abs().max()) <= 0.5 / 255 + 1e-6
    assert (float(stored.min()), float(stored.max())) == (0.0, 1.0)


# --- calling


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_type_and_shape_are_kept(name: str, dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 8, 10).to(dtype)
    level = KINDS[name].small_levels[1]
    result = Distortion(name)(images, level, seeded())
    assert (result.dtype, result.shape) == (dtype, images.shape)
    reference = Distortion(name)(images.float(), level, seeded())
    assert torch.allclose(result.float(), reference, atol=1e-2)


@pytest.mark.parametrize("name", list(KINDS))
def test_an_empty_batch_stays_empty(name: str) -> None:
    assert Distortion(name)(
        torch.zeros(0, 3, 8, 8), KINDS[name].small_levels[1], seeded()
    ).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("name", list(KINDS))
def test_the_input_is_not_changed(name: str) -> None:
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    Distortion(name, quantize=True)(images, KINDS[name].small_levels[1], seeded())
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)], ids=str
)
def test_only_float_batches_are_accepted(images: Tensor) -> None:
    with pytest.raises(InputError, match="float images N x C x H x W"):
        BLUR(images, 1.0)


def test_levels_must_be_one_or_one_an_image() -> None:
    with pytest.raises(InputError, match="one number, or one per image"):
        BLUR(torch.zeros(3, 1, 8, 8), torch.ones(2))


def test_a_random_distortion_asks_for_a_generator() -> None:
    with pytest.raises(InputError, match="give a torch.Generator"):
        NOISE(torch.zeros(1, 1, 8, 8), 1.0)


# --- specs


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gaussian_blur", Distortion("gaussian_blur")),
        ("gaussian_blur:1,2.5", Distortion("gaussian_blur", (1, 2.5))),
        ("awgn:5,10:clip,quantize", Distortion("awgn", (5, 10), clip=True, quantize=True)),
        ("awgn::quantize", Distortion("awgn", None, quantize=True)),
        (Distortion("awgn", (1,)), Distortion("awgn", (1,))),
    ],
)
def test_specs_are_read(spec: str | Distortion, expected: Distortion) -> None:
    assert Distortion.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gausian_blur", "did you mean 'gaussian_blur'"),
        ("", "unknown distortion ''"),
        ("awgn:five", "levels 'five' of 'awgn' are not numbers between commas, such as awgn:5,10"),
        ("awgn:5,,6", "are not numbers between commas"),
        ("awgn:-5", "level -5.0 of 'awgn' is not a number from 0 on"),
        ("awgn:inf", "level inf of 'awgn' is not a number from 0 on"),
        ("awgn:nan", "level nan of 'awgn' is not a number from 0 on"),
        ("awgn:5,5", "names a level twice"),
        ("awgn:5:clp", "unknown distortion option 'clp', did you mean 'clip'"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Distortion.parse(spec)


def test_an_empty_list_of_levels_is_refused() -> None:
    with pytest.raises(InputError, match="empty list of levels"):
        Distortion("awgn", ())


@pytest.mark.parametrize(
    ("pixels", "blur", "noise"),
    [
        (32, CIFAR_SIGMAS, (5, 10, 15, 20, 25, 30)),
        (127, CIFAR_SIGMAS, (5, 10, 15, 20, 25, 30)),
        (128, IMAGENET_SIGMAS, (10, 20, 40, 60, 80, 100)),
        (227, IMAGENET_SIGMAS, (10, 20, 40, 60, 80, 100)),
    ],
)
def test_without_levels_the_papers_grid_for_the_size_is_taken(
    pixels: int, blur: tuple[float, ...], noise: tuple[float, ...]
) -> None:
    found = parse_all(["gaussian_blur", "awgn"], pixels)
    assert [distortion.levels for distortion in found] == [blur, noise]


def test_named_levels_and_options_survive_parse_all() -> None:
    assert parse_all("awgn:7:clip", 32) == (LevelledDistortion("awgn", (7,), clip=True),)
    assert parse_all(Distortion("awgn", (7,)), 32) == (LevelledDistortion("awgn", (7,)),)


def test_parse_all_refuses_none_and_repeats() -> None:
    with pytest.raises(InputError, match="no distortion is named"):
        parse_all([], 32)
    with pytest.raises(InputError, match="named twice: awgn, awgn"):
        parse_all(["awgn:5", "awgn:10"], 32)


def test_generator_for_depends_on_every_part_and_on_nothing_else() -> None:
    state = torch.random.get_rng_state()
    seeds = {
        generator_for(*parts).initial_seed()
        for parts in [(0,), (1,), (0, "awgn"), (0, "awgn", 5.0), (0, "awgn", 10.0), (0, "a", "wgn")]
    }
    assert len(seeds) == 6
    assert generator_for(0, "awgn").initial_seed() == generator_for(0, "awgn").initial_seed()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_level_is_the_same_seed_written_as_a_whole_number_or_not() -> None:
    """`awgn` (the grid says 5) and `awgn:5` (parsed as 5.0) must show the same noise."""
    assert (
        generator_for(0, "awgn", 5).initial_seed() == generator_for(0, "awgn", 5.0).initial_seed()
    )


@pytest.mark.parametrize("level", [-1.0, float("nan"), torch.tensor([1.0, -0.5])])
def test_a_call_with_a_level_below_zero_is_refused(level: float | Tensor) -> None:
    with pytest.raises(InputError, match="is not a number from 0 on"):
        Distortion("gaussian_blur")(torch.rand(2, 1, 8, 8), level)
