"""Water and mud on the lens: ImageNet-C's spatter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import Border, gaussian, padded_around
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import corruption
from deepcorrect.distortions._weather import grey_of

WATER, MUD = (175, 238, 238), (63, 42, 20)  # pale turquoise and brown, from 0 to 255
FARTHEST = 20  # the largest distance from a drop's edge, in pixels
WEAK_EDGE, STRONG_EDGE = 50, 150
TAN_EIGHTH = math.tan(math.pi / 8)


@corruption(colours=True)
def spatter(
    images: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Tensor:
    """Drops on the lens, of shining water or of opaque mud.

    A drop is where blurred noise of the given mean and standard deviation exceeds a threshold.
    Each image has drops of its own, which are computed and not taken from a picture.
    """
    liquid = draws.normal(1, *images.shape[2:]).mul_(deviation).add_(mean)
    liquid = gaussian(liquid, size)
    drops = liquid > threshold
    colour = torch.tensor(MUD if mud else WATER, device=images.device).view(1, 3, 1, 1) / 255
    if images.shape[1] == 1:
        colour = grey_of(colour)
    if mud:
        cover = gaussian(drops.float(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return (images * (1 - cover) + cover * colour).clamp_(0, 1)
    shine = _relief(liquid * drops)
    shine = shine / shine.amax((1, 2, 3), keepdim=True).clamp_min(1e-6) * strength
    return torch.addcmul(images, shine, colour).clamp_(0, 1)


def _relief(liquid: Tensor) -> Tensor:
    """The brightness of drops, from their depth and the gradient of the distance to their edges.

    Values are those of 8-bit images, as in the benchmark's code.
    """
    depth = (liquid * 255).floor()
    distance = _distance(_canny_edges(depth), FARTHEST)
    distance = _equalised(_mean3(distance).floor().long(), FARTHEST)
    at = _neighbours(distance, "mirror")
    lit = at(0, 0) + at(0, 1) + at(1, 0) + 2 * at(1, 1) - at(0, -1) - at(-1, 0) - 2 * at(-1, -1)
    return depth * _mean3(lit.clamp_(0, 255)).round()


def _neighbours(maps: Tensor, border: Border) -> Callable[[int, int], Tensor]:
    """A function of (dy, dx) that returns the neighbour of each pixel at this offset."""
    return _neighbours_in(padded_around(maps, 1, 1, 1, 1, border))


def _neighbours_in(wide: Tensor) -> Callable[[int, int], Tensor]:
    """The same for maps that are already padded by one pixel on each side."""
    height, width = wide.shape[-2] - 2, wide.shape[-1] - 2
    return lambda dy, dx: wide[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]


def _mean3(maps: Tensor) -> Tensor:
    wide = padded_around(maps, 1, 1, 1, 1, "mirror")
    rows = (wide[..., :-2, :] + wide[..., 1:-1, :]).add_(wide[..., 2:, :])
    return (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).div_(9)


def _canny_edges(depth: Tensor) -> Tensor:
    """Canny's edge pixels: strong gradients that are maximal across the edge. Bool, N x 1 x H x W.

    Weaker gradients count, too, if they touch an edge pixel (hysteresis).
    """
    at = _neighbours(depth, "nearest")
    falling, rising = at(1, 1) - at(-1, -1), at(-1, 1) - at(1, -1)
    across = falling + rising + 2 * (at(0, 1) - at(0, -1))  # Sobel
    down = falling - rising + 2 * (at(1, 0) - at(-1, 0))
    same = (across < 0) == (down < 0)
    across, down = across.abs_(), down.abs_()
    steep = across + down
    around = _neighbours_in(F.pad(steep, (1, 1, 1, 1)))
    ridge = torch.where(
        same,
        (steep > around(-1, -1)) & (steep > around(1, 1)),
        (steep > around(-1, 1)) & (steep > around(1, -1)),
    )
    upright = (steep > around(-1, 0)) & (steep >= around(1, 0))
    ridge = torch.where(across < down * TAN_EIGHTH, upright, ridge)
    level = (steep > around(0, -1)) & (steep >= around(0, 1))
    ridge = torch.where(down < across * TAN_EIGHTH, level, ridge)
    strong = ridge & (steep > STRONG_EDGE)
    weak = (ridge & (steep > WEAK_EDGE)).logical_xor_(strong)
    number, _, row, column = weak.nonzero(as_tuple=True)
    edges = F.pad(strong, (1, 1, 1, 1))[:, 0]
    while len(number):
        near = [edges[number, row + dy, column + dx] for dy in (0, 1, 2) for dx in (0, 1, 2)]
        touching = torch.stack(near).any(0)
        if not bool(touching.any()):
            break
        edges[number[touching], row[touching] + 1, column[touching] + 1] = True
        number, row, column = number[~touching], row[~touching], column[~touching]
    return edges[:, None, 1:-1, 1:-1]


def _distance(edges: Tensor, farthest: int) -> Tensor:
    """The distance to the nearest edge pixel, at most `farthest`, N x 1 x H x W.

    Paths consist of steps to a neighbour, to a diagonal neighbour and of a knight's move, with the
    lengths 1, 1.4 and 2.197, as in OpenCV (Borgefors 1986). The shortest path needs at most two of
    the three, so its length for an offset (x, y) is the maximum of four sums. The computation is in
    integers, in thousandths of a pixel.
    """
    height, width = edges.shape[-2:]
    column = torch.arange(width, device=edges.device, dtype=torch.int16)
    far = farthest + 1
    left = column - torch.where(edges, column, -far).cummax(-1).values
    right = torch.where(edges, column, width + far).flip(-1).cummin(-1).values.flip(-1) - column
    across = torch.minimum(left, right).clamp_max_(far)
    wide = F.pad(across, (0, 0, farthest, farthest), value=far)
    nearest = across * 1000
    nearer, way, length = (torch.empty_like(across) for _ in range(3))
    for dy in range(1, farthest + 1):
        above = wide[..., farthest - dy : farthest - dy + height, :]
        below = wide[..., farthest + dy : farthest + dy + height, :]
        torch.minimum(above, below, out=nearer)
        torch.mul(nearer, 197, out=way).add_(1000 * dy)
        for over_x, over_y, least in ((603, 797, 1098), (797, 603, 1400), (1000, 197, 2197)):
            if least * dy <= 1000 * farthest:  # below `least`, another sum is greater
                torch.mul(nearer, over_x, out=length).add_(over_y * dy)
                torch.maximum(way, length, out=way)
        torch.minimum(nearest, way, out=nearest)
    return nearest.clamp_max_(1000 * farthest).float().div_(1000)


def _equalised(values: Tensor, highest: int) -> Tensor:
    """Histogram equalisation, per image, of integers from 0 to `highest` to the range 0 to 255."""
    flat = values.flatten(1)
    steps = highest + 1
    first_step = torch.arange(len(flat), device=values.device)[:, None] * steps
    cells = (flat + first_step).flatten()
    counts = torch.bincount(cells, minlength=len(flat) * steps).view(-1, steps).float()
    first = counts.gather(1, (counts > 0).float().argmax(1, keepdim=True))
    table = (counts.cumsum(1) - first).clamp_min(0) * 255 / (flat.shape[1] - first).clamp_min(1)
    return table.round().flatten().index_select(0, cells).view(values.shape)
