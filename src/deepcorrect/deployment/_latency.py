"""The time of a network in the runtime that it is deployed in, beside that of its baseline."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from deepcorrect.correction import AdaptedModel, Runtime
from deepcorrect.deployment._calibration import quantize_file
from deepcorrect.deployment._export import export
from deepcorrect.deployment._fuse import example_images, fuse
from deepcorrect.deployment._onnx_network import OnnxNetwork, filled
from deepcorrect.networks import latencies
from deepcorrect.runtime import InputError, console, device_of, unknown

SECONDS = 2.0
"""About how long the two networks of one measurement run."""
TURNS = (9, 101)
"""The smallest and the largest number of turns."""
CALIBRATION_IMAGES = 8


class MeasuredLatency(BaseModel):
    """The time of a network for one batch.

    Attributes:
        ratio: The time as a multiple of the baseline's, which has folded batch norms and runs in
            the same runtime: the median over the turns.
        milliseconds: The time of one batch.
        runtime: `torch`, `onnx` or `onnx-int8`.
        threads: The number of threads.
        batch: The number of images.
    """

    model_config = ConfigDict(frozen=True)

    ratio: float
    milliseconds: float
    runtime: Runtime
    threads: int
    batch: int


def measure_latency(
    model: AdaptedModel, images: Tensor | None = None, runtime: Runtime = "torch"
) -> MeasuredLatency:
    """Measures the time that a correction takes where it is deployed.

    The corrected network and its baseline are fused (see `fuse`), in ONNX also exported and, for
    `onnx-int8`, quantised. Then both run in alternating turns on the same batch. A gate is left
    out: the time is that of a corrected image without the gate's own.

    Args:
        model: The corrected network.
        images: The batch, N x C x H x W. The default is one image of the size that the model
            reads; it must be given for a bare network.
        runtime: `torch` on the model's device, or `onnx` or `onnx-int8` on the CPU, both with as
            many threads as PyTorch uses.

    Raises:
        InputError: The runtime is unknown, or the network cannot be fused or exported.
        MissingExtraError: The `onnx` extra is not installed.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> latency = dc.measure_latency(adapted, torch.rand(1, 3, 16, 16))
        >>> latency.runtime, latency.batch, latency.ratio > 0
        ('torch', 1, True)
    """
    return Stopwatch(model.untouched(), images, runtime)(model)


def latency_note(
    model: AdaptedModel, runtime: Runtime = "torch", images: Tensor | None = None
) -> dict[str, Any] | None:
    """What an adapter's notes say of its latency; None for a network that cannot be fused.

    Args:
        model: The corrected network.
        runtime: See `measure_latency`, whose result is returned as a mapping.
        images: See `measure_latency`.
    """
    try:
        return measure_latency(model, images, runtime).model_dump()
    except InputError as error:
        console().print(f"note: the latency is not measured: {error}", markup=False)
        return None


class Stopwatch:
    """Measures networks against a baseline in one runtime.

    Args:
        baseline: The network without a correction.
        images: The batch, N x C x H x W; None for one image of the size that the network reads.
        runtime: Where the networks run.
    """

    def __init__(self, baseline: nn.Module, images: Tensor | None, runtime: Runtime) -> None:
        if runtime not in get_args(Runtime):
            raise unknown("runtime", runtime, get_args(Runtime))
        self.images = example_images(baseline, 1) if images is None else images
        self.runtime: Runtime = runtime
        self.baseline = _deployed(baseline, self.images, runtime)
        self.clock = latency_clock(self.baseline)
        (alone,) = latencies([self.baseline], self.images, turns=3)
        least, most = TURNS
        self.turns = min(most, max(least, int(SECONDS / (4 * alone.seconds))))

    def __call__(self, model: nn.Module) -> MeasuredLatency:
        """Measures a network in turns with the baseline."""
        deployed = _deployed(model, self.images, self.runtime)
        both = [self.baseline, deployed]
        _, found = latencies(both, self.images, turns=self.turns, clock=self.clock)
        return MeasuredLatency(
            ratio=round(found.ratio, 4),
            milliseconds=round(1e3 * found.seconds, 3),
            runtime=self.runtime,
            threads=torch.get_num_threads(),
            batch=len(self.images),
        )


def deployed_in_torch(model: nn.Module, images: Tensor) -> nn.Module:
    """The network in the form in which PyTorch runs it: fused, with its gate, and channels last.

    Raises:
        InputError: The network cannot be fused.
    """
    # torch's type annotations lack this overload
    return fuse(model, images).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def latency_clock(model: nn.Module) -> Callable[[], float]:
    """The clock that a network's latency is measured by.

    On one thread of a CPU it is the thread's processor time, which leaves out the waiting that
    other programs cause.
    """
    alone_on_cpu = torch.get_num_threads() == 1 and device_of(model).type == "cpu"
    return time.thread_time if alone_on_cpu else time.perf_counter


def _deployed(model: nn.Module, images: Tensor, runtime: Runtime) -> nn.Module:
    """The network in the form in which the runtime runs it."""
    if isinstance(model, AdaptedModel) and model.gate is not None:
        model = copy.deepcopy(model)
        model.set_gate(None)
    if runtime == "torch":
        return deployed_in_torch(model, images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(model, path, images=images, batch_size=len(images))  # faster than for any size
        if runtime == "onnx-int8":
            source, path = path, Path(folder) / "network-int8.onnx"
            quantize_file(source, path, [filled(images, CALIBRATION_IMAGES)])
        return OnnxNetwork(path)
