"""Weather: ImageNet-C's snow, frost and fog; `_spatter` has the fourth kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepcorrect.distortions._blur import line_blur, zoomed
from deepcorrect.distortions._frost import TEXTURES, tiled_texture
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import corruption

LUMA = (0.299, 0.587, 0.114)


def grey_of(images: Tensor) -> Tensor:
    """The luma of grey or RGB images, N x 1 x H x W."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    luma = torch.add(red * LUMA[0], green, alpha=LUMA[1])
    return luma.add_(blue, alpha=LUMA[2])


@corruption(colours=True, clips=True)
def snow(
    images: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Tensor:
    """Streaks of falling snow over a whitened picture.

    The flakes are noise of the given mean and standard deviation that is enlarged, set to zero
    below the threshold and blurred along a steep line. They are added twice, once rotated by 180
    degrees.
    """
    flakes = draws.normal(1, *images.shape[2:]).mul_(deviation).add_(mean)
    flakes = zoomed(flakes, size)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp_(0, 1)
    flakes = line_blur(flakes, draws.uniform(low=-135, high=-45), radius, sigma)
    white = torch.maximum(images, (grey_of(images) * 1.5).add_(0.5))
    falling = flakes + flakes.flip(-2, -1)
    return white.mul_(1 - kept).add_(images, alpha=kept).add_(falling)


@corruption(colours=True, clips=True)
def frost(images: Tensor, draws: Draws, kept: float, weight: float, scale: float) -> Tensor:
    """Ice crystals over the picture: a weighted sum with a random crop of a texture.

    The textures are computed, and none of the benchmark's photographs is used. Each of the five has
    the colours, the contrast and the radial power spectrum measured on one of these photographs.
    """
    height, width = images.shape[2:]
    cuts = []
    for kind, *corner in draws.uniform(3).tolist():
        number = int(kind * len(TEXTURES))
        ice = tiled_texture(number, scale, height, width, images.device)
        top = int(corner[0] * (ice.shape[1] - height + 1))
        left = int(corner[1] * (ice.shape[2] - width + 1))
        cuts.append(ice[None, :, top : top + height, left : left + width])
    if images.device.type != "cpu":  # at once
        cuts = [torch.cat(cuts)]
    frosted, first = images * kept, 0
    for cut in cuts:
        ice = grey_of(cut) if images.shape[1] == 1 else cut
        frosted[first : first + len(ice)].add_(ice, alpha=weight)
        first += len(ice)
    return frosted


@corruption(clips=True)
def fog(images: Tensor, draws: Draws, thickness: float, decay: float) -> Tensor:
    """A cloud from midpoint displacement is added, and the brightness is restored."""
    height, width = images.shape[2:]
    cloud = plasma(draws, max(height, width), decay)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True)
    scale = brightest / (brightest + thickness)
    return torch.addcmul(cloud * (scale * thickness), images, scale)


def plasma(draws: Draws, pixels: int, decay: float) -> Tensor:
    """Fractal clouds in [0, 1], N x side x side, by the diamond-square algorithm.

    The side is the next power of two from `pixels` on. Whenever the step is halved, a new point is
    the mean of four neighbours plus uniform noise, whose amplitude is divided by `decay`. Edges
    wrap around (Fournier, Fussell and Carpenter 1982).
    """
    side = 2 ** max(1, math.ceil(math.log2(pixels)))
    noise = draws.uniform(side * side, low=-1, high=1)
    number = len(noise)
    cloud = torch.zeros(number, 1, 1, device=noise.device)
    reach, used = 100.0, 0
    while (count := cloud.shape[1]) < side:
        drawn = noise[:, used : used + 3 * count * count].mul_(reach * reach)
        for_middle, for_top, for_side = drawn.view(number, 3, count, count).unbind(1)
        below = torch.cat([cloud, cloud[:, :1]], 1)
        wide = torch.cat([below, below[:, :, :1]], 2)
        across = wide[:, :, :-1] + wide[:, :, 1:]
        middle = torch.add(for_middle, across[:, :-1] + across[:, 1:], alpha=0.25)
        above = torch.cat([middle[:, -1:], middle[:, :-1]], 1)
        before = torch.cat([middle[:, :, -1:], middle[:, :, :-1]], 2)
        finer = torch.empty(number, count, 2, count, 2, device=noise.device)
        finer[:, :, 0, :, 0] = cloud
        finer[:, :, 1, :, 1] = middle
        top = above.add_(middle).add_(across[:, :-1])
        torch.add(for_top, top, alpha=0.25, out=finer[:, :, 0, :, 1])
        beside = before.add_(middle).add_(cloud).add_(below[:, 1:])
        torch.add(for_side, beside, alpha=0.25, out=finer[:, :, 1, :, 0])
        cloud = finer.view(number, 2 * count, 2 * count)
        used += 3 * count * count
        reach /= decay
    lowest, highest = cloud.amin((1, 2), keepdim=True), cloud.amax((1, 2), keepdim=True)
    return cloud.sub_(lowest).div_(highest - lowest)
