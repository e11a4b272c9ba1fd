"""A fused network with a gate: the gate and two networks, of which each image passes one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction import Gate
from deepcorrect.networks import Branches, input_images, mean_answers, shared_copy
from deepcorrect.runtime import widened


class GatedNetwork(Branches):
    """Two fused networks and the gate that sends each image to one of them.

    Parameters that are equal in both networks are shared, and are in `state_dict` once.

    Args:
        corrected: The network with its units.
        base: The network without them.
        gate: The gate, which reads the input of both.
    """

    def __init__(self, corrected: nn.Module, base: nn.Module, gate: Gate) -> None:
        super().__init__(corrected, base, {})
        self.chooser, self.means = gate, gate.config.others == "mean"
        _share_equal_parameters(corrected, base)
        self.register_state_dict_post_hook(_without_shared)
        self.register_load_state_dict_pre_hook(_with_shared)


@dataclass(frozen=True)
class GatedParts:
    """The parts of a fused network with a gate, each for the input of the whole.

    Attributes:
        gate: The decision, (N,) bool: whether each image is distorted.
        base: The output for images that are not, by the base, or the mean of both networks.
        corrected: The output for images that are.
        means: Whether `base` is the mean of both networks.
    """

    gate: nn.Module
    base: nn.Module
    corrected: nn.Module
    means: bool = False


def gated_parts(model: nn.Module) -> GatedParts | None:
    """The parts of a network that `fuse` returned, to be exported apart; None without a gate.

    Their tensors are those of the network.
    """
    found = next((each for each in model.modules() if isinstance(each, GatedNetwork)), None)
    if found is None:
        return None
    gated = found

    def instead(module: nn.Module) -> nn.Module:
        twin, places = shared_copy(model)
        return exchange(twin, places[gated], module)

    assert gated.chooser is not None
    reader = _Reader(gated.chooser, gated.base).eval()
    decision = _Decision(instead(reader), reader).eval()
    others = _Mean(gated.site, gated.base).eval() if gated.means else gated.base
    return GatedParts(decision, instead(others), instead(gated.site), gated.means)


class RoutedNetwork(nn.Module):
    """The parts as one network for `torch.export`: one branch runs if all images take the same.

    Args:
        parts: The parts, whose networks return one tensor with a row per image.
        gathers: Whether each network runs on its own images in a mixed batch. Otherwise both run
            on all of them, as networks for one batch size need.
    """

    def __init__(self, parts: GatedParts, gathers: bool) -> None:
        super().__init__()
        self.gate, self.base, self.corrected = parts.gate, parts.base, parts.corrected
        self.gathers = gathers

    def forward(self, images: Tensor) -> Tensor:
        """Computes the output, one row per image, for N x C x H x W."""
        distorted = self.gate(images)

        def together(images: Tensor) -> Tensor:
            rows = distorted.view(-1, *[1] * (self.base(images).dim() - 1))
            return torch.where(rows, self.corrected(images), self.base(images))

        def apart(images: Tensor) -> Tensor:
            order = [mask.nonzero().flatten() for mask in (distorted, ~distorted)]
            for rows in order:
                torch._check(rows.shape[0] > 0)
            first = self.corrected(images.index_select(0, order[0]))
            both = torch.cat([first, self.base(images.index_select(0, order[1]))])
            output = both.new_zeros((len(images), *both.shape[1:]))
            return output.index_copy(0, torch.cat(order), both)

        def some(images: Tensor) -> Tensor:
            mixed = apart if self.gathers else together
            return torch.cond(distorted.all(), self.corrected, mixed, (images,))

        return torch.cond(distorted.any(), some, self.base, (images,))


class _Mean(nn.Module):
    """The mean of both networks' answers."""

    def __init__(self, corrected: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.corrected, self.base = corrected, base

    def forward(self, images: Tensor) -> Tensor:
        return mean_answers(self.base(images.clone()), self.corrected(images))


class _Reader(nn.Module):
    """Reads the gate's decision in the place of a gated network, whose output is the base's."""

    decision: Tensor

    def __init__(self, gate: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.gate, self.base = gate, base

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.decision = self.gate(input_images(args, kwargs))
        return self.base(*args, **kwargs)


class _Decision(nn.Module):
    """The gate's decision on the input of the whole network.

    Its output is all that an exporter keeps: what the base computes is not used.
    """

    def __init__(self, model: nn.Module, reader: _Reader) -> None:
        super().__init__()
        self.model, self.reader = model, reader

    def forward(self, images: Tensor) -> Tensor:
        self.model(images)
        return self.reader.__dict__.pop("decision")


def exchange(network: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Replaces a module wherever it is registered; returns the network, or `new` in its place."""
    for parent in list(network.modules()):
        for child, known in parent._modules.items():
            if known is old:
                parent._modules[child] = new
    return new if network is old else network


def _share_equal_parameters(first: nn.Module, second: nn.Module) -> None:
    """Makes `second` hold the parameters of `first` wherever they are equal."""
    known: dict[Any, list[nn.Parameter]] = {}
    for parameter in first.parameters():
        known.setdefault(_digest(parameter), []).append(parameter)
    for module in second.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                alike = known.get(_digest(parameter), [])
                equal = (each for each in alike if torch.equal(each, parameter))
                module._parameters[name] = next(equal, parameter)


def _digest(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors must have in common to be equal."""
    return tensor.shape, tensor.dtype, tensor.device, float(widened(tensor.detach()).sum())


def _shared_names(network: GatedNetwork) -> Iterator[tuple[str, str]]:
    """Yields the names of the base's shared parameters, each with that in the corrected branch."""
    names = {parameter: name for name, parameter in network.site.named_parameters(prefix="site")}
    for name, parameter in network.base.named_parameters(prefix="base", remove_duplicate=False):
        if parameter in names:
            yield name, names[parameter]


def _without_shared(
    network: GatedNetwork, state: dict[str, Any], prefix: str, metadata: Any
) -> None:
    """A hook of `state_dict`, so that each tensor is stored once."""
    del metadata
    for name, _ in _shared_names(network):
        state.pop(prefix + name)


def _with_shared(network: GatedNetwork, state: dict[str, Any], prefix: str, *more: Any) -> None:
    """A hook of `load_state_dict`, for what `_without_shared` left out."""
    del more
    for name, known in _shared_names(network):
        if prefix + known in state:
            state.setdefault(prefix + name, state[prefix + known])
