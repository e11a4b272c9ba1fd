"""Conv-Adapter: small convolutions beside those of a frozen network (Chen et al. 2024).

H. Chen and others, "Conv-Adapter: Exploring Parameter Efficient Transfer Learning for ConvNets",
CVPR workshop on Prompting in Vision, 2024.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from deepcorrect.alternatives._added_maps import FrozenNetwork, with_added_maps
from deepcorrect.networks import convolutions
from deepcorrect.runtime import InputError

Place = Literal["parallel", "sequential"]


class ConvAdapter(nn.Module):
    """A bottleneck of a depthwise and a pointwise convolution, with a scale for each map.

        scale * pointwise(ReLU(depthwise(x)))

    The depthwise convolution has as many groups as hidden maps, and reads its input at the stride
    of the convolution beside it. The adapter starts as zero.

    Args:
        beside: the convolution beside it, or before it.
        place: `parallel` reads that convolution's input, `sequential` its output.
        reduction: how many times fewer hidden maps than input maps there are at least.
        generator: the source of randomness for the He-initialised depthwise weights.
    """

    def __init__(
        self,
        beside: nn.Conv2d,
        place: Place,
        reduction: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        parallel = place == "parallel"
        maps = beside.in_channels if parallel else beside.out_channels
        width = next(w for w in range(max(1, maps // reduction), 0, -1) if maps % w == 0)
        size = beside.kernel_size
        self.depthwise = nn.Conv2d(
            maps,
            width,
            size,  # pyright: ignore[reportArgumentType]
            beside.stride if parallel else 1,  # pyright: ignore[reportArgumentType]
            beside.padding if parallel else "same",  # pyright: ignore[reportArgumentType]
            beside.dilation if parallel else 1,  # pyright: ignore[reportArgumentType]
            groups=width,
            bias=False,
        )
        self.act = nn.ReLU()
        self.pointwise = nn.Conv2d(width, beside.out_channels, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(beside.out_channels, 1, 1))
        nn.init.kaiming_normal_(self.depthwise.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(self.pointwise.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """What is added to the convolution's output, N x C x H x W."""
        return self.scale * self.pointwise(self.act(self.depthwise(maps)))


def conv_adapter(
    model: nn.Module, place: Place = "parallel", reduction: int = 1, seed: int = 0
) -> FrozenNetwork:
    """A frozen copy of the network with an adapter at each convolution larger than 1 x 1.

    Args:
        model: the baseline, a `Classifier` or any network. It is not changed.
        place: `parallel` adds what an adapter makes of a convolution's input to its output,
            `sequential` what it makes of the output.
        reduction: how many times fewer hidden maps than input maps an adapter has at least; the
            number of hidden maps divides that of the input maps.
        seed: the seed of the initial weights.

    Raises:
        InputError: `reduction` is below 1, or the network has no such convolution.

    Example:
        >>> import torch
        >>> from deepcorrect.alternatives import conv_adapter
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU())
        >>> adapted = conv_adapter(network, reduction=2)
        >>> sum(p.numel() for p in adapted.trainable_parameters())  # 2 x 2 x 9 + 2 x 8 + 8
        60
        >>> images = torch.rand(1, 4, 8, 8)
        >>> torch.equal(adapted(images), network(images))
        True
    """
    if reduction < 1:
        raise InputError(f"reduction={reduction} is below 1: it divides the number of maps")
    found = {n: c for n, c in convolutions(model).items() if max(c.kernel_size) > 1}
    if not found:
        raise InputError("the network has no convolution larger than 1 x 1 to adapt")
    generator = torch.Generator().manual_seed(seed)
    parts = {n: ConvAdapter(c, place, reduction, generator) for n, c in found.items()}
    return FrozenNetwork(with_added_maps(model, parts, after=place == "sequential"))
