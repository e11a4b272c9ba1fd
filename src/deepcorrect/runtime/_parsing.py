"""JSON and YAML from files that may be hostile: bounded in size, depth, numbers and aliases.

Nothing that DeepCorrect writes or that a person writes by hand comes near the bounds. A file beyond
them is refused before it takes more memory or time than its size accounts for.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcorrect.runtime._errors import InputError

if TYPE_CHECKING:
    import yaml

JSON_BYTES, YAML_BYTES = 1 << 26, 1 << 20
"""The largest files that are read. YAML is read slowly, and people write it by hand."""

DEPTH = 64
"""The deepest nesting of lists and mappings."""

YAML_VALUES = 100_000
"""The largest number of values of a YAML file, with each alias counted as what it stands for."""

INTEGERS = range(-(1 << 63), 1 << 64)
"""The integers that are accepted: those of 64 bits, signed or not."""


def read_text(path: Path, limit: int, what: str) -> str:
    """Reads a file of at most `limit` bytes as UTF-8.

    Args:
        path: The file.
        limit: The largest accepted size.
        what: What the file should be, for messages, such as `a JSON file`.

    Raises:
        InputError: There is no such file, it is a pipe or a device, it is larger, or it is not
            UTF-8.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} cannot be read as {what}: it is a folder, a pipe or a device")
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if len(content) > limit:
        raise InputError(f"{path} cannot be read as {what}: it has more than {limit} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as {what} ({error})") from None


def parse_json(text: str, source: str) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        source: Where it comes from, for messages.

    Raises:
        InputError: It is not JSON; or it is nested more than 64 deep, or has an integer of more
            than 64 bits or a number that is not finite.

    Example:
        >>> from deepcorrect.runtime import parse_json
        >>> parse_json('{"levels": [1, 2.5]}', "results.json")
        {'levels': [1, 2.5]}
        >>> parse_json("[NaN]", "results.json")
        Traceback (most recent call last):
        deepcorrect.runtime._errors.InputError: results.json is not a JSON file (the number NaN ...
    """
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_number, parse_constant=_refuse_number
        )
    except RecursionError:
        raise _too_deep(source) from None
    except ValueError as error:
        raise InputError(f"{source} is not a JSON file ({error})") from None
    _check(value, source)
    return value


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text of plain types.

    Args:
        text: The text.
        source: Where it comes from, for messages.

    Raises:
        InputError: It is not YAML of plain types; or it is nested more than 64 deep, has more than
            100,000 values with its aliases written out, refers to itself, or has an integer of more
            than 64 bits.

    Example:
        >>> from deepcorrect.runtime import parse_yaml
        >>> parse_yaml("levels: &grid [1, 2.5]\\nmore: *grid", "recipe.yaml")
        {'levels': [1, 2.5], 'more': [1, 2.5]}
    """
    import yaml  # noqa: PLC0415  (most commands read none)

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, source, {}, 0) > YAML_VALUES:
                raise InputError(
                    f"{source} has more than {YAML_VALUES} values with its aliases written out"
                )
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise _too_deep(source) from None
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        # a number of too many digits, a date that does not exist, a key that is a list
        raise InputError(f"{source} is not YAML of plain values: {error}") from None
    _check(value, source)
    return value


def _size(node: yaml.nodes.Node, source: str, known: dict[int, int | None], depth: int) -> int:
    """The number of values of a YAML node, with each alias counted as what it stands for."""
    if depth > DEPTH:
        raise _too_deep(source)
    found = known.get(id(node), 0)
    if found is None:
        raise InputError(f"{source} has an alias inside the value that it stands for")
    if found:
        return found
    known[id(node)] = None
    size = 1
    children = node.value if isinstance(node.value, list) else []  # of a scalar, a text
    if children and isinstance(children[0], tuple):  # of a mapping
        children = [each for pair in children for each in pair]
    for child in children:
        size = min(size + _size(child, source, known, depth + 1), YAML_VALUES + 1)
    known[id(node)] = size
    return size


def _check(value: Any, source: str) -> None:
    """Refuses values that are nested too deeply, and integers of too many bits."""
    below: list[tuple[Any, int]] = [(value, 0)]
    while below:
        each, depth = below.pop()
        if depth > DEPTH:
            raise _too_deep(source)
        if isinstance(each, dict):
            below += [(inner, depth + 1) for pair in each.items() for inner in pair]
        elif isinstance(each, list | tuple | set):
            below += [(inner, depth + 1) for inner in each]
        elif isinstance(each, int) and each not in INTEGERS:
            raise InputError(f"{source} has an integer of more than 64 bits, which is not accepted")


def _integer(digits: str) -> int:
    if len(digits) > len(str(INTEGERS.start)):
        raise ValueError(f"a number of {len(digits)} digits is not accepted")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse_number(digits)


def _refuse_number(digits: str) -> float:
    raise ValueError(f"the number {digits[:20]} is not accepted")


def _too_deep(source: str) -> InputError:
    return InputError(f"{source} is nested more than {DEPTH} deep")
