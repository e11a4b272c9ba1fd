"""Ctrl-C and SIGTERM: at any moment they end the command with one line and the right status.

While a command works, they raise `Stopped`, so that temporary files are removed; the command says
whether finished work is kept. Before, while Python imports the command's libraries, and after an
error, they end the process at once: an exception there would be shown as a traceback, or lost. When
all work is done, the command ends by itself: a signal is not heard then, unless it comes twice, in
case nobody takes the output. While Python itself ends, none is heard.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NOTHING_DONE = b"stopped before anything was done\n"

LATE = b"stopped before all output was written\n"

STOPPED = "stopped"


class _State:
    """What this process knows of its command and of signals.

    Attributes:
        in_charge: Whether the signals are this module's.
        worked: Whether the command has begun to work.
        finished: Whether it has done all its work.
        received: The signal that stopped it; 0 if none did.
        line: What it says if it is stopped while it works.
        signals: Those that end this process: without those that it was told to ignore, as by nohup
            or `&`.
    """

    in_charge: bool = False
    worked: bool = False
    finished: bool = False
    received: int = 0
    line: str = STOPPED
    signals: tuple[signal.Signals, ...] = ()


_state = _State()


class Stopped(KeyboardInterrupt):
    """A command was stopped by a signal; libraries treat it as Ctrl-C."""


@contextmanager
def in_charge() -> Iterator[None]:
    """Lets the signals end this process while the block, a whole command, runs."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.getsignal(each) for each in wanted}
    heard = tuple(each for each in wanted if before[each] is not signal.SIG_IGN)
    _state.in_charge, _state.signals = True, heard
    _state.worked = _state.finished = False
    _state.received, _state.line = 0, STOPPED
    for number in heard:
        signal.signal(number, _end_now)
    try:
        yield
    finally:
        _state.in_charge = False
        for number in heard:
            signal.signal(number, before[number])
        atexit.register(_ignore, heard)


@contextmanager
def raising() -> Iterator[None]:
    """Makes the signals raise `Stopped` while the block runs, if this process is in charge."""
    if not _state.in_charge:
        yield
        return
    _state.worked = True
    try:
        for number in _state.signals:
            signal.signal(number, _raise)
        yield
    except BaseException:
        for number in _state.signals:
            signal.signal(number, _end_now)
        raise
    for number in _state.signals:
        signal.signal(number, _let_it_end)
    _state.finished = True


def say(line: str) -> None:
    """Sets the line with which this command ends if it is stopped from now on."""
    _state.line = line


def line() -> str:
    """The line with which a stopped command ends."""
    return _state.line


def status() -> int | None:
    """The exit status of a command that a signal stopped; None if none did."""
    return 128 + _state.received if _state.received else None


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    _state.received = number
    signal.signal(number, _end_now)  # whoever stops it again does not want to wait
    raise Stopped


def _let_it_end(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, _end_now)


def _ignore(numbers: tuple[signal.Signals, ...]) -> None:
    """At the end of Python, where its own default would kill the process without a line."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _end_now(number: int, frame: FrameType | None) -> None:
    del frame
    if not _state.worked or _state.finished:
        os.write(2, LATE if _state.finished else NOTHING_DONE)
    os._exit(128 + number)


def _in_child() -> None:
    """Lets worker processes end as they would without this module."""
    if _state.in_charge:
        _state.in_charge = False
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        for number in _state.signals:
            signal.signal(number, usual[number])


if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_in_child)
