"""Finding the layers of a network that can be sites."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from deepcorrect.networks._classifier import network_of, refuse_torchscript, running_modules
from deepcorrect.networks._sharing import original
from deepcorrect.runtime import InputError, unknown

WIDTHS = ("out_channels", "num_features", "num_channels", "out_features")
"""The attributes in which torch's layers state their number of filters."""


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """All 2-D convolutions of the network in `model`, by dotted name, in module order."""
    modules = network_of(model).named_modules()
    return {name: module for name, module in modules if isinstance(module, nn.Conv2d)}


def mlp_channels(model: nn.Module) -> dict[str, nn.Linear]:
    """The first linear layers of transformers' MLPs, by dotted name, in module order.

    Such a layer expands the channels of the normalisation before it, and the next linear layer
    projects them back. It is a pointwise convolution over tokens, or over maps whose channels come
    last (ConvNeXt, Swin). MLPs across tokens (MLP-Mixer) are excluded, as their outputs are not
    maps.
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
    """All 2-D convolutions and first layers of MLPs, by dotted name, in module order."""
    return wrapped(model, convolutions(model).keys() | mlp_channels(model).keys())


def wrapped(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Layers by dotted name, in module order.

    A layer that PEFT has wrapped is represented by the wrapper, whose output includes the addition.
    """
    wanted = set(names)
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
    """Finds the modules of sites, in module order.

    In a corrected network these are the modules that run when it is called, so that a corrected
    site has corrected maps.

    Args:
        model: A network, wrapped or bare.
        names: The dotted names of the sites. None selects all `candidates`; `choose` excludes those
            that cannot be sites.

    Returns:
        The modules by name.

    Raises:
        InputError: A name is not a module of the network, or there is no candidate.

    Example:
        >>> from torch import Tensor, nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3))
        >>> list(find(network)), list(find(network, ["2"]))
        (['0', '2'], ['2'])
    """
    if names is None:
        found = candidates(model)
        if not found:
            refuse_torchscript(model, "ranked or corrected")
            raise InputError(
                "the network has no 2-D convolution and no transformer's MLP: name the sites "
                "yourself (modules that give maps)"
            )
        running = running_modules(model)
        return {name: running[name] for name in found}
    modules = running_modules(model)
    wanted = set(names)
    for name in wanted:
        if name not in modules or name == "":
            accepted = candidates(model) or (known for known in modules if known)
            raise unknown("site", name, accepted)
    return {name: module for name, module in modules.items() if name in wanted}


def stated_width(module: nn.Module) -> int | None:
    """The number of filters that a layer's attributes state.

    Args:
        module: Any module.

    Returns:
        The number; None for a module of several layers, whose attributes may mean something else,
        and for a layer without such an attribute.
    """
    layer = original(module)
    if any(True for _ in layer.children()):
        return None
    values = (getattr(layer, name, None) for name in WIDTHS)
    return next((value for value in values if isinstance(value, int)), None)


def weights_per_filter(module: nn.Module) -> int | None:
    """The number of weights of each filter of a convolution or linear layer.

    None is returned for all other modules, and for layers whose weights are computed by a
    parametrization or are not arranged by filters.
    """
    weight = module._parameters.get("weight")
    if getattr(module, "transposed", False) or not isinstance(weight, Tensor) or weight.dim() < 2:
        return None
    channels = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
    return weight[0].numel() if channels == len(weight) else None
