"""Loaders that can be read only once lose no batch in silence: they are refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import deepcorrect as dc
from deepcorrect.data import check_repeatable
from deepcorrect.runtime import InputError

IMAGES = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = list(zip(IMAGES.split(4), (torch.arange(12) % 10).split(4), strict=True))


class Kept:
    """Has a length, and yields what is left of one iterator."""

    def __init__(self) -> None:
        self.rest = iter(BATCHES)

    def __len__(self) -> int:
        return len(BATCHES)

    def __iter__(self) -> Iterator[Any]:
        return self.rest


class Anew:
    """An iterator that starts anew."""

    place = 0

    def __len__(self) -> int:
        return len(BATCHES)

    def __iter__(self) -> Iterator[Any]:
        self.place = 0
        return self

    def __next__(self) -> Any:
        if self.place == len(BATCHES):
            raise StopIteration
        self.place += 1
        return BATCHES[self.place - 1]


class Stream(IterableDataset[Any]):
    """Reads an iterator that was opened before."""

    def __init__(self) -> None:
        self.rest = iter([(image, 0) for image in IMAGES])

    def __iter__(self) -> Iterator[Any]:
        return self.rest


class Bar:
    """Like a progress bar around an iterator."""

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        yield from self.iterable


ONCE: dict[str, Callable[[], Any]] = {
    "generator": lambda: (batch for batch in BATCHES),
    "zip": lambda: zip(IMAGES.split(4), BATCHES, strict=True),
    "map": lambda: map(tuple, BATCHES),
    "iterator": lambda: iter(BATCHES),
    "slice": lambda: itertools.islice(BATCHES, 2),
    "kept": Kept,
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "bar": lambda: Bar(iter(BATCHES)),
}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


@pytest.mark.parametrize("kind", ONCE)
def test_what_can_be_read_once_is_refused(kind: str, network: nn.Module) -> None:
    with pytest.raises(InputError, match=r"can be read only once.*give list\(loader\)"):
        dc.evaluate(network, ONCE[kind](), ["awgn:20"])
    with pytest.raises(InputError, match="can be read only once"):
        dc.fit(network, BATCHES, ["awgn:20"], dc.TrainingConfig(epochs=1), validation=ONCE[kind]())


def test_training_and_gates_refuse_it_before_they_start(network: nn.Module) -> None:
    adapted = dc.correct(network, {"0": [0, 1]})
    with pytest.raises(InputError, match="can be read only once"):
        dc.fit_gate(adapted, iter(BATCHES), ["awgn:20"], false_alarms=0.25)
    with pytest.raises(InputError, match="can be read only once"):
        dc.fit(network, Kept(), ["awgn:20"], dc.TrainingConfig(epochs=1))
    with pytest.raises(InputError, match="can be read only once"):
        dc.fit(network, BATCHES, ["awgn:20"], dc.TrainingConfig(epochs=1), validation=iter(BATCHES))


def test_one_pass_loses_nothing(network: nn.Module) -> None:
    expected = dc.rank(network, BATCHES, ["awgn:20"], target="prediction")
    found = dc.rank(network, Kept(), ["awgn:20"], target="prediction")
    assert found.images == expected.images == 12
    with pytest.raises(InputError, match="can be read only once"):
        dc.rank(network, iter(BATCHES), ["awgn:20"])


def test_what_starts_anew_is_read_as_a_list_is(network: nn.Module) -> None:
    expected = dc.evaluate(network, BATCHES, ["awgn:20"])
    for loader in (Anew(), tuple(BATCHES), Bar(BATCHES)):
        found = dc.evaluate(network, loader, ["awgn:20"])
        assert (found.images, found.to_json()) == (12, expected.to_json())


def test_a_usual_loader_is_not_opened_by_the_check() -> None:
    class Opened(DataLoader[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("workers would start")

    check_repeatable(Opened(Stream(), num_workers=2))
