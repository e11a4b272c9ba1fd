"""Light, colour and encoding: six of ImageNet-C's corruptions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import (
    Banded,
    banded,
    cached,
    gaussian_taps,
    has_opencv,
    multiplied,
    opencv,
    plane_by_plane,
    separable,
)
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import corruption
from deepcorrect.runtime import parallel_map


@corruption(colours=True, clips=True)
def brightness(images: Tensor, added: float) -> Tensor:
    """The value in HSV is raised, with the same hue and saturation.

    All channels are proportional to the value, so they are multiplied by its relative increase.
    """
    value = images.amax(1, keepdim=True)
    raised = (value + added).clamp(0, 1)
    black = value <= 1e-6
    gain = torch.where(black, 0.0, raised / value.clamp_min(1e-6))
    return torch.addcmul(torch.where(black, raised, 0.0), images, gain)


@corruption(clips=True)
def contrast(images: Tensor, kept: float) -> Tensor:
    """Each channel's differences from its mean are multiplied by a factor below 1."""
    mean = images.mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, kept)


@corruption(colours=True, clips=True)
def saturate(images: Tensor, factor: float, added: float) -> Tensor:
    """The saturation s in HSV becomes factor s + added, with the same hue and value.

    The channels' distances from the value are proportional to the saturation, so they are
    multiplied by its ratio. Grey pixels have the hue of red, as in the benchmark's code. Grey
    images are not changed.
    """
    if images.shape[1] == 1:
        return images
    value = images.amax(1, keepdim=True)
    depth = value - images.amin(1, keepdim=True)  # saturation times value
    wanted = (depth * factor + value * added).clamp_min(0).minimum(value)
    grey = depth <= 1e-6
    ratio = torch.where(grey, 0.0, wanted / depth.clamp_min(1e-6))
    changed = torch.addcmul(value * (1 - ratio), images, ratio)
    if added:
        changed[:, 1:] -= torch.where(grey, wanted, 0.0)
    return changed


@corruption(at_once=64)
def pixelate(images: Tensor, share: float) -> Tensor:
    """Reduction to a share of the size by box means, and enlargement by nearest neighbours."""
    height, width = images.shape[-2:]
    shrunk = multiplied(images, _boxes(height, share, images.device), -2)
    shrunk = multiplied(shrunk, _boxes(width, share, images.device), -1)
    sizes = list(zip(shrunk.shape[-2:], (height, width), strict=True))
    if has_opencv(images) and all(_is_opencvs(*size) for size in sizes):
        return plane_by_plane(shrunk, _enlarge, (height, width))
    for dim, size in zip((-2, -1), sizes, strict=True):
        shrunk = shrunk.index_select(dim, _nearest(*size).to(images.device))
    return shrunk


def _enlarge(plane: np.ndarray, made: np.ndarray) -> None:
    cv2 = opencv()
    cv2.resize(plane, made.shape[::-1], dst=made, interpolation=cv2.INTER_NEAREST_EXACT)


@cached
def _is_opencvs(pixels: int, count: int) -> bool:
    """Whether OpenCV rounds as Pillow does where an axis of `pixels` is enlarged to `count`."""
    made = np.empty((1, count), np.float32)
    _enlarge(np.arange(pixels, dtype=np.float32)[None], made)
    return bool((made[0] == _nearest(pixels, count).numpy()).all())


@cached
def _nearest(pixels: int, count: int) -> Tensor:
    """The index, below `pixels`, of the nearest neighbour of each of `count` pixels (Pillow's)."""
    steps = torch.full((count,), pixels / count, dtype=torch.float64)
    steps[0] /= 2
    return steps.cumsum(0).long().clamp_max(pixels - 1)


