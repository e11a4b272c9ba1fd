"""Progress on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deepcorrect import runtime
from deepcorrect.runtime import _progress as room


def test_on_a_terminal_there_is_a_bar_with_counts_even_within_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(room, "console", lambda: terminal)
    with runtime.progress("outer", 10) as outer:
        outer(4)
        with runtime.progress("inner", 2) as inner:
            inner(2)
        outer(6)
    shown = screen.getvalue()
    assert "outer" in shown
    assert "10/10" in shown
    assert "inner" in shown


def test_in_a_log_there_are_lines_and_none_for_short_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock))
    with runtime.progress("long", 10) as advance:
        for _ in range(10):
            advance(1)
    with runtime.progress("short", 1) as advance:
        advance(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "long: 2/10 images, 24 s left" in captured.err
    assert "short" not in captured.err
