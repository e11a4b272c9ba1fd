"""Activation checkpointing in the trained network, and what it asks of its input."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from deepcorrect.networks import logits_of
from deepcorrect.runtime import forked_random


def needs_image_gradients(
    model: nn.Module, read: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter]
) -> bool:
    """Whether parameters get gradients only where the images require gradients, too.

    `torch.utils.checkpoint` with `use_reentrant=True` (the default of older code) passes gradients
    on only where an input of the checkpointed part requires them. Parameters before which nothing
    else is trained would be left as they are, without an error. One small pass tells; the model's
    tensors are afterwards as before.

    Args:
        model: put into training mode, in which no gate lets images pass uncorrected.
        read: the same model, its output read as logits.
        images: a batch, N x C x H x W, on the model's device; two of its images are used.
        parameters: those that are trained.
    """
    model.train()
    state = copy.deepcopy(model.state_dict())
    without = _reached(read, images[:2], parameters)
    through = without < len(parameters) and without < _reached(
        read, images[:2].clone().requires_grad_(), parameters
    )
    model.load_state_dict(state)
    return through


def _reached(read: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter]) -> int:
    """How many of the parameters get a gradient."""
    with forked_random(images.device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that gradients will be None
        output = logits_of(read, images)
        if not output.requires_grad:
            return 0
        output.float().sum().backward()
    count = sum(parameter.grad is not None for parameter in parameters)
    for parameter in parameters:
        parameter.grad = None
    return count
