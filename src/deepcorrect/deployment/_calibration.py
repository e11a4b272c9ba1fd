"""An ONNX file in eight bits: QDQ, per channel, calibrated by ONNX Runtime's quantisation tools.

The settings are those that are exact and fast on every CPU. Activations are unsigned, so that a
ReLU becomes part of the rounding before the next layer. Weights are signed and symmetric with one
scale per filter, and use 7 of their 8 bits: CPUs without VNNI add two products of 8 x 8 bits in 16
bits, which saturate, while 8 x 7 bits fit. Ranges are those from the lowest to the highest value,
because they need no histogram of every map in memory and were no less accurate than percentiles.
The logits stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepcorrect.deployment._onnx_network import OnnxNetwork, filled, onnx_runtime, quiet

SETTINGS: dict[str, Any] = {
    "format": "QDQ",
    "activations": "uint8",
    "weights": "int8, 7 bits used",
    "per_channel": True,
    "calibration": "MinMax",
}
"""The settings as they are noted in the file and beside it."""

LOGITS_IN_FLOAT = ("Gemm", "MatMul")
"""The operators that compute logits, whose results are not rounded."""


def quantize_file(source: Path, out: Path, batches: Iterable[Tensor]) -> None:
    """Writes an exported ONNX file with weights and activations of eight bits.

    Args:
        source: A file that `export` wrote.
        out: The file to write.
        batches: Images as the file reads them, N x C x H x W. One batch at a time is in memory.

    Raises:
        MissingExtraError: The `onnx` extra is not installed.
    """
    onnx_runtime()
    from onnxruntime import quantization  # noqa: PLC0415

    class Reader(quantization.CalibrationDataReader):
        """Hands the batches to ONNX Runtime one by one."""

        def __init__(self) -> None:
            self.batches = _as_file_reads(source, batches)

        def get_next(self) -> Any:
            images = next(self.batches, None)
            return None if images is None else {"images": images.cpu().numpy()}

    with quiet():  # it advises a pre-processing that changes nothing in an exported file
        quantization.quantize_static(
            source,
            out,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": list(LOGITS_IN_FLOAT)},
        )


def _as_file_reads(source: Path, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches in float32 on the CPU, of the file's batch size if it accepts only one."""
    size = OnnxNetwork(source).batch_size
    for images in batches:
        for part in images.split(size or len(images)):
            yield filled(part, size or 1).detach().to("cpu", torch.float32).contiguous()
