"""Ctrl-C and SIGTERM at any moment: one line, the right status, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from test_cli import Said, command

from deepcorrect.cli import COMMANDS

SOURCE = Path(__file__).parent.parent / "src"

AT_IMPORT = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
name, number, sys.argv = sys.argv[1], int(sys.argv[2]), ["deepcorrect", *sys.argv[3:]]

class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == name:
            os.kill(os.getpid(), number)
        return None

sys.meta_path.insert(0, Stop())
from deepcorrect.cli import main
main()
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures" / "3"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("L", (28, 28), 40 * number).save(folder / f"{number}.png")
    return folder.parent


def stopped_at(module: str, number: signal.Signals, *arguments: object) -> tuple[int, str, str]:
    """Runs a command that gets a signal when a module is imported: status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, module, str(int(number)), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["typer", "deepcorrect.cli._app", "deepcorrect.cli._evaluate"])
def test_before_the_command_works_it_ends_at_once(module: str, number: signal.Signals) -> None:
    status, out, err = stopped_at(module, number, "evaluate", "--help")
    assert (status, out, err) == (128 + number, "", "stopped before anything was done\n")


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("torch", signal.SIGINT),
        ("numpy", signal.SIGTERM),
        ("deepcorrect.evaluation", signal.SIGTERM),
    ],
)
def test_while_the_libraries_of_a_command_are_imported_it_ends_in_one_line(
    module: str, number: signal.Signals, pictures: Path
) -> None:
    call = ("evaluate", "--model", "digits_cnn", "--data", f"folder:{pictures}", "--json")
    status, out, err = stopped_at(module, number, *call)
    assert (status, out, err) == (128 + number, "", "stopped\n")


CALLS = {
    "run": ["demo"],
    "evaluate": ["--model", "digits_cnn", "--data", "folder:a"],
    "rank": ["--model", "digits_cnn", "--data", "folder:a"],
    "correct": ["--model", "digits_cnn", "--data", "folder:a", "--out", "b"],
    "transfer": ["--model", "digits_cnn", "--train", "folder:a", "--test", "folder:b"],
    "predict": ["a.png", "--model", "digits_cnn"],
    "export": ["--model", "digits_cnn", "--out", "a.onnx"],
    "push": ["a", "owner/name"],
    "distort": ["--data", "folder:a", "--distortion", "awgn:40", "--out", "b"],
    "explore": [],
    "report": ["a"],
    "analyse": ["a"],
    "list": ["models"],
}
"""A call of every command that is well formed."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_work_that_is_kept_is_promised_where_it_is_kept(
    name: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def stopped(*, shared: bool) -> Iterator[bool]:
        del shared
        os.kill(os.getpid(), number)
        yield True

    monkeypatch.setattr("deepcorrect.cli._app._among_processes", stopped)
    expected = "stopped"
    if name in ("run", "correct", "distort"):
        how = " with --resume" if name == "run" else ""
        expected = f"stopped; finished work is kept: the same command{how} continues it"
    assert command(name, *CALLS[name]) == Said(128 + number, "", f"{expected}\n")


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    """As by `nohup` and by `&` in a script."""
    script = AT_IMPORT.replace("signal.default_int_handler", "signal.SIG_IGN", 1)
    done = subprocess.run(
        [sys.executable, "-c", script, "typer", str(int(signal.SIGINT)), "--version"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_sigterm_leaves_no_temporary_file(pictures: Path, tmp_path: Path) -> None:
    """The signal comes in the middle of a write."""
    script = f"""
import os, signal, sys
import deepcorrect.cli as cli
from deepcorrect.runtime import files
sys.argv = ["deepcorrect", "distort", "--data", "folder:{pictures}", "--out", "{tmp_path}/out",
            "--distortion", "awgn:40", "--format", "npy"]
written = files.write_bytes
def stopped(path, write):
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)
        write(temporary)
files.write_with = stopped
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.splitlines()[-1].startswith("stopped; finished work is kept")
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".tmp")]


AT_THE_END = """
import os, signal, sys, threading
from deepcorrect.cli import _stopping
signal.signal(signal.SIGINT, signal.default_int_handler)
number, times, late = map(int, sys.argv[1:])

def stop():
    for _ in range(times):
        os.kill(os.getpid(), number)

class Last:
    def __del__(self):
        stop()

with _stopping.in_charge():
    with _stopping.raising():
        print("done", end="", flush=True)
    if late:
        sys.last = Last()  # goes when Python itself ends
    else:
        stop()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_has_done_its_work_ends_well(number: signal.Signals) -> None:
    """A signal between the end of the work and the end of the process loses no output."""
    for times, late, expected in (
        (1, 0, (0, "done", "")),
        (1, 1, (0, "done", "")),
        (2, 0, (128 + number, "done", "stopped before all output was written\n")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", AT_THE_END, str(int(number)), str(times), str(late)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == expected


def test_a_page_that_is_stopped_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on with the same command, and no work is kept."""
    called: list[str] = []

    def serve(*given: object, started: Callable[[str], None], **more: object) -> None:
        started("http://127.0.0.1:7860/")
        raise KeyboardInterrupt

    def gradio(name: str, extra: str) -> None:
        called.append(name)
        if len(called) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("deepcorrect.explorer.serve", serve)
    monkeypatch.setattr("deepcorrect.runtime.optional_import", gradio)
    said = command("explore", "--model", "digits_cnn")
    assert said == Said(130, "explorer: http://127.0.0.1:7860/\n", "stopped; the page is closed\n")
    said = command("explore", "--model", "digits_cnn")
    assert said == Said(130, "", "stopped before the page was open\n")
