"""Fine-tuning: a copy of the network with all or some of its weights trained."""

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
    """A copy of the network to fine-tune, whose batch-norm statistics follow the training batches.

    The paper compares correction with fine-tuning all weights, and with fine-tuning as many weights
    as the correction units have (section V).

    Args:
        model: the baseline. It is not changed.
        trains: `all` trains all parameters. `first` and `last` train whole layers, starting at that
            end, as many as `parameters` allows. `norms` trains the weights and biases of the batch
            norms.
        parameters: the largest number of trained parameters for `first` and `last`; a value up to 1
            is a share of the network's parameters.

    Returns:
        The copy. The parameters to train require gradients; `deepcorrect.fit` trains them.

    Raises:
        InputError: `parameters` is missing, not accepted or too small, or there is no batch norm.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> copy = dc.finetune(network, trains="norms")
        >>> [name for name, parameter in copy.named_parameters() if parameter.requires_grad]
        ['1.weight', '1.bias']
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
