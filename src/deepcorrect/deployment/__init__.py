"""Deploying a corrected network: folding it into plain layers, exporting it to a
file, in float32 or in eight bits."""

from deepcorrect.deployment._calibration import quantize_file
from deepcorrect.deployment._export import export, load_exported
from deepcorrect.deployment._fuse import First, check_logits, example_images, fuse
from deepcorrect.deployment._latency import (
    MeasuredLatency,
    deployed_in_torch,
    latency_clock,
    latency_note,
    measure_latency,
)
from deepcorrect.deployment._quantize import Quantized, quantize
from deepcorrect.deployment._within_latency import (
    WITHIN_LATENCY,
    LatencyChoice,
    correct_within,
    within_latency,
)

__all__ = [
    "WITHIN_LATENCY",
    "First",
    "LatencyChoice",
    "MeasuredLatency",
    "Quantized",
    "check_logits",
    "correct_within",
    "deployed_in_torch",
    "example_images",
    "export",
    "fuse",
    "latency_clock",
    "latency_note",
    "load_exported",
    "measure_latency",
    "quantize",
    "quantize_file",
    "within_latency",
]
