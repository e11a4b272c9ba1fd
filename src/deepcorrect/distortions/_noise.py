"""Noise: the paper's, four kinds of ImageNet-C, and a camera's noise in low light."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import corruption, register


@register(
    unit="standard deviation on the 0-255 scale",
    levels=(5, 10, 15, 20, 25, 30),
    large_levels=(10, 20, 40, 60, 80, 100),
    source="Borkar and Karam 2019, section III",
)
def awgn(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Additive white Gaussian noise, independent for every pixel and channel, not clipped."""
    return draws.normal(*images.shape[1:]).mul_(sigma / 255).add_(images)


@corruption(clips=True)
def gaussian_noise(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Gaussian noise of standard deviation sigma (images in [0, 1]), clipped."""
    return draws.normal(*images.shape[1:]).mul_(sigma).add_(images)


@corruption(smooth=False, clips=True)
def shot_noise(images: Tensor, draws: Draws, photons: float) -> Tensor:
    """Poisson noise with a given mean number of photons in a white pixel, clipped."""
    return draws.poisson(images, photons).div_(photons)


@corruption(clips=True)
def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Salt-and-pepper noise: a share of the values becomes 0 or 1 with equal probability.

    The share is rounded to a multiple of 2^-15.
    """
    chance = draws.bits(16, *images.shape[1:], dtype=torch.float32).add_(0.5)  # within 2^15
    return F.hardshrink(chance, 2**15 * (1 - share)).add_(images)


@corruption(clips=True)
def speckle_noise(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Gaussian noise proportional to the value, x (1 + sigma n), clipped."""
    return draws.normal(*images.shape[1:]).mul_(sigma).add_(1).mul_(images)


WHITE_ELECTRONS, READ_ELECTRONS, GAMMA = 2000.0, 4.0, 2.2


@register(
    unit="stops of light missing",
    levels=(1, 2, 3, 4, 5),
    large_levels=(2, 3, 4, 5, 6),
    strongest=12.0,
    smooth=False,
    source="photon transfer model: Janesick 2007; Foi et al. 2008",
)
def low_light(images: Tensor, draws: Draws, stops: float) -> Tensor:
    """Too little light, amplified: shot noise of fewer electrons, and read noise.

    A white pixel has a mean of 2000 electrons in full light and of 2000 / 2^stops here. Their
    number is Poisson distributed, Gaussian read noise of 4 electrons is added, and gain restores
    the brightness. This is computed in linear light (gamma 2.2), and the result is clipped.
    """
    white = WHITE_ELECTRONS / 2**stops
    electrons = draws.poisson(images.clamp(0, 1) ** GAMMA, white)
    electrons = torch.add(electrons, draws.normal(*images.shape[1:]), alpha=READ_ELECTRONS)
    return (electrons / white).clamp_(0, 1) ** (1 / GAMMA)
