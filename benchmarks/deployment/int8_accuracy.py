"""Accuracy that eight bits cost, on validation images: networks alone, or with an adapter.

    python -m benchmarks.deployment.int8_accuracy [--adapter FOLDER] NETWORK [IMAGES]

NETWORK is resnet20 or allcnn (CIFAR-100), with 128 of the validation images to calibrate on and
others to measure with. Adds to `benchmarks/results/deployment/int8_accuracy.json`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import deepcorrect as dc
from benchmarks.kept import read_kept
from benchmarks.subjects import RESULTS, batches, cifar_network, cifar_rows
from deepcorrect.runtime import files

FILE = RESULTS / "deployment" / "int8_accuracy.json"
DISTORTIONS = ("gaussian_blur:1,2,3", "awgn:10,20,30")
CALIBRATION_IMAGES = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=("resnet20", "allcnn"))
    parser.add_argument("images", type=int, nargs="?", default=2000)
    parser.add_argument("--adapter")
    given = parser.parse_args()
    network = cifar_network(given.network)
    system = dc.load_adapter(network, given.adapter) if given.adapter else network
    with tempfile.TemporaryDirectory() as folder:
        done = dc.quantize(
            system,
            Path(folder) / "network.onnx",
            batches(cifar_rows(network, 0, CALIBRATION_IMAGES)),
            batches(cifar_rows(network, 1000, given.images)),
            DISTORTIONS,
        )
        record: dict[str, Any] = files.read_json(done.table)
    record = {"network": given.network, "corrected": given.adapter is not None, **record}
    results = read_kept(FILE)
    keys = ("network", "corrected")
    kept = [entry for entry in results if any(entry[key] != record[key] for key in keys)]
    files.write_json(FILE, [*kept, record])
    for name, grid in done.grids.items():
        levels = {kind: [f"{share:.3f}" for share in c.top1] for kind, c in grid.curves.items()}
        print(f"{name}: clean {grid.clean_top1:.4f}, {levels}")


if __name__ == "__main__":
    main()
