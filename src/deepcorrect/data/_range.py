"""The range of a loader's images: a check of one batch against silent wrong answers."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from deepcorrect.runtime import InputError, note_once

OVERSHOOT = 0.4
"""How far values may lie outside [0, 1]: bicubic resizing of floats overshoots at edges."""

SWITCH = "DEEPCORRECT_CHECK_IMAGES"
"""The environment variable that switches the checks at the start off where it is 0."""


def checks_wanted() -> bool:
    """Whether a loader's first images, and the network's answers to them, are checked."""
    return os.environ.get(SWITCH) != "0"


def check_range(images: Tensor) -> None:
    """Refuses a loader's first batch if its values cannot be images in [0, 1].

    Distortions and normalisation act on images in [0, 1]; images that are normalised already, or
    whose values go up to 255, would be measured without a word, and wrongly.

    Args:
        images: N x C x H x W, the first batch of a loader.

    Raises:
        InputError: the values are integers other than bytes, bytes of 0 and 1 alone, or floats far
            outside [0, 1].

    Example:
        >>> import torch
        >>> check_range(torch.rand(2, 3, 8, 8))
        >>> check_range(torch.rand(2, 3, 8, 8) * 255)
        Traceback (most recent call last):
        ...
        deepcorrect.runtime._errors.InputError: the loader's images have values from ... to ...
    """
    if not images.numel() or not checks_wanted():
        return
    if images.dtype == torch.uint8:
        if int(images.max()) <= 1:
            raise InputError(
                "the loader's images are bytes of at most 1, where 255 is expected of white: give "
                f"floats in [0, 1], such as images.float(). If the images are black, set {SWITCH}=0"
            )
        note_once("the loader's images are bytes: they are divided by 255")
        return
    if not images.is_floating_point():
        raise InputError(
            f"the loader's images are {str(images.dtype).removeprefix('torch.')}: give floats in "
            "[0, 1], such as images.float() / 255, or bytes"
        )
    low, high = (float(value) for value in images.detach().float().aminmax())
    within = low >= -OVERSHOOT and high <= 1 + OVERSHOOT
    if within or math.isnan(low):  # NaN is reported where it is used
        return
    advice = (
        "they look like 0 to 255: divide them by 255"
        if low >= -OVERSHOOT
        else "they look normalised: leave the normalisation out of the loader's transform, and "
        "give its mean and std to deepcorrect.Classifier(network, Preprocessing(size, mean, std))"
    )
    raise InputError(
        f"the loader's images have values from {low:.3g} to {high:.3g}, where images in [0, 1] are "
        f"needed. Perhaps {advice}. If the values are meant so, set {SWITCH}=0"
    )
