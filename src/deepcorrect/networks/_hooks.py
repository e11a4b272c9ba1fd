"""Finding sites, and reading or replacing their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._layers import find
from deepcorrect.networks._layout import layout_of
from deepcorrect.runtime import InputError

Edit = Callable[[str, Tensor], Tensor | None]


@contextmanager
def tap(
    model: nn.Module, sites: Iterable[str] | None = None, edit: Edit | None = None
) -> Iterator[dict[str, Tensor]]:
    """Reads, and optionally replaces, the outputs of sites while the block runs.

    Args:
        model: a network, wrapped or bare.
        sites: dotted names; None takes all `candidates`.
        edit: called with a site's name and maps; maps that it returns replace them.

    Yields:
        A dictionary that each forward pass fills with the sites' maps, N x C x H x W, as they
        were before `edit`. They are copies, so that in-place layers behind do not change them.
    """
    maps: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            del args
            layout = layout_of(name, module, output)
            maps[name] = layout.maps(output).clone()
            edited = None if edit is None else edit(name, layout.maps(output))
            return None if edited is None else layout.output(edited, output)

        return hook

    handles = [
        module.register_forward_hook(hook_for(name)) for name, module in find(model, sites).items()
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


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
    """Every site's maps, and how `measure` changes with it, in one pass forward and back.

    Args:
        model: a network, wrapped or bare, in inference mode.
        images: N x C x H x W.
        sites: dotted names.
        measure: of the logits, N x classes; gives one number.

    Returns:
        The sites' maps and the gradients, each N x C x H x W by site.
    """
    maps: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            del args
            layout = layout_of(name, module, output)
            maps[name] = layout.maps(output)
            return layout.output(maps[name], output).clone()  # in-place layers may change it

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
