"""How the default ranking's time and memory grow with filters, images and levels.

    python -m benchmarks.ranking.scaling

ResNet-20 of width 1, 2 and 4 with random weights, random images of 32 pixels. Every point runs in a
process of its own, whose peak memory is what the system reports. Times are medians of five runs.
Written to benchmarks/results/ranking/scaling.json, with the exponents of fitted power laws.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
from typing import Any

import torch
from torch import nn

from benchmarks.subjects import RESULTS
from deepcorrect.models import CifarResNet20
from deepcorrect.models._networks import _BasicBlock
from deepcorrect.ranking import DEFAULT_METHOD, rank
from deepcorrect.runtime import files

BLUR = "gaussian_blur:0.5,1,1.5,2,2.5,3"
AXES: dict[str, list[dict[str, Any]]] = {
    "width": [{"width": width} for width in (1, 2, 4)],
    "images": [{"images": count} for count in (16, 160)],
    "levels": [{"levels": count} for count in (1, 2, 6)],
}


class Wide(CifarResNet20):
    """ResNet-20 with `width` times the filters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16 * width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16 * width)
        inputs = 16 * width
        for stage, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            first = _BasicBlock(inputs, outputs, 1 if stage == 0 else 2)
            rest = [_BasicBlock(outputs, outputs, 1) for _ in range(2)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *rest))
            inputs = outputs
        self.linear = nn.Linear(inputs, 100)


def measure(method: str, width: int = 1, images: int = 16, levels: int = 6) -> dict[str, Any]:
    """Median seconds of five rankings, and this process's peak memory."""
    torch.manual_seed(0)
    network = Wide(width).eval()
    batch = torch.rand(images, 3, 32, 32).split(16)
    loader = [(part, torch.zeros(len(part), dtype=torch.long)) for part in batch]
    spec = ":".join(("gaussian_blur", ",".join(BLUR.split(":")[1].split(",")[:levels])))
    seconds = [rank(network, loader, [spec], method).seconds for _ in range(5)]
    filters = sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    return {
        "filters": filters,
        "images": images,
        "levels": levels,
        "width": width,
        "seconds": statistics.median(seconds),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def exponent(points: list[dict[str, Any]], axis: str, value: str) -> float:
    """The slope of a line through the points on logarithmic axes."""
    xs = [math.log(p["filters" if axis == "width" else axis]) for p in points]
    ys = [math.log(p[value]) for p in points]
    return statistics.linear_regression(xs, ys).slope


def main() -> None:
    if len(sys.argv) > 1:
        options = json.loads(sys.argv[1])
        print(json.dumps(measure(**options)))
        return
    report: dict[str, Any] = {"threads": torch.get_num_threads(), DEFAULT_METHOD: {}}
    for axis, settings in AXES.items():
        points = []
        for setting in settings:
            run = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.ranking.scaling",
                    json.dumps({"method": DEFAULT_METHOD, **setting}),
                ],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
            points.append(json.loads(run.stdout.splitlines()[-1]))
            print(axis, points[-1], flush=True)
        report[DEFAULT_METHOD][axis] = {
            "points": points,
            "time_exponent": exponent(points, axis, "seconds"),
            "memory_exponent": exponent(points, axis, "peak_megabytes"),
        }
    files.write_json(RESULTS / "ranking" / "scaling.json", report)
    print(f"written: {RESULTS / 'ranking' / 'scaling.json'}")


if __name__ == "__main__":
    main()
