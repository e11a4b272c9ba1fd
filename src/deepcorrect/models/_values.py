"""The values of a state dict: what would load without an error, and give wrong answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

VARIANCES = "running_var"
DIVERGED = "The training that wrote it may have diverged: take an earlier checkpoint"
QUANTISED = (
    "Quantised weights are not read: give the network's weights before it was quantised, and let "
    "'deepcorrect export' write 8 bits"
)


def what_is_wrong(network: nn.Module, state: Mapping[str, Any]) -> str:
    """What makes the values of a state dict unusable for a network, and what to do.

    Args:
        network: The network, whose tensors have the shapes of the state's.
        state: The tensors under the network's names.

    Returns:
        A sentence, or an empty text if nothing is wrong.
    """
    own = network.state_dict()
    pairs = [
        (name, own[name], given)
        for name, given in state.items()
        if isinstance(given, Tensor) and isinstance(own.get(name), Tensor)
    ]
    for name, mine, given in pairs:
        if given.is_meta and not mine.is_meta:
            return f"{name} has a shape and no values (device meta). Save the tensors themselves"
        if mine.is_floating_point() and not given.is_floating_point():
            kind = str(given.dtype).removeprefix("torch.")
            advice = "Save real numbers" if given.is_complex() else QUANTISED
            return f"{name} is {kind}, and the network's is floating point. {advice}"
        if given.is_quantized:
            return f"{name} is quantised. {QUANTISED}"
    return _values([(n, given) for n, mine, given in pairs if mine.is_floating_point()], network)


def _values(floats: list[tuple[str, Tensor]], network: nn.Module) -> str:
    """What is wrong with the numbers: a NaN, an infinite weight, a negative variance, all zeros."""
    weights = {name for name, _ in network.named_parameters()}
    is_zero = bool(weights)
    for name, given in floats:
        if given.is_meta or given.layout != torch.strided:
            continue
        values = given.detach().float() if given.element_size() == 1 else given.detach()
        if values.isnan().any():
            return f"{name} has NaN. {DIVERGED}"
        # a buffer may be infinite, such as a mask
        if (name in weights or name.endswith(VARIANCES)) and values.isinf().any():
            return f"{name} has infinite values. {DIVERGED}"
        if name.endswith(VARIANCES) and (values < 0).any():
            return f"{name} has negative values, which no variance has"
        is_zero = is_zero and (name not in weights or not values.any())
    if is_zero and weights & {name for name, _ in floats}:
        return "every weight is 0. The file may have been written before training, or in parts"
    return ""
