"""Budgets: what an adapter's units cost in all, and whether another choice were worth more."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from conftest import SIZE, TINY_SITES, Batch, TinyCNN, tiny_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, CorrectionUnit
from deepcorrect.correction._budget import filters_within
from deepcorrect.correction._unit_config import KINDS, unit_config, unit_costs
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.networks._cost import multiply_adds
from deepcorrect.ranking import NetworkSize, Ranking, rank
from deepcorrect.runtime import InputError

IMAGE = torch.zeros(1, 3, SIZE, SIZE)
BUDGETS = ("parameters", "multiply_adds")


def ranking_of(
    values: Mapping[str, list[float]], maps: tuple[int, int] = (4, 4), size: int = 10_000
) -> Ranking:
    tensors = {site: torch.tensor([row], dtype=torch.float64) for site, row in values.items()}
    return Ranking(
        tensors,
        "swap",
        (LevelledDistortion("awgn", (10,)),),
        9,
        0.5,
        maps=dict.fromkeys(values, maps),
        network=NetworkSize(size, size * 16),
    )


def cost_of(adapted: AdaptedModel, kind: str) -> int:
    """The built units' parameters, or the multiply-adds that they add to a pass."""
    if kind == "parameters":
        return sum(p.numel() for p in adapted.units.parameters())
    with adapted.disable_adapter():
        before = multiply_adds(adapted, IMAGE)
    return multiply_adds(adapted, IMAGE) - before


def worth_of(ranking: Ranking, chosen: Mapping[str, list[int]]) -> float:
    return sum(float(ranking.priorities[site][filters].sum()) for site, filters in chosen.items())


@functools.cache
def unit_size(kind: str, position: int, filters: int) -> int:
    unit = CorrectionUnit(filters, unit_config(kind, position))
    return sum(p.numel() for p in unit.parameters())


@pytest.fixture(scope="module")
def ranked() -> Ranking:
    """The tiny network's ranking by a method whose priorities are gains."""
    images = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return rank(tiny_cnn(), [(images, torch.arange(8) % 5)], ["gaussian_blur:1"], "gradient")


# --- what units cost


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.integers(0, 3),
    st.integers(1, 40),
    st.fixed_dictionaries(
        {},
        optional={
            "separable": st.booleans(),
            "depthwise": st.booleans(),
            "affine": st.booleans(),
            "norm_first": st.booleans(),
            "kernel_size": st.sampled_from([1, 3, 5]),
            "dilations": st.lists(st.integers(1, 3), max_size=3).map(tuple),
            "width": st.integers(1, 9),
            "modulation": st.integers(1, 9),
        },
    ),
    st.booleans(),
)
def test_a_units_costs_are_those_of_the_unit_when_built(
    kind: str, position: int, filters: int, changes: dict[str, Any], gains: bool
) -> None:
    gains = gains and "modulation" in changes
    config = unit_config({"kind": kind, "hidden_gains": gains, **changes}, position)
    unit = CorrectionUnit(filters, config)
    cost = unit_costs(config, filters)
    assert cost.parameters == sum(p.numel() for p in unit.parameters())
    height, width = 3, 2
    counted = multiply_adds(unit, torch.zeros(1, filters, height, width))
    assert cost.multiply_adds * height * width + cost.multiply_adds_once == counted


# --- within the budget


@pytest.mark.parametrize("kind", BUDGETS)
@pytest.mark.parametrize("unit", KINDS)
def test_the_built_units_never_cost_more_than_the_budget(
    network: TinyCNN, ranked: Ranking, unit: str, kind: str
) -> None:
    assert ranked.network is not None
    whole = getattr(ranked.network, kind)
    smallest = min(
        unit_costs(unit_config(unit, place), 1).multiply_adds * math.prod(ranked.maps[site])
        if kind == "multiply_adds"
        else unit_costs(unit_config(unit, place), 1).parameters
        for place, site in enumerate(ranked.sites)
    )
    costs = []
    for share in (0.3, 0.5, 0.9, 1.0, 1.5, 2.5, 20, 1000):
        limit = share * whole
        if limit < 2 * smallest:
            continue
        budget = {kind: share if share <= 1 else limit}
        adapted = dc.correct(network, ranked, unit=unit, budget=budget)
        costs.append(cost_of(adapted, kind))
        assert 0 < costs[-1] <= limit
    assert costs == sorted(costs)
    assert costs


