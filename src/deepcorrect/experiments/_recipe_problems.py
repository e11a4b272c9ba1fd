"""What is wrong with a recipe, in words: each key, what was given, and what is accepted."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from deepcorrect.experiments._systems import SECTIONS


def explain(error: ValidationError, recipe: type[BaseModel]) -> str:
    """All problems, each with its key, the value that was given and what is accepted.

    Args:
        error: what checking a recipe raised.
        recipe: the schema that it was checked with.
    """
    lines: list[str] = []
    methods = ", ".join(repr(method) for method in SECTIONS)
    for problem in error.errors():
        key = _key_of(problem["loc"])
        if problem["type"] == "extra_forbidden":
            accepted = _accepted_keys(recipe, [str(part) for part in problem["loc"][:-1]])
            lines.append(f"unknown key {key!r} (given {problem['input']!r}); accepted: {accepted}")
        elif problem["type"] == "missing":
            lines.append(f"key {key!r} is missing: it has no default")
        elif problem["type"] == "union_tag_invalid":
            lines.append(
                f"key '{key}.method': given {_tag_of(problem['input'])!r}; accepted: {methods}"
            )
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"key '{key}.method' is missing; accepted: {methods}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"key {key!r}: given {problem['input']!r}; {message}")
    return "; ".join(dict.fromkeys(lines))


def _key_of(place: Sequence[int | str]) -> str:
    """The dotted key of a problem, without the parts that pydantic adds for unions."""
    parts = [str(part) for part in place]
    if parts[:1] == ["systems"] and len(parts) > 2:
        del parts[2]  # the method's tag
    return ".".join(part for part in parts if part != "[key]")


def _tag_of(section: Any) -> Any:
    return section.get("method") if isinstance(section, dict) else section


def _accepted_keys(recipe: type[BaseModel], place: Sequence[str]) -> str:
    """The keys of the section at `place`."""
    section: Any = recipe
    for part in place:
        section = _inner(section, part)
        if section is None:
            return "see docs/recipes.md"
    # the fields of the base class come first, but the method is more important
    return ", ".join(sorted(section.model_fields, key=lambda name: name != "method"))


def _inner(section: Any, part: str) -> Any:
    """The section under the key `part` of a section, of a mapping of sections, or of a union."""
    if isinstance(section, type) and issubclass(section, BaseModel):
        fields = section.model_fields
        found = fields[part].annotation if part in fields else None
    elif typing.get_origin(section) is dict:
        found = typing.get_args(section)[1]
    else:
        return SECTIONS.get(part)
    if typing.get_origin(found) in (typing.Union, types.UnionType):
        models = [
            a for a in typing.get_args(found) if isinstance(a, type) and issubclass(a, BaseModel)
        ]
        return models[0] if len(models) == 1 else found
    return found
