"""Latency of ONNX files in eight bits: a network as it is, and corrected by several kinds of units.

    OMP_NUM_THREADS=1 python -m benchmarks.deployment.int8 cifar_resnet20 --sites sums
    python -m benchmarks.deployment.int8 table

All files run in turns in one process, on the same images; a ratio is the median of the turns' own
ratios. The clock is the processor time of the process with one thread, which a busy machine
disturbs less, and wall time with more. Weights are random and calibration images are noise:
latency depends on neither. The operators that the runtime's optimised graph of each int8 file
still runs in float32 are kept, too. Adds to `benchmarks/results/deployment/int8.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import deepcorrect as dc
from benchmarks.deployment.latency import Subject, chosen_sites
from benchmarks.kept import read_kept
from deepcorrect import networks
from deepcorrect.deployment import quantize_file
from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "deployment" / "int8.json"
UNITS: dict[str, tuple[Any, float]] = {
    "weights": ("weights", 0.25),
    "bottleneck, one stage": ({"kind": "bottleneck", "dilations": [1]}, 0.5),
    "bottleneck": ("bottleneck", 0.5),
    "inverted": ("inverted", 0.75),
    "inverted, modulation": ({"kind": "inverted", "modulation": 8}, 0.75),
}
"""Each kind of unit and the share of the filters that it corrects. Filters get weights of their own
at every convolution, and units at the chosen sites."""
INTEGER = ("QLinear", "QGemm", "Quantize", "Dequantize", "DequantizeLinear", "Transpose")


class Session(nn.Module):
    """An ONNX file in ONNX Runtime, with its images laid out beforehand."""

    def __init__(self, path: Path, images: Tensor) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.given: dict[str, np.ndarray] = {"images": images.numpy()}

    def forward(self, images: Tensor) -> Tensor:
        del images
        return torch.from_numpy(self.session.run(None, self.given)[0])


def sums_of_blocks(model: nn.Module) -> list[str]:
    """The first convolution and the residual blocks of a ResNet-20."""
    names = dict(networks.network_of(model).named_modules())
    return [name for name in names if name == "conv1" or ("layer" in name and name.count(".") == 1)]


def left_in_float(path: Path, folder: Path) -> dict[str, int]:
    """The operators of the runtime's optimised graph that are not integer ones."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimised.onnx").graph.node
    return dict(Counter(n.op_type for n in nodes if not n.op_type.startswith(INTEGER)))


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Times and graphs of all files."""
    model = dc.load_model(given.model, "random")
    sums = given.sites == "sums"
    sites = sums_of_blocks(model) if sums else chosen_sites(model, given.sites)
    pixels = model.preprocessing.input_size
    exported: dict[str, Path] = {}
    record: dict[str, Any] = {"float_operators": {}, "added_multiply_adds": {}}
    before = dc.costs(model, model.preprocessing).multiply_adds
    for name, choice in {"baseline": None, **UNITS}.items():
        system: nn.Module = model
        if choice is not None:
            unit, beta = choice
            at = chosen_sites(model, "all") if unit == "weights" else sites
            system = Subject(given.model, model, at, given.sites, beta, unit).corrected()
        number = len(exported)
        exported[name] = dc.export(system, folder / f"{number}.onnx").path
        exported[f"{name}, int8"] = folder / f"{number}-int8.onnx"
        noise = (torch.rand(2, 3, pixels, pixels) for _ in range(4))
        quantize_file(exported[name], exported[f"{name}, int8"], noise)
        record["float_operators"][name] = left_in_float(exported[f"{name}, int8"], folder)
        after = dc.costs(system, model.preprocessing).multiply_adds
        record["added_multiply_adds"][name] = round(after / before - 1, 3)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for batch in (1, 32):
        images = torch.rand(batch, 3, pixels, pixels)
        names = ["baseline, int8", *(name for name in exported if name != "baseline, int8")]
        sessions = [Session(exported[name], images) for name in names]
        turns = given.turns * (5 if batch == 1 else 1)
        times = networks.latencies(sessions, images, turns=turns, clock=clock)
        by_name = dict(zip(names, times, strict=True))
        record[f"batch {batch}"] = {
            name: {"ms": round(1e3 * by_name[name].seconds, 3), "of int8": by_name[name].ratio}
            for name in exported
        }
    return record


def table(results: list[dict[str, Any]]) -> str:
    """The results as docs/deployment.md shows them."""
    lines = [
        "| network, sites | batch | int8 baseline, of float32 | "
        + " | ".join(f"{name} (beta {beta:.0%})" for name, (_, beta) in UNITS.items())
        + " |",
        "|" + " --- |" * (3 + len(UNITS)),
    ]
    for entry in results:
        for batch in (1, 32):
            row = entry[f"batch {batch}"]
            cells = [f"{1 / row['baseline']['of int8']:.2f}"]
            cells += [f"{row[f'{name}, int8']['of int8']:.2f}" for name in UNITS]
            place = f"`{entry['model']}`, `{entry['sites']}`, {entry['threads']} thread"
            lines.append(f"| {place} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a MODEL spec; or 'table', which prints what was measured")
    parser.add_argument("--sites", default="all", help="sums, or as in latency.py")
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    if given.model == "table":
        print(table(files.read_json(RESULTS)))
        return
    threads = torch.get_num_threads()
    record: dict[str, Any] = {
        "model": given.model,
        "sites": given.sites,
        "threads": threads,
        "clock": "processor" if threads == 1 else "wall",
        "vnni": "vnni" in Path("/proc/cpuinfo").read_text(),
        "onnxruntime": onnxruntime.__version__,
        "turns": given.turns,
    }
    with tempfile.TemporaryDirectory() as folder:
        record |= measured(given, Path(folder))
    print(json.dumps(record, indent=1))
    results = read_kept(RESULTS)
    keys = ("model", "sites", "threads")
    kept = [entry for entry in results if any(entry[key] != record[key] for key in keys)]
    files.write_json(RESULTS, [*kept, record])


if __name__ == "__main__":
    main()
