"""What cannot be tried where there is no GPU, in ten minutes on a machine that has one.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --small --out small.json      # tries its code anywhere

runs, one after the other: the tests marked `cuda`; every distortion at its levels, compared with
the CPU; the ranking of ResNet-50 at 224 pixels; the throughput of training and of evaluation, in
float32 and bfloat16. Weights and pictures are random, which times do not depend on: no data set is
needed. benchmarks/results/gpu.json is written after each measurement, and one that is stopped, or
runs out of time, goes on with the next when it is started again. Remove the file to begin anew.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepcorrect as dc
from benchmarks.subjects import RESULTS, timm_network
from deepcorrect.distortions import KINDS, Distortion
from deepcorrect.runtime import console, device_for, environment, exact_float32, files

ROOT = Path(__file__).parents[1]
TESTS = ("tests/on_device.py", "tests/test_every_distortion.py")
TARGET = 120
"""Seconds for the ranking of ResNet-50 at 224 pixels by 1,000 images at 12 levels, on one H200."""
EQUAL = 2e-3
"""The largest accepted difference of a pixel from the CPU's, for kinds without random numbers."""
CHANCE = 5.0
"""How many standard errors apart the two devices' means may be, for kinds with random numbers."""


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    side: int
    images: int
    batch: int
    ranked: int
    levels: int

    @property
    def network(self) -> nn.Module:
        """The network that is ranked, trained and measured: N x 3 x side x side to N x classes."""
        if self.side >= 224:
            return timm_network("resnet50")
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).eval()


WHOLE = Sizes(side=224, images=64, batch=64, ranked=1000, levels=6)
SMALL = Sizes(side=32, images=4, batch=4, ranked=8, levels=1)
Measured = dict[str, Any]


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Smooth random pictures with some fine detail, N x 3 x side x side in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(count, 3, 7, 7, generator=generator)
    fine = torch.rand(count, 3, side, side, generator=generator)
    return 0.8 * F.interpolate(soft, (side, side), mode="bilinear") + 0.2 * fine


