"""Padding and linear filters on image tensors, N x C x H x W."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeVar

import scipy.fft
import torch
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]
"""What lies outside an image, in SciPy's words: its edge pixel (aaa|abc), the image folded with
its edge pixel (cba|abc), or without it (cb|abc)."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def constant(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Keeps what a function made for the last arguments, as tensors that gradients may need."""
    kept = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(function))

    @functools.wraps(function)
    def recalled(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return kept(*arguments, **named)  # pyright: ignore[reportArgumentType]

    return recalled


def outside(pixels: int, before: int, after: int, border: Border) -> Tensor:
    """Indices into an axis of `pixels`, extended by so many on either side."""
    places = torch.arange(-before, pixels + after)
    if border == "nearest" or pixels == 1:
        return places.clamp(0, pixels - 1)
    period = 2 * pixels - (2 if border == "mirror" else 0)
    folded = places % period
    return torch.minimum(folded, period - (0 if border == "mirror" else 1) - folded)


def extended(images: Tensor, dim: int, before: int, after: int, border: Border) -> Tensor:
    """The images, with so many pixels more on either side of an axis."""
    if not before and not after:
        return images
    pixels = images.shape[dim]
    places = outside(pixels, before, after, border).to(images.device)
    first, last = places[:before], places[before + pixels :]
    parts = [images.index_select(dim, first), images, images.index_select(dim, last)]
    return torch.cat(parts, dim)


@constant
def gaussian_taps(sigma: float, radius: int) -> tuple[float, ...]:
    """A normalised Gaussian at -radius to radius."""
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    return tuple(weight / sum(weights) for weight in weights)


ROWS_AT_ONCE = 16  # of a banded matrix: the fastest of 8 to 56 (measured)
Banded = list[tuple[slice, Tensor]]
"""A banded matrix, row block by row block: the columns that are not zero, and what stands there."""


def banded(matrix: Tensor, device: torch.device) -> Banded:
    """A matrix, out x in pixels, most of it zero, for `along` on a device."""
    blocks = []
    for block in matrix.split(ROWS_AT_ONCE):
        used = block.ne(0).any(0).nonzero().flatten()
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        blocks.append((columns, block[:, columns].contiguous().to(device)))
    return blocks


def along(images: Tensor, matrix: Banded, dim: int) -> Tensor:
    """The product of a banded matrix and one of the last two axes, -2 or -1.

    Small products of dense blocks are what runs fastest on a CPU: twice as fast as a depthwise
    convolution, and any border is part of the matrix.
    """
    if dim == -2:
        return torch.cat([block @ images[..., used, :] for used, block in matrix], -2)
    return torch.cat([images[..., used] @ block.T for used, block in matrix], -1)


def correlate(
    images: Tensor, taps: Sequence[float], dim: int, border: Border | Literal["zeros"]
) -> Tensor:
    """Correlation with an odd number of taps along one of the last two axes."""
    return along(images, _band(tuple(taps), images.shape[dim], border, images.device), dim)


@constant
def _band(
    taps: tuple[float, ...], pixels: int, border: Border | Literal["zeros"], device: torch.device
) -> Banded:
    """The matrix, pixels x pixels, that correlates an axis with `taps`."""
    radius = len(taps) // 2
    rows, ends = torch.arange(pixels), radius if border != "zeros" else 0
    matrix = torch.zeros(pixels, pixels, dtype=torch.float64)
    for weight, step in zip(taps, range(-radius, radius + 1), strict=True):
        source = rows + step
        used = (source >= -ends) & (source < pixels + ends)
        places = outside(pixels, radius, radius, border if border != "zeros" else "nearest")
        matrix[rows[used], places[source[used] + radius]] += weight
    return banded(matrix.float(), device)


def separable(images: Tensor, taps: Sequence[float], border: Border | Literal["zeros"]) -> Tensor:
    """Correlation with the same taps along both axes."""
    return correlate(correlate(images, taps, -2, border), taps, -1, border)


def gaussian(
    images: Tensor, sigma: float, border: Border = "nearest", truncate: float = 4.0
) -> Tensor:
    """Gaussian blur as SciPy's `gaussian_filter` does it: taps up to `truncate` sigmas."""
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return images
    taps = gaussian_taps(sigma, radius)
    return separable(images, taps, border)


def convolve(images: Tensor, kernel: Tensor, border: Border) -> Tensor:
    """Convolution with an odd square kernel, K x K, by the fast Fourier transform."""
    size, radius = len(kernel), len(kernel) // 2
    height, width = images.shape[-2:]
    wide = extended(extended(images, -2, radius, radius, border), -1, radius, radius, border)
    fast = [scipy.fft.next_fast_len(side, real=True) or side for side in wide.shape[-2:]]
    spectrum = torch.fft.rfft2(wide, s=fast) * torch.fft.rfft2(kernel, s=fast)
    whole = torch.fft.irfft2(spectrum, s=fast)
    return whole[..., size - 1 : size - 1 + height, size - 1 : size - 1 + width]


def translated_sum(
    images: Tensor, moves: Sequence[tuple[int, int]], weights: Sequence[float]
) -> Tensor:
    """The weighted sum of the images moved down and right by each (dy, dx), edges drawn out."""
    up, left = (max(0, *(move[axis] for move in moves)) for axis in (0, 1))
    down, right = (max(0, *(-move[axis] for move in moves)) for axis in (0, 1))
    wide = extended(extended(images, -2, up, down, "nearest"), -1, left, right, "nearest")
    height, width = images.shape[-2:]
    result = torch.zeros_like(images)
    for (dy, dx), weight in zip(moves, weights, strict=True):
        part = wide[..., up - dy : up - dy + height, left - dx : left - dx + width]
        result.add_(part, alpha=weight)
    return result
