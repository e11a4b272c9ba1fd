"""How many parameters a system may train: what its `parameters` means, in one place."""

from __future__ import annotations

from torch import nn


def parameter_budget(model: nn.Module, parameters: float) -> float:
    """So many numbers; a value up to 1 is a share of the model's."""
    return (
        parameters * sum(p.numel() for p in model.parameters()) if parameters <= 1 else parameters
    )
