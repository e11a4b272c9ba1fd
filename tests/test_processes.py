"""Ranking by several processes: the same figures as by one."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SIZE, Batch, cut, tiny_cnn
from torch import Tensor

from deepcorrect.data import Preprocessing
from deepcorrect.networks import Classifier
from deepcorrect.ranking import Ranking, ideal_correction, load_ranking, rank
from deepcorrect.runtime import files

METHODS = ("swap", "swap_logprob", "gradient")
WORLD = 2
needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch was built without gloo, which processes on CPUs talk through",
)


def small() -> Classifier:
    return Classifier(tiny_cnn(), Preprocessing(SIZE, (0.5,) * 3, (0.05,) * 3), "tiny").eval()


def some_batches() -> list[Batch]:
    """Five blocks, the last a small one: the processes' shares differ."""
    images = torch.rand(18, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return cut(images, small()(images).argmax(1), 4)


def ranked(method: str, batches: list[Batch]) -> Ranking:
    grid = ["awgn:10,40", "gaussian_blur:1"]
    return rank(small(), batches, grid, method, ["stem", "pointwise"], seed=5)


def curves_of(ranking: Ranking, batches: list[Batch]) -> dict[str, Tensor]:
    found = ideal_correction(small(), batches, ranking, (0.25, 0.5))
    named = {f"right/{site}": values.byte() for site, values in found.right.items()}
    return {**named, "before": found.distorted_right.byte()}


def rank_together(folder: Path, index: int, port: int) -> None:
    """In a process of its own: one of two that rank together, over gloo."""
    os.environ.update(
        RANK=str(index),
        LOCAL_RANK=str(index),
        WORLD_SIZE=str(WORLD),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        ACCELERATE_USE_CPU="true",
    )
    torch.set_num_threads(1)
    torch.manual_seed(index)  # what each draws by itself must not matter
    for method in METHODS:
        ranked(method, some_batches()).save(folder / f"{method}-{index}")
    few = ranked("swap", some_batches()[:1])  # the second process has nothing to do
    few.save(folder / f"few-{index}")
    first = load_ranking(folder / f"swap-{index}")
    files.write_tensors(folder / f"curves-{index}", curves_of(first, some_batches()))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which two processes wrote what they found."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    started = [
        context.Process(target=rank_together, args=(folder, index, port)) for index in range(WORLD)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(90)
    left = [process for process in started if process.is_alive()]
    for process in left:
        process.kill()
    assert not left
    assert [process.exitcode for process in started] == [0] * WORLD
    return folder


@needs_gloo
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_find_what_one_finds(together: Path, method: str) -> None:
    alone = ranked(method, some_batches())
    found = [load_ranking(together / f"{method}-{index}") for index in range(WORLD)]
    for site in alone.sites:
        one, other = (each.by_level[site] for each in found)
        assert torch.equal(one, other)
        if method == "swap":  # counts of images
            assert torch.equal(one, alone.by_level[site])
            assert bool(alone.by_level["pointwise"].any())
        assert torch.allclose(one, alone.by_level[site], atol=1e-6)
    for each in found:
        assert each.images == alone.images == 18
        assert (each.target, each.maps, each.network) == (alone.target, alone.maps, alone.network)
        assert each.distortions == alone.distortions


@needs_gloo
def test_a_process_may_have_nothing_to_do(together: Path) -> None:
    alone = ranked("swap", some_batches()[:1])
    for index in range(WORLD):
        found = load_ranking(together / f"few-{index}")
        assert found.images == 4
        for site in alone.sites:
            assert torch.equal(found.by_level[site], alone.by_level[site])


@needs_gloo
def test_two_processes_find_the_ideal_correction_that_one_finds(together: Path) -> None:
    alone = curves_of(ranked("swap", some_batches()), some_batches())
    for index in range(WORLD):
        found = files.read_tensors(together / f"curves-{index}")
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            assert torch.equal(found[name], values), name


def launched(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command on two processes of torchrun: on a CPU, accelerate launch starts one alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "deepcorrect", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )


@pytest.fixture(scope="module")
def launched_rank(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("launched") / "ranking"
    done = launched(
        *("rank", "--model", "digits_cnn", "--data", "digits:test", "--images", 8),
        *("--batch-size", 3, "--distortion", "awgn:60", "--sites", "features.0.0"),
        *("--method", "gradient", "--out", folder, "--json"),
    )
    return folder, done


@needs_gloo
def test_a_launched_rank_prints_and_writes_one_ranking(
    launched_rank: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = launched_rank
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["images"] == 8
    ranking = load_ranking(folder)
    assert said["priorities"]["features.0.0"] == ranking.priorities["features.0.0"].tolist()
    assert done.stderr.count("ranking: ") == 1


@needs_gloo
def test_a_launched_comparison_is_printed_once(
    launched_rank: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = launched_rank
    done = launched("rank", "--compare", folder, folder, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
