"""Commands that are killed at random moments and started again: nothing lost, the same figures.

    python -m benchmarks.reliability.kills [--kills 100] [--minutes 30] [--seed 0]

`run`, `rank`, `correct` and `distort` are killed by SIGKILL, SIGTERM or SIGINT after a random share
of the time that they take, started again, killed again, and in the end left to finish. Counted are
the kills that met a working command, the commands that did not finish afterwards, results that
differ from those of a command that was left alone, files that a later command could not read,
temporary files left in the end, and messages of more than a line. All but the first must be 0.
Writes benchmarks/results/reliability/kills.json.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.cases import (
    Clock,
    call,
    digest,
    drawn,
    keep,
    make_data,
    options,
    stopped,
)

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
MOST_IN_A_ROW = 4
"""After so many kills a command is left to finish."""

CHECKED = {
    "run": ("results.json", "history.json", "ideal.json", "examples.json", "adapter/"),
    "rank": ("ranking_levels.safetensors", "ranking.safetensors"),
    "correct": ("adapter_model.safetensors",),
    "distort": ("",),
}
"""The files of each command that must be as those of a command that was left alone."""


def commands(data: Path) -> dict[str, list[object]]:
    """The commands without their `--out`."""
    model = ["--model", "digits_cnn"]
    train = ["--data", f"folder:{data / 'train'}"]
    return {
        "run": ["run", data / "tiny.yaml", "--resume"],
        "rank": ["rank", *model, *train, "--distortion", "awgn:40", "--method", "swap_logprob"],
        "correct": [
            *("correct", *model, *train, "--distortion", "awgn:40", "--epochs", 3, "--keep"),
            *("--validation", f"folder:{data / 'validation'}"),
        ],
        "distort": [
            *("distort", "--data", f"folder:{data / 'test'}", "--distortion", "awgn:20,40"),
            *("--distortion", "gaussian_blur:1,2"),
        ],
    }


def checked(name: str, folder: Path) -> dict[str, str]:
    """The digests of the files that are compared; a ranking's header holds the time it took."""
    found = {
        path: value
        for path, value in digest(folder).items()
        if path.startswith(CHECKED[name]) and not path.endswith(("README.md", "config.json"))
    }
    if name == "rank":
        found["ranking_levels.safetensors"] = found["ranking.safetensors"]
    return found


def whole(name: str, arguments: list[object], place: Path) -> tuple[dict[str, str], float]:
    """What a command that is left alone writes, and how long it takes."""
    started = time.monotonic()
    done = call(*arguments, "--out", place / name)
    if done.returncode:
        raise RuntimeError(f"{name} failed undisturbed: {done.stderr}")
    return checked(name, place / name), time.monotonic() - started


def series(
    name: str, arguments: list[object], expected: dict[str, str], seconds: float, seed: int
) -> Counter[str]:
    """Kills one command again and again, and looks at what it wrote when it was left to finish."""
    counts: Counter[str] = Counter()
    choose = drawn(seed, name)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        given = [*arguments, "--out", out]
        for _ in range(choose.randint(1, MOST_IN_A_ROW)):
            kind = choose.choice(sorted(SIGNALS))
            met = stopped(given, choose.uniform(0.05, 1.1) * seconds, SIGNALS[kind])
            if met is None:
                counts["finished first"] += 1
                continue
            counts["kills"] += 1
            counts[kind] += 1
            status, error = met
            if kind == "SIGKILL":
                continue
            lines = error.strip().splitlines()
            counts["wrong status"] += status != 128 + SIGNALS[kind]
            counts["traceback"] += "Traceback" in error
            counts["no closing line"] += not (lines and lines[-1].startswith("stopped"))
        done = call(*given)
        if done.returncode:
            counts["not finished"] += 1
            print(f"{name}, seed {seed}: {done.stderr}", flush=True)
            return counts
        counts["series"] += 1
        found = checked(name, out)
        counts["figures differ"] += found != expected
        if found != expected:
            every = found.keys() | expected
            odd = [path for path in every if found.get(path) != expected.get(path)]
            print(f"{name}, seed {seed}: {odd}", flush=True)
        counts["temporary files left"] += sum(1 for _ in out.rglob(".*.tmp"))
        counts["written elsewhere"] += sum(1 for path in Path(place).iterdir() if path != out)
    return counts


BAD = (
    *("not finished", "figures differ", "temporary files left", "written elsewhere"),
    *("wrong status", "traceback", "no closing line"),
)


def main() -> None:
    sizes = options(__doc__ or "", kills=100, minutes=30.0)
    clock = Clock(60 * sizes.minutes)
    figures: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        data = make_data(Path(place) / "data")
        every = commands(data)
        alone = {name: whole(name, given, Path(place)) for name, given in every.items()}
        shutil.rmtree(Path(place) / "run")
        number = 0
        while sum(each["kills"] for each in figures.values()) < sizes.kills and not clock.is_over:
            name = tuple(every)[number % len(every)]
            found = series(name, every[name], *alone[name], sizes.seed + number)
            figures.setdefault(name, Counter()).update(found)
            number += 1
    total = sum(figures.values(), Counter[str]())
    values: dict[str, Any] = {
        "seed": sizes.seed,
        "seconds": round(clock.spent, 1),
        "kills": total["kills"],
        "bad": {key: total[key] for key in BAD},
        "commands": {name: dict(sorted(each.items())) for name, each in figures.items()},
        "seconds_alone": {name: round(seconds, 1) for name, (_, seconds) in alone.items()},
    }
    keep(sizes.out, "kills", values)


if __name__ == "__main__":
    main()
