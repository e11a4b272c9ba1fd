"""Weights of their own for a site's filters, in place of the network's.

The corrected network has the same layers as the network itself. This correction therefore adds no
computation, and it is fused, exported and quantised as the network is. It is not in the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks import in_float32, original, slow_in_bfloat16, weights_per_filter
from deepcorrect.runtime import InputError

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the keyword arguments of a call."""

Merged = tuple[Tensor, Tensor]
"""The weights, C x ..., and the biases, (C,), of all filters of a layer."""


class FilterWeights(nn.Module):
    """Trained weights and biases of some filters of a convolution or linear layer.

    Filter i of the layer, with weights W and bias b, computes s (W + r V) x + s b + R t instead of
    W x + b. The change V, the scale s and the shift t are trained; before training V and t are
    zero and s is 1. r is the root mean square of W and R its Euclidean norm, so that one learning
    rate suits layers of any magnitude. Before a frozen batch norm, the scale and the shift are
    equivalent to training the norm's weight and bias.

    Args:
        layer: The layer.
        filters: The number of corrected filters, n.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]}, unit="weights")
        >>> {name: tuple(value.shape) for name, value in adapted.state_dict().items()}
        {'0/weights.change': (2, 3, 3, 3), '0/weights.scale': (2,), '0/weights.shift': (2,)}
    """

    def __init__(self, layer: nn.Module, filters: int) -> None:
        super().__init__()
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.change = nn.Parameter(weight.new_zeros(filters, *weight.shape[1:]))
        self.scale = nn.Parameter(weight.new_ones(filters))
        self.shift = nn.Parameter(weight.new_zeros(filters))
        self._kept: tuple[Any, list[Tensor], Merged] | None = None

    def forward(self, weight: Tensor, bias: Tensor | None, filters: Tensor) -> Merged:
        """Computes the weights and biases of all filters of the layer.

        Args:
            weight: The layer's own weights, C x ...
            bias: The layer's own biases, (C,), or None.
            filters: The n of the C filters that have weights of their own, (n,).

        Returns:
            The weights, C x ..., and the biases, (C,).
        """
        if bias is None:
            bias = weight.new_zeros(len(weight))
        rows = weight.index_select(0, filters).flatten(1)
        size = torch.linalg.vector_norm(rows.detach(), dim=1)
        mean = size / rows.shape[1] ** 0.5
        changed = (rows + mean[:, None] * self.change.flatten(1)) * self.scale[:, None]
        shifted = bias.index_select(0, filters) * self.scale + size * self.shift
        changed = changed.view(-1, *weight.shape[1:]).to(weight.dtype)
        return (
            weight.index_copy(0, filters, changed),
            bias.index_copy(0, filters, shifted.to(bias.dtype)),
        )

    def merged(self, layer: nn.Module, filters: Tensor) -> Merged:
        """The weights and biases of all filters of a layer; see `forward`.

        Unless gradients are needed, they are kept until a tensor that they depend on changes.
        """
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        tensors = [weight, *self.parameters(), *([bias] if isinstance(bias, Tensor) else [])]
        trained = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
        if trained or torch.compiler.is_compiling() or any(map(torch.is_inference, tensors)):
            return self(weight, bias, filters)
        state = [(id(each), each.data_ptr(), each._version) for each in tensors]
        kept = self._kept
        if kept is None or kept[0] != state:
            # tensors that are made in inference mode cannot take part in gradients later
            with torch.inference_mode(False), torch.no_grad():
                kept = state, tensors, self(weight, bias, filters)
            self._kept = kept
        return kept[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def called_with(layer: nn.Module, weight: Tensor, bias: Tensor, call: Call) -> Any:
    """Calls a layer with other weights and biases, without changing it.

    Args:
        layer: The layer, which may compute further with its weights.
        weight: The weights, C x ...
        bias: The biases, (C,).
        call: The arguments of the call.
    """
    args, kwargs = call
    if torch.compiler.is_compiling():  # cannot trace the creation of a module
        named = {"weight": weight} if layer.bias is None else {"weight": weight, "bias": bias}
        output = torch.func.functional_call(layer, named, args, kwargs)
        if layer.bias is None:
            linear = isinstance(layer, nn.Linear)
            output = output + (bias if linear else bias.view(-1, *[1] * (weight.dim() - 2)))
        return output
    # a module of its own for each call, so that threads can call the layer at the same time
    twin = object.__new__(type(layer))
    twin.__dict__ = {**layer.__dict__, "weight": weight, "bias": bias}
    if not kwargs and slow_in_bfloat16(layer, trained=True):
        return in_float32(twin, *args)
    return twin(*args, **kwargs)


def layer_weights(name: str, module: nn.Module) -> int:
    """The number of weights of each filter of a site's layer.

    Raises:
        InputError: The filters of the site cannot get weights of their own.
    """
    count = weights_per_filter(original(module))
    if count is None:
        raise InputError(
            f"the filters of {name!r} cannot get weights of their own: it is a "
            f"{type(original(module)).__name__}, not a convolution or linear layer with a weight "
            "that is a parameter. Name such a layer, remove its parametrization, or choose another "
            "kind of unit for this site"
        )
    return count
