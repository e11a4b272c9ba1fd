"""One way for a batch: the images of a loader in the cells of a grid, and what is kept of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from conftest import Batch, cut
from torch import Tensor

from deepcorrect.distortions import (
    CLEAN,
    KINDS,
    Cell,
    DistortedBatch,
    DistortedCache,
    Distortion,
    cells_of,
    distorted_batches,
    level_rows,
    numbered_batches,
    parse_all,
)
from deepcorrect.evaluation import evaluate
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, seeds_for

GRID = parse_all(["awgn:20,60", "gaussian_blur:1"], 16)
CELLS = [CLEAN, *cells_of(GRID)]


def seen(batches: list[DistortedBatch]) -> dict[Cell, Tensor]:
    """All images of each cell, in the order in which they came."""
    return {
        cell: torch.cat([batch.images for batch in batches if batch.cell == cell]) for cell in CELLS
    }


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each call of white noise from now on."""
    calls: list[int] = []
    known = KINDS["awgn"]

    def noise(images: Tensor, *arguments: Any) -> Tensor:
        calls.append(len(images))
        return known.function(images, *arguments)

    monkeypatch.setitem(KINDS, "awgn", dataclasses.replace(known, function=noise))
    return calls


# --- what is shown


@pytest.mark.parametrize("size", [5, 12])
@pytest.mark.parametrize("by_cell", [False, True])
def test_every_image_is_shown_in_every_cell_with_the_noise_of_its_number(
    images: Tensor, size: int, by_cell: bool
) -> None:
    labels = torch.arange(len(images))
    batches = list(distorted_batches(cut(images, labels, size), CELLS, seed=3, by_cell=by_cell))
    shown = seen(batches)
    assert torch.equal(shown[CLEAN], images)
    for cell in cells_of(GRID):
        assert cell.distortion is not None
        name = cell.distortion.name
        seeds = seeds_for(3, name, cell.level, first=0, count=len(images))
        assert torch.equal(shown[cell], Distortion(name)(images, cell.level, seeds))
    for batch in batches:
        numbers = batch.first + torch.arange(len(batch.images))
        assert torch.equal(batch.labels, labels[numbers])
        assert torch.equal(batch.clean, images[numbers])
        assert CELLS[batch.row] == batch.cell


def test_batches_come_one_after_the_other_or_cells_do(images: Tensor) -> None:
    loader = cut(images, torch.zeros(len(images), dtype=torch.long), 6)
    batches = [(b.first, b.row) for b in distorted_batches(loader, CELLS)]
    cells = [(b.first, b.row) for b in distorted_batches(loader, CELLS, by_cell=True)]
    assert batches == sorted(batches)
    assert cells == sorted(cells, key=lambda each: (each[1], each[0]))
    assert sorted(batches) == sorted(cells)


class Once:
    """Batches that can be read so many times and no more."""

    def __init__(self, batches: list[Batch], times: int = 1) -> None:
        self.batches, self.times = batches, times

    def __iter__(self) -> Any:
        assert self.times, "decoded again"
        self.times -= 1
        return iter(self.batches)


def test_a_batch_is_decoded_once_for_all_cells(batches: list[Batch]) -> None:
    found = list(distorted_batches(Once(batches), CELLS))
    assert len(found) == len(batches) * len(CELLS)


def test_empty_batches_are_left_out_and_do_not_count(batches: list[Batch]) -> None:
    empty = (torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.long))
    mixed = [empty, batches[0], empty, *batches[1:], empty]
    ours = seen(list(distorted_batches(mixed, CELLS)))
    for cell, images in seen(list(distorted_batches(batches, CELLS))).items():
        assert torch.equal(ours[cell], images)
    with pytest.raises(InputError, match="there are no images to look at"):
        list(numbered_batches([empty, empty], "to look at"))


def test_rows_of_a_distortion_are_its_levels() -> None:
    cells, rows = cells_of(GRID), level_rows(GRID)
    for kind in GRID:
        assert cells[rows[kind.name]] == [Cell(kind, level) for level in kind.levels]


# --- what is kept


def test_a_cache_shows_the_same_and_makes_it_once(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(distorted_batches(batches, CELLS, seed=2))
    calls = counted(monkeypatch)
    cache, loader = DistortedCache(), Once(batches)
    for _ in range(3):
        found = list(distorted_batches(loader, CELLS, seed=2, cache=cache))
        assert [(b.first, b.row, b.cell) for b in found] == [
            (b.first, b.row, b.cell) for b in expected
        ]
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.clean, theirs.clean)
            assert torch.equal(ours.labels, theirs.labels)
            assert ours.images.stride() == theirs.images.stride()
    assert calls == [len(images) for images, _ in batches for _ in range(2)]


def test_above_its_limit_a_cache_keeps_nothing(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    whole = DistortedCache()
    list(distorted_batches(batches, CELLS, cache=whole))
    pixels, labels = (sum(each[k].nbytes for each in batches) for k in (0, 1))
    assert whole.size == pixels * len(CELLS) + labels
    exact, small = DistortedCache(whole.size), DistortedCache(whole.size - 1)
    per_pass = len(calls)
    for cache, passes in ((exact, 1), (small, 3)):
        calls.clear()
        found = [seen(list(distorted_batches(batches, CELLS, cache=cache))) for _ in range(3)]
        assert len(calls) == passes * per_pass
        assert all(torch.equal(found[0][cell], again[cell]) for again in found for cell in CELLS)
    assert (exact.size, small.size) == (whole.size, 0)


def test_a_cache_serves_what_was_asked_for_and_nothing_else(batches: list[Batch]) -> None:
    cache = DistortedCache()
    others = [(images.flip(0), labels) for images, labels in batches]
    asked: list[tuple[Any, list[Cell], int, bool]] = [
        (batches, CELLS, 0, False),
        (batches, CELLS, 1, False),
        (others, CELLS, 1, False),
        (others, CELLS[:2], 1, False),
        (others, CELLS[:2], 1, True),
    ]
    for loader, cells, seed, by_cell in asked * 2:
        ours = distorted_batches(loader, cells, seed=seed, by_cell=by_cell, cache=cache)
        plain = distorted_batches(loader, cells, seed=seed, by_cell=by_cell)
        for one, other in zip(ours, plain, strict=True):
            assert (one.first, one.cell) == (other.first, other.cell)
            assert torch.equal(one.images, other.images)


def test_a_pass_that_was_broken_off_is_not_taken_for_a_whole_one(batches: list[Batch]) -> None:
    cache = DistortedCache()
    next(distorted_batches(batches, CELLS, cache=cache))
    assert len(list(distorted_batches(batches, CELLS, cache=cache))) == len(batches) * len(CELLS)


def test_evaluations_with_a_cache_have_equal_figures_and_distort_once(
    classifier: Classifier, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(classifier, batches, GRID, seed=5)
    calls = counted(monkeypatch)
    cache = DistortedCache()
    for _ in range(3):
        assert evaluate(classifier, batches, GRID, seed=5, cache=cache) == expected
    assert len(calls) == 2 * len(batches)
