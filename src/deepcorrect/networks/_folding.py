"""Folding a batch norm into the convolution before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Affine(NamedTuple):
    """What a batch norm in inference mode does: z = scale y + shift for each filter, in float64."""

    scale: Tensor
    shift: Tensor


def affine(
    mean: Tensor, variance: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None
) -> Affine:
    """The affine map of a batch norm in inference mode, from its statistics and parameters.

    Args:
        mean, variance: the running statistics, (filters,).
        eps: added to the variance.
        weight, bias: (filters,); None stands for ones and zeros.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> scale, shift = affine(3 * one, 4 * one, 0.0, one, None)
        >>> float(scale), float(shift)
        (0.5, -1.5)
    """
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    return Affine(scale, shift if bias is None else shift + bias.double())


def affine_of(norm: nn.BatchNorm2d) -> Affine | None:
    """What a batch norm does in inference mode; None where it has no statistics of its own."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    return affine(norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)


def folded(weight: Tensor, bias: Tensor | None, behind: Affine) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that gives what a batch norm behind it would, in float64.

    Args:
        weight: filters x inputs x k x k.
        bias: (filters,); None stands for zeros.
        behind: the batch norm.
    """
    wide = weight.detach().double()
    offset = torch.zeros_like(behind.shift) if bias is None else bias.detach().double()
    return wide * behind.scale[:, None, None, None], offset * behind.scale + behind.shift
