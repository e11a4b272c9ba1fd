"""By what a gate's thresholds are raised: what corrected networks gain and lose on other pictures.

    DEEPCORRECT_SHARED=... python -m benchmarks.gate.raising [--adapter NAME] [--draws 20]
        [--pictures parquet:imagenet_sample/test.parquet] [--most 160]
    ... --network resnet20 --adapter runs/evidence/resnet20_blur/seed-0/adapter

An adapter's gate is fitted anew to Caltech-101's pictures, and its thresholds are raised on some
pictures that the adapter was not trained on, drawn at random: as `dc.raise_gate` does, by the
margins of the right answer, by its probability, and by the answers kept and lost. All are judged on
the other pictures: the gain over the network in the mean, at clean and at the level where it is
least, in points of agreement with the network's answers to clean pictures. The pictures are those
of Caltech-101 that shipped adapters were not trained on, or `--pictures`; for a network of
CIFAR-100, 3,000 of its validation images. Answers and scores are kept in runs/gate, so that only
the first run takes minutes. Means over the draws; printed, and written to
results/gate/raising.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import deepcorrect as dc
from benchmarks.gate.detection import RESULTS
from benchmarks.pages import table
from benchmarks.subjects import (
    CIFAR,
    SHARED,
    cifar_drawn,
    cifar_network,
    cifar_rows,
    efficientnet_lite0,
)
from deepcorrect.correction._raise_gate import (
    GateAnswers,
    _rises,
    gate_answers,
    margins,
    rises,
)
from deepcorrect.data import Batches
from deepcorrect.runtime import files
from scripts.train_adapters import divided

KEPT = Path("runs/gate")
COUNTS = (48, 120, 200, 500, 1000)

Answers = dict[str, Tensor]
"""The gate's scores, cells x N x kinds, and `before` and `after` the correction the margin and the
probability of the right answer, cells x N x 2."""


class Subject(NamedTuple):
    """A network, and images for its gates.

    Attributes:
        network: the network.
        shown: those that a gate is fitted to.
        kept: those that nothing was trained on.
        false_alarms: as for `dc.fit_gate`.
        scale: as for `dc.fit_gate`.
    """

    network: dc.Classifier
    shown: Batches
    kept: Batches
    false_alarms: float
    scale: float


def subject(network: str | None, pictures: str | None, most: int) -> Subject:
    """What the command's options name."""
    if network is not None:
        cifar = cifar_network(network)
        shown = dc.loader(cifar_drawn(cifar, 2000, 0), 250)
        return Subject(cifar, shown, dc.loader(cifar_rows(cifar, 2000, 3000), 250), 0.05, 1.0)
    lite = efficientnet_lite0()
    shown, kept = divided(
        dc.open_dataset(f"parquet:{SHARED}/data/caltech101/train.parquet", lite.preprocessing)
    )
    if pictures is not None:
        others = dc.open_dataset(pictures, lite.preprocessing)
        kept = dc.loader(others.sample(min(most, len(others)), seed=0), 40)
    return Subject(lite, shown, kept, 0.02, 0.5)


def answers(of: Subject, adapted: dc.AdaptedModel, kinds: list[str], name: str) -> Answers:
    """Answers to images that nothing was trained on, with a gate as it was fitted."""
    file = KEPT / f"{name.replace('/', '-')}.safetensors"
    if file.exists():
        return files.read_tensors(file)
    dc.fit_gate(adapted, of.shown, kinds, of.false_alarms, scale=of.scale)
    files.write_tensors(file, vars(gate_answers(adapted, of.kept, kinds, seed=1, read=both)[0]))
    return files.read_tensors(file)


def called(adapter: str, network: str | None, pictures: str | None) -> str:
    """How results are named."""
    if network is not None:
        return f"{network}, {Path(adapter).parent.parent.name}"
    return adapter if pictures is None else f"{adapter}, {pictures.split('/')[-2]}"


def both(logits: Tensor, truth: Tensor) -> Tensor:
    """The margins and the probabilities of the right answers, N x 2."""
    probabilities = logits.softmax(1).gather(1, truth[:, None]).flatten()
    return torch.stack([margins(logits, truth), probabilities.nan_to_num(0)], 1)


def change_of_answers(each: Answers) -> Tensor:
    before, after = (each[name][..., 0] >= 0 for name in ("before", "after"))
    return after.double() - before.double()


def change_of_probability(each: Answers) -> Tensor:
    return (each["after"] - each["before"])[..., 1].double()


def with_margins(each: Answers) -> GateAnswers:
    return GateAnswers(each["scores"], each["before"][..., 0], each["after"][..., 0])


def unbounded(gains: Callable[[Answers], Tensor]) -> Callable[[Answers], Tensor]:
    """Thresholds for the highest gain in all, whatever a level loses."""
    return lambda each: _rises(each["scores"].flatten(0, 1), gains(each).flatten())


RULES: dict[str, Callable[[Answers], Tensor]] = {
    "as fitted": lambda each: torch.zeros(each["scores"].shape[2]),
    "margins, as raise_gate": lambda each: rises(with_margins(each)),
    "margins, losses counted once": lambda each: rises(with_margins(each), 1.0),
    "margins, unbounded": unbounded(lambda each: with_margins(each).gains),
    "probabilities, unbounded": unbounded(change_of_probability),
    "answers, unbounded": unbounded(change_of_answers),
}


def judged(each: Answers, rule: str, count: int, draws: int) -> dict[str, Any]:
    """The gains on the pictures that a gate was not raised with, in points, means of draws."""
    generator, found, size = torch.Generator().manual_seed(0), [], each["scores"].shape[1]
    for _ in range(draws):
        rows = torch.randperm(size, generator=generator)
        own, other = rows[:count], rows[count:]
        rise = RULES[rule]({name: value[:, own] for name, value in each.items()})
        sent = (each["scores"][:, other] - rise).amax(2) > 0
        change = change_of_answers(each)[:, other] * sent
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
    parser.add_argument("--network", choices=list(CIFAR), help="EfficientNet-Lite0 without it")
    parser.add_argument("--pictures", help="such as are to be corrected; of Caltech-101 without it")
    parser.add_argument("--most", type=int, default=160, help="so many of these pictures")
    parser.add_argument("--draws", type=int, default=20)
    given = parser.parse_args()
    of = subject(given.network, given.pictures, given.most)
    adapted = dc.load_adapter(of.network, given.adapter)
    curves = adapted.config.notes["distortions"]
    kinds = [f"{each['name']}:{','.join(map(str, each['levels']))}" for each in curves]
    name = called(given.adapter, given.network, given.pictures)
    each = answers(of, adapted, kinds, name)
    pictures = each["scores"].shape[1]
    record: dict[str, Any] = {"pictures": pictures, "draws": given.draws}
    for count in [each for each in COUNTS if each < pictures]:
        record[str(count)] = {rule: judged(each, rule, count, given.draws) for rule in RULES}
        rows = [
            [rule, *(f"{found[key]:+.2f}" for key in ("mean", "clean", "least"))]
            for rule, found in record[str(count)].items()
        ]
        print(table([f"raised on {count}", "mean", "clean", "least level"], rows))
    kept = RESULTS / "raising.json"
    before = files.read_json(kept) if kept.exists() else {}
    files.write_json(kept, before | {name: record})


if __name__ == "__main__":
    main()
