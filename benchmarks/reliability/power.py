"""Power cuts: commands whose folder is what a cut left, and who must finish with the same figures.

    python -m benchmarks.reliability.power [--states 25] [--minutes 30] [--seed 0]

Each of `run`, `rank`, `correct` and `distort` is followed while it writes (see `disk`): of every
moment, the folders that a power cut may leave are built, in which all writes are lost that the
command did not make to last. The same command is then started in some of them, drawn at random, and
must finish with the figures of one that was left alone. In no state may a file hold a part of what
was written to it, and after the command's end nothing may be lost: all states are looked at. Writes
benchmarks/results/reliability/power.json.
"""

from __future__ import annotations

import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability.cases import Clock, drawn, keep, make_data, options
from benchmarks.reliability.disk import Recorder, State, restore
from benchmarks.reliability.kills import alone_in_fork, checked, commands
from benchmarks.reliability.preloaded import Forked, called

OUT = "new/out"
"""The command's folder below the one that is followed; neither exists before."""

MAY_BE_CUT = ("log.jsonl",)
"""The files that are added to line by line."""

BAD = (
    "half-written files",
    "not finished",
    "figures differ",
    "temporary files left",
    "lost after the end",
)


@contextmanager
def followed(root: Path, found: Path) -> Iterator[None]:
    """Writes what power cuts may leave of a folder while the block runs: all, and in the end."""
    recorder = Recorder(root)
    try:
        with recorder.recording():
            yield
    finally:  # a command ends by SystemExit
        found.write_bytes(pickle.dumps((list(recorder.states.values()), recorder.last)))


def states_of(arguments: list[object], place: Path) -> tuple[list[State], list[State]]:
    """What power cuts may leave while a command works, and after its end."""
    root, found = place / "followed", place / "states"
    root.mkdir()
    ended = Forked([*arguments, "--out", root / OUT], followed(root, found)).ended()
    if ended is None or ended[0]:
        raise RuntimeError(f"{arguments[0]} failed undisturbed: {ended}")
    every, last = pickle.loads(found.read_bytes())  # of our own fork
    return every, last


def go_on(
    name: str, arguments: list[object], expected: dict[str, str], state: State
) -> Counter[str]:
    """Starts a command in what a power cut left of its folder, and looks at what it makes of it."""
    counts: Counter[str] = Counter(states=1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "disk"
        restore(state, root)
        done = called([*arguments, "--out", root / OUT])
        if done.returncode:
            counts["not finished"] += 1
            print(f"{name}: {done.stderr}\n{sorted(state)}", flush=True)
            return counts
        same = checked(name, root / OUT) == expected
        counts["figures differ"] += not same
        if not same:
            print(f"{name}: other figures after {sorted(state)}", flush=True)
        counts["temporary files left"] += sum(1 for _ in root.rglob(".*.tmp"))
    return counts


def half_written(states: list[State]) -> int:
    """How many files hold in one state the beginning, or nothing, of what they hold in another."""
    found: dict[str, set[bytes]] = {}
    for state in states:
        for path, content in state.items():
            name = path.rpartition("/")[2]
            if content is not None and name not in MAY_BE_CUT and not name.endswith(".tmp"):
                found.setdefault(path, set()).add(content)
    return sum(
        any(one != other and other.startswith(one) for one in contents for other in contents)
        for contents in found.values()
    )


def lost_in(name: str, expected: dict[str, str], last: list[State]) -> int:
    """In how many of the states after a command's end something is missing or different."""
    lost = 0
    for state in last:
        with tempfile.TemporaryDirectory() as place:
            restore(state, Path(place) / "disk")
            out = Path(place) / "disk" / OUT
            lost += not out.is_dir() or checked(name, out) != expected
    return lost


def main() -> None:
    sizes = options(__doc__ or "", states=25, minutes=30.0)
    clock = Clock(60 * sizes.minutes)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        every = commands(make_data(Path(place) / "data"))
        tries: list[list[tuple[str, State]]] = []
        expected: dict[str, dict[str, str]] = {}
        for name, given in every.items():
            expected[name], _ = alone_in_fork(name, given, Path(place) / "alone")
            (Path(place) / f"cut-{name}").mkdir()
            found, last = states_of(given, Path(place) / f"cut-{name}")
            counts[name] = Counter({"states built": len(found), "after the end": len(last)})
            counts[name]["half-written files"] += half_written(found)
            counts[name]["lost after the end"] += lost_in(name, expected[name], last)
            drawing = drawn(sizes.seed, name)
            chosen = drawing.sample(found, min(sizes.states, len(found)))
            tries.append([(name, state) for state in chosen])
        for number in range(sizes.states):  # in turn, so that each command has its share of them
            for name, state in (each[number] for each in tries if number < len(each)):
                if not clock.is_over:
                    counts[name].update(go_on(name, every[name], expected[name], state))
                    _keep(sizes.out, sizes.seed, clock, counts)
    _keep(sizes.out, sizes.seed, clock, counts, show=True)


def _keep(
    out: Path, seed: int, clock: Clock, counts: dict[str, Counter[str]], *, show: bool = False
) -> None:
    total = sum(counts.values(), Counter[str]())
    values: dict[str, Any] = {
        "seed": seed,
        "seconds": round(clock.spent, 1),
        "states_built": total["states built"],
        "states_gone_on_from": total["states"],
        "bad": {key: total[key] for key in BAD},
        "commands": {name: dict(sorted(each.items())) for name, each in counts.items()},
    }
    keep(out, "power", values, show=show)


if __name__ == "__main__":
    main()
