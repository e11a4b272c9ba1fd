"""What a network expects of its images, and how a stored image is prepared for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepcorrect.data._decoding import convert_channels
from deepcorrect.runtime import InputError, unknown

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's names of the ways to resize an image; all but `nearest` antialias."""


@dataclass(frozen=True)
class Preprocessing:
    """How decoded images are turned into a network's input.

    The data reader resizes the shorter side to `resize` pixels (with `squash`, both sides), crops
    the central `input_size` square and yields floats in [0, 1], on which distortions act. The
    longer side is truncated and the margins of the crop are rounded as in torchvision and timm.
    `Classifier` then subtracts `mean` and divides by `std`.

    Args:
        input_size: The height and width of the network's input, in pixels.
        mean: The mean of each channel of images in [0, 1]. Its length is the number of channels,
            one (grey) or three (RGB).
        std: The standard deviation of each channel of images in [0, 1].
        resize: The shorter side before the central crop, in pixels; None stands for `input_size`.
        interpolation: How images are resized.
        squash: Whether both sides are resized to `resize`, which changes the aspect ratio of
            images that are not square but crops them only by `resize` - `input_size`.
        margins: How half a pixel of the crop's margin is rounded: `round` (to even) as torchvision
            and timm do, or `floor` as the image processors of transformers do.
        any_statistics: Whether a mean outside [0, 1] or a deviation above 1 is accepted, as some
            processors of transformers have; usually it is that of pixel values 0 to 255.

    Raises:
        InputError: A value is not accepted.

    Example:
        >>> import deepcorrect as dc
        >>> dc.Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256).channels
        3
    """

    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    squash: bool = False
    margins: Literal["round", "floor"] = "round"
    any_statistics: bool = field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if not isinstance(self.input_size, Integral) or self.input_size < 1:
            raise InputError(
                f"input size {self.input_size} is not a number of pixels above 0: give one side of "
                "a square"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise InputError(
                f"mean has {len(self.mean)} values and std has {len(self.std)}: "
                "both need one value (grey) or three (RGB)"
            )
        unchecked = self.any_statistics
        means = unchecked or all(0 <= value <= 1 for value in self.mean)
        _check_statistics("mean", self.mean, means)
        most = math.inf if unchecked else 1
        _check_statistics("std", self.std, all(0 < value <= most for value in self.std))
        if self.resize is not None and self.resize < self.input_size:
            raise InputError(
                f"resize {self.resize} is smaller than the input size {self.input_size}"
            )
        if self.interpolation not in get_args(Interpolation):
            raise unknown("interpolation", self.interpolation, get_args(Interpolation))

    @property
    def channels(self) -> int:
        """The number of image channels: 1 (grey) or 3 (RGB)."""
        return len(self.mean)


def _numbers(name: str, given: Any) -> tuple[float, ...]:
    """The values as a tuple of numbers.

    Raises:
        InputError: They are something else.
    """
    try:
        return tuple(float(value) for value in given)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} {given!r} is not one number per channel: give a tuple such as (0.5,) or "
            "(0.485, 0.456, 0.406)"
        ) from None


def _check_statistics(name: str, values: tuple[float, ...], possible: bool) -> None:
    """Raises InputError where a mean or standard deviation cannot be that of images in [0, 1]."""
    if possible:
        return
    limits = "[0, 1]" if name == "mean" else "(0, 1]"
    advice = ""
    if all(0 < value <= 255 for value in values) and any(value > 1 for value in values):
        divided = ", ".join(f"{value / 255:.4g}" for value in values)
        advice = f". If it is of pixel values 0 to 255, give it divided by 255: {divided}"
    shown = ", ".join(f"{value:g}" for value in values)
    raise InputError(f"{name} {shown} is not in {limits}: it is that of images in [0, 1]{advice}")


LONGEST_ASPECT = 8
"""Of images with a larger aspect ratio, only the central square is computed, to save memory."""


def to_tensor(
    image: Image.Image, preprocessing: Preprocessing, *, keep_fitting: bool = False
) -> Tensor:
    """An image as a network's input before normalisation: floats in [0, 1], C x H x W.

    Args:
        image: The image as it was opened; its EXIF orientation is applied.
        preprocessing: The network's preprocessing.
        keep_fitting: Whether an image that already has the input size keeps its pixels, even if
            the preprocessing resizes images to more than the input size.

    Raises:
        UnsupportedImageError: The meaning of the image's values is not known.

    Example:
        >>> import deepcorrect as dc
        >>> from PIL import Image
        >>> from deepcorrect.data import to_tensor
        >>> to_tensor(Image.new("RGB", (640, 480)), dc.Preprocessing(28, (0.13,), (0.31,))).shape
        torch.Size([1, 28, 28])
    """
    pixels = resize_and_crop(image, preprocessing, keep_fitting=keep_fitting)
    return to_uint8(pixels).float() / 255


def resize_and_crop(
    image: Image.Image, preprocessing: Preprocessing, *, keep_fitting: bool = False
) -> Image.Image:
    """An image in 8 bits with a network's channels and input size.

    The pixels equal those of torchvision's `Resize` and `CenterCrop`, and of timm's transforms.
    """
    image, size = convert_channels(image, preprocessing.channels), preprocessing.input_size
    if keep_fitting and image.size == (size, size):
        return image
    return _resize(image, preprocessing)


def to_uint8(image: Image.Image) -> Tensor:
    """The pixels of a grey or RGB image as uint8, C x H x W."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return values.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size = preprocessing.input_size
    shorter = preprocessing.resize or size
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    width, height = image.size
    if preprocessing.squash:
        target = (shorter, shorter)
    elif width <= height:  # torchvision truncates the longer side
        target = (shorter, int(shorter * height / width))
    else:
        target = (int(shorter * width / height), shorter)
    margins = ((side - size) / 2 for side in target)
    # to even, as torchvision does; down, as transformers does
    left, top = map(math.floor if preprocessing.margins == "floor" else round, margins)
    if max(target) <= LONGEST_ASPECT * shorter:
        return image.resize(target, resample).crop((left, top, left + size, top + size))
    across, down = width / target[0], height / target[1]
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), resample, box)
