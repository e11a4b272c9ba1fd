"""What was tried for the systems that do something at test time: ResNet-20, validation images.

    python -m benchmarks.evidence.test_time

The images are those of `data.validation_rows`, no test image. A run that was stopped goes on.
`make tables` shows the figures.
"""

from __future__ import annotations

from benchmarks.evidence.grid import RESULTS
from benchmarks.subjects import DISTORTIONS, cifar_network, cifar_rows
from deepcorrect.data import loader
from deepcorrect.evaluation import evaluate
from deepcorrect.experiments._recipe import DataSection
from deepcorrect.experiments._sections import TestTimeSection
from deepcorrect.experiments._test_time_systems import (
    NormAdaptationSystem,
    RestorationSystem,
    TentSystem,
)
from deepcorrect.runtime import files

FOUND = RESULTS / "test_time" / "results.json"
IMAGES = 1000
TENT_IMAGES = 2500
"""It needs more: it takes one step for each batch of 250, and begins anew at every level."""

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


def main() -> None:
    """The command."""
    network = cifar_network("resnet20")
    batch = DataSection.model_fields["batch_size"].default
    images = cifar_rows(network, 0, TENT_IMAGES)
    every, first = loader(images, batch), loader(images.select(range(IMAGES)), batch)
    found = files.read_json(FOUND) if FOUND.exists() else {}
    for name, system in TRIED.items():
        if name in found:
            continue
        shown = every if isinstance(system, TentSystem) else first
        grid = evaluate(system.build(network), shown, DISTORTIONS, 0, "auto", name)
        means = {kind: round(curve.mean_top1, 4) for kind, curve in grid.curves.items()}
        found[name] = {"clean": round(grid.clean_top1, 4), **means}
        print(f"{name}: {found[name]}", flush=True)
        FOUND.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(FOUND, {each: found[each] for each in TRIED if each in found})


if __name__ == "__main__":
    main()
