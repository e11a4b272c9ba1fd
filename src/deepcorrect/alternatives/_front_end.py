"""A learned front end: a small residual network that restores the image for the frozen network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcorrect.alternatives._parameter_budget import parameter_budget
from deepcorrect.networks import WithConstants, Wrapper, preprocessing_of, tap
from deepcorrect.runtime import InputError

SCALE = 2
"""The front end works at half the resolution, which is a quarter of the pixels."""
RESIDUAL = 0.1
"""The factor of the residual. Without it, one step of training changes the image by more than its
range; Lim et al. (2017, section 3.2) scale residuals by the same factor."""


class FrontEnd(WithConstants):
    """Restores images by a residual of `depth` 3 x 3 stages, each with batch norm and ReLU.

    As in URIE (Son et al. 2020), the front end is trained for the classifier behind it. It works at
    half the resolution, where an image consists of its four Haar bands (MWCNN, Liu et al. 2018).
    Each band is normalised, because the detail bands, in which noise and blur are visible, have
    much smaller values than the average band. Every stage but the first adds to its input. The
    front end starts as the identity.

    Args:
        channels: the channels of the images.
        width: the channels of the stages.
        depth: the number of stages.
        generator: the source of randomness for the He-initialised weights.
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
        self.register_constant("haar", haar)
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
        """The restored images, N x C x H x W; H and W must be even."""
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
    """A frozen copy of the network behind the widest front end that the budget allows.

    Args:
        model: the baseline, a `Classifier` or a wrapper around one.
        parameters: the largest number of trained parameters; a value up to 1 is a share of the
            network's parameters.
        depth: the number of stages of the front end.
        seed: the seed of its initial weights.

    Raises:
        InputError: the model's input is unknown or of odd size, or the budget is too small.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.alternatives import front_end
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> model = dc.Classifier(network, dc.Preprocessing(32, (0.5,) * 3, (0.25,) * 3))
        >>> front_end(model, parameters=5000, depth=2).front.width
        14
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
def restored_images(model: nn.Module) -> Iterator[Mapping[str, Tensor]]:
    """Keeps the images that a front end restored in the last batch while the block runs.

    Yields:
        A mapping whose key `front` holds those images, N x C x H x W, after each forward pass.

    Raises:
        InputError: the model has no front end.
    """
    if not isinstance(model, WithFrontEnd):
        raise InputError(
            "the objective 'images' compares restored images with clean ones, and this model "
            "restores none: it is for systems of the method 'front_end'; use logits or activations"
        )
    with tap(nn.ModuleDict({"front": model.front}), ["front"]) as images:
        yield images


def _size(channels: int, width: int, depth: int) -> int:
    """The number of parameters of a front end."""
    bands = channels * SCALE**2
    stages = 9 * width * (bands + (depth - 1) * width) + 2 * width * depth
    return stages + 9 * width * bands + bands
