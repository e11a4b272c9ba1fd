"""The highest memory of commands, by the number of images, of files and of levels: it stays flat.

    python -m benchmarks.reliability.memory [--images 4000]

Each command runs in a process of its own, whose highest resident memory the system reports:
`predict` on folders, `evaluate` by the number of images and of levels, `rank`, and `distort`. The
smallest size is a sixteenth of the largest. Writes benchmarks/results/reliability/memory.json.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.reliability.cases import COMMAND, draw_digits, environment, keep, options

SHARES = (16, 4, 1)
LEVELS = (1, 4, 16)


def peak(*arguments: object) -> float:
    """The highest resident memory of a command, in MB.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment(),
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode())
    return round(usage.ru_maxrss / 1024, 1)


def main() -> None:
    sizes = options(__doc__ or "", images=4000)
    started = time.monotonic()
    figures: dict[str, dict[str, float]] = {}
    model = ["--model", "digits_cnn"]
    with tempfile.TemporaryDirectory() as place:
        for share in SHARES:
            each = sizes.images // share // 10
            data = draw_digits(Path(place) / str(each), each=each)
            count, source = str(each * 10), ["--data", f"folder:{data}"]
            distortion = ["--distortion", "awgn:40"]
            commands: dict[str, list[object]] = {
                "predict, images": ["predict", data, *model],
                "evaluate, images": ["evaluate", *model, *source, *distortion],
                "rank, images": ["rank", *model, *source, *distortion, "--images", count],
                "distort, images": [
                    *("distort", *source, *distortion, "--out", Path(place) / f"out-{each}")
                ],
            }
            for name, given in commands.items():
                figures.setdefault(name, {})[count] = peak(*given)
        source = ["--data", f"folder:{Path(place) / str(sizes.images // 10)}"]
        for levels in LEVELS:
            grid = "awgn:" + ",".join(str(10 + 5 * level) for level in range(levels))
            given = ["evaluate", *model, *source, "--distortion", grid, "--images", 400]
            figures.setdefault("evaluate, levels", {})[str(levels)] = peak(*given)
    growth = {
        name: round([*by_size.values()][-1] / next(iter(by_size.values())), 3)
        for name, by_size in figures.items()
    }
    values: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 1),
        "peak_mb": figures,
        "growth_over_16_times": growth,
    }
    keep(sizes.out, "memory", values)


if __name__ == "__main__":
    main()
