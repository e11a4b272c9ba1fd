"""Latency of a network: as it is, corrected, fused, compiled, and in ONNX Runtime.

    python -m benchmarks.deployment.latency torchvision:resnet18 --sites block_first

A network with bottleneck units, without a gate: as all images are that a gate takes for distorted.
`benchmarks.deployment.kinds` has the other kinds of correction. All systems run the same images in
turns, in one process; a figure is the median over the rounds, a ratio the median of the rounds' own
ratios. With `--clock processor` it is the processor time of the process that counts, which a
busy machine disturbs less; give one thread then (OMP_NUM_THREADS=1), as threads that wait count
too. Weights are random: latency does not depend on them. Adds to
`benchmarks/results/deployment/latency.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

import deepcorrect as dc
from benchmarks.kept import read_kept
from deepcorrect import networks
from deepcorrect.networks import costs
from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "deployment" / "latency.json"
Run = Callable[[Tensor], Any]


def chosen_sites(model: nn.Module, which: str) -> list[str]:
    """Names of the sites to correct.

    `all` convolutions; `spatial`: those of k > 1 and one group; `block_first`: the stem and the
    first 3 x 3 of each residual block; `linear`: the stem and the convolutions that no activation
    follows (EfficientNet's projections to few channels).
    """
    found = networks.convolutions(model)
    if which == "all":
        return list(found)
    first = next(iter(found))
    chosen = {
        "spatial": [n for n, c in found.items() if c.kernel_size[0] > 1 and c.groups == 1],
        "block_first": [first, *(n for n in found if n.endswith(".conv1"))],
        "linear": [first, *(n for n in found if n.endswith("conv_pwl"))],
    }[which]
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Subject:
    """A network and what corrects it; `called` is how the table names the choice of sites."""

    spec: str
    model: dc.Classifier
    sites: list[str]
    called: str
    beta: float
    unit: Any

    def corrected(self) -> dc.AdaptedModel:
        """The network with its units; filters of an even spread, as their choice costs nothing."""
        pixels = self.model.preprocessing.input_size
        with torch.inference_mode(), networks.tap(self.model, self.sites) as maps:
            self.model(torch.rand(1, 3, pixels, pixels))
        filters = {name: maps[name].shape[1] for name in self.sites}
        chosen = {
            name: [int(n / self.beta) for n in range(max(1, round(count * self.beta)))]
            for name, count in filters.items()
        }
        return dc.correct(self.model, chosen, unit=self.unit)


def systems_of(
    given: Subject, folder: Path, compiled: bool
) -> tuple[dict[str, Run], dict[str, Any]]:
    """What is timed, by name, and the costs."""
    model, adapted = given.model, given.corrected()
    layout = torch.channels_last
    fast: dict[str, nn.Module] = {
        "baseline": model,
        "baseline, folded": dc.fuse(model),
        "corrected": adapted,
        "fused": dc.fuse(adapted),
        "fused, first in site": dc.fuse(adapted, first="always"),
    }
    runs: dict[str, Run] = {name: net.to(memory_format=layout) for name, net in fast.items()}  # pyright: ignore
    if compiled:
        runs["baseline, compiled"] = torch.compile(fast["baseline, folded"])
        runs["fused, compiled"] = torch.compile(fast["fused"])
    for name, net in (("baseline, ONNX", model), ("fused, ONNX", adapted)):
        path = dc.export(net, folder / f"{len(runs)}.onnx").path
        runs[name] = in_onnx_runtime(path)
    before = costs(model, model.preprocessing)
    facts = {
        "sites": len(adapted.config.sites),
        "corrected_filters": sum(len(site.filters) for site in adapted.config.sites.values()),
        "baseline_multiply_adds": before.multiply_adds,
        "baseline_parameters": before.parameters,
    }
    for name, net in fast.items():
        facts[f"multiply_adds of {name}"] = costs(net, model.preprocessing).multiply_adds  # pyright: ignore
    facts["adapter_parameters"] = costs(adapted, model.preprocessing).trainable_parameters
    return runs, facts


def in_onnx_runtime(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def timed(
    runs: dict[str, Run], images: Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each system in each round."""
    inputs = {
        name: images.contiguous()
        if "ONNX" in name
        else images.to(memory_format=torch.channels_last)
        for name in runs
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for name, run in runs.items():  # warm: compiles, reserves memory
            run(inputs[name])
        for _ in range(rounds):
            for name, run in runs.items():
                time.sleep(0.05)  # threads of the run before spin for a while and would disturb
                started = clock()
                run(inputs[name])
                seconds[name].append(clock() - started)
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Milliseconds, and ratios to the baseline of the same kind."""
    against = {
        "baseline, ONNX": ["baseline"],
        "baseline, folded": ["baseline"],
        "corrected": ["baseline"],
        "fused": ["baseline", "baseline, folded"],
        "fused, first in site": ["baseline", "baseline, folded"],
        "fused, compiled": ["baseline, compiled"],
        "fused, ONNX": ["baseline, ONNX"],
    }
    found: dict[str, Any] = {}
    for name, values in seconds.items():
        found[name] = {"ms": round(1e3 * statistics.median(values), 2)}
        for other in against.get(name, []):
            ratios = [a / b for a, b in zip(values, seconds[other], strict=True)]
            found[name][f"over {other}"] = round(statistics.median(ratios), 3)
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The results as docs/deployment.md shows them: milliseconds, and ratios to the baseline."""
    lines = [
        "| network, sites | batch | baseline | folded | corrected | fused | ONNX | fused, ONNX |",
        "|" + " --- |" * 8,
    ]
    for entry in results:
        for batch in ("1", "32"):
            row = entry[f"batch {batch}"]
            cells = [f"{row['baseline']['ms']:.0f}"]
            for name in ("baseline, folded", "corrected", "fused", "baseline, ONNX"):
                cells.append(f"{row[name]['ms']:.0f} ({row[name]['over baseline']:.2f})")
            ours = row["fused, ONNX"]
            cells.append(f"{ours['ms']:.0f} ({ours['over baseline, ONNX']:.2f} of ONNX)")
            place = f"`{entry['model']}`, {entry['sites']} (`{entry['sites_chosen']}`)"
            lines.append(f"| {place} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a MODEL spec, or 'table', which prints what was measured")
    parser.add_argument("--sites", default="all")
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    if given.model == "table":
        print(table(files.read_json(RESULTS)))
        return
    model = dc.load_model(given.model, "random")
    names = chosen_sites(model, given.sites)
    chosen = Subject(given.model, model, names, given.sites, given.beta, "bottleneck")
    pixels = chosen.model.preprocessing.input_size
    record: dict[str, Any] = {
        "model": chosen.spec,
        "sites_chosen": chosen.called,
        "beta": chosen.beta,
        "unit": chosen.unit,
        "pixels": pixels,
        "threads": torch.get_num_threads(),
        "clock": given.clock,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "rounds": given.rounds,
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        runs, facts = systems_of(chosen, Path(folder), given.compile)
        record |= facts
        for batch in (1, 32):
            images = torch.rand(batch, 3, pixels, pixels)
            rounds = given.rounds * (3 if batch == 1 else 1)
            record[f"batch {batch}"] = summary(timed(runs, images, rounds, CLOCKS[given.clock]))
    print(json.dumps(record, indent=1))
    results = read_kept(RESULTS)
    keys = ("model", "sites_chosen", "beta", "threads", "clock")
    kept = [entry for entry in results if any(entry[key] != record[key] for key in keys)]
    files.write_json(RESULTS, [*kept, record])


if __name__ == "__main__":
    main()
