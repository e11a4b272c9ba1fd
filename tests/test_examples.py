"""The examples in docstrings run as they stand, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepcorrect as dc

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> Iterator[doctest.DocTest]:
    """The docstrings of the whole package that have an example, in the order of their names."""
    finder = doctest.DocTestFinder()
    found = [
        test
        for module in pkgutil.walk_packages(dc.__path__, "deepcorrect.")
        if not module.name.endswith("__main__")
        for test in finder.find(importlib.import_module(module.name), module.name)
        if test.examples
    ]
    yield from sorted(found, key=lambda test: test.name)


def public_names() -> list[str]:
    """The functions and classes that `import deepcorrect` offers."""
    stub = Path(dc.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    names = re.findall(r"^from \S+ import \w+ as (\w+)$", stub, re.MULTILINE)
    return [name for name in names if callable(getattr(dc, name))]


@pytest.mark.parametrize("example", list(examples()), ids=lambda test: test.name)
def test_an_example_runs_as_it_stands(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own; `conftest` sets the seed before each test."""
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not outcome.failed, "".join(said)


def test_every_public_function_and_class_has_an_example() -> None:
    names = public_names()
    assert {"correct", "AdaptedModel", "InputError"} <= set(names)
    missing = {name for name in names if ">>>" not in (getattr(dc, name).__doc__ or "")}
    assert not missing
