"""Water and mud on the lens: ImageNet-C's spatter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import Border, extended, gaussian
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import corruption
from deepcorrect.distortions._weather import grey_of

WATER, MUD = (175, 238, 238), (63, 42, 20)  # pale turquoise and brown, of 255
FARTHEST = 20  # pixels from a drop's rim
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
    """Drops of water that shine, or of mud that hide, on the lens.

    The drops are where blurred noise of the given mean and deviation is above the threshold. They
    are made anew for every image, by a procedure.
    """
    liquid = draws.normal(1, *images.shape[2:]).mul_(deviation).add_(mean)
    liquid = gaussian(liquid, size)
    inside = liquid > threshold
    colour = torch.tensor(MUD if mud else WATER, device=images.device).view(1, 3, 1, 1) / 255
    if images.shape[1] == 1:
        colour = grey_of(colour)
    if mud:
        cover = gaussian(inside.float(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return (images * (1 - cover) + cover * colour).clamp_(0, 1)
    shine = _relief(liquid * inside)
    shine = shine / shine.amax((1, 2, 3), keepdim=True).clamp_min(1e-6) * strength
    return torch.addcmul(images, shine, colour).clamp_(0, 1)


def _relief(liquid: Tensor) -> Tensor:
    """How drops shine: by their depth, and by the slope of the distance to their rims.

    Values are those of 8-bit images, as in the benchmark's code.
    """
    depth = (liquid * 255).floor()
    distance = _distance(_rims(depth), FARTHEST)
    distance = _equalised(_mean3(distance).floor().long(), FARTHEST)
    at = _neighbours(distance, "mirror")
    lit = at(0, 0) + at(0, 1) + at(1, 0) + 2 * at(1, 1) - at(0, -1) - at(-1, 0) - 2 * at(-1, -1)
    return depth * _mean3(lit.clamp_(0, 255)).round()


def _neighbours(maps: Tensor, border: Border) -> Callable[[int, int], Tensor]:
    """A function that gives the maps moved so that (dy, dx) of each pixel comes to its place."""
    return _moved(extended(extended(maps, -2, 1, 1, border), -1, 1, 1, border))


def _moved(wide: Tensor) -> Callable[[int, int], Tensor]:
    """The same of maps that are a pixel wider all around already."""
    height, width = wide.shape[-2] - 2, wide.shape[-1] - 2
    return lambda dy, dx: wide[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]


def _mean3(maps: Tensor) -> Tensor:
    wide = extended(extended(maps, -2, 1, 1, "mirror"), -1, 1, 1, "mirror")
    rows = (wide[..., :-2, :] + wide[..., 1:-1, :]).add_(wide[..., 2:, :])
    return (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).div_(9)


def _rims(depth: Tensor) -> Tensor:
    """Edge pixels as by Canny: steep, and steepest across the edge. Bool, N x 1 x H x W.

    Those that are less steep count where they touch one that counts.
    """
    at = _neighbours(depth, "nearest")
    falling, rising = at(1, 1) - at(-1, -1), at(-1, 1) - at(1, -1)
    across = falling + rising + 2 * (at(0, 1) - at(0, -1))  # Sobel
    down = falling - rising + 2 * (at(1, 0) - at(-1, 0))
    same = (across < 0) == (down < 0)
    across, down = across.abs_(), down.abs_()
    steep = across + down
    around = _moved(F.pad(steep, (1, 1, 1, 1)))
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
    rims = F.pad(strong, (1, 1, 1, 1))[:, 0]
    while len(number):
        near = [rims[number, row + dy, column + dx] for dy in (0, 1, 2) for dx in (0, 1, 2)]
        touching = torch.stack(near).any(0)
        if not bool(touching.any()):
            break
        rims[number[touching], row[touching] + 1, column[touching] + 1] = True
        number, row, column = number[~touching], row[~touching], column[~touching]
    return rims[:, None, 1:-1, 1:-1]


def _distance(edges: Tensor, farthest: int) -> Tensor:
    """Distance to the nearest edge pixel, at most `farthest`, N x 1 x H x W.

    In steps of a pixel, of its diagonal and of a knight's move, which count 1, 1.4 and 2.1969, as
    in OpenCV (Borgefors 1986). The shortest way takes one or two of the three, so its length over
    x and y is the greatest of four sums. Whole numbers of a thousandth of a pixel.
    """
    height, width = edges.shape[-2:]
    place = torch.arange(width, device=edges.device, dtype=torch.int16)
    far = farthest + 1
    left = place - torch.where(edges, place, -far).cummax(-1).values
    right = torch.where(edges, place, width + far).flip(-1).cummin(-1).values.flip(-1) - place
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
            if least * dy <= 1000 * farthest:  # `least`: the shortest way for which it is greatest
                torch.mul(nearer, over_x, out=length).add_(over_y * dy)
                torch.maximum(way, length, out=way)
        torch.minimum(nearest, way, out=nearest)
    return nearest.clamp_max_(1000 * farthest).float().div_(1000)


def _equalised(values: Tensor, highest: int) -> Tensor:
    """Histogram equalisation of whole numbers from 0 to `highest` over 0 to 255, by image."""
    flat = values.flatten(1)
    steps = highest + 1
    first_step = torch.arange(len(flat), device=values.device)[:, None] * steps
    cells = (flat + first_step).flatten()
    counts = torch.bincount(cells, minlength=len(flat) * steps).view(-1, steps).float()
    first = counts.gather(1, (counts > 0).float().argmax(1, keepdim=True))
    table = (counts.cumsum(1) - first).clamp_min(0) * 255 / (flat.shape[1] - first).clamp_min(1)
    return table.round().flatten().index_select(0, cells).view(values.shape)
