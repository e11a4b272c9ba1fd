"""EfficientNet-Lite0 under ImageNet-C's fifteen corruptions, on ImageNet's validation pictures.

    python -m benchmarks.evidence.imagenet_c [--adapter NAME=DIR ...] [--tuned NAME=FILE ...]
        [--images 650] [--precision float32] [--only NAME ...] [--list]

The network as it is, the adapters that are named, and what others would do: batch-norm statistics
of 32 images, TENT and EATA with images that come sorted and mixed, and fine-tuned copies, as they
are and with the strength and the gate of a file beside theirs (`FILE.strength.json`).
`scripts/train_adapters.py imagenet-c` makes the adapter, and the copy with `--copy`. Top-1 errors,
mCE and relative mCE by AlexNet's published errors, with the interval of the difference from the
network. A run that was stopped goes on where it was. The corruptions are computed on the pictures
at the network's own input size, where ImageNet-C's files are JPEGs. What is kept is in
`benchmarks/results/evidence`; `make tables` shows it.

TENT and EATA have the authors' settings for ImageNet: SGD with a momentum of 0.9, a learning rate
of 2.5e-4 and batches of 64. EATA finds the weights to hold on pictures that the network was trained
on, as its authors do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.evidence import corruptions
from benchmarks.pages import table
from benchmarks.subjects import RESULTS, efficientnet_lite0, imagenet_sample, imagenet_val
from deepcorrect.alternatives import eata, norm_adaptation, tent
from deepcorrect.data import loader
from deepcorrect.evaluation import ALEXNET_REFERENCE

KEPT = RESULTS / "evidence" / "imagenet_c.json"
IMAGES, BATCH = 650, 64
HELD = 500
"""Clean pictures of the training set by which EATA holds weights."""


def setting(images: int) -> corruptions.Setting:
    """The network, the test-time methods, and so many pictures."""
    network = efficientnet_lite0()
    adapting = {
        "batch-norm statistics of 32": partial(norm_adaptation, network, images=32),
        "TENT": partial(tent, network, 2.5e-4, 0.9),
        "EATA": lambda: eata(
            network,
            loader(imagenet_sample(network, HELD), BATCH),
            learning_rate=2.5e-4,
            redundant=0.05,
            holding=2000,
        ),
    }
    return corruptions.Setting(network, adapting, imagenet_val(network, images), KEPT, BATCH)


def figures() -> str:
    """The tables, for docs/results.md."""
    return corruptions.figures(KEPT, "benchmarks.evidence.imagenet_c", _errors)


def _errors(found: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    rows = [
        [
            name,
            *(f"{100 * each[key]:.1f}" for key in ("clean", "mean", "mce", "relative_mce")),
            "" if change is None else f"{100 * change[0]:+.1f} ± {100 * change[1]:.1f}",
        ]
        for name, each, change in corruptions.each_summary(found, ALEXNET_REFERENCE)
    ]
    head = ["", "clean error, %", "mean error, %", "mCE, %", "relative mCE, %", "mCE, change"]
    return table(head, rows)


if __name__ == "__main__":
    corruptions.command(__doc__, IMAGES, lambda given: setting(given.images))
