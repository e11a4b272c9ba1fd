"""Padding and linear filters for image tensors, N x C x H x W."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.runtime import parallel_map

Border = Literal["nearest", "reflect", "mirror"]
"""The border of an image in SciPy's terms: its edge pixel repeated (aaa|abc), or its reflection
with the edge pixel (cba|abc) or without it (cb|abc)."""

AnyBorder = Border | Literal["zeros"]
OPENCV_BORDERS = {"nearest": 1, "reflect": 2, "mirror": 4, "zeros": 0}
"""OpenCV's constants `BORDER_REPLICATE`, `BORDER_REFLECT`, `BORDER_REFLECT_101` and
`BORDER_CONSTANT`."""

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
    height, width = images.shape[-2:]
    mirrors = border == "mirror" and max(top, bottom) < height and max(left, right) < width
    if images.dim() == 4 and (border == "nearest" or mirrors):  # four times as fast (measured)
        return F.pad(images, (left, right, top, bottom), "reflect" if mirrors else "replicate")
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
    shape = list(images.shape)
    shape[dim] = sum(len(block) for _, block in matrix)
    if dim == -2:  # without copies of the images, which broadcasting would make
        planes = images.reshape(-1, *images.shape[-2:])
        wide = len(planes), -1, -1
        parts = [torch.bmm(block.expand(wide), planes[:, used]) for used, block in matrix]
    else:
        rows = images.reshape(-1, images.shape[-1])
        parts = [rows[:, used] @ block.T for used, block in matrix]
    return torch.cat(parts, dim).view(shape)


def tracked(images: Tensor) -> bool:
    """Whether autograd records what is computed with the images."""
    return torch.is_grad_enabled() and images.requires_grad


Taps = Sequence[float]
"""An odd number of weights along an axis."""


def separable(images: Tensor, taps: Taps, border: AnyBorder, across: Taps | None = None) -> Tensor:
    """The correlation of the columns with `taps`, and of the rows with `across` or the same taps.

    On a CPU, OpenCV computes images of some size, in a fourth of the time of the matrix products
    (measured). Gradients need the products.
    """
    across = taps if across is None else across
    if images.shape[-1] * images.shape[-2] >= OPENCV_PIXELS and has_opencv(images):
        cv2, kind = opencv(), OPENCV_BORDERS[border]
        kernels = [np.array(each, np.float32) for each in (across, taps)]
        return plane_by_plane(
            images, lambda given, made: cv2.sepFilter2D(given, -1, *kernels, made, borderType=kind)
        )
    for dim, each in ((-2, taps), (-1, across)):
        size = images.shape[dim]
        images = multiplied(images, _band(tuple(each), size, border, images.device), dim)
    return images


OPENCV_PIXELS = 64 * 64
"""The number of pixels from which OpenCV's filters are faster than matrix products (measured)."""


SMALL_KERNEL = 130
"""OpenCV transforms kernels of so many values and more, and multiplies by those of smaller ones."""


@functools.cache
def opencv() -> Any:
    """OpenCV, which is slow to import, or None if it is not installed."""
    try:
        import cv2  # noqa: PLC0415
    except ImportError:
        return None
    return cv2


def has_opencv(images: Tensor) -> bool:
    """Whether OpenCV can compute with the images: on a CPU, without gradients, and installed."""
    return images.device.type == "cpu" and not tracked(images) and opencv() is not None


def plane_by_plane(
    images: Tensor,
    function: Callable[[np.ndarray, np.ndarray], object],
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Calls a function of a plane, H x W, and of the plane to write to, for all planes of images.

    Args:
        images: N x C x H x W (or fewer dimensions), float32, on the CPU.
        function: It is called in several threads, one image in each.
        size: The height and width of the planes to write to; None for those of the images.
    """
    given = images.detach().contiguous()
    made = given.new_empty((*images.shape[:-2], *(size or images.shape[-2:])))
    channels = images.shape[-3] if images.dim() > 2 else 1
    old, new = (each.view(-1, channels, *each.shape[-2:]).numpy() for each in (given, made))
    pairs = list(zip(old, new, strict=True))

    def planes(pair: tuple[np.ndarray, np.ndarray]) -> None:
        for plane, result in zip(*pair, strict=True):
            function(plane, result)

    for _ in parallel_map(planes, pairs, given.device):
        pass
    return made


@cached
def _band(taps: tuple[float, ...], pixels: int, border: AnyBorder, device: torch.device) -> Banded:
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
    """Convolution with a symmetric square kernel, K x K with K odd.

    On a CPU, OpenCV computes it for small kernels, in less than half of the time of the fast
    Fourier transform that others take (measured).
    """
    if kernel.numel() < SMALL_KERNEL and has_opencv(images):
        cv2, kind, weights = opencv(), OPENCV_BORDERS[border], kernel.numpy()
        return plane_by_plane(
            images, lambda given, made: cv2.filter2D(given, -1, weights, made, borderType=kind)
        )
    size, radius = len(kernel), len(kernel) // 2
    height, width = images.shape[-2:]
    wide = padded_around(images, radius, radius, radius, radius, border)
    fast = [fast_length(side) for side in wide.shape[-2:]]
    spectrum = torch.fft.rfft2(wide, s=fast) * torch.fft.rfft2(kernel, s=fast)
    whole = torch.fft.irfft2(spectrum, s=fast)
    return whole[..., size - 1 : size - 1 + height, size - 1 : size - 1 + width]
