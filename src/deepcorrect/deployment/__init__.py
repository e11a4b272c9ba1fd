"""Deploying a corrected network: folding it into plain layers, and exporting it to a file."""

from deepcorrect.deployment._export import export, load_exported
from deepcorrect.deployment._fuse import First, check_logits, example_images, fuse

__all__ = [
    "First",
    "check_logits",
    "example_images",
    "export",
    "fuse",
    "load_exported",
]
