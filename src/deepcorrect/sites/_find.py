"""Finding sites, and reading or replacing their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.classifier import network_of
from deepcorrect.errors import InputError, unknown
from deepcorrect.sites._layout import layout_of

Edit = Callable[[str, Tensor], Tensor | None]


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every 2-D convolution of the network in `model`, by dotted name, in module order."""
    modules = network_of(model).named_modules()
    return {name: module for name, module in modules if isinstance(module, nn.Conv2d)}


def mlp_channels(model: nn.Module) -> dict[str, nn.Linear]:
    """The channels of transformers' MLPs, by dotted name, in module order.

    These are linear layers from the channels of the normalisation before them to more, which the
    next linear layer leads back to as many: pointwise convolutions over the tokens, or over maps
    whose channels come last (ConvNeXt, Swin). MLPs across tokens (MLP-Mixer) are not among them,
    as their outputs are no maps.
    """
    found: dict[str, nn.Linear] = {}
    width, before = 0, ("", None)
    for name, module in network_of(model).named_modules():
        shape = getattr(module, "normalized_shape", None)
        if shape is not None:
            width = int(shape[-1])
        if not isinstance(module, nn.Linear):
            continue
        hidden = before[1]
        if (
            hidden is not None
            and (hidden.in_features, hidden.out_features)
            == (module.out_features, module.in_features)
            and hidden.in_features < hidden.out_features
        ):
            found[before[0]] = hidden
        before = (name, module if module.in_features == width else None)
    return found


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Every 2-D convolution and the channels of every MLP, by dotted name, in module order.

    One that PEFT has wrapped is the wrapper, whose output is the layer's with what was added.
    """
    wanted = convolutions(model).keys() | mlp_channels(model).keys()
    modules = dict(network_of(model).named_modules())
    found: dict[str, nn.Module] = {}
    wrapper = ""
    for name, module in modules.items():
        if wrapper and name.startswith(f"{wrapper}."):
            if name in wanted:
                found[wrapper] = modules[wrapper]
            continue
        wrapper = name if hasattr(module, "base_layer") else ""
        if name in wanted:
            found[name] = module
    return found


def find(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """The modules at the named sites, in the order of the network's modules.

    Args:
        model: a network, wrapped or bare.
        names: dotted names; None takes all `candidates`, of which `choose` leaves out those that
            do not serve.

    Raises:
        InputError: a name is not a module of the network, or there is no candidate at all.
    """
    if names is None:
        found = candidates(model)
        if not found:
            raise InputError(
                "the network has no 2-D convolution and no transformer's MLP: name the sites "
                "yourself (modules whose output is N x C x H x W)"
            )
        return found
    modules = dict(network_of(model).named_modules())
    wanted = set(names)
    for name in wanted:
        if name not in modules or name == "":
            accepted = candidates(model) or (known for known in modules if known)
            raise unknown("site", name, accepted)
    return {name: module for name, module in modules.items() if name in wanted}


def filter_count(name: str, module: nn.Module) -> int:
    """Number of filters of the site `name`.

    Raises:
        InputError: the module does not say.
    """
    for attribute in ("out_channels", "num_features", "num_channels", "out_features"):
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            return value
    raise InputError(
        f"site {name!r} is a {type(module).__name__}, whose number of filters is not known: "
        "name a convolution, a linear layer or a normalisation layer"
    )


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
