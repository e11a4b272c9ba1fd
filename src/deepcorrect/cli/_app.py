"""The Typer application: how commands start, and how their errors end."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

import deepcorrect as dc
from deepcorrect import runtime
from deepcorrect.cli import _stopping
from deepcorrect.cli._groups import CommandWithSections, with_groups
from deepcorrect.runtime import DeepCorrectError, files

COMMANDS = (
    "run",
    "evaluate",
    "rank",
    "correct",
    "transfer",
    "predict",
    "export",
    "push",
    "distort",
    "explore",
    "report",
    "analyse",
    "list",
)
"""The commands in the order of `--help`. Each is the function `command` in a file of its name.

Only the file of the command that is called is imported.
"""

SHARED = ("run", "evaluate", "rank", "correct", "transfer", "distort")
"""The commands whose work several processes share. Any other is rank zero's alone."""

KEPT = {
    "run": "the same command with --resume continues it",
    "correct": "the same command continues it",
    "distort": "the same command continues it",
}
"""The commands that keep their finished work when they are stopped, and what continues it. Any
other begins anew."""


def main() -> None:
    """The console script. `--debug` is accepted anywhere among the arguments."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _debugging.set(len(arguments) < len(sys.argv) - 1)
    try:
        _application(arguments)(arguments)
    finally:
        runtime.leave()


def _application(arguments: Sequence[str]) -> typer.Typer:
    """The Typer application with the command that is called; with all of them if none is."""
    app = typer.Typer(
        name="deepcorrect",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # drawing help with rich takes longer than all the rest
        context_settings={"max_content_width": 100},
        help="Keep a trained image classifier accurate on distorted images without changing its "
        "weights.",
        epilog="Every command accepts --debug, which shows the traceback of an error.",
    )
    app.callback()(_options)
    called = next((each for each in arguments if not each.startswith("-")), None)
    for name in [called] if called in COMMANDS else COMMANDS:
        module = importlib.import_module(f"deepcorrect.cli._{name}")
        text = inspect.getdoc(module.command) or ""
        app.command(
            name,
            cls=CommandWithSections,
            help=text,
            short_help=" ".join(text.partition("\n\n")[0].splitlines()),
        )(_guarded(module.command, shared=name in SHARED, continued=KEPT.get(name)))
    return app


_debugging: ContextVar[bool] = ContextVar("_debugging", default=False)


def _guarded(
    command: Callable[..., None], *, shared: bool = False, continued: str | None = None
) -> Callable[..., None]:
    """The command for Typer; any error in it ends in one clear line and a non-zero exit status.

    Args:
        command: The command.
        shared: Whether several processes share its work.
        continued: What continues it after it was stopped; None if it begins anew.
    """
    expanded = with_groups(command)

    @functools.wraps(expanded)
    def guarded(**given: Any) -> None:
        kept = f"; finished work is kept: {continued}" if continued else ""
        _stopping.say(f"stopped{kept}")
        try:
            with _stopping.raising(), _among_processes(shared=shared) as takes_part:
                if takes_part:
                    expanded(**given)
            sys.stdout.flush()  # a full disk or a closed pipe is noticed here, not when Python ends
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if _debugging.get():
                traceback.print_exc()
            _drop_unwritable_output()
            if isinstance(error, BrokenPipeError):  # nobody reads the output any more
                raise typer.Exit(1) from None
            message, status = _explain(error)
            if runtime.first_to_report():
                runtime.console(any_process=True).print(message, style="red", markup=False)
            raise typer.Exit(status) from None

    return guarded


@contextlib.contextmanager
def _among_processes(*, shared: bool) -> Iterator[bool]:
    """Says whether this process of a launch takes part, and lets rank zero alone print.

    Args:
        shared: whether the command's work is shared; rank zero does any other alone.
    """
    if runtime.launched() == 1:
        yield True
        return
    is_main = runtime.is_main_process()
    with contextlib.ExitStack() as stack:
        if not is_main:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(runtime.together() if shared else runtime.alone())
        yield shared or is_main


def _drop_unwritable_output() -> None:
    """Discards output that cannot be written; Python would try again at its end and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: BaseException) -> tuple[str, int]:
    stopped = _stopping.status() or (130 if isinstance(error, KeyboardInterrupt) else None)
    if stopped is not None:  # also where a library made another error of it
        return _stopping.line(), stopped
    if isinstance(error, DeepCorrectError):
        return f"error: {error}", 1
    if files.disk_full(error):
        where = getattr(error, "filename", None)
        return (
            f"error: the disk is full{f' ({where})' if where else ''}. No file was left "
            "half-written: make room and give the same command again (run: with --resume)"
        ), 1
    if isinstance(error, OSError):
        return f"error: {error}", 1
    if _is_out_of_memory(error):
        return "error: out of memory: use a smaller batch size", 1
    return f"error: {type(error).__name__}: {error} (--debug shows where)", 1


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # absent unless the command needed PyTorch
    return isinstance(
        error, MemoryError if torch is None else (MemoryError, torch.OutOfMemoryError)
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        print(dc.__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    del version
