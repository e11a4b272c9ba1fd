"""A corrected site as one module: its convolution, its batch norm and its unit folded together.

Writing y for the site's output, its batch norm gives s y + t, and the unit's scale and shift behind
the sum are one more of the same. So the convolution can give s y + t itself, if the residual is
scaled by s too, and if whatever reads y reads (z - t) / s instead. All of it is exact.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepcorrect.correction import CorrectionUnit, spread_out
from deepcorrect.deployment._gated import Verdict
from deepcorrect.networks import Replacement, layout_of

LEAST_SCALE = 1e-2
"""A filter whose scale is below this share of the largest is not read behind its batch norm: to
divide by it would cost digits."""


class Affine(NamedTuple):
    """z = scale y + shift for each filter, in float64."""

    scale: Tensor
    shift: Tensor


class Adding(nn.Conv2d):
    """A 1x1 convolution whose result is added to maps; to those of its own width in place, where
    no gradient may need them."""

    def forward(self, input: Tensor, maps: Tensor | None = None) -> Tensor:
        """The sum, N x C x H x W, of `maps` and the convolution of `input`."""
        if maps is None:
            return super().forward(input)
        layout = torch.channels_last
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or not maps.is_contiguous(memory_format=layout)
            or maps.dtype != input.dtype
        ):
            return maps + super().forward(input)
        # without a residual in memory: at large maps, writing it and reading it again takes longer
        # than the product that gives it
        inputs = input.contiguous(memory_format=layout).permute(0, 2, 3, 1).flatten(0, 2)
        pixels = maps.permute(0, 2, 3, 1).flatten(0, 2)  # a view
        pixels.addmm_(inputs, self.weight.flatten(1).t())
        return maps


class FusedSite(nn.Module):
    """A site's module with its correction unit, without any choosing or putting back of filters.

    Args:
        conv: gives the site's filters, and behind them the unit's hidden channels if `first` is
            None.
        first: 1x1 convolution from the site's filters to the hidden channels, which reads the
            filters to correct (its other weights are zero).
        stages: the unit's stages, beginning with the activation.
        last: 1x1 convolution to the residual of every filter, zero for those not corrected; its
            bias is in that of `conv`.
    """

    def __init__(
        self, conv: nn.Conv2d, first: nn.Conv2d | None, stages: nn.Module, last: Adding
    ) -> None:
        super().__init__()
        self.conv = conv
        self.first = first
        self.stages = stages
        self.last = last
        # for networks that pad by what their convolutions say, as DaViT does
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation = conv.padding, conv.dilation

    @property
    def weight(self) -> Tensor:
        """The convolution's, for networks that look at its type."""
        return self.conv.weight

    def forward(self, maps: Tensor) -> Tensor:
        """The corrected maps, N x C x H x W, of what the site's module reads."""
        maps = self.conv(maps)
        if self.first is None:
            filters = self.last.out_channels
            return self.last(self.stages(maps[:, filters:]), maps[:, :filters])
        return self.last(self.stages(self.first(maps)), maps)


class FollowedSite(Replacement):
    """A module that cannot take a unit in, with the unit behind it.

    Args:
        name: the site's dotted name, for messages.
        site: the module.
        unit: its unit, batch norms folded.
        filters: the filters it corrects, ascending.
    """

    filters: Tensor

    def __init__(self, name: str, site: nn.Module, unit: CorrectionUnit, filters: Tensor) -> None:
        super().__init__(site)
        self.verdict: Verdict | None = None
        """Which images are corrected; None corrects all."""
        self.name = name
        self.unit = unit
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        output = self.site(*args, **kwargs)
        layout = layout_of(self.name, self.site, output)
        maps = layout.maps(output)
        corrected = self.unit(maps, self.filters)
        if self.verdict is not None:
            corrected = self.verdict.choose(corrected, maps)
        return layout.output(corrected, output)


def affine_of(norm: nn.BatchNorm2d) -> Affine | None:
    """What a batch norm does in inference mode; None where it has no statistics of its own."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return Affine(scale, shift)


def with_weights(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A copy of a convolution, whatever its class, with other weights and as many filters."""
    twin = copy.deepcopy(conv)
    dtype = conv.weight.dtype
    twin.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    twin.bias = nn.Parameter(bias.to(dtype).contiguous(), requires_grad=False)
    twin.out_channels = len(weight)
    return twin


def scaled(conv: nn.Conv2d, affine: Affine) -> nn.Conv2d:
    """The convolution and what stands behind it as one convolution."""
    weight = conv.weight.double() * affine.scale[:, None, None, None]
    return with_weights(conv, weight, _bias(conv) * affine.scale + affine.shift)


