"""Memory of sets of images: what one holds before an image is read, and what reading adds.

    python -m benchmarks.data.memory

writes benchmarks/results/data/memory.json. Each measurement runs in a process of its own.

- `held`: bytes an image of a set with names as ImageNet's, by number of images, in compact columns
  and, side by side, as lists of Python's strings, paths and numbers.
- `peak`: resident memory at its highest while every image of a tar stream, and of a folder, is
  decoded once, by number of images; the images are 64 x 64 JPEGs, the shards made for it.
"""

from __future__ import annotations

import gc
import io
import json
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
from PIL import Image

from deepcorrect.data import (
    ImageSet,
    IntegerColumn,
    Preprocessing,
    StringColumn,
    loader,
    open_dataset,
)
from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "data" / "memory.json"
HELD_IMAGES = (10_000, 100_000, 1_281_167)
READ_IMAGES = (2_000, 8_000, 32_000)
SIDE = 64
FIT = Preprocessing(SIDE, (0.5,) * 3, (0.5,) * 3)


def name(row: int) -> str:
    return f"n{row % 1000:08}/n{row % 1000:08}_{row}.JPEG"


def read(row: int) -> Image.Image:
    raise OSError(row)


def held(form: str, count: int) -> float:
    """Bytes an image that a set holds."""
    gc.collect()
    tracemalloc.start()
    if form == "columns":
        names = StringColumn(map(name, range(count)))
        kept: object = ImageSet("x", read, IntegerColumn(np.arange(count) % 1000), names, FIT)
    else:
        paths = [Path("/data/imagenet/train") / name(row) for row in range(count)]
        kept = paths, [str(path) for path in paths], [row % 1000 for row in range(count)]
    gc.collect()
    total = tracemalloc.get_traced_memory()[0]
    del kept
    return total / count


def write(folder: Path, count: int) -> None:
    """`count` JPEGs in shards of 1,000, and the same in folders."""
    generator = np.random.default_rng(0)
    contents = []
    for _ in range(16):
        buffer = io.BytesIO()
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    for first in range(0, count, 1000):
        with tarfile.open(folder / f"{first:08}.tar", "w") as archive:
            for row in range(first, min(first + 1000, count)):
                for part, content in (("jpg", contents[row % 16]), ("cls", b"%d" % (row % 10))):
                    member = tarfile.TarInfo(f"{row:08}.{part}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    for row in range(count):
        place = folder / "images" / str(row % 10)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row}.jpg").write_bytes(contents[row % 16])


def peak(spec: str, shuffle: bool) -> float:
    """Megabytes of resident memory at the highest."""
    seen = sum(len(labels) for _, labels in loader(open_dataset(spec, FIT), 64, shuffle=shuffle))
    if not seen:
        raise RuntimeError(spec)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(*arguments: object) -> float:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data.memory", *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    held_bytes = {
        form: {str(count): round(measured("held", form, count), 1) for count in HELD_IMAGES}
        for form in ("columns", "lists")
    }
    print(json.dumps(held_bytes))
    peaks: dict[str, dict[str, float]] = {}
    for count in READ_IMAGES:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place), count)
            for form, spec, shuffle in (
                ("shards", f"webdataset:{place}/*.tar", 0),
                ("shards, shuffled", f"webdataset:{place}/*.tar", 1),
                ("folder", f"folder:{place}/images", 0),
            ):
                found = round(measured("peak", spec, shuffle), 1)
                peaks.setdefault(form, {})[str(count)] = found
                print(form, count, found)
    record = {
        "held_bytes_an_image": held_bytes,
        "peak_megabytes": peaks,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    files.write_json(RESULTS, record)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "held":
        print(held(sys.argv[2], int(sys.argv[3])))
    else:
        print(peak(sys.argv[2], bool(int(sys.argv[3]))))
