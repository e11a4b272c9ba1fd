"""Progress on stderr for anything longer than a few seconds."""

from __future__ import annotations

import os
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

LINE_INTERVAL_SECONDS = 5.0
EARLIEST_ESTIMATE = 0.03  # of the work; before, the time left would be mostly start-up

Advance = Callable[[float], None]


def console() -> Console:
    """The console that everything but a command's result is written to.

    It prints text as it is: names of files may hold brackets.
    """
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def is_main_process() -> bool:
    """Whether this process speaks: the only one, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(task: str, total: int, unit: str = "images") -> Iterator[Advance]:
    """Shows how far `task` is; yields a function that adds finished `unit`s.

    On a terminal it draws a bar with the time left; elsewhere it prints a line every
    5 seconds, so that logs show life too. Tasks under 5 seconds print nothing there. Of several
    processes, the first shows it.
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
            if done >= total * EARLIEST_ESTIMATE > 0:
                left = f", {(now - started) / done * max(total - done, 0):.0f} s left"
            print(
                f"{task}: {done:.0f}/{total or '?'} {unit}{left}",
                file=sys.stderr,
                flush=True,
            )

    yield advance