def fused_site(
    conv: nn.Conv2d, unit: CorrectionUnit, filters: Tensor, norm: Affine | None, always: bool
) -> FusedSite | None:
    """The site as one module, which gives what `norm` would; see `FusedSite`.

    Args:
        conv: the site's module.
        unit: its correction unit, in inference mode.
        filters: the filters the unit corrects.
        norm: the batch norm that alone reads the site; None without one.
        always: the unit's first convolution goes into the site's wherever it can, and not only
            where that takes no more multiply-adds.

    Returns:
        None where the norm cannot be passed: the unit would have to divide by scales near zero.
    """
    channels = conv.out_channels
    layers = folded_layers(unit)
    first, last = layers[0], layers[-1]
    if not isinstance(first, nn.Conv2d) or not isinstance(last, nn.Conv2d):
        raise TypeError("a unit begins and ends with a convolution")
    scale = torch.ones(channels, dtype=torch.float64, device=filters.device)
    shift = torch.zeros_like(scale)
    if unit.scale is not None and unit.shift is not None:
        scale = spread_out(unit.scale.detach().double(), 0, filters, channels, fill=1)
        shift = spread_out(unit.shift.detach().double(), 0, filters, channels)
    if norm is not None:
        scale, shift = norm.scale * scale, norm.scale * shift + norm.shift
    divides = bool((scale[filters].abs() >= LEAST_SCALE * scale.abs().max()).all())
    one_group = conv.groups == 1
    cheaper = conv.weight[0].numel() <= channels
    if not divides and not one_group:
        return None
    into_site = one_group and (always or cheaper or not divides)

    weight, bias = conv.weight.double(), _bias(conv)
    reads = first.weight.double().flatten(1)  # hidden x corrected filters
    own_weight = weight * scale[:, None, None, None]
    offset = spread_out(_bias(last) * scale[filters], 0, filters, channels)
    own_bias = bias * scale + shift + offset
    own_first = None
    if into_site:
        hidden = (reads @ weight[filters].flatten(1)).view(-1, *weight.shape[1:])
        own_weight = torch.cat([own_weight, hidden])
        own_bias = torch.cat([own_bias, reads @ bias[filters] + _bias(first)])
    else:
        wide = spread_out(reads / scale[filters], 1, filters, channels)
        at_zero = _bias(first) - wide @ (shift + offset)
        own_first = _pointwise(wide, at_zero, first)
    back = last.weight.double().flatten(1) * scale[filters, None]
    back = spread_out(back, 0, filters, channels)
    return FusedSite(
        with_weights(conv, own_weight, own_bias),
        own_first,
        nn.Sequential(*layers[1:-1]),
        _adding(back, last),
    )


def folded_unit(unit: CorrectionUnit) -> CorrectionUnit:
    """The same unit with its batch norms folded into its convolutions."""
    twin = copy.deepcopy(unit)
    twin.residual = nn.Sequential(*folded_layers(unit))
    return twin


def folded_layers(unit: CorrectionUnit) -> list[nn.Module]:
    """The layers of a unit's residual, batch norms folded into their convolutions."""
    layers: list[nn.Module] = []
    before: Affine | None = None
    for layer in unit.residual:
        if isinstance(layer, nn.Conv2d):
            if before is None:
                layers.append(copy.deepcopy(layer))
            else:  # only in front of a 1x1, which pads nothing
                reads = layer.weight.double()
                bias = _bias(layer) + reads.flatten(1) @ before.shift
                layers.append(with_weights(layer, reads * before.scale[:, None, None], bias))
                before = None
        elif isinstance(layer, nn.BatchNorm2d):
            affine = affine_of(layer)
            if affine is None:
                raise TypeError("a unit's batch norm has statistics")
            if layers and isinstance(layers[-1], nn.Conv2d):
                layers[-1] = scaled(layers[-1], affine)
            else:
                before = affine
        else:
            layers.append(nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer)
    return layers


def _pointwise(weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution with these weights, outputs x inputs, in the type and place of `like`."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    conv.weight = nn.Parameter(weight[:, :, None, None].to(like.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(like.weight.dtype), requires_grad=False)
    return conv


def _adding(weight: Tensor, like: nn.Conv2d) -> Adding:
    conv = Adding(weight.shape[1], weight.shape[0], 1, bias=False, device="meta")
    conv.weight = nn.Parameter(weight[:, :, None, None].to(like.weight.dtype), requires_grad=False)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return conv.weight.new_zeros(len(conv.weight), dtype=torch.float64)
    return conv.bias.detach().double()
