"""Processor time and memory of each command by the number of images, and of filters.

    python -m benchmarks.scaling.commands

writes benchmarks/results/scaling/commands.json and the table of docs/scaling.md. Each measurement
runs in a process of its own with one thread, on PNGs of 32 x 32 random pixels in shards, with a
ResNet-20 of random weights: neither time nor memory depends on what pictures show. Times are of
the processor, without imports, so that other work on the machine does not count. The time for the
first 64 images holds what is done once. Beyond it, the exponent b of time ~ images^b is that of the
two larger numbers of images. It is a check of what the commands do by construction, b = 1, with
which the time for a million images is extrapolated.
"""

from __future__ import annotations

import io
import json
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import deepcorrect as dc
from benchmarks import pages
from deepcorrect.distortions import stored
from deepcorrect.networks import find
from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "scaling" / "commands.json"
SIDE, BATCH = 32, 64
COUNTS = (64, 192, 320)
GRID = ["gaussian_blur:1,2,3", "awgn:10,30,50"]
MILLION = 1_000_000
SWAPPED_IMAGES, SITES = 32, (2, 7)
"""The images of a ranking by swap, and the numbers of sites whose filters it ranks."""


def write(folder: Path, count: int) -> None:
    """PNGs with labels, in shards of 64 and in folders."""
    generator = np.random.default_rng(0)
    for first in range(0, count, 64):
        with tarfile.open(folder / f"{first:08}.tar", "w") as archive:
            for row in range(first, first + 64):
                pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                content = buffer.getvalue()
                for part, data in (("png", content), ("cls", b"%d" % (row % 100))):
                    member = tarfile.TarInfo(f"{row:08}.{part}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                place = folder / "images" / f"{row % 100:03}"
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{row:08}.png").write_bytes(content)


def evaluate(model: dc.Classifier, folder: Path) -> None:
    images = dc.open_dataset(f"webdataset:{folder}/*.tar", model.preprocessing)
    dc.evaluate(model, dc.loader(images, BATCH), GRID)


def rank(model: dc.Classifier, folder: Path) -> None:
    images = dc.open_dataset(f"webdataset:{folder}/*.tar", model.preprocessing)
    dc.rank(model, dc.loader(images, BATCH), GRID, "conductance")


def swap(model: dc.Classifier, folder: Path, sites: int) -> None:
    images = dc.open_dataset(f"webdataset:{folder}/*.tar", model.preprocessing)
    some = dc.loader(images.sample(SWAPPED_IMAGES), BATCH)
    dc.rank(model, some, ["gaussian_blur:2"], "swap", list(find(model))[:sites])


def train(model: dc.Classifier, folder: Path) -> None:
    images = dc.open_dataset(f"folder:{folder}/images", model.preprocessing)
    sites = {f"layer{stage}.{block}": range(0, 8) for stage in (1, 2, 3) for block in (0, 1, 2)}
    adapted = dc.correct(model, sites, unit="bottleneck", image=(3, SIDE, SIDE))
    dc.fit(adapted, dc.loader(images, BATCH, shuffle=True), GRID, epochs=1, precision="float32")


def distort(model: dc.Classifier, folder: Path) -> None:
    del model
    with tempfile.TemporaryDirectory() as out:
        stored.write_distorted(f"folder:{folder}/images", GRID, Path(out) / "copies")


def transfer(model: dc.Classifier, folder: Path) -> None:
    images = dc.open_dataset(f"folder:{folder}/images", model.preprocessing)
    batches = dc.loader(images, BATCH)
    dc.feature_transfer(model, batches, batches, GRID, penalties=[1.0])


WORK: dict[str, Callable[[dc.Classifier, Path], None]] = {
    "evaluate, clean and six levels": evaluate,
    "rank, conductance, six levels": rank,
    "correct, one epoch, units at nine blocks": train,
    "distort, six levels, PNG": distort,
    "transfer, six levels, one C": transfer,
}


def filters(sites: int) -> int:
    """The filters of the first sites."""
    found = list(find(dc.load_model("cifar_resnet20", weights="random")).values())
    return sum(next(site.parameters()).shape[0] for site in found[:sites])


def alone(name: str, folder: Path) -> None:
    """One measurement: prints seconds and megabytes as JSON."""
    torch.set_num_threads(1)
    model = dc.load_model("cifar_resnet20", weights="random")
    started = time.process_time()
    if name in WORK:
        WORK[name](model, folder)
    else:
        swap(model, folder, int(name))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, peak]))


def measured(name: str, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.scaling.commands", name, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def summary(seconds: Mapping[int, float], peaks: Mapping[int, float]) -> dict[str, float]:
    """The exponent, and the time for a million images if it is one."""
    first, *others = sorted(seconds)
    more = [count - first for count in others]
    longer = [seconds[count] - seconds[first] for count in others]
    exponent = float(np.diff(np.log(longer))[0] / np.diff(np.log(more))[0])
    last = others[-1]
    whole = seconds[first] + longer[-1] * (MILLION - first) / more[-1]
    return {
        "exponent": round(exponent, 2),
        "hours_per_million": round(whole / 3600, 1),
        "peak_mb_before": round(peaks[others[0]]),
        "peak_mb": round(peaks[last]),
    }


def main() -> None:
    seconds: dict[str, dict[int, float]] = {name: {} for name in WORK}
    peaks: dict[str, dict[int, float]] = {name: {} for name in WORK}
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place), count)
            for name in WORK:
                found = measured(name, Path(place))
                seconds[name][count], peaks[name][count] = (round(each, 2) for each in found)
                print(count, name, *found)
    with tempfile.TemporaryDirectory() as place:
        write(Path(place), COUNTS[0])
        swapped = {filters(sites): measured(str(sites), Path(place))[0] for sites in SITES}
        print(swapped)
    rows = {name: summary(seconds[name], peaks[name]) for name in WORK}
    files.write_json(
        RESULTS,
        {
            "machine": platform.machine(),
            "torch": torch.__version__,
            "seconds": seconds,
            "peak_mb": peaks,
            "summary": rows,
            "swap_seconds_by_filters": {str(k): round(v, 2) for k, v in swapped.items()},
        },
    )
    fill(rows, seconds)
    (few, short), (many, long) = swapped.items()
    each = (long - short) / (many - few) / SWAPPED_IMAGES
    text = (
        f"`rank --method swap` on {SWAPPED_IMAGES} images and one level took {short:.1f} s for "
        f"{few} filters and {long:.1f} s for {many}: {1000 * each:.1f} ms more for each filter, "
        f"image and level, or {each * 1e6 / 3600:.1f} hours for 1,000 filters on 1,000 images at "
        "one level."
    )
    pages.fill(pages.DOCS / "scaling.md", {"filters": text})


def fill(
    rows: Mapping[str, Mapping[str, float]], seconds: Mapping[str, Mapping[int, float]]
) -> None:
    """Writes the table of the page."""
    last = COUNTS[-1]
    head = (
        *("command", f"s for {last:,} images", "exponent", "h for 1,000,000"),
        f"peak MB for {COUNTS[1]} -> {last} images",
    )
    cells = [
        [
            name,
            f"{seconds[name][last]:.1f}",
            f"{row['exponent']:.2f}",
            f"{row['hours_per_million']:.1f}",
            f"{row['peak_mb_before']:.0f} -> {row['peak_mb']:.0f}",
        ]
        for name, row in rows.items()
    ]
    pages.fill(pages.DOCS / "scaling.md", {"commands": pages.table(head, cells)})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        alone(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
