"""What `make dist` checks of the wheel: it is complete, and the example is the README's."""

from __future__ import annotations

import runpy
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "scripts" / "try_wheel.py"))


def files_of_the_package() -> list[str]:
    call = ["git", "ls-files", "src"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        pytest.skip("this is no clone: git lists no files")
    return [name.removeprefix("src/") for name in done.stdout.splitlines()]


def wheel(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*names, "deepcorrect_torch-0.1.0.dist-info/METADATA"]:
            archive.writestr(name, "")
    return path


def test_a_wheel_with_every_file_of_the_package_passes(script: dict, tmp_path: Path) -> None:
    script["check_contents"](wheel(tmp_path / "a.whl", files_of_the_package()))


def test_a_wheel_without_the_shipped_weights_or_with_more_is_refused(
    script: dict, tmp_path: Path
) -> None:
    weights = "deepcorrect/models/digits_cnn.safetensors"
    names = [name for name in files_of_the_package() if name != weights]
    with pytest.raises(SystemExit, match=weights):
        script["check_contents"](wheel(tmp_path / "a.whl", names))
    with pytest.raises(SystemExit, match="notes.txt"):
        script["check_contents"](wheel(tmp_path / "b.whl", [*names, weights, "notes.txt"]))


def test_the_readmes_example_is_the_one_that_is_run(script: dict) -> None:
    text = script["readme_example"]()
    assert text.startswith("import deepcorrect as dc\n")
    assert 'save_pretrained("my-adapter")' in text
