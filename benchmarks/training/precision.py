"""The time of a convolution and its gradients in bfloat16, as a multiple of that in float32.

    OMP_NUM_THREADS=1 python -m benchmarks.training.precision

Processor time of one thread, in turns, medians, with the channels last. On a processor with
bfloat16 instructions, dense convolutions gain, and the weights' gradients of large depthwise ones
lose, and those of depthwise ones with a stride lose altogether; those of the others' input, which
is all that layers with frozen weights compute, do not.
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
    stride: int = 1


SHAPES = {
    "dense 1x1": Shape(96, 32, 1, 1),
    "dense 3x3": Shape(64, 32, 3, 1),
    "depthwise 3x3": Shape(96, 32, 3, 96),
    "depthwise 5x5": Shape(144, 32, 5, 144),
    "depthwise 7x7": Shape(96, 16, 7, 96),
    "depthwise 3x3, stride 2": Shape(96, 65, 3, 96, 2),
    "depthwise 5x5, stride 2": Shape(144, 35, 5, 144, 2),
}


GRADIENTS = {
    "without gradients": (False, False),
    "with the gradient of the input alone": (True, False),
    "with gradients": (True, True),
}
"""Whether the input and the weights require gradients."""


def seconds(shape: Shape, precision: torch.dtype, gradients: tuple[bool, bool]) -> float:
    """The processor time of one step."""
    of_input, of_weights = gradients
    size = (BATCH, shape.channels, shape.pixels, shape.pixels)
    images = torch.randn(size).to(precision).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(shape.channels, shape.channels // shape.groups, *[shape.kernel] * 2)
    started = time.process_time()
    with (
        torch.set_grad_enabled(any(gradients)),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16),
    ):
        answer = F.conv2d(
            images.requires_grad_(of_input),
            weight.requires_grad_(of_weights),
            padding=shape.kernel // 2,
            stride=shape.stride,
            groups=shape.groups,
        )
    if any(gradients):
        answer.sum().backward()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name, shape in SHAPES.items():
        for called, gradients in GRADIENTS.items():
            times = [
                [seconds(shape, precision, gradients) for precision in PRECISIONS]
                for _ in range(ROUNDS)
            ]
            what = f"{name}, {called}"
            found[what] = round(statistics.median(narrow / full for full, narrow in times), 2)
            print(f"{what}: {found[what]:.2f} times float32's", flush=True)
    files.write_json(KEPT, {"batch": BATCH, "rounds": ROUNDS, "bfloat16 over float32": found})


if __name__ == "__main__":
    main()
