"""A network's features: what its last linear layer reads, or what a named module gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._classifier import network_of
from deepcorrect.runtime import InputError, unknown

Read = Callable[[], Tensor]


@contextmanager
def features(model: nn.Module, site: str | None = None) -> Iterator[Read]:
    """Reads the features of each forward pass while the block runs.

    Args:
        model: a network, wrapped or bare.
        site: dotted name of a module whose output they are; None takes the input of the linear
            layer that runs last, which in a classifier is the penultimate activations.

    Yields:
        A function that gives the features of the last pass, N x D, with their gradients: vectors
        as they are, maps N x C x H x W averaged over positions.

    Raises:
        InputError: there is no such module, or no linear layer; when read: what was found has
            another shape, or did not run.
    """
    network = network_of(model)
    last: list[Any] = []

    def keep_input(module: nn.Module, args: Any) -> None:
        del module
        last[:] = [args[0] if args else None]

    def keep_output(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        last[:] = [output]

    if site is None:
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise InputError(
                "the network has no linear layer whose input could be its features: name a module "
                f"whose output they are, such as {_last_module(network)!r}"
            )
        handles = [module.register_forward_pre_hook(keep_input) for module in linear]
        name = "the last linear layer's input"
    else:
        modules = dict(network.named_modules())
        if site not in modules or site == "":
            raise unknown("module", site, [known for known in modules if known])
        handles = [modules[site].register_forward_hook(keep_output)]
        name = f"the output of {site!r}"

    def read() -> Tensor:
        if not last:
            raise InputError(f"{name} did not come up in a forward pass: name another module")
        return as_vectors(last[0], name)

    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def as_vectors(value: Any, name: str) -> Tensor:
    """Features N x D of what a module read or gave.

    Raises:
        InputError: it is neither N x D nor N x C x H x W.
    """
    if isinstance(value, Tensor) and value.dim() == 4:
        return value.mean((2, 3), dtype=torch.float32)
    if isinstance(value, Tensor) and value.dim() == 2:
        return value
    given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise InputError(
        f"{name} is {given}: features must be N x D, or N x C x H x W, which is averaged over "
        "positions; name another module"
    )


def _last_module(network: nn.Module) -> str:
    """The last module without modules of its own before the classifier's end, as an example."""
    leaves = [name for name, module in network.named_modules() if not list(module.children())]
    return leaves[-1] if leaves else ""
