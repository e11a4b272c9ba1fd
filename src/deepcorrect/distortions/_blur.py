"""Blur: the paper's Gaussian blur, and the five blurs of ImageNet-C."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import (
    cached,
    convolve,
    gaussian,
    gaussian_taps,
    separable,
    tracked,
)
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import corruption, register
from deepcorrect.distortions._translation import translated_sums
from deepcorrect.runtime import parallel_map


@register(
    unit="standard deviation in pixels",
    levels=(0.5, 1, 1.5, 2, 2.5, 3),
    large_levels=(1, 2, 3, 4, 5, 6),
    source="Borkar and Karam 2019, section III",
    at_once=64,
)
def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a kernel of 4 sigma + 1 pixels, rounded to odd, and zeros as the border.

    This equals OpenCV's `GaussianBlur` with `BORDER_CONSTANT`.
    """
    return separable(images, gaussian_taps(sigma, kernel_size(sigma) // 2), "zeros")


def kernel_size(sigma: float) -> int:
    """The paper's kernel size, 4 sigma + 1, rounded to the nearest odd number of pixels."""
    return 2 * round(2 * sigma) + 1


@corruption(at_once=64)
def gaussian_blur_c(images: Tensor, sigma: float) -> Tensor:
    """ImageNet-C's Gaussian blur: taps up to 4 sigma, and edge pixels repeated as the border."""
    return gaussian(images, sigma)


@corruption(clips=True, at_once=4)
def defocus_blur(images: Tensor, radius: float, smoothing: float) -> Tensor:
    """Convolution with a disc whose edge is smoothed, as with a lens out of focus."""
    kernel = _disc(
        radius, smoothing, images.device
    )  # its sum is not exactly 1, as in the benchmark
    return convolve(images, kernel, "mirror")


@cached
def _disc(radius: float, smoothing: float, device: torch.device) -> Tensor:
    """A slightly blurred disc on a square of 17 pixels, or 2 radius + 1 for a radius above 8.

    Weights that are zero to rounding are zero, and the border is cut off where all of them are.
    """
    half, reach = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    offset = torch.arange(-half, half + 1, dtype=torch.float32)
    disc = (offset[:, None] ** 2 + offset[None] ** 2 <= radius**2).float()
    taps = gaussian_taps(smoothing, reach)
    disc = F.threshold(separable(disc / disc.sum(), taps, "mirror"), NEGLIGIBLE**2, 0)
    empty = int((disc.amax(0) == 0).sum()) // 2
    disc = disc[empty : len(disc) - empty, empty : len(disc) - empty]
    return disc.contiguous().to(device)


@corruption()
def motion_blur(images: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Blur along a line within 45 degrees of the horizontal, weighted by half a Gaussian."""
    return line_blur(images, draws.uniform(low=-45, high=45), radius, sigma)


NEGLIGIBLE = 1e-6
"""A fraction of a line's weight below which its pixels are left out."""


def line_blur(images: Tensor, degrees: Tensor, radius: int, sigma: float) -> Tensor:
    """Blurs each image along a line that starts at every pixel, at the image's own angle.

    The line has 2 radius + 1 pixels, which are rounded to whole pixels and weighted by a Gaussian
    of their distance. Pixels that are farther away than the image's width are left out.
    """
    weights = gaussian_taps(sigma, 2 * radius)[2 * radius :]
    weights = [weight / sum(weights) for weight in weights]
    height, width = images.shape[-2:]
    lines = []
    for angle in degrees.tolist():
        down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        steps: defaultdict[tuple[int, int], float] = defaultdict(float)
        for distance, weight in enumerate(weights):
            move = (-math.ceil(distance * down - 0.5), -math.ceil(distance * right - 0.5))
            if abs(move[0]) >= height or abs(move[1]) >= width or weight < NEGLIGIBLE:
                break
            steps[move] += weight
        lines.append(steps)
    return translated_sums(images, lines)


@corruption(at_once=16)
def zoom_blur(images: Tensor, stop: float, step: float) -> Tensor:
    """The mean of the image and its centre at growing magnifications, as with a moving camera."""
    factors = np.arange(1, stop, step)
    planes = images.flatten(0, 1).flatten(1)
    # in channels last, all planes of a pixel are enlarged at once: three times as fast (measured)
    lanes = F.pad(planes, (0, 0, 0, -len(planes) % LANES)).t().contiguous()
    lanes = lanes.view(1, *images.shape[2:], -1).permute(0, 3, 1, 2)
    total = lanes.clone()
    for factor in factors.tolist():
        total.add_(zoomed(lanes, factor))
    mean = total[0].flatten(1)[: len(planes)].contiguous().div_(len(factors) + 1)
    return mean.view_as(images)


LANES = 16
"""Planes are padded to full vectors of this many, so that all go through the same arithmetic."""


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The centre of the images, enlarged `factor` times (bilinear) and cropped to their size."""
    if factor == 1:
        return images
    height, width = images.shape[-2:]
    inner = [math.ceil(height / factor), math.ceil(width / factor)]
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    centre = images[..., top : top + inner[0], left : left + inner[1]]
    size = [
        max(side, round(part * factor)) for side, part in zip((height, width), inner, strict=True)
    ]
    large = F.interpolate(centre, size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[..., top : top + height, left : left + width]


@corruption()
def glass_blur(images: Tensor, draws: Draws, sigma: float, reach: int, rounds: int) -> Tensor:
    """Blur, random local shuffling of pixels, and blur again, as through frosted glass.

    The benchmark's code visits the pixels from the last to the first and replaces each by the
    current value of a pixel up to `reach` away, which may have been replaced before.
    """
    size = images.shape[-2:]
    blurred = gaussian(images, sigma)
    if images.device.type == "cpu" and not tracked(images):  # each thread takes an image
        shuffled = torch.empty_like(blurred)
        results = shuffled.numpy()  # other threads are not in inference mode

        def shuffle(index: int) -> None:
            source = _sources(draws.of_image(index), rounds, reach, *size)
            for plane, made in zip(blurred[index], results[index], strict=True):
                result = torch.from_numpy(made).view(-1)
                torch.index_select(plane.flatten(), 0, source, out=result)

        for _ in parallel_map(shuffle, range(len(images)), images.device):
            pass
    else:
        source = _sources(draws, rounds, reach, *size)
        planes = blurred.transpose(0, 1).flatten(1)
        shuffled = torch.stack([plane.index_select(0, source) for plane in planes])
        shuffled = shuffled.view(len(planes), -1, *size).transpose(0, 1)
    return gaussian(shuffled, sigma)


def _sources(draws: Draws, rounds: int, reach: int, height: int, width: int) -> Tensor:
    """The number of the pixel that replaces each pixel in `glass_blur`, over a batch's planes."""
    pixels = _numbers(len(draws.seeds) * height * width, draws.device)
    source = pixels
    for number in range(rounds):
        step = draws.integers(-reach, reach, 2, height, width)  # down and right
        distance = torch.add(step[:, 1], step[:, 0], alpha=width)
        for axis, size in ((1, height), (2, width)):  # near the edges, pixels stay
            last = min(size, max(0, size - reach + 1))
            distance.narrow(axis, 0, min(size, reach + 1)).zero_()
            distance.narrow(axis, last, size - last).zero_()
        taken = distance.flatten()
        link = taken.clamp_min(0).add_(pixels)  # the next in a chain of copies, or the pixel itself
        taken = taken.add_(pixels).index_select(0, _ends(link))
        source = source.index_select(0, taken) if number else taken
    return source


@cached
def _numbers(count: int, device: torch.device) -> Tensor:
    """The numbers of pixels, int32."""
    return torch.arange(count, dtype=torch.int32, device=device)


def _ends(link: Tensor) -> Tensor:
    """The last link of each chain, by pointer doubling."""
    while True:
        farther = link.index_select(0, link)
        if torch.equal(farther, link):
            return link
        link = farther
