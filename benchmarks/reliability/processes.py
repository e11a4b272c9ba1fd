"""Two processes on one folder: one works, or both in turn, and what is written is whole.

    python -m benchmarks.reliability.processes [--rounds 6] [--seed 0]

Each command is started twice with the same `--out`, the second a random moment after the first.
Either may refuse with one line. In every second round the first is killed, and the second must not
wait for a dead process. In the end the same command finishes, and its figures are those of a
command that was alone. Writes benchmarks/results/reliability/processes.json.
"""

from __future__ import annotations

import itertools
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.cases import Clock, drawn, keep, make_data, options
from benchmarks.reliability.kills import alone_in_fork, checked, commands
from benchmarks.reliability.preloaded import Forked, called


def one_round(
    name: str, arguments: list[object], expected: dict[str, str], seconds: float, seed: int
) -> Counter[str]:
    """Starts a command twice, kills one of the two in every second round, and looks."""
    counts: Counter[str] = Counter()
    choose = drawn(seed, name)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        given = [*arguments, "--out", out]
        first = Forked(given)
        time.sleep(choose.uniform(0, 0.8) * seconds)
        second = Forked(given)
        if seed % 2:
            time.sleep(choose.uniform(0, 0.5) * seconds)
            first.send_signal(signal.SIGKILL)
            counts["killed"] += 1
        for process in (first, second):
            ended = process.ended()
            if ended is None:
                raise TimeoutError(f"{name} does not end beside another")
            status, error = ended
            if status == 0:
                counts["finished"] += 1
            elif status == 1:
                lines = [line for line in error.splitlines() if line.startswith("error")]
                counts["refused"] += 1
                counts["not one line"] += len(lines) != 1 or "Traceback" in error
            elif status != -signal.SIGKILL:
                counts["other status"] += 1
        done = called(given)
        if done.returncode:
            counts["not finished"] += 1
            print(f"{name}: {done.stderr}", flush=True)
            return counts
        counts["figures differ"] += checked(name, out) != expected
        counts["temporary files left"] += sum(1 for _ in out.rglob(".*.tmp"))
    return counts


BAD = ("not one line", "other status", "not finished", "figures differ", "temporary files left")


def main() -> None:
    sizes = options(__doc__ or "", rounds=6, minutes=20.0)
    clock = Clock(60 * sizes.minutes)
    rounds = 0
    with tempfile.TemporaryDirectory() as place:
        every = commands(make_data(Path(place) / "data"))
        alone = {name: alone_in_fork(name, given, Path(place)) for name, given in every.items()}
        counts: dict[str, Counter[str]] = {name: Counter() for name in every}
        for number, name in itertools.product(range(sizes.rounds), every):
            if clock.is_over:
                break
            rounds += 1
            found = one_round(name, every[name], *alone[name], sizes.seed + number)
            counts[name].update(found)
            print(name, dict(found), flush=True)
        total = sum(counts.values(), Counter[str]())
    values: dict[str, Any] = {
        "seed": sizes.seed,
        "seconds": round(clock.spent, 1),
        "rounds": rounds,
        "bad": {key: total[key] for key in BAD},
        "commands": {name: dict(sorted(each.items())) for name, each in counts.items()},
    }
    keep(sizes.out, "processes", values)


if __name__ == "__main__":
    main()
