"""What a gate costs: the gate alone, an image that it lets through, and batches of both kinds.

`identity` is the floor: a module that returns its input, and a session of one node.

    OMP_NUM_THREADS=1 python -m benchmarks.deployment.gate [NETWORK ...]
    python -m benchmarks.deployment.gate table

Each network has bottleneck units at beta 50 % and a gate that takes noise for distorted. All
systems run the same images in turns, in one process; a ratio is the median of the rounds' own
ratios to the network with folded batch norms, without units and gate, in the same runtime. `clean`
images are let through, of a `mixed` batch every second one is. Weights are random: latency does not
depend on them. Adds to `benchmarks/results/deployment/gate.json`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import deepcorrect as dc
from benchmarks.deployment.latency import CLOCKS, Run, Subject, chosen_sites, in_onnx_runtime, timed
from benchmarks.kept import read_kept
from deepcorrect.correction._gate import statistics as statistics_of
from deepcorrect.deployment import example_images
from deepcorrect.deployment._export import onnx_model
from deepcorrect.deployment._gated import gated_parts
from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "deployment" / "gate.json"
NETWORKS = {
    "cifar_resnet20": "spatial",
    "cifar_allcnn": "spatial",
    "torchvision:resnet18": "block_first",
    "efficientnet_lite0": "linear",
}


class OneNode(nn.Module):
    """One operator that computes nothing."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def images_of(pixels: int, count: int, clean: bool) -> Tensor:
    """Noise, or smooth images, count x 3 x pixels x pixels."""
    if not clean:
        return torch.rand(count, 3, pixels, pixels)
    return nn.functional.interpolate(torch.rand(count, 3, 4, 4), (pixels, pixels), mode="bilinear")


def gate_of(model: dc.Classifier) -> dc.GateConfig:
    """A gate that tells the two kinds of images apart by the sum of all statistics."""
    pixels = model.preprocessing.input_size
    sums = []
    for clean in (True, False):
        images = (images_of(pixels, 8, clean) - model.mean) / model.std
        sums.append(float(statistics_of(images).sum(1).mean()))
    middle = -statistics.mean(sums)
    return dc.GateConfig(
        kinds=("awgn",), weights=((1.0,) * 38,), biases=(middle,), false_alarms=0.05
    )


def systems_of(
    model: dc.Classifier, adapted: dc.AdaptedModel, folder: Path
) -> dict[str, dict[str, Run]]:
    """What is timed, by runtime and name."""
    layout = torch.channels_last
    fused = dc.fuse(adapted)
    parts = gated_parts(fused)
    assert parts is not None
    sample = example_images(model)
    paths = {"gated": dc.export(adapted, folder / "gated.onnx").path}
    for name, part in (
        ("baseline", parts.base),
        ("corrected", parts.corrected),
        ("gate", parts.gate),
    ):
        paths[name] = folder / f"{name}.onnx"
        onnx.save(onnx_model(part, sample, dynamic=True), paths[name])
    assert adapted.gate is not None
    nets = {"baseline": parts.base, "corrected": parts.corrected, "gated": fused}
    in_torch: dict[str, Run] = {
        name: net.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        for name, net in nets.items()
    }
    in_torch |= {"gate": adapted.gate, "identity": nn.Identity()}
    paths["identity"] = folder / "identity.onnx"
    onnx.save(onnx_model(OneNode(), sample, dynamic=True), paths["identity"])
    in_onnx = {f"{name}, ONNX": in_onnx_runtime(path) for name, path in paths.items()}
    return {"torch": in_torch, "onnx": in_onnx}


def ratios(seconds: dict[str, list[float]], baseline: str) -> dict[str, Any]:
    """Milliseconds of each system, and the median ratio to the baseline."""
    return {
        name: {
            "ms": round(1e3 * statistics.median(values), 3),
            "over baseline": round(
                statistics.median(a / b for a, b in zip(values, seconds[baseline], strict=True)), 3
            ),
        }
        for name, values in seconds.items()
    }


def measured(spec: str, rounds: int, clock: str) -> dict[str, Any]:
    """The record of one network."""
    model = dc.load_model(spec, "random")
    pixels = model.preprocessing.input_size
    names = chosen_sites(model, NETWORKS[spec])
    adapted = Subject(spec, model, names, NETWORKS[spec], 0.5, "bottleneck").corrected()
    adapted.set_gate(gate_of(model))
    record: dict[str, Any] = {
        "model": spec,
        "threads": torch.get_num_threads(),
        "clock": clock,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "rounds": rounds,
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        systems = systems_of(model, adapted, Path(folder))
        for batch in (1, 32):
            clean = images_of(pixels, batch, clean=True)
            noisy = images_of(pixels, batch, clean=False)
            assert not dc.looks_distorted(adapted, clean).any()
            assert dc.looks_distorted(adapted, noisy).all()
            kinds = {"clean": clean, "distorted": noisy}
            if batch > 1:
                kinds["mixed"] = torch.stack([clean, noisy], 1).flatten(0, 1)[:batch]
            for kind, images in kinds.items():
                for runtime, runs in systems.items():
                    turns = rounds * (5 if batch == 1 else 1)
                    seconds = timed(runs, images, turns, CLOCKS[clock])
                    baseline = next(iter(name for name in runs if name.startswith("baseline")))
                    record[f"{runtime}, batch {batch}, {kind}"] = ratios(seconds, baseline)
    return record


def table(results: list[dict[str, Any]]) -> str:
    """The results as docs/deployment.md shows them: ratios to the folded baseline."""
    cases = ["batch 1, clean", "batch 1, distorted", "batch 32, clean", "batch 32, mixed"]
    lines = [f"| network, threads | runtime | gate, batch 1 | {' | '.join(cases)} |"]
    lines.append("|" + " --- |" * (3 + len(cases)))
    for entry in results:
        for runtime, suffix in (("torch", ""), ("onnx", ", ONNX")):
            rows = [entry[f"{runtime}, {case}"] for case in cases]
            cells = [f"{rows[0][f'gate{suffix}']['over baseline']:.3f}"]
            cells += [f"{row[f'gated{suffix}']['over baseline']:.2f}" for row in rows]
            lines.append(
                f"| `{entry['model']}`, {entry['threads']} | {runtime} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="of those above; or 'table', which prints them")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    if given.networks == ["table"]:
        print(table(files.read_json(RESULTS)))
        return
    for spec in given.networks or NETWORKS:
        record = measured(spec, given.rounds, given.clock)
        results = read_kept(RESULTS)
        keys = ("model", "threads", "clock")
        kept = [entry for entry in results if any(entry[key] != record[key] for key in keys)]
        files.write_json(RESULTS, [*kept, record])
        print(table([record]), flush=True)


if __name__ == "__main__":
    main()
