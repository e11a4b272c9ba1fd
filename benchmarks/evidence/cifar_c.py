"""CIFAR-100's test images under the fifteen corruptions of CIFAR-100-C, beside published figures.

    python -m benchmarks.evidence.cifar_c [--network resnet20|allcnn] [--adapter NAME=DIR ...]
        [--tuned NAME=FILE ...] [--images 10000] [--only NAME ...] [--list]

The systems are those of `benchmarks.evidence.imagenet_c`, on a network that was trained on
CIFAR-100, with what was best for test-time methods on validation images. The corruptions are
computed with the severities for 32 pixels; the published figures are of the authors' files. A run
that was stopped goes on where it was. What is kept is in `benchmarks/results/evidence`; `make
tables` shows it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.evidence.corruptions import (
    BASELINE,
    Measured,
    by_corruption,
    given_systems,
    interval,
    measure,
    options,
    read,
    summary,
    whole,
)
from benchmarks.pages import table
from benchmarks.subjects import CIFAR, RESULTS, SHARED, cifar_network, cifar_rows
from deepcorrect.alternatives import eata, norm_adaptation, tent
from deepcorrect.data import loader, open_dataset
from deepcorrect.networks import Classifier

BATCH, HELD = 250, 500


class Published(NamedTuple):
    """A published figure on CIFAR-100-C, in percent.

    Attributes:
        system: the training method and its network.
        clean: accuracy on the undistorted test images; None where the source does not say.
        corrupted: the mean accuracy over the fifteen corruptions and five severities.
        source: where it is published.
        trained: how the network was made robust.
    """

    system: str
    clean: float | None
    corrupted: float
    source: str
    trained: str


AUGMIX = "Hendrycks et al., AugMix, ICLR 2020, table 1"
PRIME = "Modas et al., PRIME, ECCV 2022"
ROBUSTBENCH = "RobustBench, model_info/cifar100/corruptions"
FROM_SCRATCH = "trained from the start, on no corruption"
PUBLISHED = (
    Published("standard, All-Convolutional", None, 43.6, AUGMIX, "not"),
    Published("AugMix, All-Convolutional", None, 57.3, AUGMIX, FROM_SCRATCH),
    Published("standard, WideResNet-40-2", None, 46.7, AUGMIX, "not"),
    Published("AugMix, WideResNet-40-2", 76.28, 64.63, ROBUSTBENCH, FROM_SCRATCH),
    Published("AugMix, ResNeXt-29", 78.90, 65.54, ROBUSTBENCH, FROM_SCRATCH),
    Published("six pruned WideResNet-18-2 together", 79.93, 71.08, ROBUSTBENCH, FROM_SCRATCH),
    Published("standard, ResNet-18", None, 51.9, PRIME, "not"),
    Published("PRIME, ResNet-18", None, 68.3, PRIME, FROM_SCRATCH),
)
"""What differs from ours: the networks have 1.4 to 40 million parameters, where ResNet-20 has 0.28,
and answer up to 15 points more of the clean images right; they were trained from the start for
their robustness; and the corruptions are those of the authors' files."""


def kept_of(network: str) -> Path:
    """The file of a network's figures."""
    return RESULTS / "evidence" / f"cifar_c_{network}.json"


def adapting(network: Classifier) -> dict[str, Measured]:
    """The test-time methods, sorted and mixed."""
    ways = {
        "batch-norm statistics of 32": partial(norm_adaptation, network, images=32),
        "TENT": partial(tent, network, 1e-2),
        "EATA": lambda: eata(network, loader(cifar_rows(network, 0, HELD), BATCH)),
    }
    return {
        f"{name}, {order}": Measured(build, mixed=order == "mixed")
        for name, build in ways.items()
        for order in ("sorted", "mixed")
    }


def figures(network: str) -> str:
    """The tables of a network, for docs/results.md."""
    kept = kept_of(network)
    if not kept.exists():
        return f"*Not run yet: `python -m benchmarks.evidence.cifar_c --network {network}`.*"
    found = read(kept)
    rows = []
    for name in whole(found):
        errors = summary(found[name], None)
        change, half = interval(found, name, BASELINE, None)
        shown = "" if name == BASELINE else f"{-100 * change:+.1f} ± {100 * half:.1f}"
        accuracy = [f"{100 * (1 - errors[key]):.1f}" for key in ("clean", "mean")]
        rows.append([f"{name} (ours)", *accuracy, shown, "", ""])
    for each in PUBLISHED:
        clean = "" if each.clean is None else f"{each.clean:.1f}"
        rows.append(
            [each.system, clean, f"{each.corrupted:.1f}", "", f"{each.trained}", each.source]
        )
    head = ["", "clean", "fifteen corruptions", "change", "made robust", "source"]
    return "\n\n".join([table(head, rows), by_corruption(found)])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=list(CIFAR), default="resnet20")
    options(parser, images=10_000)
    given = parser.parse_args()
    network = cifar_network(given.network)
    every = given_systems(network, given.adapter, given.tuned) | adapting(network)
    test = open_dataset(f"parquet:{SHARED}/data/cifar100/test.parquet", network.preprocessing)
    images = test.select(range(given.images))
    measure(given, every, images, given.kept or kept_of(given.network), size=BATCH)


if __name__ == "__main__":
    main()
