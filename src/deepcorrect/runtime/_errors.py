"""The errors that a user can meet.

Each message says what was given, what is accepted, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class DeepCorrectError(Exception):
    """The base class of every error that DeepCorrect raises on purpose.

    Example:
        >>> import deepcorrect as dc
        >>> try:
        ...     dc.load_model("resnet")
        ... except dc.DeepCorrectError as error:
        ...     print(str(error).partition(",")[0])
        unknown model 'resnet'
    """


class InputError(DeepCorrectError, ValueError):
    """Something that the user gave cannot be used: a name, a value, a file or a network.

    Example:
        >>> import deepcorrect as dc
        >>> dc.Distortion("gaussian_blur", levels=(-1,))
        Traceback (most recent call last):
        deepcorrect.runtime._errors.InputError: level -1 of 'gaussian_blur' is not ...
    """


class MissingExtraError(DeepCorrectError, ImportError):
    """An optional library is needed but not installed.

    Args:
        library: The name under which the library is imported.
        extra: The extra of `deepcorrect-torch` that installs it.

    Example:
        >>> import deepcorrect as dc
        >>> raise dc.MissingExtraError("timm", extra="timm")
        Traceback (most recent call last):
        deepcorrect.runtime._errors.MissingExtraError: this needs timm, which is not installed: ...
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"this needs {library}, which is not installed: "
            f"pip install 'deepcorrect-torch[{extra}]'"
        )


def first_problem(error: ValidationError) -> tuple[str, object, str]:
    """The first problem that pydantic found: its dotted key, the given value and the message."""
    problem = error.errors()[0]
    return ".".join(str(part) for part in problem["loc"]), problem["input"], problem["msg"]


def unknown(what: str, given: str, accepted: Iterable[str]) -> InputError:
    """The error for a name that is not in a known set; it suggests the most similar names.

    Example:
        >>> from deepcorrect.runtime import unknown
        >>> print(unknown("colour", "gren", ["red", "green"]))
        unknown colour 'gren', did you mean 'green'? Accepted: red, green
    """
    names = list(accepted)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    hint = f", did you mean {' or '.join(repr(name) for name in near)}?" if near else "."
    shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return InputError(f"unknown {what} {given!r}{hint} Accepted: {shown or 'none'}")
