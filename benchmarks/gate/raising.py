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
from deepcorrect.correction._raise_gate import _rises, gate_answers
from deepcorrect.runtime import files
from scripts.train_adapters import divided

KEPT = Path("runs/gate")
COUNTS = (48, 120, 200)
FALSE_ALARMS, SCALE = 0.02, 0.5

Answers = dict[str, Tensor]
"""The attributes of `GateAnswers`."""


def answers(name: str, kinds: list[str]) -> Answers:
    """Answers to the pictures that were kept out, with a gate as it was fitted."""
    file = KEPT / f"{name.replace('/', '-')}.safetensors"
    if file.exists():
        return files.read_tensors(file)
    network = efficientnet_lite0()
    spec = f"parquet:{SHARED}/data/caltech101/train.parquet"
    shown, kept = divided(dc.open_dataset(spec, network.preprocessing))
    adapted = dc.load_adapter(network, name)
    dc.fit_gate(adapted, shown, kinds, FALSE_ALARMS, scale=SCALE)
    files.write_tensors(file, vars(gate_answers(adapted, kept, kinds, seed=1)[0]))
    return files.read_tensors(file)


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
