"""Finding the layers of a network that can be sites."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from deepcorrect.networks._classifier import network_of, running_modules
from deepcorrect.runtime import InputError, unknown


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

    Of a corrected network these are the modules that run when it is called: a corrected site gives
    corrected maps.

    Args:
        model: a network, wrapped or bare.
        names: dotted names; None takes all `candidates`, of which `choose` leaves out those that
            cannot serve.

    Raises:
        InputError: a name is not a module of the network, or there is no candidate at all.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3))
        >>> list(find(network)), list(find(network, ["2"]))
        (['0', '2'], ['2'])
    """
    if names is None:
        found = candidates(model)
        if not found:
            raise InputError(
                "the network has no 2-D convolution and no transformer's MLP: name the sites "
                "yourself (modules whose output is N x C x H x W)"
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
