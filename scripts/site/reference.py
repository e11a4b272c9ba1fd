"""The reference pages: public names, commands with their options, and the keys of a recipe.

Nothing here describes a thing: names come from the package's stubs, their texts from docstrings,
options from the commands, keys from the recipe's schema.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import griffe
import typer.main
from pydantic import BaseModel

import deepcorrect as dc
from deepcorrect.cli import COMMANDS, _app
from deepcorrect.correction import UnitConfig
from deepcorrect.experiments import _recipe, _systems
from deepcorrect.training import Augmentation, TrainingConfig

ROOMS = {
    "networks": ("Networks and images", ("models", "networks", "data")),
    "ranking": ("Ranking", ("ranking",)),
    "correction": ("Correction", ("experiments", "correction", "alternatives")),
    "training": ("Training", ("training",)),
    "evaluation": ("Evaluation", ("evaluation",)),
    "deployment": ("Deployment", ("deployment",)),
    "distortions": ("Distortions", ("distortions",)),
    "errors": ("Errors", ("runtime",)),
}
"""The pages of public names: each page's title, and the rooms whose names it shows."""

BESIDE = {
    "distortions": ("Distort", "corrupt", "get_corruption_names", "parse_all", "kind_of"),
}
"""Names of a room that are used through the room, as `deepcorrect.distortions.Distort`."""


def pages() -> dict[str, str]:
    """Every reference page that is made, by its place in the site."""
    public = _public_names()
    shown = {room for _, rooms in ROOMS.values() for room in rooms}
    assert set(public) <= shown, f"rooms without a page: {set(public) - shown}"
    made = {f"reference/{page}.md": _names_page(page, public) for page in ROOMS}
    made["reference/python.md"] = _overview(public)
    made["reference/commands.md"] = "\n\n".join(_commands())
    made["reference/recipe_keys.md"] = "\n\n".join(_recipe_keys())
    return made


# --- public names


def _public_names() -> dict[str, list[str]]:
    """The names that `import deepcorrect` offers, by room."""
    stub = ast.parse(Path(dc.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names: dict[str, list[str]] = {}
    for line in stub.body:
        if isinstance(line, ast.ImportFrom) and line.module:
            names.setdefault(line.module, []).extend(alias.name for alias in line.names)
    return names


def _page_names(page: str, public: Mapping[str, list[str]]) -> list[str]:
    """The full names that a page shows."""
    rooms = ROOMS[page][1]
    names = [f"deepcorrect.{name}" for room in rooms for name in public.get(room, ())]
    return names + [f"deepcorrect.{page}.{name}" for name in BESIDE.get(page, ())]


def _names_page(page: str, public: Mapping[str, list[str]]) -> str:
    names = [f"::: {name}" for name in _page_names(page, public)]
    return "\n\n".join([f"# {ROOMS[page][0]}", "`import deepcorrect as dc`", *names])


def _overview(public: Mapping[str, list[str]]) -> str:
    parts = ["# In Python", "`import deepcorrect as dc` offers these names."]
    for page, (title, _) in ROOMS.items():
        rows = ["| name | what it is |", "| --- | --- |"]
        for name in _page_names(page, public):
            rows.append(f"| [`{name.replace('deepcorrect', 'dc', 1)}`][{name}] | {_about(name)} |")
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts)


def _about(name: str) -> str:
    """The first sentence of what a public name stands for."""
    target: Any = dc
    for part in name.split(".")[1:]:
        target = getattr(target, part)
    text = inspect.getdoc(target) if callable(target) else "Settings; see its page."
    return " ".join((text or "").split("\n\n")[0].split()).replace("|", "\\|")


# --- commands


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield (
        "Every command accepts `--debug`, which shows the traceback of an error, and `--help`. "
        "With `--json`, one JSON document is written to stdout and everything else to stderr."
    )
    group: Any = typer.main.get_command(_app._application([]))
    for name in COMMANDS:
        command = group.commands[name]
        context = typer.Context(command, info_name=f"deepcorrect {name}")
        yield f"## deepcorrect {name}"
        yield f"```sh\n{' '.join(command.get_usage(context).split()).removeprefix('Usage: ')}\n```"
        yield _prose(command.help or "")
        sections: dict[str, list[Any]] = {}
        for each in command.get_params(context):
            if each.name != "help":
                argument = each.param_type_name == "argument"
                title = "Arguments" if argument else getattr(each, "rich_help_panel", None)
                sections.setdefault(title or "Options", []).append(each)
        for title, options in sorted(sections.items(), key=lambda one: one[0] != "Arguments"):
            rows = [f"| {title.lower()} | default | |", "| --- | --- | --- |"]
            rows += [_option(each, context) for each in options]
            yield "\n".join(rows)


def _option(each: Any, context: typer.Context) -> str:
    """A row of a table: what is typed, the default, and what it means."""
    record = each.get_help_record(context)
    typed = (record[0] if record else each.make_metavar(context)).replace(" range>", ">")
    default = each.get_default(context)
    shown = "" if default is None or callable(default) else f"`{_plain(default)}`"
    if each.required:
        shown = "required"
    return f"| `{_cell(' '.join(typed.split()))}` | {_cell(shown)} | {_cell(_prose(each.help))} |"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return str(getattr(value, "value", value))


def _prose(text: str) -> str:
    """Help text as Markdown: asterisks, brackets and angles stand for themselves."""
    escaped = (text or "").replace("\\", "\\\\")
    for mark in "*_[]<>`":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- recipes


def _recipe_keys() -> Iterator[str]:
    yield "# Keys of a recipe"
    yield (
        "Made from the schema that checks recipes; unknown keys are refused. "
        "[Recipes](../recipes.md) says what the keys are for, and how recipes are written."
    )
    fields = _recipe.Recipe.model_fields
    sections = {
        name: field.annotation
        for name, field in fields.items()
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)
    }
    yield "## The top"
    yield _section(_recipe.Recipe, "", leave_out={*sections, "distortions", "test_distortions"})
    for name, section in sections.items():
        yield f"## {name}"
        yield _section(section, f"{name}.")
    yield "## distortions and test_distortions"
    yield "`NAME` is a kind of distortion, or in `test_distortions` also a group of kinds."
    yield _section(_recipe.DistortionSection, "distortions.NAME.")
    yield "## systems"
    yield "`NAME` is any name but `baseline`; the key `method` says which of these a system is."
    for method, section in _systems.SECTIONS.items():
        yield f"### method: {method}"
        yield _section(section, "systems.NAME.", leave_out={"method", "training"})
    yield "## training"
    yield "Every system that is trained has these keys under `systems.NAME.training`."
    yield _section(TrainingConfig, "training.", leave_out={"augmentation"})
    yield _section(Augmentation, "training.augmentation.")
    yield "## unit"
    yield "A unit that is given as a mapping has a `kind` and changes of these."
    yield _section(UnitConfig, "unit.")


