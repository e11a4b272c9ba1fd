"""Option groups: options that several commands share, received by a command as one object."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from inspect import Parameter, Signature
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from typer.core import TyperCommand
from typer.models import ParameterInfo


class OptionGroup:
    """Base of all groups: frozen dataclasses with one annotated field per option.

    A command names a group as the type of one of its parameters. `with_groups` shows Typer the
    group's options in the place of this parameter, and passes the command an instance. A command
    whose defaults differ uses a subclass that overrides those fields.
    """

    panel: ClassVar[str]
    """The heading under which `--help` shows the options."""


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer shall see it: each group among its parameters becomes its options.

    Raises:
        ValueError: two options of the command have the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, OptionGroup)
    }
    parameters: list[Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _options_of(groups[name])
        else:
            parameters.append(
                parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
            )

    @functools.wraps(command)
    def called_with_options(**given: Any) -> None:
        built = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **built)

    called_with_options.__dict__["__signature__"] = Signature(parameters)
    called_with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return called_with_options


class CommandWithSections(TyperCommand):
    """A command whose `--help` has one section for each group of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        rest: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is None:
                continue
            if parameter.param_type_name == "argument":
                sections["Arguments"].append(row)
            elif panel := getattr(parameter, "rich_help_panel", None):
                sections.setdefault(panel, []).append(row)
            else:
                rest.append(row)
        for title, rows in {**sections, "Options": rest}.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _options_of(group: type[Any]) -> Iterator[Parameter]:
    """The group's fields as parameters; those without a default come first."""
    hints = get_type_hints(group, include_extras=True)
    by_default: list[Field[Any]] = sorted(
        fields(group), key=lambda each: each.default is not MISSING
    )
    for field in by_default:
        kind, *extras = get_args(hints[field.name])
        info = copy.copy(next(each for each in extras if isinstance(each, ParameterInfo)))
        info.rich_help_panel = group.panel
        yield Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=Annotated[kind, info],
        )
