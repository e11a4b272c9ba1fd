"""What stored work depends on, so that it is never continued with something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from deepcorrect.runtime import files
from deepcorrect.runtime._errors import InputError
from deepcorrect.runtime._processes import from_main

Value = TypeVar("Value")

Inputs = Mapping[str, Any]
"""By a name that a user understands, what work depends on: plain values, as JSON has them, or the
digests of what is large."""


def digest_of(value: Any) -> str:
    """The SHA-256 of a plain value, as JSON has it.

    Example:
        >>> from deepcorrect.runtime import digest_of
        >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_inputs(what: str, before: Any, now: Inputs, advice: str) -> None:
    """Checks that stored work was made from the inputs that there are now.

    Args:
        what: The stored work, as a message names it, such as its file.
        before: The inputs that were stored with it.
        now: The inputs of this call.
        advice: What to do where they differ.

    Raises:
        InputError: They differ; the message names what changed.

    Example:
        >>> from deepcorrect.runtime import check_inputs
        >>> check_inputs("a.pt", {"seed": 1, "network": "ab"}, {"seed": 2, "network": "ab"}, "go")
        Traceback (most recent call last):
        ...
        deepcorrect.runtime._errors.InputError: a.pt was made with another seed (1, now 2): go
    """
    if not isinstance(before, Mapping):
        raise InputError(f"{what} does not say what it was made from: {advice}")
    names = sorted({*before, *now}, key=[*now, *before].index)
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        shown = ", ".join(_change(name, before.get(name), now.get(name)) for name in changed)
        raise InputError(f"{what} was made with another {shown}: {advice}")


def measured_once(
    path: Path | None, inputs: Inputs, make: Callable[[], Any], form: type[Value]
) -> Value:
    """What was measured once and is kept in a file, so that interrupted work goes on with it.

    Of several processes, rank zero measures, and reads and writes the file.

    Args:
        path: The file; None keeps nothing.
        inputs: What the measured value depends on.
        make: Measures it: a plain value, as JSON has it.
        form: What the value is read as: a plain type or a pydantic model.

    Raises:
        InputError: The file was made from other inputs, or holds something else.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.runtime import measured_once
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "speed.json")
        ...     [measured_once(path, {"network": "a"}, lambda: x, float) for x in (1.5, 2.5)]
        [1.5, 1.5]
    """
    return from_main(lambda: _kept(path, inputs, make, form))


def _kept(path: Path | None, inputs: Inputs, make: Callable[[], Any], form: type[Value]) -> Value:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  (most commands read none)

    if path is not None and path.exists():
        saved = files.read_json(path)
        advice = "remove it, or choose another folder"
        try:
            kept = TypeAdapter(form).validate_python(saved["kept"])
        except (KeyError, TypeError, ValidationError):
            raise InputError(f"{path} does not hold what was measured: {advice}") from None
        check_inputs(str(path), saved.get("inputs"), inputs, advice)
        return kept
    made = make()
    if path is not None:
        files.write_json(path, {"inputs": dict(inputs), "kept": made})
    return TypeAdapter(form).validate_python(made)


def _change(name: str, before: Any, now: Any) -> str:
    """What changed, with its values where these are short, or else with the keys that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        parts = ", ".join(_change(str(key), before.get(key), now.get(key)) for key in keys[:4])
        return f"{name} ({parts})"
    texts = [str(value) for value in (before, now)]
    is_short = all(len(text) <= 24 for text in texts)
    return f"{name} ({texts[0]}, now {texts[1]})" if is_short else name
