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

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.evidence import corruptions
from benchmarks.pages import table
from benchmarks.subjects import CIFAR, RESULTS, SHARED, cifar_network, cifar_rows
from deepcorrect.alternatives import eata, norm_adaptation, tent
from deepcorrect.data import loader, open_dataset

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


def setting(name: str, images: int) -> corruptions.Setting:
    """A network, the test-time methods, and so many test images."""
    network = cifar_network(name)
    adapting = {
        "batch-norm statistics of 32": partial(norm_adaptation, network, images=32),
        "TENT": partial(tent, network, 1e-2),
        "EATA": lambda: eata(network, loader(cifar_rows(network, 0, HELD), BATCH)),
    }
    test = open_dataset(f"parquet:{SHARED}/data/cifar100/test.parquet", network.preprocessing)
    shown = test.select(range(images))
    return corruptions.Setting(network, adapting, shown, kept_of(name), BATCH)


def figures(network: str) -> str:
    """The tables of a network, for docs/results.md."""
    command = f"benchmarks.evidence.cifar_c --network {network}"
    return corruptions.figures(kept_of(network), command, _accuracies)


def _accuracies(found: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """Ours, and what is published."""
    rows = []
    for name, each, change in corruptions.each_summary(found, None):
        shown = "" if change is None else f"{-100 * change[0]:+.1f} ± {100 * change[1]:.1f}"
        accuracy = [f"{100 * (1 - each[key]):.1f}" for key in ("clean", "mean")]
        rows.append([f"{name} (ours)", *accuracy, shown, "", ""])
    for other in PUBLISHED:
        clean = "" if other.clean is None else f"{other.clean:.1f}"
        rows.append(
            [other.system, clean, f"{other.corrupted:.1f}", "", f"{other.trained}", other.source]
        )
    head = ["", "clean", "fifteen corruptions", "change", "made robust", "source"]
    return table(head, rows)


if __name__ == "__main__":
    corruptions.command(
        __doc__, 10_000, lambda given: setting(given.network, given.images), list(CIFAR)
    )
