"""Tries the wheel in dist/ as a new user would: in an environment of its own, away from the clone.

    python scripts/try_wheel.py    (`make dist` builds the wheel and calls this)

Checks that the wheel holds every file of the package, installs it with only the dependencies that
it declares (at the versions in constraints.txt), and runs the command's help, the README's Python
example and the demo, of which it trains two of ten epochs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "wheel"


def main() -> None:
    (wheel,) = (ROOT / "dist").glob("*.whl")
    check_contents(wheel)
    shutil.rmtree(FOLDER, ignore_errors=True)
    with step("a new environment with pip"):
        venv.create(FOLDER / "venv", with_pip=True)
    programs = FOLDER / "venv" / ("Scripts" if os.name == "nt" else "bin")
    constraints = str(ROOT / "constraints.txt")

    def install(*what: str) -> None:
        pip = (str(programs / "python"), "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", "--quiet", "--constraint", constraints, *what)
        run(*pip, "check")

    with step(f"pip install {wheel.name}"):
        install(str(wheel))
    command = str(programs / "deepcorrect")
    with step("help, version and lists, without any extra"):
        for call in (["--help"], ["--version"], ["list", "models"], ["list", "recipes"]):
            run(command, *call, quiet=True)
    with step(f"pip install '{wheel.name}[demo]'"):
        install(f"{wheel}[demo]")
    with step("the README's Python example"):
        (FOLDER / "example.py").write_text(readme_example(), encoding="utf-8")
        run(str(programs / "python"), "example.py")
        assert (FOLDER / "my-adapter" / "adapter_model.safetensors").is_file()
    with step("deepcorrect run demo"):
        systems = ("finetuned", "finetuned_gated", "deepcorrect")
        short = [f"systems.{system}.training.epochs=2" for system in systems]
        run(command, "run", "demo", *short, "--out", "demo")
        for name in ("report.html", "results.json", "adapter/adapter_model.safetensors"):
            assert (FOLDER / "demo" / name).is_file(), name
    print(f"{wheel.name} works")


def check_contents(wheel: Path) -> None:
    """Every file of the package that git knows is in the wheel, and nothing else is."""
    listed = subprocess.run(
        ["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = {name.removeprefix("src/") for name in listed}
    assert wanted, "git lists no files: is this a clone?"
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    if wanted != there:
        missing, other = sorted(wanted - there), sorted(there - wanted)
        sys.exit(f"{wheel.name} lacks {missing} and has {other} beyond the package's files")


def readme_example() -> str:
    """The README's first example in Python."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found, "the README has no example in Python"
    return found[1]


def run(*call: str, quiet: bool = False) -> None:
    """Runs a program outside of the clone, so that nothing is imported from it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(call, cwd=FOLDER, env=kept, stdout=output, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(call)} ended with {done.returncode}")


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"--- {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"    {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
