"""Wrappers around networks: a classifier with its preprocessing, and access to what is inside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.data import Preprocessing
from deepcorrect.networks._constants import WithConstants
from deepcorrect.runtime import DeepCorrectError, InputError, no_module

Spreading = type[nn.DataParallel[Any]] | type[nn.parallel.DistributedDataParallel]
DISTRIBUTED: tuple[Spreading, ...] = (nn.parallel.DistributedDataParallel,)
"""The wrapper that spreads a batch over processes."""
PARALLEL: tuple[Spreading, ...] = (nn.DataParallel, *DISTRIBUTED)
"""Those that spread it over GPUs or processes."""


class Wrapper(nn.Module):
    """A module around a `network`. Site names are always those of the network inside.

    Subclasses override these methods where they differ, so that evaluation, training and rankings
    need not know the subclasses.
    """

    network: nn.Module

    def untouched(self) -> nn.Module:
        """Returns the network without this wrapper's corrections, for the same input images."""
        return self

    def running_modules(self) -> dict[str, nn.Module] | None:
        """Returns the modules that run, by their names in the network inside.

        None stands for the modules of that network itself.
        """
        return None

    def module_trees(self) -> list[dict[str, nn.Module]] | None:
        """Returns all modules that may run under a name, for hooks that must reach each of them.

        There is one mapping per copy of the network, the corrected copy first. None stands for the
        modules of the network itself.
        """
        return None

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that training changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


class Classifier(WithConstants, Wrapper):
    """A network that reads images in [0, 1] and normalises them itself.

    Args:
        network: A module that maps normalised images, N x C x H x W, to logits, N x classes.
        preprocessing: The preprocessing that the network expects.
        name: The name of the network in results.
        labels: The names of the classes, in the order of the logits; None if they are unknown.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> preprocessing = dc.Preprocessing(8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> classifier = dc.Classifier(network, preprocessing)
        >>> images = torch.rand(2, 3, 8, 8)
        >>> classifier(images).shape
        torch.Size([2, 10])
        >>> normalised = (images - classifier.mean) / classifier.std
        >>> torch.equal(classifier(images), network(normalised))
        True
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
        self.register_constant("mean", torch.tensor(preprocessing.mean).view(shape))
        self.register_constant("std", torch.tensor(preprocessing.std).view(shape))

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits, N x classes, of images in [0, 1], N x C x H x W.

        Raises:
            InputError: The images have another number of channels.
        """
        if images.shape[1] != self.preprocessing.channels:
            raise InputError(
                f"the images have {images.shape[1]} channels and the network takes "
                f"{self.preprocessing.channels}: give such images, as "
                + _channels_advice(self.preprocessing.channels)
            )
        return self.network((images - self.mean) / self.std)


def _channels_advice(channels: int) -> str:
    if channels == 1:
        return "images.mean(1, keepdim=True) of colours"
    return f"images.expand(-1, {channels}, -1, -1) of grey ones, or images[:, :{channels}] of RGBA"


def unwrapped(model: nn.Module) -> nn.Module | None:
    """The module inside a wrapper: ours, `DataParallel` or `torch.compile`'s; None without one.

    Raises:
        InputError: `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise no_module(model)
    if isinstance(model, Wrapper):
        return model.network
    if isinstance(model, PARALLEL):
        return model.module
    # by name, as the class of torch.compile's wrapper is slow to import
    return dict(model._modules.items()).get("_orig_mod")  # TorchScript's modules have no `get`


def wrappers(model: nn.Module) -> Iterator[Wrapper]:
    """Yields the `Wrapper`s around a network, the outermost first."""
    within: nn.Module | None = model
    while within is not None:
        if isinstance(within, Wrapper):
            yield within
        within = unwrapped(within)


def network_of(model: nn.Module) -> nn.Module:
    """The network inside `model`, without any wrappers."""
    while (wrapped := unwrapped(model)) is not None:
        model = wrapped
    return model


def running_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that run when `model` is called, by their names in the network inside."""
    for wrapper in wrappers(model):
        found = wrapper.running_modules()
        if found is not None:
            return found
    return dict(network_of(model).named_modules())