@cached
def _boxes(pixels: int, share: float, device: torch.device) -> Banded:
    """The matrix that reduces an axis to the means of boxes.

    The number of boxes is `share` times the number of pixels. A box contains the pixels whose
    centres lie in it; Pillow's arithmetic decides about centres between two boxes.
    """
    count = max(1, int(pixels * share))
    scale = pixels / count
    centre = ((torch.arange(count, dtype=torch.float64) + 0.5) * scale)[:, None]
    first = (centre - scale * 0.5 + 0.5).floor().clamp_min(0)
    last = (centre + scale * 0.5 + 0.5).floor().clamp_max(pixels)
    pixel = torch.arange(pixels, dtype=torch.float64)
    offset = (pixel - centre + 0.5) * (1 / scale)
    member = (pixel >= first) & (pixel < last) & (offset > -0.5) & (offset <= 0.5)
    return banded((member / member.sum(1, keepdim=True)).float(), device)


@corruption(colours=True, smooth=False, at_once=64)
def jpeg_compression(images: Tensor, quality: int) -> Tensor:
    """JPEG compression by a real codec (libjpeg-turbo through OpenCV), from and to 8 bits."""
    import cv2  # noqa: PLC0415  (slow to import)

    # PyTorch's own threads stay awake for a while and would compete with these: NumPy computes
    given = images.detach().cpu().numpy()
    result = torch.empty(images.shape)
    planes = result.numpy()

    def encode(index: int) -> None:
        values = np.maximum(given[index], 0).reshape(-1, given.shape[-1])
        values = cv2.convertScaleAbs(values, alpha=255).reshape(given.shape[1:])
        pixels = cv2.merge(values[::-1])  # OpenCV stores blue first
        _, file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
        assert decoded is not None
        cv2.split(decoded, values[::-1])
        np.divide(values, np.float32(255), out=planes[index])

    for _ in parallel_map(encode, range(len(images)), result.device):
        pass
    return result.to(images.device)


@corruption(clips=True)
def elastic_transform(
    images: Tensor, draws: Draws, strength: float, smoothness: float, slant: float
) -> Tensor:
    """Pixels are moved by a smooth random field, for CIFAR-C after a random affine map.

    The field is uniform noise of the given strength, blurred with a standard deviation of
    `smoothness`. The affine map moves three points by up to `slant`. All lengths are fractions of
    the image's side.
    """
    height, width = images.shape[2:]
    if slant:
        images = _slanted(images, draws.uniform(3, 2, low=-slant, high=slant))
    if not strength:
        return images
    down, across = (
        gaussian_taps(smoothness * side, int(3 * smoothness * side + 0.5))
        for side in (height, width)
    )
    field = separable(draws.uniform(2, height, width, low=-1, high=1), down, "reflect", across)
    grid = torch.empty(len(images), height, width, 2, device=images.device)
    for axis, size in enumerate((width, height)):  # from -1 to 1 across the image, x first
        place = (torch.arange(size, device=images.device) * 2 + 1) / size - 1
        place = place if axis == 0 else place[:, None]
        moves = field[:, 1 - axis] * (2 * strength * height / size)
        torch.add(moves, place, out=grid[..., axis])
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _slanted(images: Tensor, moves: Tensor) -> Tensor:
    """Applies the affine maps that move three points of the images.

    Args:
        images: N x C x H x W.
        moves: N x 3 x (x, y), as fractions of the shorter side.
    """
    height, width = images.shape[2:]
    side = min(height, width) // 3
    middle_y, middle_x = height // 2, width // 2
    points = torch.tensor(
        [
            [middle_x + side, middle_y + side],
            [middle_x + side, middle_y - side],
            [middle_x - side, middle_y - side],
        ],
        device=images.device,
        dtype=torch.float32,
    )
    moved = points + moves * min(height, width)
    ones = torch.ones(len(moves), 3, 1, device=images.device)
    # the map from positions in the result to positions in the image: moved -> points
    backward = torch.linalg.solve(torch.cat([moved, ones], 2), points.expand(len(moves), 3, 2))
    rows = torch.arange(height, device=images.device, dtype=torch.float32)
    columns = torch.arange(width, device=images.device, dtype=torch.float32)
    position = torch.stack(
        [
            columns.expand(height, -1),
            rows[:, None].expand(-1, width),
            torch.ones_like(rows)[:, None].expand(-1, width),
        ],
        2,
    )
    source = position @ backward[:, None]
    extent = torch.tensor([max(1, width - 1), max(1, height - 1)], device=images.device)
    grid = source * 2 / extent - 1
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
