"""Batch-norm statistics of the test batch (Nado et al. 2020, Schneider et al. 2020)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepcorrect.networks import Wrapper, network_of
from deepcorrect.runtime import InputError


class _BatchStatistics(nn.Module):
    """A batch norm whose statistics are mixed with those of its input.

    A subclass may do more than normalise, as timm's, which have the activation inside. Its own
    forward pass runs, with the statistics exchanged where it normalises.
    """

    def __init__(self, norm: nn.BatchNorm2d, prior: float) -> None:
        super().__init__()
        self.norm = norm
        self.prior = prior

    def forward(self, maps: Tensor) -> Tensor:
        if type(self.norm) is nn.BatchNorm2d:
            return self.normalised(maps)
        with _Exchanged(self) as exchanged:
            found = self.norm(maps)
        if exchanged.calls != 1:
            raise InputError(
                f"a batch norm of the class {type(self.norm).__name__} does not normalise by "
                "torch.nn.functional.batch_norm: its statistics cannot be adapted"
            )
        return found

    def normalised(self, maps: Tensor) -> Tensor:
        """The maps, N x C x H x W, normalised, scaled and shifted."""
        values = maps.float()
        mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)
        if self.prior:
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            share = self.prior / (self.prior + len(maps))
            mean = share * self.norm.running_mean + (1 - share) * mean
            variance = share * self.norm.running_var + (1 - share) * variance
        scale = torch.rsqrt(variance + self.norm.eps)
        scale = scale if self.norm.weight is None else scale * self.norm.weight
        shift = -mean * scale if self.norm.bias is None else self.norm.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(maps.dtype)


class _Exchanged(TorchFunctionMode):
    """In the block, `batch_norm` takes the statistics of one batch norm."""

    def __init__(self, norm: _BatchStatistics) -> None:
        super().__init__()
        self.norm, self.calls = norm, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self.norm.normalised(args[0] if args else (kwargs or {})["input"])


class NormAdaptation(Wrapper):
    """A network whose batch norms follow each test batch. Nothing is trained.

    The answers depend on the batch, so a batch should be large and of one distortion.

    Args:
        network: the network, whose batch norms have been replaced.
        images: how many images share their statistics at most; None for all of a batch.
    """

    def __init__(self, network: nn.Module, images: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.images = images

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of images in [0, 1], N x C x H x W."""
        groups = math.ceil(len(images) / (self.images or len(images)))
        return torch.cat([self.network(some) for some in images.tensor_split(groups)])


def norm_adaptation(
    model: nn.Module, prior: float | None = None, images: int | None = None
) -> NormAdaptation:
    """A copy of the network that normalises by the statistics of each test batch.

    Args:
        model: the baseline. It is not changed.
        prior: the number of images that the trained statistics count as (N in equation 2 of
            Schneider et al.); 0 leaves the trained statistics out (Nado et al.). None takes 0 for
            whole batches, and as many as `images`, which was best for 32 images on ResNet-20.
        images: the largest number of test images whose statistics are used together (n in the same
            equation). A larger batch is divided into groups of almost equal size. None uses those
            of the whole batch.

    Raises:
        InputError: the network has no batch norm with statistics, the prior is below 0, or
            `images` is below 1.

    Example:
        >>> import torch
        >>> from deepcorrect.alternatives import norm_adaptation
        >>> network = torch.nn.Sequential(torch.nn.BatchNorm2d(3, affine=False))
        >>> adapted = norm_adaptation(network)
        >>> round(float(adapted(torch.rand(8, 3, 4, 4) + 5).mean().abs()), 3)
        0.0

        Each group of at most 32 images, as a deployed network might gather them:

        >>> few = norm_adaptation(network, images=32)
        >>> few(torch.rand(80, 3, 4, 4)).shape
        torch.Size([80, 3, 4, 4])
    """
    if prior is None:
        prior = images or 0.0
    if prior < 0:
        raise InputError(f"prior={prior:g} is below 0: it is a number of images, 0 or more")
    if images is not None and images < 1:
        raise InputError(f"images={images} is below 1: it is a number of images, or None for all")
    adapted = copy.deepcopy(model).requires_grad_(False).eval()
    replace_norms(adapted, prior)
    return NormAdaptation(adapted, images)


def replace_norms(model: nn.Module, prior: float) -> list[nn.BatchNorm2d]:
    """Makes every batch norm of a network use the batch's statistics. The network is changed.

    Returns:
        The original batch norms, whose weights and biases stay in use.
    """
    network = network_of(model)
    norms = {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    if not norms or any(norm.running_mean is None for norm in norms.values()):
        raise InputError("the network has no 2-D batch norm with statistics to adapt")
    for name, norm in norms.items():
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, _BatchStatistics(norm, prior))
    return list(norms.values())
