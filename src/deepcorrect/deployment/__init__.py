"""Deploying a corrected network: folding it into plain layers, exporting it to a
file, in float32 or in eight bits."""

from deepcorrect.deployment._export import export, load_exported
from deepcorrect.deployment._fuse import First, check_logits, example_images, fuse
from deepcorrect.deployment._quantize import Quantized, quantize

__all__ = [
    "First",
    "Quantized",
    "check_logits",
    "example_images",
    "export",
    "fuse",
    "load_exported",
    "quantize",
]
