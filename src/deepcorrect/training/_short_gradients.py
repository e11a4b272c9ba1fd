"""Shorter gradients: through batch norms that are not trained, and of depthwise convolutions that
are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcorrect.networks import Replacement, in_float32, original, slow_in_bfloat16


@contextmanager
def short_gradients(model: nn.Module) -> Iterator[None]:
    """Makes gradients take less time while the block runs, on a CPU above all.

    Frozen batch norms pass gradients on in one product. Depthwise convolutions whose gradients take
    longer in bfloat16 run in float32 on a CPU, also under autocast (`slow_in_bfloat16`).

    A batch norm in inference mode multiplies each map by a constant and adds another, so its
    gradient needs neither its input nor sums over the maps. On a CPU, torch's own computes both and
    takes three times as long. The output is the same.

    Args:
        model: the network that is trained, whose modules compute as before afterwards.
    """
    # a site's filters that have weights of their own are convolved by a twin of the layer
    replaced = {id(original(each)) for each in model.modules() if isinstance(each, Replacement)}
    shorter = [(each, _shorter(each)) for each in model.modules() if id(each) not in replaced]
    shorter = [(each, forward) for each, forward in shorter if forward is not None]
    try:
        for module, forward in shorter:
            module.forward = partial(forward, module)
        yield
    finally:
        for module, _ in shorter:
            del module.forward


def _shorter(module: nn.Module) -> Callable[..., Tensor] | None:
    """The forward pass that a module gets while it is trained, if it is another."""
    if "forward" in module.__dict__:
        return None
    if type(module) is nn.BatchNorm2d:
        return _forward
    if isinstance(module, nn.Conv2d):
        slow = slow_in_bfloat16(module, trained=module.weight.requires_grad)
        return _forward_in_float32 if slow else None
    return None


def _forward_in_float32(conv: nn.Conv2d, input: Tensor) -> Tensor:
    return in_float32(partial(type(conv).forward, conv), input)


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
