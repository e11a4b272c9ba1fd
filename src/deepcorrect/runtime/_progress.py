"""Progress on stderr for everything that takes longer than a few seconds."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deepcorrect.runtime._processes import is_main_process

LINE_INTERVAL_SECONDS = 5.0
FIRST_ESTIMATE = 0.03
"""The fraction of the work after which the time left is estimated; before it, the estimate would
consist mostly of start-up time."""

Advance = Callable[[float], None]


def console(*, any_process: bool = False) -> Console:
    """The console on stderr, to which everything but a command's result is written.

    It prints text as it is, because file names may contain brackets. Of several processes, rank
    zero alone prints.

    Args:
        any_process: Whether every process prints, as for an error that only one of them met.
    """
    quiet = not (any_process or is_main_process())
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, quiet=quiet)


@functools.cache
def note_once(text: str) -> None:
    """Prints a note on stderr, each text once in a process."""
    console().print(f"note: {text}")


@contextmanager
def progress(task: str, total: int, unit: str = "images") -> Iterator[Advance]:
    """Shows the progress of `task`; yields a function that adds a number of finished `unit`s.

    On a terminal this draws a bar with the time left. Elsewhere, as in a log, it prints a line
    every 5 seconds, and nothing for tasks that take less. Only rank zero shows progress.

    Args:
        task: What is being done.
        total: The number of units; 0 if it is not known.
        unit: The plural noun of what is counted.

    Example:
        >>> from deepcorrect.runtime import progress
        >>> with progress("decoding", total=10) as advance:
        ...     for _ in range(5):
        ...         advance(2)
    """
    if not is_main_process():
        yield lambda _: None
        return
    screen = console()
    if screen.is_terminal:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=screen,
            transient=True,
        )
        with bar:
            handle = bar.add_task(task, total=total or None)
            yield lambda amount: bar.advance(handle, amount)
        return
    started = last = time.monotonic()
    done = 0.0

    def advance(amount: float) -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= LINE_INTERVAL_SECONDS and done:
            last = now
            left = ""
            if done >= total * FIRST_ESTIMATE > 0:
                left = f", {(now - started) / done * max(total - done, 0):.0f} s left"
            print(
                f"{task}: {done:.0f}/{total or '?'} {unit}{left}",
                file=sys.stderr,
                flush=True,
            )

    yield advance
