"""Distortions of cameras and image pipelines beyond ImageNet-C."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import KINDS, SEVERITIES, Parameters, register

GREY = 0.5


@register(
    unit="times smaller on each side",
    levels=(1.25, 1.5, 2, 3, 4),
    large_levels=(2, 3, 4, 6, 8),
    source="bilinear with antialiasing; resolution as a distortion: Dodge and Karam 2016",
    weakest=1.0,
)
def resize(images: Tensor, factor: float) -> Tensor:
    """Reduction by a factor and enlargement to the old size, bilinear with antialiasing."""
    height, width = images.shape[2:]
    small = [max(1, round(height / factor)), max(1, round(width / factor))]
    shrunk = F.interpolate(images, small, mode="bilinear", antialias=True)
    return F.interpolate(shrunk, (height, width), mode="bilinear")


@register(
    unit="bits of 8 that are lost",
    levels=(3, 4, 5, 6, 7),
    source="uniform quantisation; reduced bit depth: Xu, Evans and Qi 2018 (feature squeezing)",
    strongest=7.0,
    smooth=False,
)
def bit_depth(images: Tensor, lost: float) -> Tensor:
    """Rounding of each value to the nearest of 2^(8 - lost) evenly spaced levels from 0 to 1."""
    steps = 2 ** (8 - lost) - 1
    return (images * steps).round_().clamp_(0, steps) / steps


@register(
    unit="share of the picture covered",
    levels=(0.05, 0.1, 0.2, 0.3, 0.4),
    source="grey square: Zeiler and Fergus 2014; cutout: DeVries and Taylor 2017",
    strongest=1.0,
)
def occlusion(images: Tensor, draws: Draws, share: float) -> Tensor:
    """A grey rectangle with the picture's aspect ratio covers a share of it at a random place."""
    height, width = images.shape[2:]
    tall, wide = round(height * math.sqrt(share)), round(width * math.sqrt(share))
    corners = [
        (int(down * (height - tall + 1)), int(right * (width - wide + 1)))
        for down, right in draws.uniform(2).tolist()
    ]
    top, left = torch.tensor(corners, device=images.device).view(-1, 2, 1).unbind(1)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    high = (rows >= top) & (rows < top + tall)
    across = (columns >= left) & (columns < left + wide)
    return torch.where(high[:, None, :, None] & across[:, None, None], GREY, images)


@register(
    unit="stops between the red and the blue channel",
    levels=(0.5, 1, 1.5, 2, 3),
    source="wrong white balance as channel gains: von Kries; Afifi and Brown 2019",
    colours=True,
)
def colour_cast(images: Tensor, draws: Draws, stops: float) -> Tensor:
    """A wrong white balance, too warm or too cold with equal probability, clipped.

    In linear light (gamma 2.2), red gains half of the stops and blue loses half of them, or the
    other way round. Grey images are not changed.
    """
    side = draws.uniform(1).round() * 2 - 1
    if images.shape[1] == 1:
        return images
    red = torch.exp2(side * (stops / 2 / 2.2))
    gains = torch.cat([red, torch.ones_like(red), 1 / red], 1)
    return (images * gains[:, :, None, None]).clamp_(0, 1)


WHEEL = (
    ("defocus_blur", "gaussian_noise"),
    ("motion_blur", "jpeg_compression"),
    ("low_light", "gaussian_blur_c"),
    ("resize", "jpeg_compression"),
    ("contrast", "shot_noise"),
    ("colour_cast", "motion_blur"),
    ("fog", "defocus_blur"),
    ("brightness", "bit_depth"),
)


@register(
    unit="severity",
    levels=SEVERITIES,
    source="ours: pairs that one camera or pipeline causes together",
    severities={size: tuple((k, size) for k in range(1, 6)) for size in ("cifar", "imagenet")},
    strongest=5.0,
    colours=True,
    smooth=False,
)
def rolling_mixture(images: Tensor, draws: Draws, severity: int, parameters: Parameters) -> Tensor:
    """Two distortions in a row, a pair that each image draws from eight pairs.

    The first has the given severity, the second the severity below it (at least 1).
    """
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, pick in enumerate(draws.uniform(1).flatten().tolist()):
        # a GPU is faster with all images of a pair at once, a CPU with one that fits its cache
        alone = index if images.device.type == "cpu" else 0
        groups[int(pick * len(WHEEL)), alone].append(index)
    mixed, order = [], []
    for (pair, _), indices in groups.items():
        own, some = draws.for_images(indices), images[indices]
        for name, step in zip(WHEEL[pair], (severity, max(1, severity - 1)), strict=True):
            level = KINDS[name].levels(parameters)[step - 1]
            some = KINDS[name].apply(some, own, level, parameters)
        mixed.append(some)
        order += indices
    whole = torch.cat(mixed)
    return whole if order == sorted(order) else whole[torch.tensor(order).argsort()]
