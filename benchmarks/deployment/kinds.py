"""Latency of kinds of units in PyTorch and ONNX Runtime, at the sums of blocks of a ResNet-20.

    OMP_NUM_THREADS=1 python -m benchmarks.deployment.kinds torch onnx

Every network with its units is fused and runs in turns with the folded baseline, one at a time. The
units correct 75 % of the filters of the stem and the nine sums of blocks. Weights are random:
latency does not depend on them. With one thread it is the processor time that counts, which a busy
machine disturbs less. Adds to `benchmarks/results/deployment/kinds.json`; `kinds table` prints it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import deepcorrect as dc
from deepcorrect import correction
from deepcorrect.deployment._latency import Stopwatch
from deepcorrect.networks import costs
from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "deployment" / "kinds.json"
SITES = {
    "conv1": 16,
    **{f"layer{stage}.{block}": 8 * 2**stage for stage in (1, 2, 3) for block in range(3)},
}
BETA = 0.75
ONE_BY_ONE: dict[str, Any] = {"kind": "full", "kernel_size": 1, "dilations": ()}
DENSE: dict[str, Any] = {"kind": "bottleneck", "dilations": [1]}
INVERTED: dict[str, Any] = {"kind": "inverted"}
KINDS: dict[str, Any] = {
    "two 1x1, half as wide": {**ONE_BY_ONE, "width_share": 0.5},
    "one dense 3x3, half as wide": DENSE,
    "one dense 3x3, 8 wide": {**DENSE, "width": 8},
    "one dense 3x3, 16 wide": {**DENSE, "width": 16},
    "one dense 3x3, 12 wide": {**DENSE, "width": 12},
    "dense": "dense",
    "bottleneck": "bottleneck",
    "inverted": INVERTED,
    "inverted, 3x3": {**INVERTED, "kernel_size": 3},
    "inverted, half as wide as its filters": {**INVERTED, "width_share": 0.5},
    "inverted with modulation": {**INVERTED, "modulation": 8},
}


def measured(runtime: Any, batch: int, kinds: list[str]) -> dict[str, Any]:
    """Each kind's time over the folded baseline's, and its multiply-adds."""
    model = dc.load_model("cifar_resnet20", "random")
    size = model.preprocessing.input_size
    stopwatch = Stopwatch(model, torch.rand(batch, 3, size, size), runtime)
    filters = {site: list(range(round(BETA * count))) for site, count in SITES.items()}
    base = costs(model, model.preprocessing).multiply_adds
    found = {}
    for kind in kinds:
        adapted = correction.correct(model, filters, unit=KINDS[kind])
        latency = stopwatch(adapted)
        work = costs(adapted, model.preprocessing).multiply_adds / base - 1
        found[kind] = {"ratio": latency.ratio, "multiply_adds": round(work, 4)}
        print(runtime, batch, kind, found[kind], flush=True)
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The ratios by kind, one column per runtime and batch."""
    columns = [(entry["runtime"], entry["batch"], entry["threads"]) for entry in results]
    head = [f"{runtime}, batch {batch}" for runtime, batch, _ in columns]
    lines = ["| unit | multiply-adds | " + " | ".join(head) + " |"]
    lines.append("|" + " --- |" * (2 + len(head)))
    for kind, row in results[0]["kinds"].items():
        cells = [f"{entry['kinds'][kind]['ratio']:.2f}" for entry in results]
        lines.append(
            f"| {kind} | +{100 * row['multiply_adds']:.0f} % | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtimes", nargs="+", choices=["torch", "onnx", "onnx-int8", "table"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    results = files.read_json(RESULTS) if RESULTS.exists() else []
    if given.runtimes == ["table"]:
        print(table(results))
        return
    for runtime in given.runtimes:
        for batch in given.batch:
            about = {"runtime": runtime, "batch": batch, "threads": torch.get_num_threads()}
            before = [entry for entry in results if about.items() <= entry.items()]
            kinds = measured(runtime, batch, given.kinds)
            old = before[0]["kinds"] if before else {}
            record = {**about, "torch": torch.__version__, "kinds": {**old, **kinds}}
            results = [entry for entry in results if entry not in before] + [record]
            files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
