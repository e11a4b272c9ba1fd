"""PSNR and SSIM of maps are scikit-image's, map by map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from deepcorrect.ranking._map_similarity import psnr, ssim


def maps(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Signed maps of some structure, 3 x 4 x H x W, and disturbed copies of them."""
    drawing = torch.Generator().manual_seed(seed)
    coarse = torch.randn(3, 4, 4, 4, generator=drawing)
    clean = 5 * torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") - 2
    noise = torch.randn(clean.shape, generator=drawing)
    return clean, clean * 0.8 + torch.linspace(0.05, 2, 4).view(1, 4, 1, 1) * noise


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 7), (9, 30)])
def test_ssim_and_psnr_are_scikit_images_with_the_clean_range_as_peak(
    height: int, width: int
) -> None:
    clean, disturbed = maps(height, width)
    ratios, alike = psnr(clean, disturbed), ssim(clean, disturbed)
    for image in range(3):
        for channel in range(4):
            one, other = (m[image, channel].double().numpy() for m in (clean, disturbed))
            low, peak = one.min(), np.ptp(one)
            expected = peak_signal_noise_ratio(one, other, data_range=peak)
            assert float(ratios[image, channel]) == pytest.approx(expected, abs=1e-4)
            expected = structural_similarity((one - low) / peak, (other - low) / peak, data_range=1)
            assert float(alike[image, channel]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("side", "window"), [(6, 5), (5, 5), (4, 3), (3, 3)])
def test_on_small_maps_the_window_is_the_largest_odd_one_that_fits(side: int, window: int) -> None:
    clean, disturbed = maps(side, side, 1)
    low, peak = clean[0, 0].min(), clean[0, 0].max() - clean[0, 0].min()
    one, other = (((m[0, 0] - low) / peak).double().numpy() for m in (clean, disturbed))
    expected = structural_similarity(one, other, win_size=window, data_range=1)
    assert float(ssim(clean, disturbed)[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_a_map_too_small_for_a_window_has_no_ssim_but_a_psnr() -> None:
    clean, disturbed = maps(2, 2)
    assert ssim(clean, disturbed).isnan().all()
    assert psnr(clean, disturbed).isfinite().all()


def test_a_constant_clean_map_has_neither() -> None:
    clean, disturbed = maps(8, 8)
    clean[1, 2] = 3.0
    for measure in (psnr, ssim):
        wrong = measure(clean, disturbed).isnan()
        assert wrong[1, 2]
        assert wrong.sum() == 1


def test_an_equal_map_has_the_highest_values() -> None:
    clean, _ = maps(8, 8)
    assert (psnr(clean, clean) == 100).all()
    torch.testing.assert_close(ssim(clean, clean), torch.ones(3, 4))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-20, 20))
def test_the_unit_and_the_zero_of_a_filter_do_not_matter(scale: float, shift: float) -> None:
    clean, disturbed = (m.double() for m in maps(8, 8))
    moved = [(scale * m + scale * shift) for m in (clean, disturbed)]
    torch.testing.assert_close(psnr(*moved), psnr(clean, disturbed), atol=1e-2, rtol=0)
    torch.testing.assert_close(ssim(*moved), ssim(clean, disturbed), atol=1e-3, rtol=0)
