"""The errors a user can meet. Each says what was given, what is accepted, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class DeepCorrectError(Exception):
    """Base of every error that DeepCorrect raises on purpose."""


class InputError(DeepCorrectError, ValueError):
    """Something the user gave cannot be used: a name, a value, a file, a network."""


class MissingExtraError(DeepCorrectError, ImportError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"this needs {library}, which is not installed: "
            f"pip install 'deepcorrect-torch[{extra}]'"
        )


def first_problem(error: ValidationError) -> tuple[str, object, str]:
    """The first thing that pydantic found wrong: its dotted key, the value given, the message."""
    problem = error.errors()[0]
    return ".".join(str(part) for part in problem["loc"]), problem["input"], problem["msg"]


def unknown(what: str, given: str, accepted: Iterable[str]) -> InputError:
    """An error for a name outside a known set, with the nearest accepted names first."""
    names = list(accepted)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    hint = f", did you mean {' or '.join(repr(name) for name in near)}?" if near else "."
    shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return InputError(f"unknown {what} {given!r}{hint} Accepted: {shown or 'none'}")
