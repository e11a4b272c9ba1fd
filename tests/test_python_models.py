"""`python:` networks in a repository: siblings, packages, and modules of the current folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcorrect.models import load_model
from deepcorrect.runtime import InputError

GIVEN: dict[str, Any] = {"input_size": 8, "mean": (0.5,), "std": (0.25,)}
LAYERS = """
from torch import nn
def layers():
    return nn.Sequential(nn.Conv2d(1, {classes}, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture(autouse=True)
def _imports(tmp_path: Path) -> Iterator[None]:
    """Nothing may stay on the search path; what was imported from the folder goes again."""
    path, before = list(sys.path), set(sys.modules)
    yield
    assert sys.path == path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def classes(spec: str) -> int:
    return load_model(spec, **GIVEN)(torch.rand(1, 1, 8, 8)).shape[1]


def layers(count: int) -> str:
    return LAYERS.format(classes=count)


@pytest.mark.parametrize(
    ("files", "file"),
    [
        ({"net.py": "from blocks import layers", "blocks.py": layers(3)}, "net.py"),
        (
            {"net.py": "from parts.deep import layers", "parts/deep.py": layers(3)},
            "net.py",
        ),
        (
            {"net.py": "def layers():\n    from blocks import layers\n    return layers()\n"}
            | {"blocks.py": layers(3)},
            "net.py",
        ),
        (
            {"m/__init__.py": "", "m/net.py": "from .blocks import layers"}
            | {"m/blocks.py": layers(3)},
            "m/net.py",
        ),
        ({"m/net.py": "from .blocks import layers", "m/blocks.py": layers(3)}, "m/net.py"),
        (
            {"m/__init__.py": "COUNT = 1", "m/a/__init__.py": "", "m/b.py": layers(3)}
            | {"m/a/net.py": "from .. import COUNT\nfrom ..b import layers"},
            "m/a/net.py",
        ),
        ({"m/a/net.py": "from ..b.c import layers", "m/b/c.py": layers(3)}, "m/a/net.py"),
        (
            {"m/__init__.py": "", "m/net.py": "from m.blocks import layers"}
            | {"m/blocks.py": layers(3)},
            "m/net.py",
        ),
        (
            {"m/__init__.py": "raise ImportError('of something else')"}
            | {"m/net.py": layers(3)},  # a file that needs nothing of its package
            "m/net.py",
        ),
    ],
)
def test_a_file_of_a_repository_imports_what_lies_beside_it(
    tmp_path: Path, files: dict[str, str], file: str
) -> None:
    assert classes(f"python:{write(tmp_path, files) / file}:layers") == 3
    assert classes(f"python:{tmp_path / file}:layers") == 3


@pytest.mark.parametrize("line", ["from blocks import layers", "from .blocks import layers"])
def test_two_repositories_with_the_same_names_do_not_mix(tmp_path: Path, line: str) -> None:
    for count in (2, 3):
        write(tmp_path / str(count), {"net.py": line, "blocks.py": layers(count)})
    for count in (2, 3, 2):
        assert classes(f"python:{tmp_path / str(count) / 'net.py'}:layers") == count


def test_a_sibling_does_not_replace_an_installed_package(tmp_path: Path) -> None:
    """Repositories often have folders of the names of libraries, such as `datasets`."""
    import yaml

    write(tmp_path, {"net.py": "from yaml import layers", "yaml.py": layers(3)})
    assert classes(f"python:{tmp_path / 'net.py'}:layers") == 3
    assert sys.modules["yaml"] is yaml
    write(tmp_path, {"net.py": "from colorsys import layers", "colorsys.py": layers(3)})
    with pytest.raises(InputError, match="importing .* failed: ImportError"):
        classes(f"python:{tmp_path / 'net.py'}:layers")  # the standard library's own


def test_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (2, 3):
        write(
            tmp_path / str(count),
            {
                "pack/__init__.py": "",
                "pack/net.py": "from .sub.blocks import layers",
                "pack/sub/blocks.py": layers(count),
                "single.py": layers(count + 2),
            },
        )
    for count in (2, 3):
        monkeypatch.chdir(tmp_path / str(count))
        assert classes("python:pack.net:layers") == count
        assert classes("python:single:layers") == count + 2
        assert classes("python:pack/net.py:layers") == count


def test_a_missing_sibling_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": "from nowhere_here import layers"})
    with pytest.raises(InputError, match="failed: ModuleNotFoundError: No module named 'nowhere_h"):
        classes(f"python:{tmp_path / 'net.py'}:layers")
    write(tmp_path, {"net.py": "from .nowhere_here import layers"})
    with pytest.raises(InputError, match="failed: ModuleNotFoundError: .*nowhere_here"):
        classes(f"python:{tmp_path / 'net.py'}:layers")
