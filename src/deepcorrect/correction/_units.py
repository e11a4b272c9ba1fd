"""Correction units: small residual networks on the outputs of ranked filters (paper, section IV).

A unit maps N x n x H x W maps to a residual of the same shape, where n is the number of corrected
filters, and adds it to the maps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcorrect.correction._unit_config import UnitConfig, hidden_width


class _RecomputedOnce(nn.Module):
    """A batch norm that updates its running statistics once per batch.

    Activation checkpointing repeats the forward pass during the backward pass. The statistics are
    not updated again there, so that training is the same with and without checkpointing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises `input` as `torch.nn.BatchNorm2d` does."""
        in_backward = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not (self.training and in_backward):
            return super().forward(input)
        norm: Any = self  # one of torch's batch norms, of either dimension
        mean, variance = norm.running_mean.clone(), norm.running_var.clone()
        return F.batch_norm(input, mean, variance, norm.weight, norm.bias, True, 0.0, norm.eps)


class UnitNorm1d(_RecomputedOnce, nn.BatchNorm1d):
    """A batch norm in a modulation."""


class UnitNorm2d(_RecomputedOnce, nn.BatchNorm2d):
    """A batch norm in a unit."""


class Modulation(nn.Module):
    """Computes a scale and a shift per map and image, and gains of a unit's hidden channels.

    Blur lowers and noise raises the standard deviation of an edge detector's maps. The means and
    standard deviations of an image's maps therefore indicate the kind and strength of its
    distortion. A perceptron with one hidden layer reads them, as in a squeeze-and-excitation block
    (Hu et al. 2018), and computes a feature-wise linear modulation (Perez et al. 2018), which is
    the identity before training.

    Args:
        filters: The number of maps, n.
        hidden: The hidden width of the perceptron.
        gains: The number of hidden channels of the unit that get a gain.
        generator: The source of the hidden layer's weights (He initialisation).
    """

    def __init__(
        self, filters: int, hidden: int, gains: int = 0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.answers = [filters, filters, *([gains] if gains else [])]
        self.norm = UnitNorm1d(2 * filters, affine=False)
        self.hidden = nn.Linear(2 * filters, hidden)
        self.last = nn.Linear(hidden, sum(self.answers))
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu", generator=generator)
        for zero in (self.hidden.bias, self.last.weight, self.last.bias):
            nn.init.zeros_(zero)

    def forward(self, maps: Tensor, filters: Tensor | None = None) -> tuple[Tensor, ...]:
        """Computes the modulation of maps.

        Args:
            maps: N x n x H x W; with `filters`, N x C x H x W.
            filters: The n of the C maps to read, (n,).

        Returns:
            The difference of the scale from 1 and the shift, each N x n x 1 x 1; with gains, also
            their difference from 1, N x gains x 1 x 1.
        """
        means, squares = _Moments.apply(maps) if self.training else _moments(maps)
        if filters is not None:
            means, squares = means[:, filters], squares[:, filters]
        # the means of maps are small enough that the difference keeps its precision
        deviations = ((squares - means * means).clamp_min(0) + self.norm.eps).sqrt()
        hidden = torch.relu(self.hidden(self.norm(torch.cat([means, deviations], 1))))
        return self.last(hidden)[:, :, None, None].split(self.answers, dim=1)


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the mean square of each map, each N x C, in float32 or float64."""
    wide = maps.float() if maps.dtype in (torch.bfloat16, torch.float16) else maps
    return wide.mean((2, 3)), (wide * wide).mean((2, 3))


