"""`predict` that reads names from standard input for a long time: same answers, flat memory.

    python -m benchmarks.reliability.soak [--minutes 60] [--seed 0]

The names of the same pictures, of pictures that are damaged and of pictures that do not exist are
given again and again in random order, as fast as they are answered. Each answer must be that of the
first time; names that cannot be read must be left out; memory is looked at every 5 seconds. Writes
benchmarks/results/reliability/soak.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.cases import COMMAND, draw_digits, drawn, environment, keep, options

EVERY_SECONDS = 5.0
AT_ONCE = 64
"""Names that are given before the answers to earlier ones are waited for."""


def resident(pid: int) -> float:
    """The resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def soak(data: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Feeds names for some seconds, and compares the answers."""
    good = sorted(str(path) for path in data.rglob("*.png"))
    bad = [str(data / "damaged.png"), str(data / "nowhere.png")]
    Path(bad[0]).write_bytes(Path(good[0]).read_bytes()[:60])
    process = subprocess.Popen(
        [*COMMAND, "predict", "-", "--model", "digits_cnn", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    room = threading.Semaphore(AT_ONCE)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:  # of one JSON list, an answer a line
            text = line.strip().lstrip("[").rstrip(",]")
            if not text:
                continue
            name = json.loads(text)["file"]
            counts["answers"] += 1
            counts["wrong"] += first.setdefault(name, text) != text or name in bad
            room.release()

    reader = threading.Thread(target=read)
    reader.start()
    memory: list[float] = []
    choose, started, looked = drawn(seed, "soak"), time.monotonic(), 0.0
    while (now := time.monotonic() - started) < seconds:
        if now - looked >= EVERY_SECONDS and counts["answers"]:
            looked = now
            memory.append(round(resident(process.pid), 1))
        if choose.random() < 0.01:
            process.stdin.write(choose.choice(bad) + "\n")
            counts["bad names"] += 1
            continue
        if not room.acquire(timeout=1.0):
            process.stdin.flush()
            continue
        process.stdin.write(choose.choice(good) + "\n")
        counts["names"] += 1
    process.stdin.close()
    status = process.wait(timeout=300)
    reader.join()
    counts["unanswered"] = counts["names"] - counts["answers"]
    part = max(1, len(memory) // 4)
    return {
        "answers": counts["answers"],
        "bad_names": counts["bad names"],
        "status": status,
        "bad": {"wrong": counts["wrong"], "unanswered": counts["unanswered"]},
        "memory_mb": {
            "first quarter": statistics.median(memory[:part]) if memory else None,
            "last quarter": statistics.median(memory[-part:]) if memory else None,
        },
    }


def main() -> None:
    sizes = options(__doc__ or "", minutes=60.0)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        data = draw_digits(Path(place) / "data", each=5)
        found = soak(data, 60 * sizes.minutes, sizes.seed)
    seconds = round(time.monotonic() - started, 1)
    keep(sizes.out, "soak", {"seed": sizes.seed, "seconds": seconds, **found})


if __name__ == "__main__":
    main()
