"""Whether an exported network answers as the corrected one does, on real images.

    python -m benchmarks.deployment.answers DATA [--adapter DIR] [--batch-size 50]

DATA: for example `parquet:.../imagenet_sample/*.parquet`. Without an adapter, one is made whose
units are random, the last convolution a tenth of He's: answers are compared, not accuracy.
Writes `benchmarks/results/deployment/answers.json`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

import deepcorrect as dc
from deepcorrect import networks
from deepcorrect.runtime import files, to_device

RESULTS = Path(__file__).parents[1] / "results" / "deployment" / "answers.json"


def untrained(model: dc.Classifier) -> dc.AdaptedModel:
    """Units that change every image's logits, and not beyond recognition."""
    chosen = {
        name: range(0, conv.out_channels, 2)
        for name, conv in networks.convolutions(model).items()
        if name == "conv_stem" or name.endswith("conv_pwl")
    }
    adapted = dc.correct(model, chosen, unit={"kind": "bottleneck", "start": "he"})
    for unit in adapted.units.values():
        assert isinstance(unit, dc.CorrectionUnit)
        last = unit.residual[-1]
        assert isinstance(last, nn.Conv2d)
        with torch.no_grad():
            last.weight.mul_(0.1)
    return adapted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--adapter")
    parser.add_argument("--batch-size", type=int, default=50)
    given = parser.parse_args()
    model = dc.load_model(given.model)
    images = dc.open_dataset(given.data, model.preprocessing)
    adapted = dc.load_adapter(model, given.adapter) if given.adapter else untrained(model)
    with tempfile.TemporaryDirectory() as folder:
        onnx = dc.export(adapted, Path(folder) / "a.onnx")
        program = dc.export(adapted, Path(folder) / "a.pt2")
        session = onnxruntime.InferenceSession(str(onnx.path))
        systems = {
            "fused": dc.fuse(adapted),
            "onnx": lambda batch: torch.from_numpy(
                session.run(None, {"images": batch.numpy()})[0]  # pyright: ignore
            ),
            "torch": dc.load_exported(program.path),
        }
        seen, moved = 0, 0
        found: dict[str, dict[str, Any]] = {
            name: {"same_top1": 0, "same_top5": 0, "largest_difference": 0.0} for name in systems
        }
        largest, started = 0.0, time.monotonic()
        with torch.inference_mode():
            for batch, _ in dc.loader(images, given.batch_size):
                shown = to_device(batch, torch.device("cpu"))
                expected = adapted(shown)
                with adapted.disable_adapter():
                    moved += int((adapted(shown).argmax(1) != expected.argmax(1)).sum())
                largest = max(largest, float(expected.abs().max()))
                seen += len(batch)
                for name, system in systems.items():
                    logits = system(batch.contiguous())
                    entry = found[name]
                    entry["same_top1"] += int((logits.argmax(1) == expected.argmax(1)).sum())
                    five = logits.topk(5).indices == expected.topk(5).indices
                    entry["same_top5"] += int(five.all(1).sum())
                    difference = float((logits - expected).abs().max())
                    entry["largest_difference"] = max(entry["largest_difference"], difference)
    record = {
        "model": given.model,
        "adapter": "trained" if given.adapter else "random units at the stem and projections",
        "sites": len(adapted.config.sites),
        "images": seen,
        "answers_that_the_adapter_changes": moved,
        "largest_logit": largest,
        "seconds": round(time.monotonic() - started, 1),
        "systems": found,
    }
    files.write_json(RESULTS, record)
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
