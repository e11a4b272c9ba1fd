"""Several processes for a test: spawned ones that call a function, and launched commands."""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from deepcorrect import runtime

needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch was built without gloo, which processes on CPUs talk through",
)
Work = Callable[[Path, int], None]
"""What each process does, with a folder for its findings and its number."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _work(work: Work, folder: Path, index: int, count: int, port: int) -> None:
    os.environ.update(
        RANK=str(index),
        LOCAL_RANK=str(index),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.manual_seed(index)  # what each draws by itself must not matter
    work(folder, index)
    runtime.leave()


def started(work: Work, folder: Path, count: int) -> list[BaseProcess]:
    """Starts processes that work together over gloo."""
    context, port = mp.get_context("spawn"), free_port()
    processes = [
        context.Process(target=_work, args=(work, folder, index, count, port))
        for index in range(count)
    ]
    for process in processes:
        process.start()
    return list(processes)


def ended(processes: list[BaseProcess], seconds: float = 400) -> list[int | None]:
    """The exit codes of processes, none of which may be left after some time."""
    for process in processes:
        process.join(seconds)
    left = [process for process in processes if process.is_alive()]
    for process in left:
        process.kill()
    assert not left
    return [process.exitcode for process in processes]


TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port")
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"),
)


def launched(launcher: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    """A finished command of two processes."""
    start = [sys.executable, "-m", *launcher, str(free_port()), "-m", "deepcorrect"]
    return subprocess.run(
        [*start, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
