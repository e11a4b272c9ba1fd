"""What a network expects of an image, and the way from a stored image to its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepcorrect.runtime import InputError, unknown

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""How images are resized, as Pillow calls it; all but `nearest` antialias."""


@dataclass(frozen=True)
class Preprocessing:
    """What turns a decoded image into a network's input.

    The data reader resizes the shorter side to `resize` pixels (with `squash`: both sides), cuts
    the central `input_size` square, and hands out floats in [0, 1]. Distortions act there.
    `Classifier` then subtracts `mean` and divides by `std`.

    Args:
        input_size: height and width of the network's input, in pixels.
        mean: per-channel mean of images in [0, 1]; its length is the number of channels (1 or 3).
        std: per-channel standard deviation of images in [0, 1].
        resize: shorter side before the central crop, in pixels; None takes `input_size`.
        interpolation: of the resize.
        squash: both sides are resized to `resize`, so that nothing but `resize` less `input_size`
            is cut and shapes change with the image's.
    """

    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        if self.input_size < 1:
            raise InputError(f"input size {self.input_size} is not a number of pixels above 0")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise InputError(
                f"mean has {len(self.mean)} values and std has {len(self.std)}: "
                "both need one value (grey) or three (RGB)"
            )
        if any(value <= 0 for value in self.std):
            raise InputError(f"std {self.std} has a value that is not above 0")
        if self.resize is not None and self.resize < self.input_size:
            raise InputError(
                f"resize {self.resize} is smaller than the input size {self.input_size}"
            )
        if self.interpolation not in get_args(Interpolation):
            raise unknown("interpolation", self.interpolation, get_args(Interpolation))

    @property
    def channels(self) -> int:
        """Number of image channels: 1 (grey) or 3 (RGB)."""
        return len(self.mean)


LONGEST_ASPECT = 8  # longer images are cut to this before the resize: the central crop is the same
BAD_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError)
"""What Pillow raises at files that are cut off, or no images."""


def to_tensor(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Floats in [0, 1], C x H x W: resized, cut in the centre, with the network's channels."""
    return pixels_of(fitted(image, preprocessing)).float() / 255


def fitted(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """An image of a network's channels and input size, in 8 bits: resized, cut in the centre."""
    image, size = in_channels(image, preprocessing.channels), preprocessing.input_size
    if image.size != (size, size):
        image = _resize(image, preprocessing)
    return image


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """An image in 8 bits, grey (1 channel) or RGB (3), its size unchanged.

    Grey, palette, CMYK and RGBA images are converted (transparency is dropped); 16-bit ones are
    scaled to 8 bits.
    """
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it
        image = Image.fromarray(np.uint8(np.clip(np.asarray(image) / 257, 0, 255).round()), "L")
    elif image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def pixels_of(image: Image.Image) -> Tensor:
    """The values of a grey or RGB image, C x H x W, as uint8."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return values.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size = preprocessing.input_size
    shorter = preprocessing.resize or size
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    if preprocessing.squash:
        return _cut_centre(image.resize((shorter, shorter), resample), size, size)
    width, height = image.size
    longest = LONGEST_ASPECT * min(width, height)
    if max(width, height) > longest:
        image = _cut_centre(image, min(width, longest), min(height, longest))
        width, height = image.size
    scale = shorter / min(width, height)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    return _cut_centre(image.resize(target, resample), size, size)


def _cut_centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
