"""Devices that are not the CPU: every path of `on_device.py`, and the script for GPUs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_cnn
from torch import nn
from torch.utils import backend_registration

import deepcorrect as dc
from deepcorrect.data import ImageSet
from deepcorrect.networks import logits_of
from deepcorrect.ranking import _clean_distorted
from deepcorrect.runtime import (
    _devices,
    exact_float32,
    forked_random,
    seed_random,
    to_device,
    widest_float,
)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu  # noqa: E402

MPS = torch.device("mps")
PARTS = {
    "distortions": "distortion or random_kinds or waits_as_often",
    "others": "not (distortion or random_kinds or waits_as_often)",
}


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot pretend a device",
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="tests marked cuda run on the GPU instead")
@pytest.mark.parametrize("part", PARTS)
def test_every_path_runs_on_a_device(part: str, tmp_path: Path) -> None:
    """In a process of its own: PyTorch must know a device before its first backward pass."""
    command = [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider"]
    command += [
        "-p",
        "no:xdist",
        "-m",
        "not cuda",
        "-k",
        PARTS[part],
        f"--basetemp={tmp_path / 'own'}",
    ]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "on_device.py")],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


def test_no_generator_of_another_device_is_seeded() -> None:
    """`torch.manual_seed` seeds all GPUs, and `fork_rng(devices=[])` restores none of them."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("torch.manual_seed", "torch.seed", "torch.random.fork_rng"):
                found.append(f"{path.name}: {name}")
    assert not found


def test_forked_random_numbers_are_restored() -> None:
    seed_random(5)
    expected = torch.rand(3)
    seed_random(5)
    with forked_random(seed=9):
        inside = torch.rand(3)
    assert torch.rand(3).equal(expected)
    seed_random(9)
    assert torch.rand(3).equal(inside)


def test_float32_is_exact_in_the_block_and_as_before_behind_it() -> None:
    backends: Any = torch.backends

    def settings() -> list[object]:
        owners = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul]
        return [each.fp32_precision for each in owners]

    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip(
            "this torch has one setting for all operations, see the example of exact_float32"
        )
    products = torch.get_float32_matmul_precision()
    convolutions = backends.cudnn.conv.fp32_precision
    try:
        for allowed in ("medium", "highest"):
            torch.set_float32_matmul_precision(allowed)
            before = settings()
            with suppress(ZeroDivisionError), exact_float32():
                assert not torch.backends.cudnn.allow_tf32
                assert torch.get_float32_matmul_precision() == "highest"
                assert settings() == ["ieee"] * 3
                raise ZeroDivisionError
            assert settings() == before
        backends.cudnn.conv.fp32_precision = "ieee"  # apart from others: no older names
        torch.set_float32_matmul_precision("medium")
        before = settings()
        with exact_float32():
            assert settings() == ["ieee"] * 3
        assert settings() == before
    finally:
        backends.cudnn.conv.fp32_precision = convolutions
        torch.set_float32_matmul_precision(products)


