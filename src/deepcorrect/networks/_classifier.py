"""A network together with what it expects of an image: size, channels, mean, standard deviation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from deepcorrect.data import Preprocessing
from deepcorrect.runtime import InputError


class Wrapper(nn.Module):
    """A module around a `network`. Site names are always those of the network inside.

    What differs from wrapper to wrapper is said by these methods, so that evaluation, training and
    rankings need not know the wrappers.
    """

    network: nn.Module

    def untouched(self) -> nn.Module:
        """The network without what this wrapper corrects, on images in the same form."""
        return self

    def running_modules(self) -> dict[str, nn.Module] | None:
        """The modules that run, by their names in the network inside, where these are not that
        network's own; otherwise None."""
        return None

    def module_trees(self) -> list[dict[str, nn.Module]] | None:
        """All modules that may run under a name, for hooks that outlast a change of what runs: one
        mapping per copy of the network, the one that corrects first; None for the network's own."""
        return None

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that training changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def ungated(self) -> AbstractContextManager[None]:
        """While the block runs, nothing is chosen image by image."""
        return nullcontext()


class Classifier(Wrapper):
    """A network that takes images in [0, 1] and normalises them itself.

    Args:
        network: maps normalised images, N x C x H x W, to logits, N x classes.
        preprocessing: what the network expects.
        name: how results call it.
        labels: the names of its classes, in the order of its logits; None where unknown.

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
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of images in [0, 1], N x C x H x W."""
        return self.network((images - self.mean) / self.std)


def unwrapped(model: nn.Module) -> nn.Module | None:
    """The module that `model` only wraps, as our wrappers, DataParallel and `torch.compile` do;
    None where it is no wrapper."""
    if isinstance(model, Wrapper):
        return model.network
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    return model._modules.get("_orig_mod")  # of torch.compile's wrapper, slow to import


def wrappers(model: nn.Module) -> Iterator[Wrapper]:
    """The wrappers of ours around a network, the outermost first."""
    within: nn.Module | None = model
    while within is not None:
        if isinstance(within, Wrapper):
            yield within
        within = unwrapped(within)


def network_of(model: nn.Module) -> nn.Module:
    """The network inside `model`, whatever it is wrapped in."""
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


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes: of a corrected network its correction units' alone."""
    if isinstance(model, Wrapper):
        return model.trainable_parameters()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextmanager
def ungated(model: nn.Module) -> Iterator[None]:
    """While the block runs, a corrected network corrects every image, whatever its gate says."""
    with ExitStack() as stack:
        for wrapper in wrappers(model):
            stack.enter_context(wrapper.ungated())
        yield


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """While the block runs, these parameters require no gradient; afterwards as before."""
    required = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)


def input_size_of(model: nn.Module, images: Tensor) -> int:
    """Side of the model's input in pixels; for a bare network, the shorter side of `images`."""
    known = preprocessing_of(model)
    return known.input_size if known else min(images.shape[-2:])


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """The preprocessing that comes with `model`, or None for a bare network."""
    for wrapper in wrappers(model):
        if isinstance(wrapper, Classifier):
            return wrapper.preprocessing
    return None


def uncompiled(network: nn.Module) -> nn.Module:
    """The network that `torch.compile` was given.

    Raises:
        InputError: a part of the network is compiled, which cannot be copied and corrected.
    """
    whole = network._modules.get("_orig_mod") or network
    if any("_orig_mod" in module._modules for module in whole.modules()):
        raise InputError(
            "a part of the network is compiled, and would not be corrected: put the adapter on "
            "the network before it is compiled, and compile the corrected network"
        )
    return whole