def module_trees(model: nn.Module) -> list[dict[str, nn.Module]]:
    """All modules that may run under a name when `model` is called: one mapping per copy of the
    network. Names are those in the network inside."""
    for wrapper in wrappers(model):
        found = wrapper.module_trees()
        if found is not None:
            return found
    return [dict(network_of(model).named_modules())]


def unparallel(model: nn.Module, kinds: tuple[Spreading, ...] = PARALLEL) -> nn.Module:
    """The network inside `DataParallel` and `DistributedDataParallel`, or the model itself.

    Both spread a batch over GPUs or processes, which no file and no folded network does.

    Args:
        model: A network, wrapped or bare.
        kinds: The wrappers to take off. Where a model runs, these are `DISTRIBUTED`: `DataParallel`
            does no harm there, while each forward pass of `DistributedDataParallel` waits for the
            other processes, which may have fewer batches, and overwrites statistics with those of
            rank zero. Processes share their work through `deepcorrect.runtime` here.
    """
    while isinstance(model, kinds):
        model = model.module
    return model


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The output of a model for images that stay as they are.

    A bare network may change its input in place (`x -= mean`), so it gets a copy. A `Classifier`
    normalises into a tensor of its own.

    Args:
        model: a network, wrapped or bare.
        images: N x C x H x W. Gradients flow to them where they require gradients.

    Raises:
        InputError: the network does not accept the images.

    Example:
        >>> import torch
        >>> class Centring(torch.nn.Module):
        ...     def forward(self, x):
        ...         x -= 0.5
        ...         return x.mean((2, 3))
        >>> images = torch.ones(1, 2, 4, 4)
        >>> logits_of(Centring(), images), float(images.mean())
        (tensor([[0.5000, 0.5000]]), 1.0)
    """
    model = unparallel(model, DISTRIBUTED)
    try:
        return model(images.clone() if preprocessing_of(model) is None else images)
    except (DeepCorrectError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise InputError(
            f"the network does not accept images of {' x '.join(map(str, images.shape))} "
            f"({images.dtype}): {_first_line(error)}{_type_advice(model, images)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _type_advice(model: nn.Module, images: Tensor) -> str:
    """What to do if the network's numbers have another type than the images'."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(kinds) == 1 and images.dtype not in kinds:
        return (
            f". Its weights are {str(kinds.pop()).removeprefix('torch.')}: give network.float(); "
            "precision='bfloat16' computes faster"
        )
    return ""


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes; in a corrected network those of its units only."""
    if not isinstance(model, nn.Module):
        raise no_module(model)
    if isinstance(model, Wrapper):
        return model.trainable_parameters()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def refuse_torchscript(model: nn.Module, purpose: str) -> None:
    """Refuses a network that is, or contains, TorchScript, whose layers Python does not run.

    Args:
        model: A network, wrapped or bare.
        purpose: What it cannot be, such as "ranked".

    Raises:
        InputError: A module is a ScriptModule.
    """
    if not isinstance(model, nn.Module):
        raise no_module(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError(
            f"the network is TorchScript (traced or scripted) and cannot be {purpose}: give the "
            "network that it was made from, and script or export the result"
        )


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Makes parameters require no gradient while the block runs, and restores them afterwards."""
    required = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)


def input_size_of(model: nn.Module, images: Tensor) -> int:
    """The side of the model's input in pixels; for a bare network, the shorter side of `images`."""
    known = preprocessing_of(model)
    return known.input_size if known else min(images.shape[-2:])


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """The preprocessing of the `Classifier` in `model`, or None for a bare network."""
    for wrapper in wrappers(model):
        if isinstance(wrapper, Classifier):
            return wrapper.preprocessing
    return None


def uncompiled(network: nn.Module) -> nn.Module:
    """The network inside the wrapper of `torch.compile`.

    Raises:
        InputError: Only a part of the network is compiled, which cannot be copied and corrected.
    """
    whole = network._modules.get("_orig_mod") or network
    if any("_orig_mod" in module._modules for module in whole.modules()):
        raise InputError(
            "a part of the network is compiled and would not be corrected: correct the network "
            "before compiling it, and compile the corrected network"
        )
    return whole
