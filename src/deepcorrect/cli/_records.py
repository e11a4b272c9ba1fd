"""One measured system as `--json` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import deepcorrect as dc

if TYPE_CHECKING:
    from torch import nn


def record_of(
    network: dc.Classifier, system: nn.Module, grid: dc.Grid, *, trained: bool
) -> dict[str, Any]:
    """A system's accuracies and costs, and what its adapter's notes say of its training.

    Args:
        network: the untouched network, whose preprocessing says the input size.
        system: the network or the network with an adapter.
        grid: its accuracies.
        trained: whether its trainable parameters were trained; those of the baseline were not.
    """
    from deepcorrect.evaluation import system_record

    notes = system.config.notes if isinstance(system, dc.AdaptedModel) else {}
    return system_record(
        grid,
        dc.costs(system, network.preprocessing),
        trained=trained,
        images_seen=notes.get("images_seen", 0),
        seconds=notes.get("training_seconds", 0),
    )