class _Moments(torch.autograd.Function):
    """`_moments` with a gradient that passes over the maps once, in their data type.

    The gradient of autograd passes over them five times, in float32.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(maps)
        return _moments(maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        means, squares = (
            (each[:, :, None, None] / maps[0, 0].numel()).to(maps.dtype) for each in gradients
        )
        return torch.addcmul(means, maps, squares, value=2)


class CorrectionUnit(nn.Module):
    """A correction unit: the residual network that corrects the maps of some filters.

    The residual consists of a 1x1 convolution, k x k convolutions (stages), each followed by batch
    norm and ReLU, and a linear 1x1 convolution back to the filters.

    Args:
        filters: The number of corrected filters, n.
        config: The shape of the unit.
        generator: The source of the initial weights (He et al. 2015, fan-in).

    Example:
        >>> import torch, deepcorrect as dc
        >>> unit = dc.CorrectionUnit(2, dc.UnitConfig(width=4)).eval()
        >>> maps = torch.rand(1, 8, 6, 6)
        >>> torch.equal(unit(maps, torch.tensor([1, 5])), maps)  # an untrained unit changes nothing
        True
    """

    def __init__(
        self, filters: int, config: UnitConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.filters = filters
        width = hidden_width(config, filters)
        layers: list[nn.Module] = [UnitNorm2d(filters)] if config.norm_first else []
        layers += [
            nn.Conv2d(filters, width, 1, bias=False),
            UnitNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        k = config.kernel_size
        for dilation in config.dilations:
            shapes = [(1, k), (k, 1)] if config.separable else [(k, k)]
            for shape in shapes:
                padding = ((shape[0] - 1) // 2 * dilation, (shape[1] - 1) // 2 * dilation)
                groups = width if config.depthwise else 1
                stage = nn.Conv2d(width, width, shape, 1, padding, dilation, groups, bias=False)
                layers.append(stage)
            layers += [UnitNorm2d(width), nn.ReLU(inplace=True)]
        last = nn.Conv2d(width, filters, 1)
        self.residual = nn.Sequential(*layers, last)
        for module in self.residual.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        with torch.no_grad():
            if last.bias is not None:
                last.bias.zero_()
            if config.start == "identity":
                last.weight.zero_()
        # one-dimensional, as in a batch norm, so that weight decay and L1 exclude them
        self.scale = nn.Parameter(torch.ones(filters)) if config.affine else None
        self.shift = nn.Parameter(torch.zeros(filters)) if config.affine else None
        self.modulation = None
        if config.modulation:
            gains = width if config.hidden_gains else 0
            self.modulation = Modulation(filters, config.modulation, gains, generator)

    def forward(self, maps: Tensor, filters: Tensor | None = None) -> Tensor:
        """Adds the residual to the maps (paper, equation 6).

        Args:
            maps: N x n x H x W; with `filters`, N x C x H x W.
            filters: The n of the C maps to correct, (n,). The others are returned unchanged.

        Returns:
            The corrected maps, in the shape of `maps`.
        """
        if filters is not None and len(filters) == maps.shape[1]:
            filters = None
        scale, shift = self.scale, self.shift
        if scale is not None and shift is not None:
            scale, shift = scale[:, None, None], shift[:, None, None]
        gains: list[Tensor] = []
        if self.modulation is not None:
            more, offset, *gains = self.modulation(maps, filters)
            scale = 1 + more if scale is None else scale * (1 + more)
            shift = offset if shift is None else shift * (1 + more) + offset
        corrected = maps + self._residual(maps, filters, *gains)
        if scale is not None and shift is not None:
            if filters is not None:
                scale, shift = (
                    spread_out(each, -3, filters, maps.shape[1], fill)
                    for each, fill in ((scale, 1), (shift, 0))
                )
            # under autocast, a float32 scale would convert the maps to float32
            scale, shift = scale.to(corrected.dtype), shift.to(corrected.dtype)
            corrected = torch.addcmul(shift, corrected, scale)
        return corrected.to(maps.dtype)

    def multiply_adds(self, output: Tensor) -> int:
        """The number of multiply-adds per image.

        Only the corrected filters count, not the products with the zero weights of the others.

        Args:
            output: The unit's output, N x C x H x W.
        """
        weights = [layer.weight for layer in self.residual if isinstance(layer, nn.Conv2d)]
        once = [layer.weight for layer in self.modules() if isinstance(layer, nn.Linear)]
        pixels = output[0, 0].numel()
        return pixels * sum(w.numel() for w in weights) + sum(w.numel() for w in once)

    def _residual(
        self, maps: Tensor, filters: Tensor | None, gains: Tensor | None = None
    ) -> Tensor:
        """Computes the residual of all maps, which is zero for those that are not corrected.

        Gathering and scattering maps would take longer than the convolutions of a unit. The first
        and the last convolution therefore read and write all maps, with zero weights for the maps
        that are not corrected.
        """
        channels = maps.shape[1]
        first, last = self.residual[0], self.residual[-1]
        if filters is None:
            hidden = first(maps)
        elif isinstance(first, nn.Conv2d):
            hidden = F.conv2d(maps, spread_out(first.weight, 1, filters, channels), first.bias)
        else:  # a batch norm, which reads only the corrected maps
            channels_last = maps.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            chosen = maps.index_select(1, filters).contiguous(memory_format=layout)
            hidden = first(chosen)
        hidden = self.residual[1:-1](hidden)
        if gains is not None:
            hidden = hidden * (1 + gains.to(hidden.dtype))
        if filters is None:
            return last(hidden)
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        weight, bias = (spread_out(each, 0, filters, channels) for each in (last.weight, last.bias))
        return F.conv2d(hidden, weight, bias)


def spread_out(
    values: Tensor, dim: int, filters: Tensor, channels: int, fill: float = 0.0
) -> Tensor:
    """Expands values of some filters along `dim` to all channels; the others get `fill`."""
    shape = list(values.shape)
    shape[dim] = channels
    return values.new_full(shape, fill).index_copy(dim, filters, values)
