"""Batch norms in training whose statistics are not those of this process's images alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepcorrect.runtime import total


class _OtherNorms(TorchFunctionMode):
    """In the block, another function takes the place of `torch.nn.functional.batch_norm`."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        return (self.function if func is F.batch_norm else func)(*args, **(kwargs or {}))


class SharedNorms(_OtherNorms):
    """In the block, `batch_norm` in training mode takes its statistics over all processes.

    A step in n processes is then the step that one process makes with all their images.
    `torch.nn.SyncBatchNorm` does the same for modules, on GPUs alone.

    Example:
        >>> import torch
        >>> images, norm = torch.rand(4, 3, 8, 8), torch.nn.BatchNorm2d(3)
        >>> expected = norm(images)
        >>> with SharedNorms():  # in one process
        ...     found = norm(images)
        >>> torch.allclose(found, expected, atol=1e-5)
        True
    """

    def __init__(self) -> None:
        super().__init__(_batch_norm)


class RunningNorms(_OtherNorms):
    """In the block, `batch_norm` in training mode uses its running statistics, if it has any.

    It normalises as in inference mode, and leaves the statistics as they are.

    Example:
        >>> import torch
        >>> image, norm = torch.rand(1, 3, 1, 1), torch.nn.BatchNorm2d(3)
        >>> with RunningNorms():  # without it, one value per channel is refused
        ...     found = norm(image)
        >>> torch.equal(found, norm.eval()(image))
        True
    """

    def __init__(self) -> None:
        super().__init__(_running_norm)


def _running_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in inference mode, if there are statistics for it."""
    training = training and (running_mean is None or running_var is None)
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` over the images of all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    maps = input.float()
    others = [axis for axis in range(maps.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(maps.dim())]
    here = torch.full((1,), maps.numel() / maps.shape[1], device=maps.device)
    sums = _sum_of_all(torch.cat([maps.sum(others), here]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = maps - mean.view(shape)
    variance = _sum_of_all(centred.square().sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * count / (count - 1)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scaled = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        scaled = scaled * weight.view(shape)
    if bias is not None:
        scaled = scaled + bias.view(shape)
    return scaled.to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum of all processes' values; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        return total(values, asked=False).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        return total(gradients[0].contiguous(), asked=False)


def _sum_of_all(values: Tensor) -> Tensor:
    found: Any = _Sum.apply(values)
    return found
