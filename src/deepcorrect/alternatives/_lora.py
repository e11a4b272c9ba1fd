"""Low-rank adaptation of the convolutions (Hu et al. 2022), through PEFT."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from deepcorrect import networks
from deepcorrect.alternatives._parameter_budget import parameter_budget
from deepcorrect.networks import network_of
from deepcorrect.runtime import InputError, optional_import


def lora(model: nn.Module, parameters: float = 0.25, alpha: float = 1.0) -> nn.Module:
    """A copy of the network with a trainable low-rank addition to each convolution's weights.

    Grouped convolutions stay as they are, because PEFT has no low-rank form of them. All additions
    have the same rank, the largest that the budget allows. Batch-norm statistics follow the
    training batches.

    Args:
        model: the baseline. It is not changed.
        parameters: the largest number of trained parameters; a value up to 1 is a share of the
            network's parameters.
        alpha: the scale of the additions (PEFT's `lora_alpha` divided by the rank).

    Raises:
        InputError: the network has no convolution without groups, or the budget is below rank 1.
        MissingExtraError: PEFT is not installed.
    """
    peft = optional_import("peft", "alternatives")
    adapted = copy.deepcopy(model).requires_grad_(False)
    found = {n: c for n, c in networks.convolutions(adapted).items() if c.groups == 1}
    if not found:
        raise InputError("the network has no convolution without groups: LoRA cannot adapt it")
    each_rank = sum(c.weight[0].numel() + c.out_channels for c in found.values())
    rank = int(parameter_budget(model, parameters) / each_rank)
    if rank < 1:
        raise InputError(
            f"parameters={parameters:g} is below rank 1, which has {each_rank:,} parameters"
        )
    config = peft.LoraConfig(r=rank, lora_alpha=alpha * rank, target_modules=list(found))
    peft.inject_adapter_in_model(config, network_of(adapted))
    return adapted


def merge(model: nn.Module) -> nn.Module:
    """Adds the trained low-rank parts to the weights, so that they cost nothing to run."""
    for module in model.modules():
        merge_layer: Any = getattr(module, "merge", None)
        if callable(merge_layer) and hasattr(module, "lora_A"):
            merge_layer()
    return model
