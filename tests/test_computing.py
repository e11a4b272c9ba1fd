"""Devices, and work that threads share: in order, in the caller's precision, threads restored."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Generator, Iterator

import pytest
import torch
from conftest import tiny_cnn
from test_graph import all_swaps, maps_of, swapped_by_hand

from deepcorrect.networks.patching import Graph, GraphPass
from deepcorrect.runtime import InputError, device_for
from deepcorrect.runtime._threads import parallel_map


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of PyTorch's threads, set for one test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    try:
        yield request.param
    finally:
        torch.set_num_threads(before)


two_ways = pytest.mark.parametrize("threads", [1, 2], indirect=True)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["mps", "mps:0", "cuda", "cuda:7", "meta", "gpu", "xla", "hpu", "x"]
)
def test_a_device_that_is_not_here_is_refused_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"device '{name}' cannot be used here: ") as caught:
        device_for(name)
    message = str(caught.value)
    assert message.endswith("Accepted: cpu, auto")
    assert len(message) < 260
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "built", "reason"),
    [
        ("cuda", False, "this PyTorch is built without CUDA"),
        ("cuda", True, "PyTorch finds no CUDA device and driver on this machine"),
        ("mps", False, "this PyTorch is built without MPS, which only Macs have"),
        ("mps", True, "MPS needs macOS 12.3 or later"),
    ],
)
def test_the_reason_says_whether_pytorch_or_the_machine_lacks_the_device(
    name: str, built: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for kind in (torch.backends.cuda, torch.backends.mps):
        monkeypatch.setattr(kind, "is_built", lambda: built)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=reason):
        device_for(name)


def test_a_cuda_device_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="the CUDA devices are numbered from 0 to 1"):
        device_for("cuda:2")


@two_ways
def test_side_by_side_gives_results_in_order(threads: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(parallel_map(slow_at_first, range(20), CPU)) == [i * i for i in range(20)]
    assert torch.get_num_threads() == threads
    assert list(parallel_map(slow_at_first, [], CPU)) == []


@two_ways
@pytest.mark.parametrize("casting", [True, False])
def test_side_by_side_casts_as_its_caller_does(threads: int, casting: bool) -> None:
    left, right = torch.rand(2, 2), torch.rand(2, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=casting):
        found = list(parallel_map(lambda _: (left @ right).dtype, range(3), CPU))
    assert found == [torch.bfloat16 if casting else torch.float32] * 3


@two_ways
def test_side_by_side_builds_no_graph_of_gradients(threads: int) -> None:
    weight = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        values = list(parallel_map(lambda item: weight * item, range(3), CPU))
    assert not any(value.requires_grad for value in values)


@two_ways
def test_an_exception_side_by_side_reaches_the_caller(threads: int) -> None:
    def fail(item: int) -> int:
        if item == 2:
            raise KeyError(item)
        return item

    found = parallel_map(fail, range(5), CPU)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(KeyError):
        next(found)
    assert torch.get_num_threads() == threads


@two_ways
def test_results_side_by_side_may_be_left(threads: int) -> None:
    found = parallel_map(lambda item: item, range(50), CPU)
    assert next(iter(found)) == 0
    assert isinstance(found, Generator)
    found.close()
    assert torch.get_num_threads() == threads


@two_ways
def test_nothing_runs_any_more_when_results_side_by_side_were_left(threads: int) -> None:
    begun, ended = [], []

    def slow(item: int) -> int:
        begun.append(item)
        time.sleep(0.01 * (item > 0))
        ended.append(item)
        return item

    found = parallel_map(slow, range(50), CPU)
    assert next(found) == 0
    assert isinstance(found, Generator)
    found.close()
    assert len(begun) < 10
    assert sorted(begun) == sorted(ended)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_forked_process_has_threads_of_its_own(threads: int) -> None:
    assert list(parallel_map(abs, [-1, -2], CPU)) == [1, 2]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(all_beside, ([-3, 4],)).get(timeout=60) == [3, 4]


def all_beside(items: list[int]) -> list[int]:
    return list(parallel_map(abs, items, CPU))


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_swaps_are_the_same_on_two_threads(threads: int) -> None:
    network, images = tiny_cnn(), torch.rand(4, 3, 12, 12)
    sites = ["grouped", "pointwise"]
    recorded = GraphPass(Graph(network, images, sites), images)
    for site in sites:
        clean = maps_of(network, site, images.flip(0))
        expected = swapped_by_hand(network, site, images, clean)
        assert torch.allclose(all_swaps(recorded, site, clean)[0], expected, atol=1e-4)
