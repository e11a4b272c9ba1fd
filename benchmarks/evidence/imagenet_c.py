"""EfficientNet-Lite0 under ImageNet-C's fifteen corruptions, on ImageNet's validation pictures.

    python -m benchmarks.evidence.imagenet_c [--adapter NAME=DIR ...] [--tuned NAME=FILE ...]
        [--images 650] [--precision float32] [--only NAME ...] [--list]

The network as it is, the adapters that are named, and what others would do: batch-norm statistics
of 32 images, TENT and EATA with images that come sorted and mixed, and fine-tuned copies, with the
gate of a file beside theirs (`FILE.gate.json`, as `gated.gate.config.model_dump(mode="json")`) and
without it. Top-1 errors, mCE and relative mCE by AlexNet's published errors, with the interval of
the difference from the network. A run that was stopped goes on where it was. The corruptions are
computed on the pictures at the network's own input size, where ImageNet-C's files are JPEGs. What
is kept is in `benchmarks/results/evidence`; `make tables` shows it.

TENT and EATA have the authors' settings for ImageNet: SGD with a momentum of 0.9, a learning rate
of 2.5e-4 and batches of 64. EATA finds the weights to hold on pictures that the network was trained
on, as its authors do.
"""

from __future__ import annotations

import argparse
from functools import partial

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
from benchmarks.subjects import RESULTS, efficientnet_lite0, imagenet_sample, imagenet_val
from deepcorrect.alternatives import eata, norm_adaptation, tent
from deepcorrect.data import loader
from deepcorrect.evaluation import ALEXNET_REFERENCE
from deepcorrect.networks import Classifier

KEPT = RESULTS / "evidence" / "imagenet_c.json"
IMAGES, BATCH = 650, 64
HELD = 500
"""Clean pictures of the training set by which EATA holds weights."""


def adapting(network: Classifier) -> dict[str, Measured]:
    """The test-time methods, sorted and mixed."""
    ways = {
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
    return {
        f"{name}, {order}": Measured(build, mixed=order == "mixed")
        for name, build in ways.items()
        for order in ("sorted", "mixed")
    }


def figures() -> str:
    """The tables, for docs/results.md."""
    if not KEPT.exists():
        return "*Not run yet: `python -m benchmarks.evidence.imagenet_c`.*"
    found = read(KEPT)
    names = whole(found)
    rows = []
    for name in names:
        errors = summary(found[name], ALEXNET_REFERENCE)
        change, half = interval(found, name, BASELINE, ALEXNET_REFERENCE)
        rows.append(
            [
                name,
                f"{100 * errors['clean']:.1f}",
                f"{100 * errors['mean']:.1f}",
                f"{100 * errors['mce']:.1f}",
                f"{100 * errors['relative_mce']:.1f}",
                "" if name == BASELINE else f"{100 * change:+.1f} ± {100 * half:.1f}",
            ]
        )
    head = ["", "clean error, %", "mean error, %", "mCE, %", "relative mCE, %", "mCE, change"]
    return "\n\n".join([table(head, rows), by_corruption(found)])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser, IMAGES)
    given = parser.parse_args()
    network = efficientnet_lite0()
    every = given_systems(network, given.adapter, given.tuned) | adapting(network)
    measure(given, every, imagenet_val(network, given.images), given.kept or KEPT, size=BATCH)


if __name__ == "__main__":
    main()
