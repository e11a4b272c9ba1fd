"""Padding and linear filters for image tensors, N x C x H x W."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]
"""The border of an image in SciPy's terms: its edge pixel repeated (aaa|abc), or its reflection
with the edge pixel (cba|abc) or without it (cb|abc)."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def cached(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Caches a function's results for its last 64 arguments, outside of inference mode.

    Autograd may therefore save tensors among the results for a backward pass.
    """
    cache = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(function))

    @functools.wraps(function)
    def lookup(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return cache(*arguments, **named)  # pyright: ignore[reportArgumentType]

    return lookup


def padding_indices(pixels: int, before: int, after: int, border: Border) -> Tensor:
    """Indices into an axis of `pixels` that pad it by `before` and `after` pixels."""
    positions = torch.arange(-before, pixels + after)
    if border == "nearest" or pixels == 1:
        return positions.clamp(0, pixels - 1)
    period = 2 * pixels - (2 if border == "mirror" else 0)
    folded = positions % period
    return torch.minimum(folded, period - (0 if border == "mirror" else 1) - folded)


def padded(images: Tensor, dim: int, before: int, after: int, border: Border) -> Tensor:
    """Images with `before` and `after` more pixels at the two ends of an axis."""
    if not before and not after:
        return images
    pixels = images.shape[dim]
    indices = padding_indices(pixels, before, after, border).to(images.device)
    first, last = indices[:before], indices[before + pixels :]
    parts = [images.index_select(dim, first), images, images.index_select(dim, last)]
    return torch.cat(parts, dim)


def padded_around(
    images: Tensor, top: int, bottom: int, left: int, right: int, border: Border
) -> Tensor:
    """Images with more pixels on all four sides."""
    return padded(padded(images, -2, top, bottom, border), -1, left, right, border)


@cached
def gaussian_taps(sigma: float, radius: int) -> tuple[float, ...]:
    """A Gaussian at the distances -radius to radius, with the sum 1."""
    weights = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(-radius, radius + 1)]
    return tuple(weight / sum(weights) for weight in weights)


BLOCK_ROWS = 16
"""The rows of each block of a banded matrix: the fastest of 8 to 56 (measured)."""

Banded = list[tuple[slice, Tensor]]
"""A banded matrix as blocks of rows: the columns that are not all zero, and their values."""


def banded(matrix: Tensor, device: torch.device) -> Banded:
    """A mostly zero matrix, outputs x inputs in pixels, in the form that `multiplied` takes."""
    blocks = []
    for block in matrix.split(BLOCK_ROWS):
        used = block.ne(0).any(0).nonzero().flatten()
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        blocks.append((columns, block[:, columns].contiguous().to(device)))
    return blocks


def multiplied(images: Tensor, matrix: Banded, dim: int) -> Tensor:
    """The product of a banded matrix with the columns (`dim` -2) or the rows (-1) of images.

    On a CPU, small products of dense blocks are fastest: they take half the time of a depthwise
    convolution (measured), and the matrix includes the border.
    """
    if dim == -2:
        return torch.cat([block @ images[..., used, :] for used, block in matrix], -2)
    return torch.cat([images[..., used] @ block.T for used, block in matrix], -1)


def correlate(
    images: Tensor, taps: Sequence[float], dim: int, border: Border | Literal["zeros"]
) -> Tensor:
    """The correlation of an odd number of taps with one of the last two axes, -2 or -1."""
    return multiplied(images, _band(tuple(taps), images.shape[dim], border, images.device), dim)


@cached
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
        given = padding_indices(pixels, radius, radius, "nearest" if border == "zeros" else border)
        matrix[rows[used], given[source[used] + radius]] += weight
    return banded(matrix.float(), device)


def separable(images: Tensor, taps: Sequence[float], border: Border | Literal["zeros"]) -> Tensor:
    """The correlation with the same taps along both axes."""
    return correlate(correlate(images, taps, -2, border), taps, -1, border)


def gaussian(
    images: Tensor, sigma: float, border: Border = "nearest", truncate: float = 4.0
) -> Tensor:
    """Gaussian blur as in SciPy's `gaussian_filter`, with taps up to `truncate` sigmas."""
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return images
    taps = gaussian_taps(sigma, radius)
    return separable(images, taps, border)


def fast_length(pixels: int) -> int:
    """The smallest length from `pixels` on that has no prime factor but 2, 3 and 5.

    Fast Fourier transforms of such lengths are fast.
    """
    rest = pixels
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return pixels if rest == 1 else fast_length(pixels + 1)


def convolve(images: Tensor, kernel: Tensor, border: Border) -> Tensor:
    """Convolution with a square kernel, K x K with K odd, by the fast Fourier transform."""
    size, radius = len(kernel), len(kernel) // 2
    height, width = images.shape[-2:]
    wide = padded_around(images, radius, radius, radius, radius, border)
    fast = [fast_length(side) for side in wide.shape[-2:]]
    spectrum = torch.fft.rfft2(wide, s=fast) * torch.fft.rfft2(kernel, s=fast)
    whole = torch.fft.irfft2(spectrum, s=fast)
    return whole[..., size - 1 : size - 1 + height, size - 1 : size - 1 + width]


def translated_sum(
    images: Tensor, moves: Sequence[tuple[int, int]], weights: Sequence[float]
) -> Tensor:
    """The weighted sum of copies of the images that are moved down and right by each (dy, dx).

    Edge pixels are repeated as the border.
    """
    up, left = (max(0, *(move[axis] for move in moves)) for axis in (0, 1))
    down, right = (max(0, *(-move[axis] for move in moves)) for axis in (0, 1))
    wide = padded_around(images, up, down, left, right, "nearest")
    height, width = images.shape[-2:]
    result = torch.zeros_like(images)
    for (dy, dx), weight in zip(moves, weights, strict=True):
        part = wide[..., up - dy : up - dy + height, left - dx : left - dx + width]
        result.add_(part, alpha=weight)
    return result
