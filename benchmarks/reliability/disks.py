"""Disks that are full, and folders that cannot be written: one line, nothing half-written, go on.

    python -m benchmarks.reliability.disks [--sizes 12] [--minutes 20] [--seed 0]

Each command writes to a disk of another size, so that another of its writes is the first that
fails: a tmpfs where one can be mounted, else a limit on the size of files (RLIMIT_FSIZE). The
command must end with status 1 and one line, and leave no temporary file and no file that it cannot
read again; with room made, the same command must finish with the figures of one that always had
room. Commands are forks of a process that has imported their libraries. Writes
benchmarks/results/reliability/disks.json.
"""

from __future__ import annotations

import itertools
import resource
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability.cases import Clock, call, drawn, keep, make_data, options
from benchmarks.reliability.kills import alone_in_fork, checked, commands
from benchmarks.reliability.preloaded import called

READ_ONLY = ("/proc/out", "/sys/out", "/dev/null/out")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mounts a tmpfs of a size.

    Raises:
        OSError: This is not possible here.
    """
    folder.mkdir()
    size = f"size={kilobytes}k"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise OSError("no tmpfs can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def can_mount(place: Path) -> bool:
    """Whether a tmpfs can be mounted by this user on this machine."""
    try:
        with small_disk(place / "probe", 64):
            return True
    except OSError:
        return False


def make_room(folder: Path) -> None:
    """Lets a mounted disk grow."""
    grow = ["mount", "-o", "remount,size=64m", str(folder)]
    subprocess.run(grow, capture_output=True, check=True)


def _limit(kilobytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, resource.RLIM_INFINITY))


def one(
    name: str, arguments: list[object], expected: dict[str, str], kilobytes: int, *, mounts: bool
) -> Counter[str]:
    """Runs one command with little room, looks at what it left, and lets it go on with more."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        disk = Path(place) / "disk"
        out = disk / "out"
        given = [*arguments, "--out", out]
        if not mounts:
            disk.mkdir()
            done = call(*given, preexec_fn=lambda: _limit(kilobytes))
            _judge(done, out, counts)
            again = called(given)
            _compare(name, again, out, expected, counts)
            return counts
        with small_disk(disk, kilobytes):
            done = called(given)
            _judge(done, out, counts)
            make_room(disk)
            again = called(given)
            _compare(name, again, out, expected, counts)
    return counts


def _judge(done: subprocess.CompletedProcess[str], out: Path, counts: Counter[str]) -> None:
    if done.returncode == 0:
        counts["had room"] += 1
        return
    counts["failed writes"] += 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    counts["wrong status"] += done.returncode != 1
    counts["not one line"] += len(lines) != 1 or "Traceback" in done.stderr
    counts["temporary files left"] += sum(1 for _ in out.rglob(".*.tmp"))
    if done.returncode != 1 or len(lines) != 1:
        print(done.returncode, done.stderr, flush=True)


def _compare(
    name: str,
    done: subprocess.CompletedProcess[str],
    out: Path,
    expected: dict[str, str],
    counts: Counter[str],
) -> None:
    if done.returncode:
        counts["not finished"] += 1
        print(done.stderr, flush=True)
        return
    counts["figures differ"] += checked(name, out) != expected


BAD = ("wrong status", "not one line", "temporary files left", "not finished", "figures differ")


def main() -> None:
    sizes = options(__doc__ or "", sizes=12, minutes=20.0)
    clock = Clock(60 * sizes.minutes)
    with tempfile.TemporaryDirectory() as place:
        mounts = can_mount(Path(place))
        every = commands(make_data(Path(place) / "data"))
        alone: dict[str, tuple[dict[str, str], int]] = {}
        for name, given in every.items():
            expected, _ = alone_in_fork(name, given, Path(place))
            files = [path.stat().st_size for path in (Path(place) / name).rglob("*")]
            alone[name] = expected, sum(files) if mounts else max(files)
        counts: dict[str, Counter[str]] = {name: Counter() for name in every}
        for number, name in itertools.product(range(sizes.sizes), every):
            if clock.is_over:
                break
            expected, most = alone[name]
            share = (number + drawn(sizes.seed, name, number).random()) / sizes.sizes
            room = max(4, int(share * most) >> 10)
            counts[name].update(one(name, every[name], expected, room, mounts=mounts))
            print(name, room, dict(counts[name]), flush=True)
        total = sum(counts.values(), Counter[str]())
        refused = 0
        for given in every.values():
            for folder in READ_ONLY:
                done = call(*given, "--out", folder)
                refused += done.returncode == 1 and len(done.stderr.splitlines()) == 1
    values: dict[str, Any] = {
        "seed": sizes.seed,
        "seconds": round(clock.spent, 1),
        "by": "tmpfs" if mounts else "RLIMIT_FSIZE",
        "failed_writes": total["failed writes"],
        "bad": {key: total[key] for key in BAD},
        "commands": {name: dict(sorted(each.items())) for name, each in counts.items()},
        "read_only": {"tried": len(every) * len(READ_ONLY), "refused_in_one_line": refused},
    }
    keep(sizes.out, "disks", values)


if __name__ == "__main__":
    main()
