"""Forward hooks: reading and replacing the inputs and outputs of modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepcorrect.networks._branches import ungated
from deepcorrect.networks._classifier import logits_of, module_trees
from deepcorrect.networks._layers import find
from deepcorrect.networks._layout import layout_of
from deepcorrect.runtime import InputError

Edit = Callable[[str, Tensor], Tensor | None]
"""A function of a site and its maps that returns the maps to replace them, or None."""

Hook = Callable[[str, nn.Module, Any, Any], Any]
"""A function of a name, a module, its positional arguments and its output that returns the value to
replace the output, or None."""

PreHook = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], None]
"""A function of a name, a module, and its positional and keyword arguments."""


def _uncompiled() -> AbstractContextManager[Any]:
    """Runs compiled modules uncompiled in the block, as compiled code calls no new hooks."""
    compiles = "torch._dynamo" in sys.modules and not torch.compiler.is_compiling()
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()


def forward_hooks(
    modules: Mapping[str, nn.Module], hook: Hook, *, prepend: bool = False
) -> AbstractContextManager[None]:
    """Calls `hook` after each call of one of the modules, while the block runs.

    Args:
        modules: The modules by name.
        hook: The function to call. A result other than None replaces the module's output.
        prepend: Whether it runs before all hooks that are registered already.
    """
    return _hooked(
        modules,
        lambda name, module: module.register_forward_hook(partial(hook, name), prepend=prepend),
    )


def forward_pre_hooks(
    modules: Mapping[str, nn.Module], hook: PreHook
) -> AbstractContextManager[None]:
    """Calls `hook` before each call of one of the modules, while the block runs.

    Args:
        modules: The modules by name.
        hook: The function to call. It may raise to end the forward pass.
    """
    return _hooked(
        modules,
        lambda name, module: module.register_forward_pre_hook(
            partial(hook, name), with_kwargs=True
        ),
    )


@contextmanager
def _hooked(
    modules: Mapping[str, nn.Module], register: Callable[[str, nn.Module], RemovableHandle]
) -> Iterator[None]:
    """Registers a hook on each of the modules while the block runs."""
    with ExitStack() as stack:
        stack.enter_context(_uncompiled())
        for name, module in modules.items():
            stack.callback(register(name, module).remove)
        yield


@contextmanager
def site_hooks(model: nn.Module, sites: Iterable[str] | None, edit: Edit) -> Iterator[None]:
    """Calls `edit` with each site's maps as soon as the site has run, while the block runs.

    A corrected network corrects every image while the block runs, whatever its gate decides, so
    that each image has corrected maps.

    Args:
        model: A network, wrapped or bare.
        sites: The dotted names of the sites; None selects all convolutions and transformers' MLPs.
        edit: A function that is called with a site's name and maps, N x C x H x W. Maps that it
            returns replace the site's. The maps are the site's own output, which later in-place
            layers may change.

    Raises:
        InputError: A site does not exist, or (in the forward pass) its output contains no maps.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> with site_hooks(network, ["0"], lambda name, maps: print(name, tuple(maps.shape))):
        ...     out = network(torch.rand(2, 3, 8, 8))
        0 (2, 4, 6, 6)
    """

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        del args
        layout = layout_of(name, module, output)
        edited = edit(name, layout.maps(output))
        return None if edited is None else layout.output(edited, output)

    names = find(model, sites)
    with ExitStack() as stack:
        stack.enter_context(ungated(model))
        for tree in module_trees(model):
            here = {name: tree[name] for name in names if name in tree}
            stack.enter_context(forward_hooks(here, hook))
        yield


@contextmanager
def tap(
    model: nn.Module, sites: Iterable[str] | None = None, edit: Edit | None = None
) -> Iterator[dict[str, Tensor]]:
    """Reads, and optionally replaces, the outputs of sites while the block runs.

    Args:
        model: A network, wrapped or bare; see `site_hooks`.
        sites: The dotted names of the sites; None selects all convolutions and transformers' MLPs.
        edit: A function that is called with a site's name and maps. Maps that it returns replace
            the site's.

    Yields:
        A dictionary that each forward pass fills with the sites' maps, N x C x H x W, before
        `edit`. They are copies, so that later in-place layers do not change them.

    Raises:
        InputError: A site does not exist, or (in the forward pass) its output contains no maps.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True))
        >>> with tap(network, ["0"]) as maps:
        ...     out = network(torch.rand(2, 3, 8, 8))
        >>> maps["0"].shape, torch.equal(maps["0"].relu(), out)
        (torch.Size([2, 4, 6, 6]), True)
    """
    copies: dict[str, Tensor] = {}

    def copy_and_edit(name: str, maps: Tensor) -> Tensor | None:
        copies[name] = maps.clone()
        return None if edit is None else edit(name, maps)

    with site_hooks(model, sites, copy_and_edit):
        yield copies


def require_one_run(name: str, runs: int) -> None:
    """Checks that a site ran exactly once in a forward pass.

    Raises:
        InputError: It ran more than once, or not at all.
    """
    if runs != 1:
        raise InputError(
            f"site {name!r} runs {runs} times in a forward pass: "
            "only a module that runs exactly once can be swapped or corrected"
        )


def gradients(
    model: nn.Module,
    images: Tensor,
    sites: Iterable[str],
    measure: Callable[[Tensor], Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Computes each site's maps and the gradient of a measure with respect to them.

    As in `tap`, every image is corrected, whatever a gate decides.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: N x C x H x W.
        sites: The dotted names of the sites.
        measure: A function of the logits, N x classes, that returns a scalar.

    Returns:
        The maps and the gradients by site, each N x C x H x W.
    """
    maps: dict[str, Tensor] = {}

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> Tensor:
        del args
        layout = layout_of(name, module, output)
        maps[name] = layout.maps(output)
        return layout.output(maps[name], output).clone()  # as in-place layers may change it

    found = find(model, sites)
    with ungated(model), forward_hooks(found, hook), torch.enable_grad():
        # the images require gradients, as the weights may be frozen
        gain = measure(logits_of(model, images.detach().requires_grad_()))
    if not gain.requires_grad:
        raise InputError(
            "the network's output has no gradient, as under torch.no_grad() or after an argmax, "
            "and it is needed here: remove what stops gradients, or rank by method 'swap'"
        )
    values = torch.autograd.grad(gain, [maps[name] for name in found], materialize_grads=True)
    return (
        {name: maps[name].detach() for name in found},
        dict(zip(found, values, strict=True)),
    )


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass when the awaited module is called."""


def arguments_of(
    model: nn.Module, module: nn.Module, images: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments that a module inside a model is called with.

    The forward pass ends at that call.

    Args:
        model: A network, wrapped or bare.
        module: A module of the network.
        images: The input of `model`, N x C x H x W.

    Returns:
        The positional and keyword arguments of the first call; None if the module is not called.
    """
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def read(name: str, inside: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del name, inside
        found.append((args, kwargs))
        raise _Reached

    with torch.no_grad(), forward_pre_hooks({"": module}, read):
        try:
            logits_of(model, images)
        except _Reached:
            return found[0]
    return None
