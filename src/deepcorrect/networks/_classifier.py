"""A network together with what it expects of an image: size, channels, mean, standard deviation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepcorrect.data import Preprocessing
from deepcorrect.runtime import InputError


class Wrapper(nn.Module):
    """A module around a `network`. Site names are always those of the network inside."""

    network: nn.Module

    def untouched(self) -> nn.Module:
        """The network without what this wrapper corrects, on images in the same form."""
        return self


class Classifier(Wrapper):
    """A network that takes images in [0, 1] and normalises them itself.

    Args:
        network: maps normalised images, N x C x H x W, to logits, N x classes.
        preprocessing: what the network expects.
        name: how results call it.
        labels: the names of its classes, in the order of its logits; None where unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        name: str = "model",
        labels: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.name = name
        self.labels = labels
        shape = (1, preprocessing.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of images in [0, 1], N x C x H x W."""
        return self.network((images - self.mean) / self.std)


def inside(model: nn.Module) -> nn.Module | None:
    """What `model` only wraps, as ours, DataParallel and torch.compile do; None for others."""
    if isinstance(model, Wrapper):
        return model.network
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    return model._modules.get("_orig_mod")  # of torch.compile's wrapper, slow to import


def network_of(model: nn.Module) -> nn.Module:
    """The network inside `model`, whatever it is wrapped in."""
    while (wrapped := inside(model)) is not None:
        model = wrapped
    return model


def input_size_of(model: nn.Module, images: Tensor) -> int:
    """Side of the model's input in pixels; for a bare network, the shorter side of `images`."""
    known = preprocessing_of(model)
    return known.input_size if known else min(images.shape[-2:])


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """The preprocessing that comes with `model`, or None for a bare network."""
    within: nn.Module | None = model
    while within is not None:
        if isinstance(within, Classifier):
            return within.preprocessing
        within = inside(within)
    return None


def uncompiled(network: nn.Module) -> nn.Module:
    """The network that torch.compile was given: what is compiled does not see later hooks.

    Raises:
        InputError: a part of the network is compiled.
    """
    whole = network._modules.get("_orig_mod") or network
    if any("_orig_mod" in module._modules for module in whole.modules()):
        raise InputError(
            "a part of the network is compiled, and would not see its corrections: put the adapter "
            "on the network as it was, and compile what you get"
        )
    return whole
