"""Depthwise convolutions whose gradients take longer in bfloat16 than in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def slow_in_bfloat16(layer: nn.Module, *, trained: bool) -> bool:
    """Whether a layer's gradients take longer in bfloat16 than in float32 on a CPU.

    On a processor that has bfloat16 instructions, those of a depthwise convolution do where it has
    a stride, and where its weights are trained and are larger than 3 x 3: up to six times as long
    (PyTorch 2.13, `benchmarks/training/precision.py`).

    Args:
        layer: any layer.
        trained: whether the gradient of its weights is needed, too.
    """
    if not isinstance(layer, nn.Conv2d) or not 1 < layer.groups == layer.in_channels:
        return False
    return max(layer.stride) > 1 or (trained and max(layer.kernel_size) > 3)


def in_float32(convolve: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """Convolves in float32 where autocast would do so in bfloat16 and gradients are needed.

    Args:
        convolve: the convolution.
        maps: what it gets, N x C x H x W.

    Returns:
        The result, which has autocast's type as it would have without this.
    """
    narrow = maps.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not (narrow and torch.is_grad_enabled()):
        return convolve(maps)
    with torch.autocast("cpu", enabled=False):
        wide = maps.float().contiguous(memory_format=torch.channels_last)
        return convolve(wide).to(torch.get_autocast_dtype("cpu"))
