"""What the distortion benchmarks run on: images of ImageNet at 224 pixels, ours and the peer's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.subjects import efficientnet_lite0, imagenet_sample
from deepcorrect.data import loader
from deepcorrect.distortions import GROUPS, Distortion
from deepcorrect.networks import Classifier
from deepcorrect.runtime import seed_of, seeds_for

warnings.simplefilter("ignore")
import imagecorruptions  # noqa: E402  # pyright: ignore[reportMissingImports]
import imagecorruptions.corruptions  # noqa: E402  # pyright: ignore[reportMissingImports]
from skimage.filters import gaussian  # noqa: E402  # pyright: ignore[reportMissingImports]

RESULTS = Path(__file__).parent.parent / "results" / "distortions"
CORRUPTIONS = GROUPS["imagenet_c"] + GROUPS["imagenet_c_extra"]
DETERMINISTIC = tuple(name for name in CORRUPTIONS if not Distortion(name).random)
SEVERITIES = (1, 2, 3, 4, 5)
BATCH = 32


def network_and_images(count: int) -> tuple[Classifier, Tensor, Tensor]:
    """EfficientNet-Lite0 and images of ImageNet, N x 3 x 224 x 224, and their labels."""
    network = efficientnet_lite0()
    batches = list(loader(imagenet_sample(network, count), 50))
    images = torch.cat([images for images, _ in batches])
    return network, (images * 255).round() / 255, torch.cat([labels for _, labels in batches])


def _gaussian(*given: Any, **named: Any) -> np.ndarray:
    """scikit-image's filter with an argument that imagecorruptions gives and 0.20 renamed."""
    if named.pop("multichannel", False):
        named["channel_axis"] = -1
    return gaussian(*given, **named)


imagecorruptions.corruptions.gaussian = _gaussian


def theirs(image: np.ndarray, name: str, severity: int) -> np.ndarray:
    """What imagecorruptions makes of one image, H x W x 3, uint8."""
    name = "gaussian_blur" if name == "gaussian_blur_c" else name
    return imagecorruptions.corrupt(image, severity=severity, corruption_name=name)


def as_bytes(images: Tensor) -> np.ndarray:
    """N x H x W x 3, uint8, as the peer takes them."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def as_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255


def our_seeds(count: int, name: str, severity: int, draw: int, first: int) -> Tensor:
    """A seed for each of `count` images, which count from `first`."""
    return seeds_for(draw, name, severity, first=first, count=count)


def ours_of(images: Tensor, name: str, severity: int, draw: int, first: int) -> Tensor:
    """Ours of a batch, whose images count from `first`."""
    seeds = our_seeds(len(images), name, severity, draw, first)
    return Distortion(name)(images, severity, seeds)


def theirs_of(images: Tensor, name: str, severity: int, draw: int, first: int) -> Tensor:
    """Theirs of a batch, as floats; each image from a seed of its own."""
    made = []
    for place, image in enumerate(as_bytes(images)):
        seed = seed_of("theirs", draw, name, severity, first + place) % 2**32
        np.random.seed(seed)  # the peer draws from nothing else
        made.append(theirs(image, name, severity))
    return as_tensor(np.stack(made))
