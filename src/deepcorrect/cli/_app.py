"""The Typer application: how commands start, and how their errors end."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any

import torch
import typer

import deepcorrect as dc
from deepcorrect.runtime import DeepCorrectError, console, files

app = typer.Typer(
    name="deepcorrect",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a trained image classifier's accuracy on distorted images, its weights untouched.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
)


def main() -> None:
    """The console script. `--debug` is taken wherever it stands."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _debugging.set(len(arguments) < len(sys.argv) - 1)
    try:
        app(arguments)
    finally:  # several processes part in good order; ending with open connections aborts some
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


_debugging: ContextVar[bool] = ContextVar("_debugging", default=False)


def register(function: Callable[..., None]) -> None:
    """Adds a command whose errors end in one clear line and a non-zero status."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()  # a full disk or a closed pipe shows here, not when Python ends
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if _debugging.get():
                traceback.print_exc()
            _drop_unwritable_output()
            if isinstance(error, BrokenPipeError):  # whoever read it has gone
                raise typer.Exit(1) from None
            message, status = _explain(error)
            console().print(message, style="red", markup=False)
            raise typer.Exit(status) from None

    app.command(name=function.__name__.rstrip("_"))(guarded)


def _drop_unwritable_output() -> None:
    """Python would try again to write it at its end, and complain in lines of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        return (
            "stopped; what was finished is kept. Go on with the same command (run: with --resume)",
            130,
        )
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
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "error: out of memory: use a smaller batch size", 1
    return f"error: {type(error).__name__}: {error} (--debug shows where)", 1


def _print_version(wanted: bool) -> None:
    if wanted:
        print(dc.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    del version
