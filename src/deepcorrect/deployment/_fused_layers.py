"""A corrected site as one module: its convolution, its batch norm and its unit folded together.

Let y be the site's output. The batch norm computes z = s y + t, and the unit's scale and shift
after the sum are a second map of the same form. The convolution can therefore compute z directly,
provided that the residual is scaled by s as well and that the unit reads (z - t) / s in place of y.
The result is exact up to rounding.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from deepcorrect.correction import CorrectionUnit, spread_out
from deepcorrect.networks import (
    Affine,
    LayoutRule,
    Replacement,
    WithConstants,
    affine_of,
    folded,
)
from deepcorrect.runtime import widened, widest_float

LEAST_SCALE = 1e-2
"""A filter whose scale is below this fraction of the largest is not read after its batch norm:
dividing by so small a scale would lose precision."""


class Adding(nn.Conv2d):
    """A 1x1 convolution whose result is added to maps, in place where no gradient is needed."""

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
        # addmm_ keeps the residual out of memory: for large maps, writing and reading it takes
        # longer than the matrix product
        inputs = input.contiguous(memory_format=layout).permute(0, 2, 3, 1).flatten(0, 2)
        pixels = maps.permute(0, 2, 3, 1).flatten(0, 2)  # a view
        pixels.addmm_(inputs, self.weight.flatten(1).t())
        return maps


class FusedSite(nn.Module):
    """A site's module fused with its correction unit, without gathering or scattering of filters.

    Args:
        conv: The convolution that computes the site's filters and, if `first` is None, after them
            the unit's hidden channels.
        first: The 1x1 convolution from the site's filters to the hidden channels. Its weights are
            zero for filters that are not corrected.
        stages: The unit's stages, beginning with the activation.
        last: The 1x1 convolution to the residual of every filter. Its weights are zero for filters
            that are not corrected, and its bias is part of the bias of `conv`.
    """

    def __init__(
        self, conv: nn.Conv2d, first: nn.Conv2d | None, stages: nn.Module, last: Adding
    ) -> None:
        super().__init__()
        self.conv = conv
        self.first = first
        self.stages = stages
        self.last = last
        # DaViT, among others, reads these attributes to compute its padding
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation = conv.padding, conv.dilation

    @property
    def weight(self) -> Tensor:
        """The weight of the convolution; some networks read its type."""
        return self.conv.weight

    def forward(self, maps: Tensor) -> Tensor:
        """Computes the corrected maps, N x C x H x W, from the input of the site's module."""
        maps = self.conv(maps)
        if self.first is None:
            filters = self.last.out_channels
            return self.last(self.stages(maps[:, filters:]), maps[:, :filters])
        return self.last(self.stages(self.first(maps)), maps)


class FollowedSite(WithConstants, Replacement):
    """A site's module followed by its unit, for units that cannot be folded into the module.

    Args:
        site: The module.
        rule: Where the module's output holds its maps.
        unit: The site's unit from `folded_unit`.
        filters: The filters that the unit corrects, (n,), ascending; None for all.
    """

    filters: Tensor | None

    def __init__(
        self, site: nn.Module, rule: LayoutRule, unit: CorrectionUnit, filters: Tensor | None
    ) -> None:
        super().__init__(site)
        self.rule = rule
        self.unit = unit
        self.register_constant("filters", filters)

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        output = self.site(*args, **kwargs)
        layout = self.rule(output)
        maps = layout.maps(output)
        return layout.output(self.unit(maps, self.filters), output)


