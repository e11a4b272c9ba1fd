"""ImageNet-C's corruptions for NumPy arrays, called as the package imagecorruptions is called."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch

from deepcorrect.distortions._distortion import Distortion
from deepcorrect.distortions._registry import GROUPS
from deepcorrect.runtime import InputError, check_seed, unknown

Subset = Literal["common", "validation", "all", "noise", "blur", "weather", "digital"]

THEIRS = {"gaussian_blur_c": "gaussian_blur"}
"""Kinds that imagecorruptions has under another name: here, `gaussian_blur` is the paper's."""

COMMON = GROUPS["imagenet_c"]
VALIDATION = tuple(THEIRS.get(name, name) for name in GROUPS["imagenet_c_extra"])
ALL = COMMON + VALIDATION
SUBSETS: dict[str, tuple[str, ...]] = {
    "common": COMMON,
    "validation": VALIDATION,
    "all": ALL,
    "noise": COMMON[:3],
    "blur": COMMON[3:7],
    "weather": COMMON[7:11],
    "digital": COMMON[11:],
}


def get_corruption_names(subset: Subset = "common") -> list[str]:
    """The names that `corrupt` accepts, in the order of their numbers.

    Args:
        subset: `common` (ImageNet-C's fifteen), `validation` (its four others), `all` of them, or
            the common ones of one sort: `noise`, `blur`, `weather`, `digital`.

    Raises:
        InputError: there is no such subset.

    Example:
        >>> from deepcorrect.distortions import get_corruption_names
        >>> get_corruption_names("weather")
        ['snow', 'frost', 'fog', 'brightness']
    """
    if subset not in SUBSETS:
        raise unknown("subset of corruptions", subset, get_args(Subset))
    return list(SUBSETS[subset])


def corrupt(
    image: np.ndarray[Any, np.dtype[np.uint8]],
    severity: int = 1,
    corruption_name: str | None = None,
    corruption_number: int = -1,
    *,
    seed: int | None = None,
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Corrupts one image as ImageNet-C does; called as `imagecorruptions.corrupt` is.

    D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
    and Perturbations", ICLR 2019. ImageNet's parameters apply at every size of the image. Values
    are rounded to 8 bits, where imagecorruptions truncates. For many images, `Distort` on a batch
    is several times as fast.

    Args:
        image: bytes, H x W x 3, H x W x 1 or H x W, of any size.
        severity: from 1 to 5.
        corruption_name: one of `get_corruption_names("all")`.
        corruption_number: its place in that list, from 0, where no name is given.
        seed: of the random numbers, for corruptions that draw some. None takes it from NumPy's
            global generator, so that `np.random.seed` repeats the results.

    Returns:
        The corrupted image, bytes, H x W x 3 (of a grey image, too).

    Raises:
        InputError: the image is no array of bytes in one of these shapes, or there is no such
            corruption, severity or seed, or both or neither of name and number are given.

    Example:
        >>> import numpy as np
        >>> from deepcorrect.distortions import corrupt
        >>> image = np.full((64, 48, 3), 128, dtype=np.uint8)
        >>> corrupt(image, corruption_name="fog", severity=3, seed=0).shape
        (64, 48, 3)
        >>> bool((corrupt(image, severity=2, corruption_number=10) > image).all())  # brightness
        True
    """
    name = _name_of(corruption_name, corruption_number)
    if isinstance(severity, bool) or severity not in range(1, 6):
        raise InputError(f"severity {severity!r} is not a whole number from 1 to 5")
    planes = _planes(image)
    ours = {theirs: own for own, theirs in THEIRS.items()}.get(name, name)
    distortion = Distortion(ours, quantize=True, parameters="imagenet")
    if seed is None and distortion.random:
        seed = int(np.random.randint(2**62, dtype=np.int64))
    seeds = torch.tensor([check_seed(0 if seed is None else seed)], dtype=torch.int64)
    images = torch.from_numpy(planes.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    corrupted = distortion(images, severity, seeds)
    pixels = (corrupted[0] * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _name_of(name: str | None, number: int) -> str:
    if (name is None) == (number == -1):
        raise InputError("give one of the two, corruption_name or corruption_number")
    if name is None:
        if number not in range(len(ALL)):
            raise InputError(f"corruption_number {number} is not from 0 to {len(ALL) - 1}")
        return ALL[number]
    if name not in ALL:
        raise unknown("corruption", name, ALL)
    return name


def _planes(image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image, H x W x 3."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        is_array = isinstance(image, np.ndarray)
        given = f"an array of {image.dtype}" if is_array else f"a {type(image).__name__}"
        raise InputError(
            f"the image is {given}, where an array of uint8 from 0 to 255 is needed: give "
            "np.asarray(picture) of a Pillow image, or use deepcorrect.distortions.Distort for "
            "tensors"
        )
    shape = " x ".join(map(str, image.shape))
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise InputError(f"the image is {shape}, where H x W x 3, H x W x 1 or H x W is needed")
    return np.broadcast_to(image, (*image.shape[:2], 3))
