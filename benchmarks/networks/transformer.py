"""Does correction hold up in a vision transformer? A small one on the embedded digits.

    python -m benchmarks.networks.transformer [--seeds 3]

The transformer (class token, 4 x 4 patches of 7 x 7 pixels, four blocks of 64 channels) is trained
on clean digits and then corrected at its patch embedding, at its MLP channels, or at both, with the
units' 3 x 3 stages on the tokens' grid or with 1 x 1 stages that see each token alone; fine-tuning
all weights stands beside it. Everything is chosen on the validation digits; the test digits are
read once a system. One JSON file a seed in benchmarks/results/networks/, written after each system;
a finished one is not made again.
A few minutes a seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import deepcorrect as dc
from benchmarks.pages import DOCS, fill
from deepcorrect.data import Preprocessing
from deepcorrect.networks import Classifier
from deepcorrect.runtime import files, optional_import

RESULTS = Path(__file__).parent.parent / "results" / "networks"
DIGITS = Preprocessing(28, (0.1307,), (0.3081,))
DISTORTIONS = ["gaussian_blur:0.5,0.75,1,1.25,1.5,2", "awgn:10,20,30,40,50,60"]
CLEAN = ["gaussian_blur:0"]  # level 0 is the identity
GRID, ALONE = {"kind": "bottleneck"}, {"kind": "bottleneck", "kernel_size": 1}
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "patch embedding": ("patch_embed", GRID),
    "MLP channels": ("mlp", GRID),
    "MLP channels, 1 x 1 units": ("mlp", ALONE),
    "patch embedding and MLP channels": ("", GRID),
}
"""What is corrected: sites whose name holds the text, and the unit."""


def transformer(seed: int) -> Classifier:
    """With random weights."""
    torch.manual_seed(seed)
    vit = optional_import("timm.models.vision_transformer", "timm").VisionTransformer
    shape = {"img_size": 28, "patch_size": 7, "in_chans": 1, "num_classes": 10}
    network = vit(**shape, embed_dim=64, depth=4, num_heads=4)
    return Classifier(network, DIGITS, "digits_vit").eval()


def run(seed: int) -> dict[str, Any]:
    """Mean top-1 of every system."""
    model = transformer(seed)
    sets = {
        name: dc.open_dataset(f"digits:{name}", DIGITS) for name in ("train", "validation", "test")
    }
    train = dc.loader(sets["train"], 64, shuffle=True)
    held_out, test = dc.loader(sets["validation"]), dc.loader(sets["test"])
    same: dict[str, Any] = {"precision": "float32", "seed": seed}
    torch.manual_seed(seed)
    dc.fit(
        model, train, CLEAN, validation=held_out, task="transformer", epochs=20, clean_share=1.0,
        objective={"labels": 1.0}, learning_rate=3e-3, **same,
    )  # fmt: skip
    model.eval()
    record: dict[str, Any] = {"seed": seed, "systems": {}}

    def measure(name: str, system: nn.Module, trained: int) -> None:
        grid = dc.evaluate(system, test, DISTORTIONS)
        record["systems"][name] = {
            "clean_top1": grid.clean_top1,
            "trained_parameters": trained,
            "mean_top1": {kind: curve.mean_top1 for kind, curve in grid.curves.items()},
        }
        print(seed, name, record["systems"][name], flush=True)
        files.write_json(RESULTS / f"transformer-{seed}.json", record | {"finished": False})

    record["parameters"] = sum(p.numel() for p in model.parameters())
    measure("baseline", model, 0)
    ranking = dc.rank(model, held_out, DISTORTIONS)
    record["sites"] = list(ranking.sites)
    for name, (part, unit) in SYSTEMS.items():
        chosen = ranking.only([site for site in ranking.sites if part in site])
        adapted = dc.correct(model, chosen, beta=0.5, unit=unit, seed=seed)
        torch.manual_seed(seed)
        dc.fit(
            adapted, train, DISTORTIONS, validation=held_out, task=name, epochs=5,
            learning_rate=5e-3, **same,
        )  # fmt: skip
        measure(name, adapted, sum(p.numel() for p in adapted.units.parameters()))
    tuned = dc.finetune(model)
    torch.manual_seed(seed)
    dc.fit(
        tuned, train, DISTORTIONS, validation=held_out, task="fine-tuning", epochs=5,
        learning_rate=1e-3, objective={"labels": 1.0}, **same,
    )  # fmt: skip
    measure("fine-tuned", tuned, record["parameters"])
    return record


def table(records: list[dict[str, Any]]) -> str:
    """Medians over the seeds, as Markdown."""
    lines = [
        "| system | trained parameters | clean | blur: mean top-1 | noise: mean top-1 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in records[0]["systems"]:
        rows = [record["systems"][name] for record in records if name in record["systems"]]

        def median(values: list[float]) -> str:
            return f"{statistics.median(values):.3f}"

        cells = [name, f"{rows[0]['trained_parameters']:,}"]
        cells += [median([row["clean_top1"] for row in rows])]
        cells += [median([r["mean_top1"][kind] for r in rows]) for kind in rows[0]["mean_top1"]]
        lines.append("| " + " | ".join(cells) + " |")
    count = len(records)
    lines += ["", f"Medians over {count} seeds, each with a transformer of its own."]
    if count == 1:
        lines[-1] = "One seed."
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    records = []
    for seed in range(parser.parse_args().seeds):
        path = RESULTS / f"transformer-{seed}.json"
        if not path.is_file() or not json.loads(path.read_text())["finished"]:
            started = time.monotonic()
            record = run(seed)
            seconds = round(time.monotonic() - started, 1)
            files.write_json(path, record | {"finished": True, "seconds": seconds})
        records.append(json.loads(path.read_text()))
    fill(DOCS / "networks.md", {"transformer": table(records)})


if __name__ == "__main__":
    main()