class Backwards(nn.Module):
    """What runs first is registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))


@pytest.fixture
def backwards(batches: list[Batch]) -> tuple[nn.Module, Ranking]:
    network = Backwards().eval()
    return network, rank(network, batches, ["gaussian_blur:1"], "gradient")


def test_sites_stand_in_the_order_of_the_networks_modules(
    backwards: tuple[nn.Module, Ranking],
) -> None:
    assert backwards[1].sites == ("second", "first")


def test_a_network_whose_modules_stand_in_another_order_keeps_to_the_budget_too(
    backwards: tuple[nn.Module, Ranking],
) -> None:
    network, ranking = backwards
    for limit in range(200, 2000, 50):
        adapted = dc.correct(network, ranking, unit="full", budget={"parameters": limit})
        assert cost_of(adapted, "parameters") <= limit


def test_the_chosen_are_each_sites_first_and_worth_something(ranked: Ranking) -> None:
    chosen = filters_within(ranked, {"parameters": 0.6})
    assert list(chosen) == [site for site in TINY_SITES if site in chosen]
    for site, filters in chosen.items():
        assert filters == sorted(ranked.order(site)[: len(filters)])
        assert float(ranked.priorities[site][filters].min()) > 0


def test_a_budget_for_everything_takes_every_positive_filter() -> None:
    ranking = ranking_of({"a": [0.3, -0.1, 0.2, 0.0], "b": [-1.0, -2.0], "c": [0.1, 0.4]})
    assert filters_within(ranking, {"parameters": 1e9}) == {"a": [0, 2], "c": [0, 1]}


def test_a_share_is_of_the_networks_own_cost() -> None:
    ranking = ranking_of({"a": [0.3, 0.1, 0.2, 0.5], "b": [0.1, 0.2, 0.3]}, size=3000)
    for kind, whole in (("parameters", 3000), ("multiply_adds", 48_000)):
        share, number = (filters_within(ranking, {kind: x}) for x in (0.1, 0.1 * whole))
        assert share == number


def test_multiply_adds_are_counted_at_each_sites_size() -> None:
    """The same unit is cheaper where maps are smaller, so that filters are taken there."""
    values = {"large": [1.0, 1.0], "small": [0.9, 0.9]}
    ranking = ranking_of(values)
    ranking.maps["large"], ranking.maps["small"] = (8, 8), (2, 2)
    one = unit_costs(unit_config("bottleneck", 1), 2).multiply_adds
    assert filters_within(ranking, {"multiply_adds": 60 * one}) == {"small": [0, 1]}
    assert filters_within(ranking, {"parameters": 60 * one}).keys() == values.keys()


# --- the best within it


def best_by_trying_all(ranking: Ranking, limit: float, unit: str) -> float:
    """The highest worth of any counts at two or fewer sites, priced by built units."""
    best = 0.0
    sites = ranking.sites
    for counts in itertools.product(*(range(len(ranking.order(s)) + 1) for s in sites)):
        taken = [(site, count) for site, count in zip(sites, counts, strict=True) if count]
        cost = sum(unit_size(unit, place, count) for place, (_, count) in enumerate(taken))
        if cost <= limit:
            chosen = {site: ranking.order(site)[:count] for site, count in taken}
            best = max(best, worth_of(ranking, chosen))
    return best


positive = st.lists(st.floats(0.01, 1), min_size=4, max_size=4)


@pytest.mark.parametrize("unit", ["bottleneck", "full", "cifar"])
def test_what_is_chosen_is_nearly_the_best_of_all_choices(unit: str) -> None:
    drawing = torch.Generator().manual_seed(0)
    shares: list[float] = []
    for _ in range(40):
        values = torch.rand(2, 4, generator=drawing).tolist()
        ranking = ranking_of({"a": values[0], "b": values[1]})
        low = unit_size(unit, 0, 1)
        high = unit_size(unit, 0, 4) + unit_size(unit, 1, 4)
        limit = low + (high - low) * float(torch.rand(1, generator=drawing))
        best = best_by_trying_all(ranking, limit, unit)
        found = worth_of(ranking, filters_within(ranking, {"parameters": limit}, unit))
        assert found <= best + 1e-9
        shares.append(found / best)
    assert sum(shares) / len(shares) > 0.97
    assert min(shares) > 0.5, "where a single filter fits, it may be the second best"


@settings(max_examples=25, deadline=None)
@given(positive, positive, st.sampled_from(["bottleneck", "full"]))
def test_a_larger_budget_is_never_worth_less(
    first: list[float], second: list[float], unit: str
) -> None:
    ranking = ranking_of({"a": first, "b": second})
    low, high = unit_size(unit, 0, 1), 2 * unit_size(unit, 0, 4)
    worths = [
        worth_of(
            ranking, filters_within(ranking, {"parameters": low + step * (high - low) / 12}, unit)
        )
        for step in range(13)
    ]
    assert worths == sorted(worths)
    assert worths[-1] == pytest.approx(sum(first) + sum(second))


# --- what is refused


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"parameters": 0.2, "multiply_adds": 0.2}, "exactly one of"),
        ({}, "exactly one of"),
        (None, "not accepted"),
        (0.2, "not accepted"),
        ({"parameters": -1}, "greater than 0"),
        ({"parameters": 0}, "greater than 0"),
        ({"multiply_adds": float("nan")}, "budget"),
        ({"multiply_adds": float("inf")}, "finite"),
        ({"parameters": "many"}, "valid number"),
        ({"flops": 1e6}, "flops"),
        ({"parameters": 1e-6}, "no unit fits the budget: the smallest costs 38 parameters"),
        ({"multiply_adds": 20}, "no unit fits the budget: the smallest costs 464 multiply-adds"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(budget: Any, message: str) -> None:
    ranking = ranking_of({"a": [0.5, 0.1]})
    with pytest.raises(InputError, match=message):
        filters_within(ranking, budget)


def test_a_budget_needs_gains_that_compare_between_sites(
    network: TinyCNN, batches: list[Batch]
) -> None:
    for method in ("change", "psnr", "random"):
        ranking = rank(network, batches, ["gaussian_blur:1"], method)
        with pytest.raises(
            InputError, match=f"method '{method}' are comparable only within a site"
        ):
            filters_within(ranking, {"parameters": 0.2})


def test_a_budget_needs_something_worth_correcting_and_the_networks_cost() -> None:
    with pytest.raises(InputError, match="no filter has a positive priority"):
        filters_within(ranking_of({"a": [-0.1, 0.0]}), {"parameters": 0.5})
    bare = Ranking({"a": torch.ones(1, 2)}, "swap", (LevelledDistortion("awgn", (5,)),), 1, 1.0)
    with pytest.raises(InputError, match="does not record the cost of its network"):
        filters_within(bare, {"parameters": 0.5})
