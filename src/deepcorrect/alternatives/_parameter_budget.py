"""How many parameters a system may train: the meaning of `parameters` for all methods."""

from __future__ import annotations

from torch import nn


def parameter_budget(model: nn.Module, parameters: float) -> float:
    """A budget as a number of parameters; a value up to 1 is a share of the model's parameters."""
    if parameters > 1:
        return parameters
    return parameters * sum(p.numel() for p in model.parameters())
