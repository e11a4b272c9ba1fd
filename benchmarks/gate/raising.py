"""By what a gate's thresholds are raised: what corrected networks gain and lose on other pictures.

    DEEPCORRECT_SHARED=... python -m benchmarks.gate.raising [--adapter NAME] [--draws 20]

A shipped adapter's gate is fitted anew to Caltech-101's pictures, and its thresholds are raised on
some of the pictures that the adapter was not trained on, drawn at random: as `dc.raise_gate` does,
by the probability of the right answer, and by the answers kept and lost. Both are judged on the
other pictures: the gain over the network in the mean, at clean and at the level where it is least,
in points of agreement with the network's answers to clean pictures. Answers and scores are kept in
runs/gate, so that only the first run takes minutes. Means over the draws; printed, and written to
results/gate/raising.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import deepcorrect as dc
from benchmarks.gate.detection import RESULTS
from benchmarks.pages import table
from benchmarks.subjects import SHARED, efficientnet_lite0
from deepcorrect.correction._fit_gate import images_read
from deepcorrect.correction._raise_gate import _rises
from deepcorrect.data import ImageSet
from deepcorrect.distortions import CLEAN, cells_of, distorted_batches, parse_all
from deepcorrect.networks import logits_of
from deepcorrect.runtime import device_of, files, inference

KEPT = Path("runs/gate")
COUNTS = (48, 120, 200)
FALSE_ALARMS, SCALE = 0.02, 0.5

Answers = dict[str, Tensor]
"""Of each cell and image: `before` and `after`, the probability of the right answer; `right_before`
and `right_after`, whether it is given; cells x N. And `scores`, cells x N x kinds."""


def pictures(network: dc.Classifier) -> tuple[ImageSet, ImageSet]:
    """The pictures that shipped adapters are trained on, and the others of Caltech-101."""
    every = dc.open_dataset(
        f"parquet:{SHARED}/data/caltech101/train.parquet", network.preprocessing
    )
    rows = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    held = len(every) // 10  # as in scripts/train_adapters.py
    return every.select(sorted(rows[held:])), every.select(sorted(rows[:held]))


def answers(name: str, kinds: list[str]) -> Answers:
    """Answers to the pictures that were kept out, with a gate as it was fitted."""
    file = KEPT / f"{name.replace('/', '-')}.safetensors"
    if file.exists():
        return files.read_tensors(file)
    network = efficientnet_lite0()
    shown, kept = pictures(network)
    adapted = dc.load_adapter(network, name)
    dc.fit_gate(adapted, dc.loader(shown, 32, shuffle=True), kinds, FALSE_ALARMS, scale=SCALE)
    assert adapted.gate is not None
    cells = [CLEAN, *cells_of(parse_all(kinds, 224))]
    found: dict[str, list[list[Tensor]]] = {}
    clean = truth = torch.empty(0)
    batches = distorted_batches(
        dc.loader(kept, 48), cells, seed=1, device=device_of(adapted), purpose="to raise with"
    )
    with inference(adapted), torch.no_grad():
        for batch in batches:
            if batch.clean is not clean:
                clean = batch.clean
                truth = logits_of(network, clean).argmax(1, keepdim=True)
                print(f"{name}: {batch.first + len(clean)} of {len(kept)} pictures", flush=True)
            before = logits_of(network, batch.images).softmax(1)
            with adapted.ungated():
                after = logits_of(adapted, batch.images).softmax(1)
            read = {"scores": adapted.gate.scores(images_read(adapted, batch.images))}
            for when, shares in {"before": before, "after": after}.items():
                read[when] = shares.gather(1, truth).flatten()
                read[f"right_{when}"] = (shares.argmax(1, keepdim=True) == truth).flatten()
            for key, value in read.items():
                found.setdefault(key, [[] for _ in cells])[batch.row].append(value)
    tensors = {
        key: torch.stack([torch.cat(row) for row in rows]).contiguous()
        for key, rows in found.items()
    }
    KEPT.mkdir(parents=True, exist_ok=True)
    files.write_tensors(file, tensors)
    return tensors


def by_answers(each: Answers) -> Tensor:
    return each["right_after"].double() - each["right_before"].double()


def by_probability(each: Answers) -> Tensor:
    return (each["after"] - each["before"]).double()


RULES: dict[str, Callable[[Answers], Tensor] | None] = {
    "as fitted": None,
    "probabilities": by_probability,
    "answers": by_answers,
}


def judged(each: Answers, rule: str, count: int, draws: int) -> dict[str, Any]:
    """The gains on the pictures that a gate was not raised with, in points, means of draws."""
    gains, generator, found = RULES[rule], torch.Generator().manual_seed(0), []
    kinds, size = each["scores"].shape[2], each["scores"].shape[1]
    for _ in range(draws):
        rows = torch.randperm(size, generator=generator)
        own, other = rows[:count], rows[count:]
        rise = torch.zeros(kinds)
        if gains is not None:
            rise = _rises(each["scores"][:, own].flatten(0, 1), gains(each)[:, own].flatten())
        sent = (each["scores"][:, other] - rise).amax(2) > 0
        change = by_answers(each)[:, other] * sent
        found.append(100 * change.double().mean(1))
    levels = torch.stack(found).mean(0)
    return {
        "mean": float(levels.mean()),
        "clean": float(levels[0]),
        "least": float(levels.min()),
        "levels": [round(value, 2) for value in levels.tolist()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", default="efficientnet_lite0/blur-noise")
    parser.add_argument("--draws", type=int, default=20)
    given = parser.parse_args()
    config = dc.load_adapter(efficientnet_lite0(), given.adapter).config
    kinds = [
        f"{each['name']}:{','.join(map(str, each['levels']))}"
        for each in config.notes["distortions"]
    ]
    each = answers(given.adapter, kinds)
    record: dict[str, Any] = {"pictures": each["scores"].shape[1], "draws": given.draws}
    for count in COUNTS:
        record[str(count)] = {rule: judged(each, rule, count, given.draws) for rule in RULES}
        rows = [
            [rule, *(f"{found[key]:+.2f}" for key in ("mean", "clean", "least"))]
            for rule, found in record[str(count)].items()
        ]
        print(table([f"raised on {count}", "mean", "clean", "least level"], rows))
    kept = RESULTS / "raising.json"
    before = files.read_json(kept) if kept.exists() else {}
    files.write_json(kept, before | {given.adapter: record})


if __name__ == "__main__":
    main()
