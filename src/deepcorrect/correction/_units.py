"""Correction units: small residual stacks that read ranked filters' outputs (paper, section IV).

A unit maps N x n x H x W to a residual of the same shape, n being the number of corrected
filters, and adds it to what it read.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcorrect.correction._unit_config import UnitConfig, hidden_width


class _RecomputedOnce(nn.Module):
    """A batch norm whose statistics follow each batch once.

    Activation checkpointing runs a forward pass again in the backward pass; there the statistics
    stay, so that a checkpointed network trains as it would without.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        """As the batch norm."""
        in_backward = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not (self.training and in_backward):
            return super().forward(input)
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(input, mean, variance, self.weight, self.bias, True, 0.0, self.eps)


class UnitNorm1d(_RecomputedOnce, nn.BatchNorm1d):
    """The batch norm of a modulation."""


class UnitNorm2d(_RecomputedOnce, nn.BatchNorm2d):
    """The batch norm of a unit."""


class Modulation(nn.Module):
    """A scale and a shift for each map of each image, and gains for a unit's hidden channels.

    Blur lowers and noise raises the deviations of the maps behind an edge detector, so the means
    and deviations of an image's maps say how it is distorted, and how badly. A perceptron with one
    hidden layer reads them, as a squeeze-and-excitation block does (Hu et al. 2018), and answers
    with a feature-wise linear modulation (Perez et al. 2018), at first the identity.

    Args:
        filters: number of maps, n.
        hidden: the perceptron's hidden width.
        gains: number of hidden channels that get a gain.
        generator: draws the He-initialised weights of the hidden layer.
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
        """What to add to a scale of 1, and a shift, each N x n x 1 x 1, of N x n x H x W maps; with
        `filters`, of these of the maps alone. With gains, what to add to gains of 1, too."""
        means, squares = _Moments.apply(maps) if self.training else _moments(maps)
        if filters is not None:
            means, squares = means[:, filters], squares[:, filters]
        # maps are not so far from zero that it cancels
        deviations = ((squares - means * means).clamp_min(0) + self.norm.eps).sqrt()
        hidden = torch.relu(self.hidden(self.norm(torch.cat([means, deviations], 1))))
        return self.last(hidden)[:, :, None, None].split(self.answers, dim=1)


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each map of each image, N x C, in float32 at least."""
    wide = maps.float() if maps.dtype in (torch.bfloat16, torch.float16) else maps
    return wide.mean((2, 3)), (wide * wide).mean((2, 3))


class _Moments(torch.autograd.Function):
    """`_moments` with a gradient of one pass over the maps, in their type: autograd's takes five
    in float32."""

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


class Depthwise(nn.Conv2d):
    """A convolution that filters each channel by itself, trained in float32 on a CPU.

    There, oneDNN's gradient of a depthwise 5 x 5 convolution in bfloat16 takes four times as long
    as float32's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Conv2d`; under autocast the result has autocast's type."""
        on_cpu = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (on_cpu and torch.is_grad_enabled()):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            wide = input.float().contiguous(memory_format=torch.channels_last)
            return super().forward(wide).to(torch.get_autocast_dtype("cpu"))


class CorrectionUnit(nn.Module):
    """1x1 convolution, batch norm, ReLU; k x k stages likewise; a linear 1x1 convolution back.

    Args:
        filters: number of corrected filters, n.
        config: its shape.
        generator: draws the He-initialised weights (He et al. 2015, fan-in).

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
        layers += [nn.Conv2d(filters, width, 1, bias=False), UnitNorm2d(width), nn.ReLU()]
        k = config.kernel_size
        for dilation in config.dilations:
            shapes = [(1, k), (k, 1)] if config.separable else [(k, k)]
            for shape in shapes:
                padding = ((shape[0] - 1) // 2 * dilation, (shape[1] - 1) // 2 * dilation)
                kind, groups = (Depthwise, width) if config.depthwise else (nn.Conv2d, 1)
                layers.append(kind(width, width, shape, 1, padding, dilation, groups, bias=False))
            layers += [UnitNorm2d(width), nn.ReLU()]
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
        # one dimension, as in a batch norm: weight decay and L1 leave those alone
        self.scale = nn.Parameter(torch.ones(filters)) if config.affine else None
        self.shift = nn.Parameter(torch.zeros(filters)) if config.affine else None
        self.modulation = None
        if config.modulation:
            gains = width if config.hidden_gains else 0
            self.modulation = Modulation(filters, config.modulation, gains, generator)

    def forward(self, maps: Tensor, filters: Tensor | None = None) -> Tensor:
        """The corrected maps: what was read plus the residual (paper, eq. 6).

        Args:
            maps: N x n x H x W; with `filters`, N x C x H x W.
            filters: the n of the C maps that are corrected; the others stay as they are.
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
            # in the maps' type: under autocast a float32 scale would make float32 maps
            scale, shift = scale.to(corrected.dtype), shift.to(corrected.dtype)
            corrected = torch.addcmul(shift, corrected, scale)
        return corrected.to(maps.dtype)

    def multiply_adds(self, output: Tensor) -> int:
        """Multiply-adds for one image, given its maps N x C x H x W: those for the filters that are
        corrected, and not of the zeros that it multiplies others by."""
        weights = [layer.weight for layer in self.residual if isinstance(layer, nn.Conv2d)]
        once = [layer.weight for layer in self.modules() if isinstance(layer, nn.Linear)]
        pixels = output[0, 0].numel()
        return pixels * sum(w.numel() for w in weights) + sum(w.numel() for w in once)

    def _residual(
        self, maps: Tensor, filters: Tensor | None, gains: Tensor | None = None
    ) -> Tensor:
        """The residual of all maps, zero for those that are not corrected.

        Taking some maps out and putting them back takes longer than the convolutions of a unit. So
        the first and the last read and write all maps, with weights of zero for the others.
        """
        channels = maps.shape[1]
        first, last = self.residual[0], self.residual[-1]
        if filters is None:
            hidden = first(maps)
        elif isinstance(first, nn.Conv2d):
            hidden = F.conv2d(maps, spread_out(first.weight, 1, filters, channels), first.bias)
        else:  # a batch norm, which sees the corrected alone
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
    """Values of some filters as values of all, the others' being `fill`."""
    shape = list(values.shape)
    shape[dim] = channels
    return values.new_full(shape, fill).index_copy(dim, filters, values)
