"""Forward hooks, all of them: reading and replacing what modules read and give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._classifier import module_trees, ungated
from deepcorrect.networks._layers import find
from deepcorrect.networks._layout import layout_of
from deepcorrect.runtime import InputError

Edit = Callable[[str, Tensor], Tensor | None]
"""Site and its maps -> the maps that replace them, or None."""

Hook = Callable[[str, nn.Module, Any, Any], Any]
"""Name, module, positional arguments, output -> what replaces the output, or None."""

PreHook = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], None]
"""Name, module, positional and keyword arguments."""


@contextmanager
def forward_hooks(
    modules: Mapping[str, nn.Module], hook: Hook, *, prepend: bool = False
) -> Iterator[None]:
    """Calls `hook` after each call of one of the modules, while the block runs.

    Args:
        modules: by name.
        hook: what it returns, unless None, replaces the module's output.
        prepend: whether it runs before all hooks that are there already.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(partial(hook, name), prepend=prepend)
            stack.callback(handle.remove)
        yield


@contextmanager
def forward_pre_hooks(modules: Mapping[str, nn.Module], hook: PreHook) -> Iterator[None]:
    """Calls `hook` before each call of one of the modules, while the block runs.

    Args:
        modules: by name.
        hook: may raise to end the forward pass.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_pre_hook(partial(hook, name), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def tap(
    model: nn.Module, sites: Iterable[str] | None = None, edit: Edit | None = None
) -> Iterator[dict[str, Tensor]]:
    """Reads, and optionally replaces, the outputs of sites while the block runs.

    A corrected network corrects every image while the block runs, whatever its gate says, so that
    each image has corrected maps.

    Args:
        model: a network, wrapped or bare.
        sites: dotted names; None takes all convolutions and transformers' MLPs.
        edit: called with a site's name and maps; maps that it returns replace them.

    Yields:
        A dictionary that each forward pass fills with the sites' maps, N x C x H x W, as they
        were before `edit`. They are copies, so that in-place layers behind do not change them.

    Raises:
        InputError: there is no such site; in the forward pass: a site's output holds no maps.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True))
        >>> with tap(network, ["0"]) as maps:
        ...     out = network(torch.rand(2, 3, 8, 8))
        >>> maps["0"].shape, torch.equal(maps["0"].relu(), out)
        (torch.Size([2, 4, 6, 6]), True)
    """
    maps: dict[str, Tensor] = {}

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        del args
        layout = layout_of(name, module, output)
        maps[name] = layout.maps(output).clone()
        edited = None if edit is None else edit(name, layout.maps(output))
        return None if edited is None else layout.output(edited, output)

    names = find(model, sites)
    with ExitStack() as stack:
        stack.enter_context(ungated(model))
        for tree in module_trees(model):
            here = {name: tree[name] for name in names if name in tree}
            stack.enter_context(forward_hooks(here, hook))
        yield maps


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
    """Every site's maps, and the gradient of `measure` at them, in one pass forward and backward.

    As in `tap`, a gate is left out.

    Args:
        model: a network, wrapped or bare, in inference mode.
        images: N x C x H x W.
        sites: dotted names.
        measure: logits, N x classes -> one number.

    Returns:
        The sites' maps and the gradients, each N x C x H x W by site.
    """
    maps: dict[str, Tensor] = {}

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> Tensor:
        del args
        layout = layout_of(name, module, output)
        maps[name] = layout.maps(output)
        return layout.output(maps[name], output).clone()  # in-place layers may change it

    found = find(model, sites)
    with ungated(model), forward_hooks(found, hook), torch.enable_grad():
        # of the images, as the weights may be frozen
        gain = measure(model(images.detach().requires_grad_()))
    values = torch.autograd.grad(gain, [maps[name] for name in found], materialize_grads=True)
    return (
        {name: maps[name].detach() for name in found},
        dict(zip(found, values, strict=True)),
    )


class _Reached(Exception):  # noqa: N818
    """The module that was waited for is called: the rest of the pass is not needed."""


def arguments_of(
    model: nn.Module, module: nn.Module, images: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What a module inside is called with when `model` runs on images; None if it is not called.

    The forward pass ends there.
    """
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def read(name: str, inside: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del name, inside
        found.append((args, kwargs))
        raise _Reached

    with torch.no_grad(), forward_pre_hooks({"": module}, read):
        try:
            model(images)
        except _Reached:
            return found[0]
    return None
