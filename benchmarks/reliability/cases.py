"""What the reliability campaign shares: tiny sets and networks, commands, and how figures are kept.

Everything runs on the digits network and on digits drawn here, so that one case takes seconds and
the campaign needs no data set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from deepcorrect.runtime import files

RESULTS = Path(__file__).parents[1] / "results" / "reliability"
SOURCE = Path(__file__).parents[2] / "src"
COMMAND = [sys.executable, "-m", "deepcorrect"]
TIME_KEYS = ("seconds", "latency", "speed", "images_per_second", "sha256")
"""Parts of the names of figures that differ from run to run: times and what depends on them."""


def options(about: str, **defaults: int | float | str) -> argparse.Namespace:
    """The command line of a script: the sizes, each with its default."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def keep(out: Path, name: str, figures: dict[str, Any], *, show: bool = True) -> None:
    """Writes a script's figures with the machine that they are of, and prints them."""
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    files.write_json(out / f"{name}.json", {"schema": 1, "machine": machine, **figures})
    if show:
        print(json.dumps(figures, indent=1), flush=True)


def draw_digits(folder: Path, classes: int = 10, each: int = 4, seed: int = 0) -> Path:
    """A folder of grey 28 x 28 PNGs, one sub-folder a class."""
    drawing = np.random.default_rng(seed)
    for label in range(classes):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = np.zeros((28, 28), np.uint8)
            top, left = drawing.integers(2, 8, 2)
            pixels[top : top + 14, left + label : left + label + 4] = 220
            pixels[top + label : top + label + 3, left : left + 14] = 255
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def tiny_recipe(path: Path, data: Path) -> Path:
    """A recipe with every kind of step; a run takes some seconds."""
    training = {"epochs": 2, "batch_size": 20, "precision": "float32"}
    recipe = {
        "name": "tiny",
        "model": {"spec": "digits_cnn"},
        "data": {
            "train": f"folder:{data / 'train'}",
            "validation": f"folder:{data / 'validation'}",
            "test": f"folder:{data / 'test'}",
            "batch_size": 20,
        },
        "distortions": {"gaussian_blur": {"levels": [1.5]}, "awgn": {"levels": [40]}},
        "ranking": {"images": 6, "sites": ["features.0.0", "features.3.0"]},
        "ideal": {"images": 5, "betas": [0.5]},
        "selection": {"images": 10},
        "systems": {
            "finetuned": {"method": "finetune", "training": training},
            "deepcorrect": {
                "method": "deepcorrect",
                "beta": 0.25,
                "unit": {"kind": "bottleneck", "dilations": [1]},
                "gate": 0.1,
                "training": training,
            },
        },
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def make_data(folder: Path) -> Path:
    """Folders train, validation and test, and `tiny.yaml`."""
    for seed, (name, each) in enumerate({"train": 4, "validation": 3, "test": 2}.items()):
        draw_digits(folder / name, each=each, seed=seed)
    tiny_recipe(folder / "tiny.yaml", folder)
    return folder


def environment() -> dict[str, str]:
    """One thread, and the package of this checkout."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


def call(
    *arguments: object, seconds: float = 600.0, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment(),
        check=False,
        **more,
    )


def stopped(
    arguments: Sequence[object], after: float, number: signal.Signals
) -> tuple[int, str] | None:
    """Starts a command and sends it a signal after some seconds.

    Returns:
        Its exit status and stderr; None if it had ended before.
    """
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=_heard,  # noqa: PLW1509  (there is one thread)
    )
    try:
        _, error = process.communicate(timeout=after)
        return None if process.returncode == 0 else (process.returncode, error)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, error = process.communicate(timeout=600)
    return process.returncode, error


def _heard() -> None:
    """Lets a command hear Ctrl-C, which a background job ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def digest(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, of JSON files without times."""
    found: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(without_times(json.loads(content)), sort_keys=True).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def without_times(value: Any) -> Any:
    """A JSON value without figures that differ from run to run."""
    if isinstance(value, dict):
        return {
            key: without_times(each)
            for key, each in value.items()
            if not any(part in key for part in TIME_KEYS)
        }
    return [without_times(each) for each in value] if isinstance(value, list) else value


class Clock:
    """Time that has been spent, so that a script keeps to its size."""

    def __init__(self, seconds: float) -> None:
        self.started, self.seconds = time.monotonic(), seconds

    @property
    def spent(self) -> float:
        return time.monotonic() - self.started

    @property
    def is_over(self) -> bool:
        return self.spent > self.seconds


def drawn(seed: int, *parts: object) -> random.Random:
    """A source of random choices for one case."""
    return random.Random(f"{seed}/{'/'.join(map(str, parts))}")
