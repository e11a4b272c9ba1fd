"""How commands start: quickly, without PyTorch, from a catalogue that is true; and on Windows."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import pytest
import typer
import typer.main
from test_cli import command

import deepcorrect as dc
from deepcorrect import ranking
from deepcorrect.cli import COMMANDS, _app, _distort, _evaluate, _list, _options, _rank
from deepcorrect.cli._groups import OptionGroup, with_groups
from deepcorrect.distortions import stored
from deepcorrect.evaluation import _results
from deepcorrect.runtime import Precision

ROOT = Path(__file__).parent.parent
CATALOGUE = Path(dc.__file__).parent / "cli" / "catalogue.json"
HEAVY = ("torch", "numpy", "matplotlib", "sklearn", "scipy", "datasets", "accelerate")
"""Libraries that take long to import."""


def run_python(code: str, *arguments: str) -> str:
    """The stdout of a program that runs in a process of its own."""
    call = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- nothing heavy is imported

CALLS = """
import contextlib, io, json, sys
from deepcorrect.cli import main

heavy = {}
for call in json.loads(sys.argv[1]):
    sys.argv = ["deepcorrect", *call]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, (call, ended.code)
    heavy[" ".join(call)] = [name for name in sys.modules if "." not in name]
print(json.dumps(heavy))
"""


def test_help_version_and_list_import_no_heavy_library() -> None:
    calls = [["--help"], ["--version"]]
    calls += [["list", what] for what in get_args(_list.Listed)]
    calls += [[name, "--help"] for name in COMMANDS]
    imported = json.loads(run_python(CALLS, json.dumps(calls)))
    assert len(imported) == len(calls)
    for call, modules in imported.items():
        assert not set(HEAVY) & set(modules), call


def test_the_package_alone_imports_no_heavy_library() -> None:
    imported = run_python("import deepcorrect, sys; print(*sys.modules)").split()
    assert not set(HEAVY) & set(imported)


# --- what stands in for the registries


def test_the_catalogue_is_what_the_registries_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_catalogue.py"))
    shipped = CATALOGUE.read_text(encoding="utf-8")
    assert shipped == script["text"](), "a registry has changed: run `make catalogue`"


def test_the_commands_choices_are_those_of_the_rooms() -> None:
    listed = json.loads(CATALOGUE.read_text(encoding="utf-8"))["lists"]
    assert get_args(_list.Listed) == tuple(listed)
    assert get_args(_options.Precision) == get_args(Precision)
    assert get_args(_rank.Target) == get_args(ranking.Target) == tuple(ranking.TARGETS)
    assert get_args(_evaluate.Target) == get_args(_results.Target)
    assert get_args(_distort.Format) == get_args(stored.Format)


# --- option groups


@dataclass(frozen=True, kw_only=True)
class Colours(OptionGroup):
    """A group with one required option."""

    panel: ClassVar[str] = "Colours"

    shade: Annotated[int, typer.Option(help="How dark.")] = 3
    name: Annotated[str, typer.Option(help="Which.")]


@dataclass(frozen=True, kw_only=True)
class DarkColours(Colours):
    """The same with another default."""

    shade: Annotated[int, typer.Option(help="How dark.")] = 9


def test_a_group_becomes_its_options_and_the_command_gets_one_object() -> None:
    got: list[object] = []

    def paint(
        colours: DarkColours, coats: Annotated[int, typer.Option(help="How many.")] = 1
    ) -> None:
        got.extend((colours, coats))

    expanded = with_groups(paint)
    parameters = signature(expanded).parameters
    assert list(parameters) == ["name", "shade", "coats"]  # required ones first
    assert parameters["name"].default is Parameter.empty
    assert [parameters[name].default for name in ("shade", "coats")] == [9, 1]
    expanded(name="red", shade=4, coats=2)
    assert got == [DarkColours(name="red", shade=4), 2]


def test_two_options_of_one_name_are_refused() -> None:
    def paint(first: Colours, second: DarkColours) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name"):
        with_groups(paint)


# --- help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name: str) -> None:
    app = typer.main.get_command(_app._application([name]))
    parameters: list[Any] = app.commands[name].params  # type: ignore[attr-defined]
    assert parameters
    for each in parameters:
        assert each.help.endswith("."), each.name
        assert each.help[0].isupper() or each.help.startswith("cpu"), each.name


def test_help_has_a_section_for_each_group_of_options() -> None:
    lines = command("correct", "--help").out.splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    expected = ("Network", "Images", "Filters and units", "Gate", "Training", "Options")
    assert titles == [f"{title}:" for title in expected]
    assert "Arguments:" in command("predict", "--help").out.splitlines()


def test_help_hides_nothing_that_stands_in_brackets() -> None:
    text = command("rank", "--help").out
    for part in ("hf:OWNER/NAME[@REVISION]", "NAME[:LEVEL,...]", "[0, 1]"):
        assert part in text


# --- other systems

ONLY_UNIX = {
    "os": "fork forkpty register_at_fork getuid geteuid getgid getegid getgroups getpgid "
    "getpgrp getsid setsid setpgid setuid setgid killpg nice getpriority setpriority "
    "getloadavg sched_getaffinity sched_setaffinity sched_yield uname chown fchown lchown "
    "chroot mkfifo mknod ttyname ctermid wait wait3 wait4 waitid WNOHANG pread pwrite "
    "readv writev preadv pwritev sendfile sysconf confstr statvfs fstatvfs posix_spawn "
    "posix_fallocate fchmod fchdir initgroups openpty memfd_create eventfd O_NOFOLLOW "
    "O_DIRECTORY O_CLOEXEC O_NONBLOCK O_SYNC",
    "signal": "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGCHLD SIGSTOP SIGCONT SIGTSTP SIGPIPE "
    "SIGQUIT SIGWINCH SIG_BLOCK SIG_SETMASK pthread_sigmask pthread_kill setitimer "
    "getitimer alarm pause siginterrupt sigwait sigwaitinfo",
    "socket": "AF_UNIX socketpair",
    "time": "clock_gettime CLOCK_MONOTONIC tzset pthread_getcpuclockid",
    "select": "poll epoll",
}
"""What Python documents as available on Unix alone, by module."""

ONLY_UNIX_MODULES = (
    *("fcntl", "resource", "pwd", "grp", "termios"),
    *("tty", "pty", "syslog", "posix", "_posixsubprocess"),
)

EVERY_MODULE = """
import importlib, json, os, pkgutil, sys
import accelerate, datasets, torch  # whatever these need of a system is their own concern

import huggingface_hub, jinja2, matplotlib.pyplot, PIL.Image, pydantic, rich.progress, scipy.stats
import sklearn.svm, typer

missing, modules = map(json.loads, sys.argv[1:])
for name, attributes in missing.items():
    module = importlib.import_module(name)
    for attribute in attributes.split():
        if hasattr(module, attribute):
            delattr(module, attribute)
for name in modules:
    sys.modules[name] = None

import deepcorrect

for module in pkgutil.walk_packages(deepcorrect.__path__, "deepcorrect."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in deepcorrect.__all__:
    getattr(deepcorrect, name)
print("imported")
"""


def test_the_package_imports_where_there_is_nothing_of_unix() -> None:
    """As on Windows, whose Python has none of these functions, signals and modules."""
    given = json.dumps(ONLY_UNIX), json.dumps(ONLY_UNIX_MODULES)
    assert run_python(EVERY_MODULE, *given) == "imported\n"