def test_results_are_compared_in_exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fuse`, the graph of a ranking and the first look at a network."""
    seen: list[bool] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = tiny_cnn()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return self.inside(images)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model, images = Watched().eval(), torch.rand(4, 3, 16, 16)
    dc.fuse(model, images)
    assert seen
    assert not any(seen)
    seen.clear()
    dc.rank(model, [(images, torch.arange(4))], ["contrast:1"], "swap", ["inside.stem"])
    assert False in seen
    assert torch.backends.cudnn.allow_tf32


def test_only_copies_to_a_gpu_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead: list[object] = []

    def to(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        ahead.append(kwargs.get("non_blocking"))
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    here, there = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, device="meta")
    for images, device in ((here, "cuda"), (here, "cpu"), (here, "mps"), (there, "cpu")):
        to_device(images, torch.device(device))
    assert ahead == [True, False, False, False]


def test_apples_gpus_have_neither_float64_nor_always_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert widest_float(MPS) == torch.float32
    assert _devices.resolve_precision(MPS, "auto") == "float32"
    for system, raises in ((False, True), (True, False)):
        monkeypatch.setattr(_devices, "_mps_has_bfloat16", lambda has=system: has)
        if raises:
            with pytest.raises(dc.InputError, match="needs macOS 14 or later"):
                _devices.resolve_precision(MPS, "bfloat16")
        else:
            assert _devices.resolve_precision(MPS, "bfloat16") == "bfloat16"


def test_a_ranking_takes_as_many_images_as_fit_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images, cuda = torch.empty(128, 3, 1, 1), torch.device("cuda")
    maps = 11_000_000  # of all of ResNet-50's convolutions at 224 pixels
    sizes = []
    for gigabytes in (141, 16, 1):
        monkeypatch.setattr(_clean_distorted, "memory_of", lambda _, n=gigabytes: n * 10**9)
        sizes.append(_clean_distorted._block_size(images, maps, cuda))
    assert sizes == [128, 22, 4]


@pytest.mark.parametrize("has_cuda", [True, False])
def test_batches_are_pinned_where_workers_decode_for_a_gpu(
    has_cuda: bool, digits_test: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert dc.loader(digits_test, workers=2).pin_memory is has_cuda
    assert not dc.loader(digits_test, workers=0).pin_memory
    assert not dc.loader(digits_test, workers=2).persistent_workers


def test_a_distributed_network_runs_without_waiting_for_others() -> None:
    class Distributed(nn.parallel.DistributedDataParallel):
        """One without other processes; its forward pass is a meeting of all."""

        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module = module

        def __getstate__(self) -> Any:
            return vars(self)

        def __setstate__(self, state: dict[str, Any]) -> None:
            nn.Module.__setstate__(self, state)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError("waits for other processes")

    inside, images = tiny_cnn(), torch.rand(4, 3, 16, 16)
    model = Distributed(inside).eval()
    batches = [(images, torch.arange(4))]
    assert logits_of(model, images).equal(inside(images))
    assert dc.evaluate(model, batches, ["contrast:1"]) == dc.evaluate(
        inside, batches, ["contrast:1"]
    )
    assert dc.rank(model, batches, ["contrast:1"]).images == 4
    before = inside.head.weight.clone()
    dc.fit(model, batches, ["contrast:1"], epochs=1, precision="float32")
    assert not inside.head.weight.equal(before)


# --- the script for machines with a GPU


def test_the_gpu_script_says_what_to_do_without_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    said = capsys.readouterr().err
    assert "device 'cuda' cannot be used here" in said
    assert "--device cpu --small" in said


def test_the_gpu_script_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    asked = ["--device", "cpu", "--small", "--out", str(out)]
    some = "tests|ranking|float32|distortion, (contrast|awgn)$"
    assert gpu.main([*asked, "--minutes", "-1"]) == 2
    assert gpu.main([*asked, "--only", some]) == 0
    kept = json.loads(out.read_text())["parts"]
    assert set(kept) == {
        "tests",
        "ranking",
        "training, float32",
        "evaluation, float32",
        "distortion, awgn",
        "distortion, contrast",
    }
    assert kept["distortion, contrast"]["difference"] == 0
    assert kept["ranking"]["images"] == gpu.SMALL.ranked
    assert kept["training, float32"]["images_per_second"] > 0
    assert "skipped" in kept["tests"]
    again = json.loads(out.read_text())
    assert gpu.main([*asked, "--only", some]) == 0
    assert json.loads(out.read_text()) == again  # nothing is measured twice
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    with pytest.raises(SystemExit, match="measured on another machine"):
        gpu.main(asked)


def test_the_gpu_script_notices_what_is_wrong() -> None:
    good, bad = torch.rand(16, 3, 8, 8), torch.rand(16, 3, 8, 8) + 0.3
    assert gpu._difference(good, good, False) == 0
    assert gpu._difference(bad, good, False) > gpu.EQUAL
    assert gpu._difference(good + 0.1 * torch.randn_like(good), good, True) < 40
    assert gpu._difference(bad, good, True) > gpu.CHANCE
    assert gpu._difference(good * float("nan"), good, True) == float("inf")
    wrong = ({"error": "x"}, {"status": 1}, {"agrees": False}, {"within_target": False})
    assert all(map(gpu._is_wrong, wrong))
    assert not gpu._is_wrong({"agrees": True, "within_target": True, "status": 0})
