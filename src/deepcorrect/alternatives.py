"""What correction is compared with, as systems with the same face: a module with what it trains."""

from __future__ import annotations

import copy

from torch import nn


def finetune(model: nn.Module) -> nn.Module:
    """A copy of the network, every parameter trainable: the paper's fine-tuned alternative.

    Batch-norm statistics follow the training batches. The network passed in is not changed.
    """
    tuned = copy.deepcopy(model)
    return tuned.requires_grad_(True)
