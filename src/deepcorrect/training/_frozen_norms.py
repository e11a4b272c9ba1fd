"""A shorter gradient through batch norms that are not trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def short_gradients(model: nn.Module) -> Iterator[None]:
    """Makes frozen batch norms pass gradients on in one product while the block runs.

    A batch norm in inference mode multiplies each map by a constant and adds another, so its
    gradient needs neither its input nor sums over the maps. On a CPU, torch's own computes both and
    takes three times as long. The output is the same.

    Args:
        model: the network that is trained, whose modules compute as before afterwards.
    """
    norms = [each for each in model.modules() if type(each) is nn.BatchNorm2d]
    norms = [each for each in norms if "forward" not in each.__dict__]
    try:
        for norm in norms:
            norm.forward = partial(_forward, norm)
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: nn.BatchNorm2d, input: Tensor) -> Tensor:
    mean, variance, weight, bias = norm.running_mean, norm.running_var, norm.weight, norm.bias
    trained = any(each is not None and each.requires_grad for each in (weight, bias))
    constant = not (norm.training or trained or mean is None or variance is None)
    if constant and torch.is_grad_enabled() and input.requires_grad:
        scaled: Any = _ConstantNorm.apply(input, mean, variance, weight, bias, norm.eps)
        return scaled
    return type(norm).forward(norm, input)


class _ConstantNorm(torch.autograd.Function):
    """A batch norm with constant statistics, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(scale if weight is None else scale * weight)
        return F.batch_norm(input, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (scale,) = ctx.saved_tensors
        # a batch norm multiplies maps that are laid out with their channels last faster than `*`
        zero, one, eps = torch.zeros_like(scale), torch.ones_like(scale), 1e-5
        product = F.batch_norm(gradients[0], zero, one - eps, scale, zero, eps=eps)
        return product, None, None, None, None, None
