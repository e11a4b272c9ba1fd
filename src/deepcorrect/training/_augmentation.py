"""Augmentation of a training batch: random flips, shifts, rotations, zooms and crops, and AugMix.

The affine part is computed here because every random number must come from a given generator, so
that a resumed training sees the same images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from deepcorrect.runtime import forked_random, optional_import


class Augmentation(BaseModel):
    """How far training images are moved. By default they stay as they are.

    The paper's values are rotation 20, shift 0.15, zoom 0.25, and flips; `PAPER` has them.

    Attributes:
        rotation: the largest angle in either direction, in degrees, 0 to 180.
        shift: the largest shift in either direction, as a share of the width and of the height,
            0 to 0.5; images move by whole pixels.
        zoom: images are scaled by a factor from 1 - zoom to 1 + zoom; 0 to 1, exclusive.
        flip: whether a random half of the images is mirrored left to right.
        crop: each image is cut to a random part of this share of its height and width; above 0, and
            1 keeps images whole. `dc.correct` shows whole images in the last fifth of the epochs.

    Raises:
        pydantic.ValidationError: a value is outside its range.

    Example:
        >>> import deepcorrect as dc
        >>> dc.Augmentation(rotation=10, shift=0.1, zoom=0.2)
        Augmentation(rotation=10.0, shift=0.1, zoom=0.2, flip=False, crop=1.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rotation: float = Field(default=0, ge=0, le=180)
    shift: float = Field(default=0, ge=0, le=0.5)
    zoom: float = Field(default=0, ge=0, lt=1)
    flip: bool = False
    crop: float = Field(default=1.0, gt=0, le=1)


def augment(
    images: Tensor,
    how: Augmentation,
    generator: torch.Generator,
    part: tuple[int, int] | None = None,
) -> Tensor:
    """Moves each image by random amounts of its own; what enters from outside is black.

    Args:
        images: N x C x H x W.
        how: the limits.
        generator: the source of randomness, on the CPU.
        part: the place of the first image in a larger batch, and that batch's size, where other
            processes have the rest of it: numbers are drawn for all.

    Returns:
        Images of the same shape, or of that of a crop, bilinearly sampled.
    """
    count = len(images)
    first, size = part or (0, count)
    draws = torch.rand(5, size, generator=generator) * 2 - 1  # each in [-1, 1]
    draws = draws[:, first : first + count]
    if how.crop < 1:
        places = torch.rand(2, size, generator=generator)[:, first : first + count]
        images = _cropped(images, how.crop, places)
    if how.model_copy(update={"crop": 1.0}) == Augmentation():
        return images
    height, width = images.shape[2:]
    angle = draws[0] * how.rotation * torch.pi / 180
    scale = 1 / (1 + draws[1] * how.zoom)
    mirror = torch.where(draws[2] < 0, -1.0, 1.0) if how.flip else torch.ones(count)
    shift_x = torch.round(draws[3] * how.shift * width) * 2 / width
    shift_y = torch.round(draws[4] * how.shift * height) * 2 / height
    aspect = height / width  # affine_grid's axes are each -1 to 1: rotate in square pixels
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack(
        [
            torch.stack([cos * mirror, -sin * aspect, shift_x], 1),
            torch.stack([sin * mirror / aspect, cos, shift_y], 1),
        ],
        1,
    ).to(images.device)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), align_corners=False)


def _cropped(images: Tensor, share: float, places: Tensor) -> Tensor:
    """A part of each image, without resampling.

    Args:
        images: N x C x H x W.
        share: the part's share of the height and of the width.
        places: where each part is, 2 x N in [0, 1): of all places, from top to bottom, and from
            left to right.
    """
    sides = [max(1, round(share * side)) for side in images.shape[2:]]
    rooms = [side - kept + 1 for side, kept in zip(images.shape[2:], sides, strict=True)]
    tops, lefts = (
        (place * room).long().tolist() for place, room in zip(places, rooms, strict=True)
    )
    return torch.stack(
        [
            image[:, top : top + sides[0], left : left + sides[1]]
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
    )


GROUP = 8
"""The number of images that share the operations of their chains, not their mixing weights."""


def augmix(images: Tensor, generator: torch.Generator, severity: int = 3, width: int = 3) -> Tensor:
    """A view of each image: a random mixture of the image and of `width` augmented copies.

    The operations are those of AugMix (Hendrycks et al. 2020, section 3 and its footnote) that no
    corruption of ImageNet-C repeats: autocontrast, equalize, posterize, rotate, solarize, shear and
    translate, in chains of one to three. torchvision computes them.

    Args:
        images: floats, N x C x H x W; values outside [0, 1] are clipped, because the operations act
            on 8-bit images.
        generator: the source of randomness, on the CPU.
        severity: the strength of the operations, 1 to 10.
        width: the number of chains.

    Returns:
        Images of the same shape in [0, 1], in steps of 1/255.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    transforms = optional_import("torchvision.transforms.v2", "torchvision")
    mix = transforms.AugMix(severity, width, all_ops=False)
    pixels = (images.clamp(0, 1) * 255).round().byte()
    seed = int(torch.randint(2**62, (), generator=generator))
    with forked_random(images.device, seed=seed):  # torchvision draws from the global generators
        views = [mix(group) for group in pixels.split(GROUP)]
    return torch.cat(views).to(images.dtype) / 255
