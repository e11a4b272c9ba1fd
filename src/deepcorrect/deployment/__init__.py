"""A corrected network elsewhere: folded into plain layers, and exported as a file."""

from deepcorrect.deployment._export import export, load_exported
from deepcorrect.deployment._fuse import First, check_same, example_images, fuse

__all__ = [
    "First",
    "check_same",
    "example_images",
    "export",
    "fuse",
    "load_exported",
]
