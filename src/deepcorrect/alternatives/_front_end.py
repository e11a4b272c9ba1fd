"""A learned front end: a small residual network that mends the image before the frozen network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcorrect.alternatives._parameter_budget import parameter_budget
from deepcorrect.networks import Wrapper, preprocessing_of
from deepcorrect.runtime import InputError

SCALE = 2
"""The front end works at half the resolution, at a quarter of the pixels."""
RESIDUAL = 0.1
"""Of the last stage's output so much is added to the image, whose range is small beside what one
step of training moves that output by (Lim et al. 2017, section 3.2, scale residuals by as much)."""


class FrontEnd(nn.Module):
    """Images to images: a residual of `depth` 3 x 3 stages, each with batch norm and ReLU.

    In the spirit of URIE (Son et al. 2020), which is trained like this for the classifier behind
    it, at half the resolution, where an image is its four Haar bands (Liu et al. 2018, MWCNN). Each
    band is normalised: the details, where noise and blur show, are small beside the averages. From
    the second on, a stage adds to its input. It starts as the identity.

    Args:
        channels: of the images.
        width: of the stages.
        depth: number of stages.
        generator: draws the He-initialised weights.
    """

    haar: Tensor

    def __init__(
        self, channels: int, width: int, depth: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.width = width
        bands = channels * SCALE**2
        pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        haar = (torch.kron(pair, pair) / SCALE).view(-1, 1, SCALE, SCALE).repeat(channels, 1, 1, 1)
        self.register_buffer("haar", haar, persistent=False)
        self.norm = nn.BatchNorm2d(bands, affine=False)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width if stage else bands, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            for stage in range(depth)
        )
        self.last = nn.Conv2d(width, bands, 3, padding=1)
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, images: Tensor) -> Tensor:
        """Mended images, N x C x H x W; H and W are even."""
        channels = images.shape[1]
        bands = F.conv2d(images, self.haar, stride=SCALE, groups=channels)
        first, *others = self.stages
        maps = first(self.norm(bands))
        for stage in others:
            maps = maps + stage(maps)
        residual = F.conv_transpose2d(self.last(maps), self.haar, stride=SCALE, groups=channels)
        return images + RESIDUAL * residual


class WithFrontEnd(Wrapper):
    """A frozen network behind a trainable front end."""

    def __init__(self, network: nn.Module, front: FrontEnd) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.front = front
        self.train(False)

    def train(self, mode: bool = True) -> WithFrontEnd:
        """Sets the front end's mode. The network stays in inference mode, batch norm included."""
        super().train(mode)
        self.network.train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of images in [0, 1], N x C x H x W."""
        return self.network(self.front(images))


def front_end(
    model: nn.Module, parameters: float = 0.25, depth: int = 4, seed: int = 0
) -> WithFrontEnd:
    """A copy of the network, frozen, behind the widest front end of so many parameters.

    Args:
        model: the baseline, a `Classifier` (or wrapped around one).
        parameters: at most so many numbers are trained; up to 1 it is a share of the network's.
        depth: stages of the front end.
        seed: draws its initial weights.

    Raises:
        InputError: the model's images are not known or of odd size, or the budget is too small.
    """
    known = preprocessing_of(model)
    if known is None:
        raise InputError("a front end needs a deepcorrect.Classifier: it works on its images")
    if known.input_size % SCALE:
        raise InputError(f"a front end needs images of even size, not {known.input_size} pixels")
    limit = parameter_budget(model, parameters)
    width = 0
    while _size(known.channels, width + 1, depth) <= limit:
        width += 1
    if not width:
        raise InputError(f"parameters={parameters:g} is too few for a front end of depth {depth}")
    front = FrontEnd(known.channels, width, depth, torch.Generator().manual_seed(seed))
    place = next(model.parameters())
    return WithFrontEnd(copy.deepcopy(model), front.to(place.device, place.dtype))


@contextmanager
def restored_images(model: nn.Module) -> Iterator[list[Tensor]]:
    """Keeps what a front end made of the last batch, N x C x H x W, while the block runs.

    Yields:
        A list, which has those images as its one item.

    Raises:
        InputError: the model has no front end.
    """
    if not isinstance(model, WithFrontEnd):
        raise InputError(
            "the objective 'images' compares mended images with clean ones, and this model mends "
            "none: it is for systems of the method 'front_end'; use logits or activations"
        )
    last: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        del module, args
        last[:] = [output]

    handle = model.front.register_forward_hook(keep)
    try:
        yield last
    finally:
        handle.remove()


def _size(channels: int, width: int, depth: int) -> int:
    bands = channels * SCALE**2
    stages = 9 * width * (bands + (depth - 1) * width) + 2 * width * depth
    return stages + 9 * width * bands + bands