def batches(count: int, sizes: Sizes) -> list[tuple[Tensor, Tensor]]:
    """`count` pictures in batches: different ones, of which a few are drawn and then shifted."""
    drawn = pictures(min(count, 64), sizes.side)
    found = []
    for first in range(0, count, sizes.batch):
        some = torch.arange(first, min(first + sizes.batch, count))
        images = drawn[some % len(drawn)].roll(first // len(drawn), -1)
        found.append((images, some % 8))
    return found


def waited(device: torch.device) -> float:
    """The time, once the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# --- the parts


def run_tests(device: torch.device, sizes: Sizes) -> Measured:
    del sizes
    if device.type != "cuda":
        return {"skipped": "the tests marked cuda need a CUDA device"}
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped)", done.stdout)}
    failed = re.findall(r"^FAILED (.*)", done.stdout, re.MULTILINE)
    return {**counts, "failures": failed, "status": done.returncode}


def compare_distortion(name: str, device: torch.device, sizes: Sizes) -> Measured:
    """One kind at all its levels, beside the CPU: pixels, or where it is random, statistics."""
    images, kind = pictures(sizes.images, sizes.side), KINDS[name]
    here = images.to(device)
    parameters = Distortion(name).parameters_at(sizes.side)
    levels = kind.levels(parameters)[-sizes.levels :]
    seeds = torch.arange(len(images))
    worst = 0.0
    seconds = {"device": 0.0, "cpu": 0.0}
    Distortion(name)(here[:2], levels[0], seeds[:2])  # what is computed once
    for level in levels:
        started = waited(device)
        shown = Distortion(name)(here, level, seeds)
        seconds["device"] += waited(device) - started
        started = time.perf_counter()
        expected = Distortion(name)(images, level, seeds)
        seconds["cpu"] += time.perf_counter() - started
        worst = max(worst, _difference(shown.cpu(), expected, kind.random))
    count = len(images) * len(levels)
    return {
        "levels": list(levels),
        "random": kind.random,
        "difference": worst,
        "agrees": worst <= (CHANCE if kind.random else EQUAL),
        "images_per_second": {place: round(count / spent, 1) for place, spent in seconds.items()},
    }


def _difference(given: Tensor, expected: Tensor, is_random: bool) -> float:
    """The largest difference of a pixel; or of the means and of the spreads over images, in
    standard errors."""
    if not bool(given.isfinite().all()):
        return float("inf")
    if not is_random:
        return float((given - expected).abs().max())
    largest = 0.0
    for statistic in (lambda x: x.mean((1, 2, 3)), lambda x: x.std((1, 2, 3))):
        one, other = statistic(given), statistic(expected)
        change = one - other  # of the same picture, so that pictures' own spread is left out
        error = float(change.std() / len(change) ** 0.5) + 1e-4
        largest = max(largest, abs(float(change.mean())) / error)
    return largest


def rank_network(device: torch.device, sizes: Sizes) -> Measured:
    model, specs = sizes.network.to(device), ["gaussian_blur", "awgn"]
    dc.rank(model, batches(2 * sizes.batch, sizes), ["contrast:1"])  # what is computed once
    loader = batches(sizes.ranked, sizes)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = waited(device)
    ranking = dc.rank(model, loader, specs)
    seconds = waited(device) - started
    return {
        "method": ranking.method,
        "images": ranking.images,
        "levels": sum(len(each.levels) for each in ranking.distortions),
        "filters": sum(values.shape[1] for values in ranking.by_level.values()),
        "seconds": round(seconds, 2),
        "target_seconds": TARGET,
        "within_target": seconds <= TARGET,
        **_memory(device),
    }


def train(precision: str, device: torch.device, sizes: Sizes) -> Measured:
    """Images per second of `fit`, which trains units at eight sites or so."""
    model = sizes.network.to(device)
    convolutions = [name for name, each in model.named_modules() if isinstance(each, nn.Conv2d)]
    chosen = {name: list(range(8)) for name in convolutions[:: max(1, len(convolutions) // 8)]}
    adapted = dc.correct(model, chosen)
    settings: dict[str, Any] = {
        "epochs": 1,
        "precision": precision,
        "objective": {"logits": 1.0},
        "augmentation": {"rotation": 10, "zoom": 0.1, "flip": True},
    }
    specs = ["gaussian_blur", "awgn"]
    dc.fit(adapted, batches(2 * sizes.batch, sizes), specs, **settings)
    loader = batches(sizes.ranked // 2 or 2 * sizes.batch, sizes)
    started = waited(device)
    done = dc.fit(adapted, loader, specs, **settings)
    seconds = waited(device) - started
    loss = done.epochs[0].loss
    return {"images_per_second": round(done.images_seen / seconds, 1), "loss": loss} | _memory(
        device
    )


def measure(precision: str, device: torch.device, sizes: Sizes) -> Measured:
    """Images per second of `evaluate`, each counted in every cell."""
    model, specs = sizes.network.to(device), ["gaussian_blur", "awgn"]
    given: Any = precision
    dc.evaluate(model, batches(sizes.batch, sizes), specs, precision=given)
    loader = batches(sizes.ranked, sizes)
    started = waited(device)
    grid = dc.evaluate(model, loader, specs, precision=given)
    seconds = waited(device) - started
    shown = grid.images * (1 + sum(len(each.cells) for each in grid.curves.values()))
    return {"images_per_second": round(shown / seconds, 1), "cells": shown // grid.images}


def _memory(device: torch.device) -> Measured:
    if device.type != "cuda":
        return {}
    return {"peak_gigabytes": round(torch.cuda.max_memory_allocated(device) / 1e9, 2)}


def parts() -> Iterator[tuple[str, Callable[[torch.device, Sizes], Measured]]]:
    """All measurements by name, in the order in which they are made."""
    yield "tests", run_tests
    yield "ranking", rank_network
    for precision in ("float32", "bfloat16"):
        yield f"training, {precision}", lambda *given, p=precision: train(p, *given)
        yield f"evaluation, {precision}", lambda *given, p=precision: measure(p, *given)
    for name in KINDS:
        yield f"distortion, {name}", lambda *given, n=name: _exactly(n, *given)


def _exactly(name: str, device: torch.device, sizes: Sizes) -> Measured:
    with exact_float32():
        return compare_distortion(name, device, sizes)


# --- what is kept


def begun(path: Path, about: Measured) -> Measured:
    """What an earlier start measured on the same machine, or nothing."""
    kept = files.read_json(path) if path.exists() else {}
    if kept and kept.get("about") != about:
        raise SystemExit(
            f"{path} was measured on another machine, with other software or in another size: move "
            "it, or give --out"
        )
    return kept or {"about": about, "parts": {}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the code")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", default="", help="parts whose names match, as 'ranking|training'")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    given = parser.parse_args(arguments)
    try:
        device = device_for(given.device)
    except dc.InputError as error:
        print(
            f"{error}\nRun this script on a machine with a GPU. Its code can be tried anywhere: "
            "python -m benchmarks.gpu --device cpu --small --out small.json",
            file=sys.stderr,
        )
        return 1
    about = {key: value for key, value in environment(device).items() if key != "date"}
    kept = begun(given.out, {"small": given.small, **about})
    ends = time.monotonic() + 60 * given.minutes
    for name, compute in parts():
        if name in kept["parts"] or not re.search(given.only, name):
            continue
        if time.monotonic() > ends:
            console().print("the time is up: start the script again for the rest", markup=False)
            return 2
        started = time.monotonic()
        try:
            found = compute(device, SMALL if given.small else WHOLE)
        except (RuntimeError, dc.DeepCorrectError, subprocess.TimeoutExpired) as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        kept["parts"][name] = {**found, "took": round(time.monotonic() - started, 1)}
        files.write_json(given.out, kept)
        console().print(f"{name}: {found}", markup=False)
    wrong = [name for name, each in kept["parts"].items() if _is_wrong(each)]
    console().print(f"{len(kept['parts'])} parts in {given.out}; wrong: {wrong}", markup=False)
    return 1 if wrong else 0


def _is_wrong(found: Measured) -> bool:
    """Whether a part failed, disagrees with the CPU or misses its target."""
    failed = "error" in found or found.get("status", 0) != 0
    return failed or not found.get("agrees", True) or not found.get("within_target", True)


if __name__ == "__main__":
    raise SystemExit(main())
