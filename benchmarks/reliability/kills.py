"""Commands that are killed at random moments and started again: nothing lost, the same figures.

    python -m benchmarks.reliability.kills [--kills 100] [--minutes 60] [--cold 8] [--seed 0]

`run`, `rank`, `correct` and `distort` are killed by SIGKILL, SIGTERM or SIGINT after a random share
of the time that they take, started again, killed again, and in the end left to finish. One of eight
(`--cold`) starts is that of a new Python process; the others are forks of one that has imported all
libraries, so that nearly all kills meet work. Counted are the kills that met a working command, the
commands that did not finish afterwards, results that differ from those of a command that was left
alone, files that a later command could not read, temporary files left in the end, and messages of
more than a line. All but the first must be 0. Writes benchmarks/results/reliability/kills.json
after each series.
"""

from __future__ import annotations

import argparse
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
from benchmarks.reliability.preloaded import Forked, called, preload

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
MOST_IN_A_ROW = 6
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
    if name == "rank" and "ranking_levels.safetensors" in found:
        found["ranking_levels.safetensors"] = found.get("ranking.safetensors", "")
    return found


def whole(name: str, arguments: list[object], place: Path) -> tuple[dict[str, str], float]:
    """What a command that is left alone writes, and how long it takes."""
    started = time.monotonic()
    done = call(*arguments, "--out", place / name)
    if done.returncode:
        raise RuntimeError(f"{name} failed undisturbed: {done.stderr}")
    return checked(name, place / name), time.monotonic() - started


def killed(
    given: list[object], after: float, number: signal.Signals, *, cold: bool
) -> tuple[int, str] | None:
    """Starts a command, in a new process or a fork, and sends it a signal after some seconds.

    Returns:
        Its exit status and stderr; None if it had ended before.
    """
    if cold:
        return stopped(given, after, number)
    command = Forked(given)
    ended = command.ended(after)
    if ended is None:
        command.send_signal(number)
        ended = command.ended()
    if ended is None:
        raise TimeoutError(f"{given[0]} does not end at {number.name}")
    return None if ended[0] == 0 else ended


def alone_in_fork(name: str, arguments: list[object], place: Path) -> tuple[dict[str, str], float]:
    """As `whole`, in a fork of this process, which has imported the command's libraries then."""
    seconds = preload([*arguments, "--out", place / name])
    return checked(name, place / name), seconds


def series(
    name: str,
    arguments: list[object],
    expected: dict[str, str],
    seconds: float,
    seed: int,
    cold: int = 0,
    cold_seconds: float = 0.0,
) -> Counter[str]:
    """Kills one command again and again, and looks at what it wrote when it was left to finish.

    Args:
        name: The command's.
        arguments: The command without `--out`.
        expected: The digests of what it writes if it is left alone.
        seconds: The time of a fork that is left alone.
        seed: Of the random moments.
        cold: One of so many starts is that of a new process; 0 for none.
        cold_seconds: The time of a new process that is left alone.
    """
    counts: Counter[str] = Counter()
    choose = drawn(seed, name)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        given = [*arguments, "--out", out]
        for _ in range(choose.randint(1, MOST_IN_A_ROW)):
            kind = choose.choice(sorted(SIGNALS))
            anew = cold > 0 and not choose.randrange(cold)
            after = choose.uniform(0.02, 1.0) * (cold_seconds if anew else seconds)
            met = killed(given, after, SIGNALS[kind], cold=anew)
            if met is None:
                counts["finished first"] += 1
                continue
            counts["kills"] += 1
            counts["kills of new processes"] += anew
            counts[kind] += 1
            judge(kind, *met, counts)
        anew = cold > 0 and not choose.randrange(cold)
        done = call(*given) if anew else called(given)
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


def judge(kind: str, status: int, error: str, counts: Counter[str]) -> None:
    """Counts what is wrong with how a command ended at a signal."""
    if kind == "SIGKILL":
        counts["wrong status"] += status != -signal.SIGKILL
        return
    lines = error.strip().splitlines()
    wrong = {
        "wrong status": status != 128 + SIGNALS[kind],
        "traceback": "Traceback" in error,
        "no closing line": not (lines and lines[-1].startswith("stopped")),
    }
    counts.update({key: int(value) for key, value in wrong.items()})
    if any(wrong.values()):
        print(f"{kind}: status {status}: {error}", flush=True)


BAD = (
    *("not finished", "figures differ", "temporary files left", "written elsewhere"),
    *("wrong status", "traceback", "no closing line"),
)


def main() -> None:
    sizes = options(__doc__ or "", kills=100, minutes=60.0, cold=8)
    clock = Clock(60 * sizes.minutes)
    figures: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        every = commands(make_data(Path(place) / "data"))
        anew = {name: whole(name, given, Path(place)) for name, given in every.items()}
        forked: dict[str, float] = {}
        for name, given in every.items():
            found, forked[name] = alone_in_fork(name, given, Path(place) / "forked")
            if found != anew[name][0]:
                raise RuntimeError(f"{name} writes something else in a fork")
        number = 0
        while sum(each["kills"] for each in figures.values()) < sizes.kills and not clock.is_over:
            name = tuple(every)[number % len(every)]
            expected, seconds = anew[name]
            given = name, every[name], expected, forked[name], sizes.seed + number
            found = series(*given, sizes.cold, seconds)
            figures.setdefault(name, Counter()).update(found)
            number += 1
            _keep(sizes, clock, figures, {name: each for name, (_, each) in anew.items()}, forked)


def _keep(
    sizes: argparse.Namespace,
    clock: Clock,
    figures: dict[str, Counter[str]],
    anew: dict[str, float],
    forked: dict[str, float],
) -> None:
    total = sum(figures.values(), Counter[str]())
    values: dict[str, Any] = {
        "seed": sizes.seed,
        "seconds": round(clock.spent, 1),
        "kills": total["kills"],
        "kills_of_new_processes": total["kills of new processes"],
        "signals": {name: total[name] for name in SIGNALS},
        "bad": {key: total[key] for key in BAD},
        "commands": {name: dict(sorted(each.items())) for name, each in figures.items()},
        "seconds_alone": {name: round(seconds, 1) for name, seconds in anew.items()},
        "seconds_alone_in_a_fork": {name: round(each, 2) for name, each in forked.items()},
    }
    keep(sizes.out, "kills", values, show=False)
    print(total["kills"], values["bad"], flush=True)


if __name__ == "__main__":
    main()
