"""Finding sites, and reading or replacing their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.classifier import network_of
from deepcorrect.errors import InputError, unknown

Edit = Callable[[str, Tensor], Tensor | None]


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every 2-D convolution of the network in `model`, by dotted name, in module order."""
    modules = network_of(model).named_modules()
    return {name: module for name, module in modules if isinstance(module, nn.Conv2d)}


def find(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """The modules at the named sites, in the order of the network's modules.

    Args:
        model: a network, wrapped or bare.
        names: dotted names; None takes every 2-D convolution.

    Raises:
        InputError: a name is not a module of the network, or there is no convolution at all.
    """
    if names is None:
        found = dict(convolutions(model))
        if not found:
            raise InputError(
                "the network has no 2-D convolution: name the sites yourself "
                "(modules whose output is N x C x H x W)"
            )
        return dict(found)
    modules = dict(network_of(model).named_modules())
    wanted = set(names)
    for name in wanted:
        if name not in modules or name == "":
            accepted = convolutions(model) or (known for known in modules if known)
            raise unknown("site", name, accepted)
    return {name: module for name, module in modules.items() if name in wanted}


@contextmanager
def tap(
    model: nn.Module, sites: Iterable[str] | None = None, edit: Edit | None = None
) -> Iterator[dict[str, Tensor]]:
    """Reads, and optionally replaces, the outputs of sites while the block runs.

    Args:
        model: a network, wrapped or bare.
        sites: dotted names; None takes every 2-D convolution.
        edit: called with a site's name and output; a tensor it returns replaces the output.

    Yields:
        A dictionary that each forward pass fills with the sites' outputs, N x C x H x W, as they
        were before `edit`. They are copies, so that in-place layers behind do not change them.
    """
    maps: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            del module, args
            maps[name] = as_maps(name, output).clone()
            return None if edit is None else edit(name, output)

        return hook

    handles = [
        module.register_forward_hook(hook_for(name)) for name, module in find(model, sites).items()
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def check_once(model: nn.Module, images: Tensor, sites: Iterable[str]) -> None:
    """Runs a batch and checks that each site runs exactly once.

    Raises:
        InputError: a site never runs, or runs more than once.
    """
    found = find(model, sites)
    runs = dict.fromkeys(found, 0)

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            del module, args, output
            runs[name] += 1

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in found.items()]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, count in runs.items():
        refuse_unless_once(name, count)


def refuse_unless_once(name: str, runs: int) -> None:
    """Raises InputError unless the site `name` ran once."""
    if runs != 1:
        raise InputError(
            f"site {name!r} runs {runs} times in a forward pass: "
            "only a module that runs once can be swapped or corrected"
        )


def gradients(
    model: nn.Module,
    images: Tensor,
    sites: Iterable[str],
    measure: Callable[[Tensor], Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every site's output, and how `measure` changes with it, in one pass forward and back.

    Args:
        model: a network, wrapped or bare, in inference mode.
        images: N x C x H x W.
        sites: dotted names.
        measure: of the logits, N x classes; gives one number.

    Returns:
        The sites' outputs and the gradients, each N x C x H x W by site.
    """
    maps: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            del module, args
            maps[name] = as_maps(name, output)
            return maps[name].clone()  # which in-place layers behind may change

        return hook

    found = find(model, sites)
    handles = [module.register_forward_hook(hook_for(name)) for name, module in found.items()]
    try:
        with torch.enable_grad():  # of the images, as the weights may be frozen
            gain = measure(model(images.detach().requires_grad_()))
    finally:
        for handle in handles:
            handle.remove()
    values = torch.autograd.grad(gain, [maps[name] for name in found], materialize_grads=True)
    return (
        {name: maps[name].detach() for name in found},
        dict(zip(found, values, strict=True)),
    )


def as_maps(name: str, output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 4:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"site {name!r} gives {given}: a site's output must be N x C x H x W")
    return output
