"""What was tried for the systems that do something at test time: ResNet-20, validation images.

    python -m benchmarks.evidence.test_time
    python -m benchmarks.evidence.test_time --mixed

The images are those of `data.validation_rows`, no test image. A run that was stopped goes on.
`make tables` shows the figures. With `--mixed`, the best of what was tried is measured on 1,000
other images of them, once sorted and once in a stream whose every batch has images of all
distortions and levels.
"""

from __future__ import annotations

import argparse

from benchmarks.evidence.grid import RESULTS
from benchmarks.evidence.streams import (
    accuracies,
    grid_cells,
    in_memory,
    right_mixed,
    right_sorted,
)
from benchmarks.subjects import DISTORTIONS, cifar_network, cifar_rows
from deepcorrect.data import loader
from deepcorrect.distortions import parse_all
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments._data import MOST_FOR_CHOICES
from deepcorrect.experiments._recipe import DataSection
from deepcorrect.experiments._sections import TestTimeSection
from deepcorrect.experiments._test_time_systems import (
    EataSystem,
    NormAdaptationSystem,
    RestorationSystem,
    TentSystem,
)
from deepcorrect.networks import Classifier
from deepcorrect.runtime import files

FOUND = RESULTS / "test_time" / "results.json"
IMAGES = 1000
TENT_IMAGES = 2500
"""It needs more: it takes one step for each batch of 250, and begins anew at every level."""
EATA_IMAGES, EATA_BATCH = 500, 50
"""As many steps, with less to compute; the authors' batches have 64 images."""
MIXED_BATCH = 100
MIXED_LEVELS = ("gaussian_blur:1,2,3", "awgn:10,20,30")

TRIED: dict[str, TestTimeSection] = {
    **{
        f"norm adaptation, prior {prior}": NormAdaptationSystem(
            method="norm_adaptation", prior=prior
        )
        for prior in (0, 4, 16, 64, 256, 1024)
    },
    **{
        f"norm adaptation of 32 images, prior {prior}": NormAdaptationSystem(
            method="norm_adaptation", prior=prior, images=32
        )
        for prior in (0, 8, 16, 32, 64, 128)
    },
    **{
        f"TENT, learning rate {rate:g}": TentSystem(method="tent", learning_rate=rate)
        for rate in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    },
    **{
        f"EATA, learning rate {rate:g}": EataSystem(method="eata", learning_rate=rate)
        for rate in (5e-3, 2e-2, 5e-2)
    },
    **{
        f"restoration, smoothing {smoothing}, balance {balance:g}": RestorationSystem(
            method="restoration", smoothing=smoothing, balance=balance
        )
        # one acts on noise, the other on blur
        for smoothing, balance in (
            (0.4, 1e-7),
            (0.5, 1e-6),
            (0.55, 1e-8),
            (0.58, 1e-11),
            (0.6, 1e-5),
            (0.62, 1e-12),
            (0.65, 1e-9),
            (0.7, 1e-10),
            (0.8, 1e-4),
            (1.0, 1e-3),
        )
    },
}
"""By their names in the table; the recipe of the alternatives has the best of each."""


MIXED_FOUND = RESULTS / "test_time" / "mixed.json"
MIXED: dict[str, TestTimeSection | None] = {
    "network as it is": None,
    "batch-norm statistics of the batch": NormAdaptationSystem(method="norm_adaptation"),
    "batch-norm statistics of 32 images": NormAdaptationSystem(method="norm_adaptation", images=32),
    "TENT": TentSystem(method="tent", learning_rate=1e-2),
    "EATA": EataSystem(method="eata"),
}
"""The best of what was tried, sorted, for each."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixed", action="store_true")
    network = cifar_network("resnet20")
    if parser.parse_args().mixed:
        measure_mixed(network)
    else:
        measure_tried(network)


def measure_tried(network: Classifier) -> None:
    """All that was tried, sorted."""
    batch = DataSection.model_fields["batch_size"].default
    images = cifar_rows(network, 0, TENT_IMAGES)
    every, first = loader(images, batch), loader(images.select(range(IMAGES)), batch)
    clean = loader(cifar_rows(network, TENT_IMAGES, MOST_FOR_CHOICES), batch)
    found = files.read_json(FOUND) if FOUND.exists() else {}
    for name, system in TRIED.items():
        if name in found:
            continue
        shown = first
        if isinstance(system, TentSystem):
            shown = every
        elif isinstance(system, EataSystem):
            shown = loader(images.select(range(EATA_IMAGES)), EATA_BATCH)
        grid = evaluate(system.build(network, clean), shown, DISTORTIONS, 0, "auto", name)
        means = {kind: round(curve.mean_top1, 4) for kind, curve in grid.curves.items()}
        found[name] = {"clean": round(grid.clean_top1, 4), **means}
        print(f"{name}: {found[name]}", flush=True)
        FOUND.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(FOUND, {each: found[each] for each in TRIED if each in found})


def measure_mixed(network: Classifier) -> None:
    """The best of each, sorted and mixed."""
    batch = MIXED_BATCH
    clean = loader(cifar_rows(network, TENT_IMAGES, MOST_FOR_CHOICES), batch)
    images = cifar_rows(network, TENT_IMAGES + MOST_FOR_CHOICES, IMAGES)
    pair = in_memory(images)
    kinds = parse_all(MIXED_LEVELS, network.preprocessing.input_size)
    found = files.read_json(MIXED_FOUND) if MIXED_FOUND.exists() else {}
    for name, system in MIXED.items():
        if name in found:
            continue
        model = network if system is None else system.build(network, clean)
        cells = grid_cells(kinds)
        ordered = right_sorted({name: model}, pair, cells, 0, batch, "auto", name)[name]
        unsorted = right_mixed(model, pair, cells, 0, batch, "auto", f"{name}, mixed")
        found[name] = {
            "sorted": accuracies(ordered, kinds),
            "mixed": accuracies(unsorted, kinds),
        }
        print(f"{name}: {found[name]}", flush=True)
        files.write_json(MIXED_FOUND, found)


if __name__ == "__main__":
    main()
