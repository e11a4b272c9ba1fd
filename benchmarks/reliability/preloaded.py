"""Commands that start at once: forks of a process that has imported what they import.

Most of the time of a tiny command is spent on imports, where a kill meets nothing that could be
lost. A fork of a process with all libraries spends its time on the command's own work. Nothing is
computed in the process that is forked, so that each fork begins as a new process does.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from deepcorrect.cli import _stopping

_FORK = multiprocessing.get_context("fork")
READY = b"ready\n"


class Forked:
    """A command in a fork of this process; the like of `subprocess.Popen`.

    Args:
        arguments: those of the command.
        during: a context in which it works.
    """

    def __init__(
        self, arguments: Sequence[object], during: AbstractContextManager[object] | None = None
    ) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `ended`)
        reading, writing = os.pipe()
        given = (list(map(str, arguments)), self._said.fileno(), writing, during or nullcontext())
        self._process = _FORK.Process(target=_work, args=given)
        self._process.start()
        os.close(writing)
        os.read(reading, len(READY))  # signals before that would meet no command
        os.close(reading)

    def ended(self, seconds: float = 600.0) -> tuple[int, str] | None:
        """Its status and its stderr once it has ended; None if it works on after some seconds."""
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            return None
        self._said.seek(0)
        with self._said:
            return status, self._said.read().decode(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it has ended."""
        if self._process.is_alive():
            os.kill(self._process.pid or 0, number)


def _work(
    arguments: list[str], errors: int, ready: int, during: AbstractContextManager[object]
) -> None:
    """What a fork does: the command, with its own stdout and stderr."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(errors, 2)
    sys.argv = ["deepcorrect", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with _stopping.in_charge():  # as `deepcorrect.cli.main`
        from deepcorrect.cli._app import main  # noqa: PLC0415

        os.write(ready, READY)
        os.close(ready)
        with during:
            main()


@contextmanager
def _listing_modules(path: Path) -> Iterator[None]:
    """Writes the names of the modules that the process has imported by the end of the block."""
    try:
        yield
    finally:
        path.write_text("\n".join(sys.modules), encoding="utf-8")


def called(arguments: Sequence[object], seconds: float = 600.0) -> subprocess.CompletedProcess[str]:
    """Runs a command in a fork to its end."""
    ended = Forked(arguments).ended(seconds)
    if ended is None:
        raise TimeoutError(f"{arguments[0]} took more than {seconds:.0f} s")
    return subprocess.CompletedProcess([*map(str, arguments)], ended[0], "", ended[1])


def import_all(names: Iterable[str]) -> None:
    """Imports modules that a command has imported; those that cannot be imported alone are left."""
    for name in names:
        if name.startswith(("__", "torch.ops", "torch.classes")):
            continue
        try:
            importlib.import_module(name)
        except Exception:  # it is imported where it is needed
            continue


def preload(arguments: Sequence[object]) -> float:
    """Imports in this process what a command imports, and runs the command again in a fork.

    Args:
        arguments: those of the command, whose last is its output folder.

    Returns:
        How many seconds the second start took.
    """
    with tempfile.TemporaryDirectory() as place:
        names = Path(place) / "modules"
        ended = Forked([*arguments[:-1], Path(place) / "out"], _listing_modules(names)).ended()
        if ended is None or ended[0]:
            raise RuntimeError(f"{arguments[0]} failed undisturbed: {ended}")
        import_all(names.read_text(encoding="utf-8").splitlines())
    started = time.monotonic()
    done = called(arguments)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed undisturbed: {done.stderr}")
    return time.monotonic() - started
