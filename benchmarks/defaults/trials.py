"""What is tried in place of the defaults of `dc.correct`."""

from __future__ import annotations

from typing import Any

from benchmarks.copies import COPY

ALONE = "the network alone"
TRIALS: dict[str, dict[str, Any]] = {
    ALONE: {},
    "default": {},
    COPY: {},
    "AdamW": {"optimizer": "adamw"},
    "rate 0.1": {"learning_rate": 0.1},
    "rate 0.025": {"learning_rate": 0.025},
    "half of each site's filters": {"beta": 0.5},
    "all filters": {"beta": 1.0},
    "batches of 16": {"batch_size": 16},
    "batches of 64": {"batch_size": 64},
    "maps weighing 4": {"objective": {"logits": 1.0, "activations": 4.0}},
    "maps weighing 64": {"objective": {"logits": 1.0, "activations": 64.0}},
    "answers alone": {"objective": {"logits": 1.0}},
    "a tenth clean": {"clean_share": 0.1},
    "all levels": {"levels": "all"},
    "a tenth clean, all levels": {"clean_share": 0.1, "levels": "all"},
    "mirrored": {"augmentation": {"flip": True}},
    "mirrored and shifted": {"augmentation": {"flip": True, "shift": 0.125}},
    "no gate": {"gate": "none"},
    "AdamW, rate 0.025": {"optimizer": "adamw", "learning_rate": 0.025},
    "AdamW, rate 0.003": {"optimizer": "adamw", "learning_rate": 0.003},
    "bottlenecks": {"unit": "bottleneck", "sites": "auto"},
    "inverted units": {"unit": "inverted", "sites": "auto"},
    "weights and inverted units": {"unit": "weights+inverted"},
}
"""On small inputs."""

IMAGENET: dict[str, dict[str, Any]] = {
    "default": {},
    "rate 0.003, half of each site": {"learning_rate": 3e-3, "beta": 0.5},
    "rate 0.01": {"learning_rate": 1e-2},
    "rate 0.001": {"learning_rate": 1e-3},
    "quarter": {"budget": {"parameters": 0.25}},
}