def with_weights(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A copy of a convolution, of the same class, with other weights and `len(weight)` filters."""
    twin = copy.deepcopy(conv)
    dtype = conv.weight.dtype
    twin.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    twin.bias = nn.Parameter(bias.to(dtype).contiguous(), requires_grad=False)
    twin.out_channels = len(weight)
    return twin


def scaled(conv: nn.Conv2d, affine: Affine) -> nn.Conv2d:
    """A convolution and the affine map after it as one convolution."""
    return with_weights(conv, *folded(conv.weight, conv.bias, affine))


def fused_site(
    conv: nn.Conv2d, unit: CorrectionUnit, filters: Tensor, norm: Affine | None, always: bool
) -> FusedSite | None:
    """Fuses a site's convolution, its unit and optionally its batch norm; see `FusedSite`.

    Args:
        conv: The site's module.
        unit: Its correction unit, in inference mode.
        filters: The filters that the unit corrects, (n,), ascending.
        norm: The batch norm that is the only reader of the site, or None.
        always: Whether the unit's first convolution is merged into the site's wherever this is
            possible, and not only where it needs no more multiply-adds.

    Returns:
        The fused module, or None where the unit would have to divide by scales near zero.
    """
    channels = conv.out_channels
    layers = folded_layers(unit)
    first, last = layers[0], layers[-1]
    if not isinstance(first, nn.Conv2d) or not isinstance(last, nn.Conv2d):
        raise TypeError("a unit must begin and end with a convolution")
    scale = torch.ones(channels, dtype=widest_float(filters.device), device=filters.device)
    shift = torch.zeros_like(scale)
    if unit.scale is not None and unit.shift is not None:
        scale = spread_out(widened(unit.scale.detach()), 0, filters, channels, fill=1)
        shift = spread_out(widened(unit.shift.detach()), 0, filters, channels)
    if norm is not None:
        scale, shift = norm.scale * scale, norm.scale * shift + norm.shift
    divides = bool((scale[filters].abs() >= LEAST_SCALE * scale.abs().max()).all())
    one_group = conv.groups == 1
    cheaper = conv.weight[0].numel() <= channels
    if not divides and not one_group:
        return None
    into_site = one_group and (always or cheaper or not divides)

    weight, bias = widened(conv.weight), _bias(conv)
    reads = widened(first.weight).flatten(1)  # hidden x corrected filters
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
    back = widened(last.weight).flatten(1) * scale[filters, None]
    back = spread_out(back, 0, filters, channels)
    return FusedSite(
        with_weights(conv, own_weight, own_bias),
        own_first,
        nn.Sequential(*layers[1:-1]),
        _adding(back, last),
    )


def folded_unit(
    unit: CorrectionUnit, filters: Tensor, channels: int
) -> tuple[CorrectionUnit, Tensor | None]:
    """A copy of a unit with its batch norms folded into its convolutions.

    Its convolutions read and write all filters of the site, with zero weights for those that are
    not corrected. A modulation, which reads the corrected filters' maps, needs to be told them.

    Args:
        unit: The unit, in inference mode.
        filters: The filters that it corrects, (n,), ascending.
        channels: The number of the site's filters.

    Returns:
        The copy, and the filters that it still needs to be told, or None.
    """
    twin = copy.deepcopy(unit)
    layers = folded_layers(unit)
    twin.residual = nn.Sequential(*layers)
    if unit.modulation is not None:
        return twin, filters
    first, last = layers[0], layers[-1]
    if not isinstance(first, nn.Conv2d) or not isinstance(last, nn.Conv2d):
        raise TypeError("a unit must begin and end with a convolution")
    reads = spread_out(widened(first.weight).flatten(1), 1, filters, channels)
    writes = spread_out(widened(last.weight).flatten(1), 0, filters, channels)
    twin.residual[0] = _pointwise(reads, _bias(first), first)
    twin.residual[-1] = _pointwise(writes, spread_out(_bias(last), 0, filters, channels), last)
    if unit.scale is not None and unit.shift is not None:
        twin.scale = nn.Parameter(spread_out(unit.scale.detach(), 0, filters, channels, fill=1))
        twin.shift = nn.Parameter(spread_out(unit.shift.detach(), 0, filters, channels))
    return twin, None


def folded_layers(unit: CorrectionUnit) -> list[nn.Module]:
    """The layers of a unit's residual, with batch norms folded into the convolutions."""
    layers: list[nn.Module] = []
    before: Affine | None = None
    for layer in unit.residual:
        if isinstance(layer, nn.Conv2d):
            if before is None:
                layers.append(copy.deepcopy(layer))
            else:  # exact, as only 1x1 convolutions, without padding, follow a first batch norm
                reads = widened(layer.weight)
                bias = _bias(layer) + reads.flatten(1) @ before.shift
                layers.append(with_weights(layer, reads * before.scale[:, None, None], bias))
                before = None
        elif isinstance(layer, nn.BatchNorm2d):
            affine = affine_of(layer)
            if affine is None:
                raise TypeError("a unit's batch norm must keep running statistics")
            if layers and isinstance(layers[-1], nn.Conv2d):
                layers[-1] = scaled(layers[-1], affine)
            else:
                before = affine
        else:
            layers.append(nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer)
    return layers


def _pointwise(weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution with weights, outputs x inputs, in the data type of `like`."""
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
        wide = widest_float(conv.weight.device)
        return conv.weight.new_zeros(len(conv.weight), dtype=wide)
    return widened(conv.bias.detach())
