"""AugMix: images mixed with chains of simple operations on them (Hendrycks et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from deepcorrect.libraries import optional

GROUP = 8
"""Images that share the operations of their chains; each has mixing weights of its own."""


def augmix(images: Tensor, generator: torch.Generator, severity: int = 3, width: int = 3) -> Tensor:
    """A view of each image: a random mixture of it and of `width` augmented copies.

    The operations are those of the paper that no corruption of ImageNet-C repeats: autocontrast,
    equalize, posterize, rotate, solarize, shear and translate, in chains of one to three
    (section 3 and its footnote); torchvision computes them.

    Args:
        images: floats, N x C x H x W; what lies outside [0, 1] is clipped, as 8 bits hold it.
        generator: a CPU generator.
        severity: of the operations, 1 to 10.
        width: number of chains.

    Returns:
        Images of the same shape in [0, 1], in steps of 1/255.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    transforms = optional("torchvision.transforms.v2", "torchvision")
    mix = transforms.AugMix(severity, width, all_ops=False)
    pixels = (images.clamp(0, 1) * 255).round().byte()
    with torch.random.fork_rng(devices=[]):  # the library draws from the global generator
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        views = [mix(group) for group in pixels.split(GROUP)]
    return torch.cat(views).to(images.dtype) / 255
