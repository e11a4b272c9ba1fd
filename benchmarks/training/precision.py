"""The time of a convolution and its gradients in bfloat16, as a multiple of that in float32.

    OMP_NUM_THREADS=1 python -m benchmarks.training.precision

Processor time of one thread, in turns, medians, with the channels last. On a processor with
bfloat16 instructions, dense convolutions gain, and the gradients of large depthwise ones lose.
Written to benchmarks/results/training/precision.json.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.subjects import RESULTS
from deepcorrect.runtime import files

KEPT = RESULTS / "training" / "precision.json"
BATCH, ROUNDS = 32, 9
PRECISIONS = (torch.float32, torch.bfloat16)


class Shape(NamedTuple):
    """A convolution from `channels` to `channels`, on maps of `pixels` x `pixels`."""

    channels: int
    pixels: int
    kernel: int
    groups: int


SHAPES = {
    "dense 1x1": Shape(96, 32, 1, 1),
    "dense 3x3": Shape(64, 32, 3, 1),
    "depthwise 3x3": Shape(96, 32, 3, 96),
    "depthwise 5x5": Shape(144, 32, 5, 144),
    "depthwise 7x7": Shape(96, 16, 7, 96),
}


def seconds(shape: Shape, precision: torch.dtype, *, gradients: bool) -> float:
    """The processor time of one step."""
    size = (BATCH, shape.channels, shape.pixels, shape.pixels)
    images = torch.randn(size).to(precision).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(shape.channels, shape.channels // shape.groups, *[shape.kernel] * 2)
    started = time.process_time()
    with (
        torch.set_grad_enabled(gradients),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16),
    ):
        answer = F.conv2d(
            images.requires_grad_(gradients),
            weight.requires_grad_(gradients),
            padding=shape.kernel // 2,
            groups=shape.groups,
        )
    if gradients:
        answer.sum().backward()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name, shape in SHAPES.items():
        for gradients in (False, True):
            times = [
                [seconds(shape, precision, gradients=gradients) for precision in PRECISIONS]
                for _ in range(ROUNDS)
            ]
            what = f"{name}, {'with' if gradients else 'without'} gradients"
            found[what] = round(statistics.median(narrow / full for full, narrow in times), 2)
            print(f"{what}: {found[what]:.2f} times float32's", flush=True)
    files.write_json(KEPT, {"batch": BATCH, "rounds": ROUNDS, "bfloat16 over float32": found})


if __name__ == "__main__":
    main()
