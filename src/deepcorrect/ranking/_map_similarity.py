"""The similarity of two maps: PSNR and SSIM, one number per map, on tensors on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = -100.0, 100.0  # dB; PSNRs are clamped to this range so that their means exist
WINDOW = 7  # scikit-image's default; with a uniform window, as there
LUMINANCE, CONTRAST = 0.01**2, 0.03**2  # Wang et al.'s K1 and K2, squared, for a peak of 1


def psnr(reference: Tensor, maps: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each map, in dB, from -100 to 100.

    10 log10(peak^2 / mean squared error). Unlike 8-bit images, maps have no fixed peak; it is the
    range of the reference map here, its largest value minus its smallest.

    Args:
        reference, maps: N x C x H x W.

    Returns:
        N x C, float32; NaN where the reference is constant, so that its range is 0.

    Example:
        >>> import torch
        >>> from deepcorrect.ranking import psnr
        >>> clean = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
        >>> round(float(psnr(clean, clean + 0.1)), 3)  # a tenth of the range is 20 dB
        20.0
    """
    reference, maps = reference.float(), maps.float()
    peak = _range(reference)
    error = ((reference - maps) ** 2).mean((2, 3)).clamp_min(1e-30)
    ratio = 10 * (peak**2 / error).clamp_min(1e-30).log10()
    return ratio.clamp(LOWEST, HIGHEST).masked_fill(peak == 0, torch.nan)


def ssim(reference: Tensor, maps: Tensor) -> Tensor:
    """The structural similarity of each map, at most 1 (Wang et al., IEEE TIP 13(4), 2004, eq. 13).

    Both maps are first shifted and scaled so that the reference spans [0, 1]; a filter's output of
    any sign and size thus becomes an image with a peak of 1. Means, unbiased variances and the
    covariance are over uniform windows of 7 x 7 pixels that lie inside the map; SSIM is the mean
    over the windows. On smaller maps the window is the largest odd one that fits.

    Args:
        reference, maps: N x C x H x W.

    Returns:
        N x C, float32; NaN where the reference is constant, or no window of 3 x 3 fits.
    """
    reference, maps = reference.float(), maps.float()
    peak = _range(reference)
    window = min(WINDOW, *reference.shape[-2:])
    window -= 1 - window % 2
    if window < 3:
        return torch.full_like(peak, torch.nan)
    low = reference.amin((2, 3), keepdim=True)
    scale = peak.masked_fill(peak == 0, 1)[..., None, None]
    x, y = (  # pooling is twice as fast with the channels last (measured)
        ((each - low) / scale).contiguous(memory_format=torch.channels_last)
        for each in (reference, maps)
    )

    def mean(values: Tensor) -> Tensor:  # rows, then columns: 14 additions instead of 49
        return F.avg_pool2d(F.avg_pool2d(values, (window, 1), stride=1), (1, window), stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = mean(x), mean(y)
    variances = unbiased * (mean(x * x + y * y) - mean_x**2 - mean_y**2)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + LUMINANCE) / (mean_x**2 + mean_y**2 + LUMINANCE)
    structure = (2 * covariance + CONTRAST) / (variances + CONTRAST)
    return (luminance * structure).mean((2, 3)).masked_fill(peak == 0, torch.nan)


def _range(maps: Tensor) -> Tensor:
    return maps.amax((2, 3)) - maps.amin((2, 3))
