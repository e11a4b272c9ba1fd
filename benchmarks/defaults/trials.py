"""What is tried in place of the defaults of `dc.correct`."""

from __future__ import annotations

from typing import Any

HALF = {"budget": {"parameters": 0.5}}
"""As many filters as the adapter may have parameters, by priority per parameter."""

TRIALS: dict[str, dict[str, Any]] = {
    "default": {},
    "beta 0.5": {"beta": 0.5},
    "all filters": {"beta": 1.0},
    "half, dense unit at the first": {**HALF, "first": {"kind": "weights+dense", "width": 16}},
    "half, maps 4": {**HALF, "objective": {"logits": 1.0, "activations": 4.0}},
    "half, rate 0.025": {**HALF, "learning_rate": 0.025},
    "half, batch 32": {**HALF, "batch_size": 32},
    "half, batch 16": {**HALF, "batch_size": 16},
    "half, maps 64": {**HALF, "objective": {"logits": 1.0, "activations": 64.0}},
    "half, clean 0": {**HALF, "clean_share": 0.0},
    "rate 0.1": {"learning_rate": 0.1},
    "batch 32": {"batch_size": 32},
}
"""On small inputs. `first` is the unit at the first site; the others have weights."""

IMAGENET: dict[str, dict[str, Any]] = {
    "default": {},
    "rate 0.003, half of each site": {"learning_rate": 3e-3, "beta": 0.5},
    "rate 0.01": {"learning_rate": 1e-2},
    "rate 0.001": {"learning_rate": 1e-3},
    "quarter": {"budget": {"parameters": 0.25}},
}
