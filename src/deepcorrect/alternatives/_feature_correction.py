"""Feature correction after the first layers, in the manner of feature de-drifting.

Y. Wang, Y. Cao, Z.-J. Zha, J. Zhang and Z. Xiong, "Deep Degradation Prior for Low-quality Image
Classification", CVPR 2020: a feature de-drifting module maps the shallow features of a distorted
image to those of the clean one. It is trained on few images by the distance of the two, without
labels, and plugged into the network.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from deepcorrect.alternatives._added_maps import FrozenNetwork, with_added_maps
from deepcorrect.alternatives._parameter_budget import parameter_budget
from deepcorrect.networks import convolutions, describe, find
from deepcorrect.runtime import InputError


class MapCorrection(nn.Module):
    """A residual for maps, of `depth` 3 x 3 convolutions with ReLU between them.

    It starts as zero. The authors' module has dilated convolutions of three shapes in its place.

    Args:
        channels: the number of maps.
        width: the maps between the convolutions.
        depth: the number of convolutions, at least 2.
        generator: the source of randomness for the He-initialised weights.
    """

    def __init__(
        self, channels: int, width: int, depth: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.width = width
        sizes = [channels, *[width] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(sizes)):
            conv = nn.Conv2d(before, after, 3, padding=1)
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
            if number == depth - 1:
                nn.init.zeros_(conv.weight)
            else:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            layers += [conv, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, maps: Tensor) -> Tensor:
        """What is added to the maps, N x C x H x W."""
        return self.layers(maps)


def feature_correction(
    model: nn.Module,
    site: str | None = None,
    parameters: float = 0.25,
    depth: int = 4,
    seed: int = 0,
) -> FrozenNetwork:
    """A frozen copy of the network whose maps at one site are corrected by a trained residual.

    Train it with the objective `activations` alone: it then compares the maps of this site only.

    Args:
        model: the baseline, a `Classifier` or any network. It is not changed.
        site: the dotted name of the module behind which maps are corrected, one that gives maps
            N x C x H x W; None takes the first convolution.
        parameters: the largest number of trained parameters; a value up to 1 is a share of the
            network's parameters.
        depth: the number of 3 x 3 convolutions, at least 2.
        seed: the seed of the initial weights.

    Raises:
        InputError: there is no such site, its number of maps is not known, `depth` is below 2, or
            the budget is too small.

    Example:
        >>> import torch
        >>> from deepcorrect.alternatives import feature_correction
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = feature_correction(network, parameters=2000, depth=3)
        >>> adapted.compared_sites
        ('0',)
        >>> images = torch.rand(1, 3, 8, 8)
        >>> torch.equal(adapted(images), network(images))
        True
    """
    if depth < 2:
        raise InputError(f"depth={depth} is below 2: the residual has a convolution in and one out")
    if site is None:
        site = next(iter(convolutions(model)), None)
        if site is None:
            raise InputError("the network has no convolution: name the site whose maps to correct")
    channels = describe(model, find(model, [site]))[site].channels
    limit = parameter_budget(model, parameters)
    width = 0
    while _size(channels, width + 1, depth) <= limit:
        width += 1
    if not width:
        raise InputError(f"parameters={parameters:g} is too few for a residual of depth {depth}")
    part = MapCorrection(channels, width, depth, torch.Generator().manual_seed(seed))
    return FrozenNetwork(with_added_maps(model, {site: part}, after=True), (site,))


def _size(channels: int, width: int, depth: int) -> int:
    """The number of parameters of a residual."""
    inner = (depth - 2) * (9 * width * width + width)
    return 9 * channels * width + width + inner + 9 * width * channels + channels
