"""Fine-tuning: a copy of the network, all of its weights trained or a part of them."""

from __future__ import annotations

import copy
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepcorrect.alternatives._parameter_budget import parameter_budget
from deepcorrect.networks import network_of
from deepcorrect.runtime import InputError

Trains = Literal["all", "first", "last", "norms"]


def finetune(
    model: nn.Module, trains: Trains = "all", parameters: float | None = None
) -> nn.Module:
    """A copy of the network to fine-tune. Batch-norm statistics follow the training batches.

    The paper's alternative trains all weights, or as many as the correction units have (section
    V). The network passed in is not changed.

    Args:
        model: the baseline.
        trains: `all`; `first` or `last`: whole layers from that end, as many as `parameters`
            allows; `norms`: the weights and biases of the batch norms alone.
        parameters: how many numbers `first` or `last` may train; up to 1 it is a share of the
            network's.

    Raises:
        InputError: `parameters` is missing, not wanted or too small, or there is no batch norm.
    """
    tuned = copy.deepcopy(model)
    if (parameters is None) != (trains in ("all", "norms")):
        raise InputError(
            f"fine-tuning {trains!r} "
            + ("needs parameters=X: how many" if parameters is None else "takes no parameters=X")
        )
    if trains == "all":
        return tuned.requires_grad_(True)
    tuned.requires_grad_(False)
    layers = [each for each in network_of(tuned).modules() if list(each.parameters(recurse=False))]
    if trains == "norms":
        chosen = [layer for layer in layers if isinstance(layer, _BatchNorm)]
        if not chosen:
            raise InputError("the network has no batch norm to fine-tune")
    else:
        limit = parameter_budget(tuned, parameters or 0)
        chosen = []
        for layer in layers if trains == "first" else reversed(layers):
            limit -= sum(p.numel() for p in layer.parameters(recurse=False))
            if limit < 0:
                break
            chosen.append(layer)
        if not chosen:
            raise InputError(f"parameters={parameters:g} is less than the {trains} layer has")
    for layer in chosen:
        layer.requires_grad_(True)
    return tuned