def _section(section: type[BaseModel], prefix: str, leave_out: set[str] | None = None) -> str:
    """A section's own text, and its keys in a table."""
    prose, meanings = _docstring(section)
    schema = section.model_json_schema()
    required = set(schema.get("required", ()))
    rows: list[list[str]] = []
    for key, entry in schema.get("properties", {}).items():
        if key in (leave_out or ()):
            continue
        name = f"{prefix}{key}"
        accepted = _accepted(entry, schema.get("$defs", {}))
        default = "required" if key in required else f"`{_yaml(entry.get('default'))}`"
        meaning = meanings[key]  # a key that nothing is said of ends the build
        rows.append([f"`{name}`", _cell(accepted), default, _cell(meaning)])
    if not rows:
        return f"{prose}\n\nIt has no keys of its own."
    columns = ["key", "accepted", "default", "meaning"]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([prose, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _docstring(section: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """A section's docstring: its text, and what it says of each key."""
    texts: list[str] = []
    meanings: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        parsed = griffe.Docstring(inspect.cleandoc(each.__doc__ or "")).parse(
            "google", warnings=False
        )
        texts = [part.value for part in parsed if part.kind is griffe.DocstringSectionKind.text]
        for part in parsed:
            if part.kind is griffe.DocstringSectionKind.attributes:
                meanings |= {one.name: one.description for one in part.value}
    return "\n\n".join(texts), meanings


def _accepted(entry: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What a schema accepts, in words."""
    if "$ref" in entry:
        return _accepted(known.get(entry["$ref"].rpartition("/")[2], {}), known)
    if "anyOf" in entry or "oneOf" in entry:
        options = entry.get("anyOf") or entry.get("oneOf") or ()
        return " or ".join(dict.fromkeys(_accepted(each, known) for each in options))
    if "enum" in entry or "const" in entry:
        values = entry.get("enum", [entry.get("const")])
        return ", ".join(f"`{_yaml(value)}`" for value in values)
    kind = entry.get("type")
    if kind == "array":
        inner = entry.get("items") or (entry.get("prefixItems") or [{}])[0]
        return f"a list: {_accepted(inner, known)}"
    if kind == "object":
        if "properties" in entry:
            return "a section"
        values = entry.get("additionalProperties")
        inner = _accepted(values, known) if isinstance(values, dict) else "values"
        return f"a mapping of names to {inner}"
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "boolean": "`true`, `false`",
        "null": "`null`",
    }
    return words.get(kind or "", "any value") + _range(entry)


def _range(entry: Mapping[str, Any]) -> str:
    limits = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "below {}",
        "pattern": "like `{}`",
    }
    found = [text.format(f"{entry[key]}") for key, text in limits.items() if key in entry]
    return f" {', '.join(found)}" if found else ""


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_yaml(each)}' for key, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)
