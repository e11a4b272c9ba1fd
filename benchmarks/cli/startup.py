"""Processor time until `deepcorrect` has answered where nothing has to be computed.

    python -m benchmarks.cli.startup [--runs 9]

Every call runs in a process of its own, the calls taking turns. The figures are medians of user and
system time in seconds, and the number of modules that were imported; they are written to
benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
from typing import get_args

import typer

from benchmarks.subjects import RESULTS
from deepcorrect.cli import COMMANDS
from deepcorrect.cli._list import Listed
from deepcorrect.runtime import files

LIMIT = 0.5
"""Seconds within which each of the calls shall answer."""

RUN = """
import sys
try:
    from deepcorrect.cli import main
    main()
finally:
    print(len(sys.modules), file=sys.stderr)
"""


def calls() -> list[list[str]]:
    """The command's arguments: help, version, and every list."""
    lists = [["list", what] for what in get_args(Listed)]
    return [["--help"], ["--version"], *lists, *([name, "--help"] for name in COMMANDS)]


def measure(program: str, arguments: list[str]) -> tuple[float, int]:
    """Processor time of a Python program, and the number that it prints last on stderr."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(done.stderr.split()[-1])


def main() -> None:
    """Measures all calls and writes the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    programs = {
        "python": ("import sys; print(len(sys.modules), file=sys.stderr)", []),
        "import deepcorrect": (
            "import sys, deepcorrect; print(len(sys.modules), file=sys.stderr)",
            [],
        ),
        **{f"deepcorrect {' '.join(each)}": (RUN, each) for each in calls()},
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in programs}
    for _ in range(runs + 1):  # the first run fills the caches and is left out
        for name, program in programs.items():
            found[name].append(measure(*program))
    seconds = {
        name: round(statistics.median(time for time, _ in each[1:]), 3)
        for name, each in found.items()
    }
    report = {
        "python": platform.python_version(),
        "typer": typer.__version__,
        "runs": runs,
        "limit_seconds": LIMIT,
        "slowest": max(seconds, key=lambda name: seconds[name]),
        "seconds": seconds,
        "modules": {name: each[-1][1] for name, each in found.items()},
    }
    for name, median in seconds.items():
        print(f"{median:.3f} s  {report['modules'][name]:4} modules  {name}")
    files.write_json(RESULTS / "startup.json", report)


if __name__ == "__main__":
    main()
