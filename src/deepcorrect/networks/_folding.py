"""Folding a batch norm into the convolution before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepcorrect.runtime import widened


class Affine(NamedTuple):
    """The map z = scale y + shift of each filter; both fields have shape (filters,).

    They are float64, or float32 on devices that do not have it.
    """

    scale: Tensor
    shift: Tensor


def affine(
    mean: Tensor, variance: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None
) -> Affine:
    """Computes the affine map of a batch norm in inference mode.

    Args:
        mean: The running mean, (filters,).
        variance: The running variance, (filters,).
        eps: The value that is added to the variance.
        weight: The scale, (filters,); None stands for ones.
        bias: The shift, (filters,); None stands for zeros.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> scale, shift = affine(3 * one, 4 * one, 0.0, one, None)
        >>> float(scale), float(shift)
        (0.5, -1.5)
    """
    scale = (widened(variance) + eps).rsqrt()
    if weight is not None:
        scale = scale * widened(weight)
    shift = -widened(mean) * scale
    return Affine(scale, shift if bias is None else shift + widened(bias))


def affine_of(norm: nn.BatchNorm2d) -> Affine | None:
    """The affine map of a batch norm in inference mode; None if it keeps no running statistics."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    return affine(norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)


def folded(weight: Tensor, bias: Tensor | None, behind: Affine) -> tuple[Tensor, Tensor]:
    """Folds the affine map of a batch norm into the convolution before it.

    Args:
        weight: The weight of the convolution, filters x inputs x k x k.
        bias: The bias of the convolution, (filters,); None stands for zeros.
        behind: The affine map of the batch norm.

    Returns:
        The weight and the bias of the folded convolution, as wide as the affine map.
    """
    wide = widened(weight.detach())
    offset = torch.zeros_like(behind.shift) if bias is None else widened(bias.detach())
    return wide * behind.scale[:, None, None, None], offset * behind.scale + behind.shift
