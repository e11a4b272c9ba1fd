"""How many filters each site gives, when the whole adapter has a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from deepcorrect.correction._unit_config import UnitChoice, UnitConfig, unit_config, unit_costs
from deepcorrect.runtime import InputError, first_problem

HALVINGS = 60

Cost = Literal["parameters", "multiply_adds"]
"""What a budget counts."""


class Budget(BaseModel):
    """What an adapter may cost. Exactly one field is set; values up to 1 are a fraction of the
    network's own cost, larger ones absolute.

    Attributes:
        parameters: of all units.
        multiply_adds: of all units, for one image.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    parameters: float | None = Field(default=None, gt=0)
    multiply_adds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.parameters is None) == (self.multiply_adds is None):
            raise ValueError("give parameters or multiply_adds, one of them")
        return self


def read_budget(value: Any) -> Budget:
    """Reads `{parameters: X}` or `{multiply_adds: X}`.

    Raises:
        InputError: it is neither.
    """
    try:
        return value if isinstance(value, Budget) else Budget.model_validate(value)
    except ValidationError as error:
        where, given, message = first_problem(error)
        raise InputError(
            f"budget {given!r} is not accepted{f' at {where}' if where else ''}: {message}. "
            "Accepted: {parameters: X} or {multiply_adds: X}, X being a share of the network's "
            "(up to 1) or a number"
        ) from None


class Ranked(Protocol):
    """What a budget needs of a ranking, such as `deepcorrect.Ranking`."""

    @property
    def priorities(self) -> Mapping[str, Tensor]: ...
    @property
    def maps(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def network(self) -> Size | None: ...
    @property
    def gains(self) -> bool: ...
    @property
    def method(self) -> str: ...


class Size(Protocol):
    """What a whole network costs."""

    @property
    def parameters(self) -> int: ...
    @property
    def multiply_adds(self) -> int: ...


def filters_within(
    ranking: Ranked, budget: Budget | Mapping[str, float], unit: UnitChoice = "bottleneck"
) -> dict[str, list[int]]:
    """The filters of a ranking to correct within a budget; see `select_within_budget`.

    Raises:
        InputError: the budget is not accepted; the ranking's priorities are no gains, or it does
            not say what its network costs; nothing fits, or no priority is positive.
    """
    budget = read_budget(budget)
    if not ranking.gains:
        raise InputError(
            f"a budget compares filters of different sites, and the priorities of method "
            f"{ranking.method!r} compare within a site alone: rank by a method that measures gains "
            "in the answer, such as swap or path (deepcorrect list methods)"
        )
    if ranking.network is None:
        raise InputError("the ranking does not say what its network costs: rank again")
    kind: Cost = "multiply_adds" if budget.parameters is None else "parameters"
    given = budget.parameters if budget.multiply_adds is None else budget.multiply_adds
    assert given is not None  # one of the two is set
    limit = given * getattr(ranking.network, kind) if given <= 1 else given
    pixels = {site: height * width for site, (height, width) in ranking.maps.items()}
    return select_within_budget(ranking.priorities, pixels, limit, kind, unit)


def select_within_budget(
    priorities: Mapping[str, Tensor],
    pixels: Mapping[str, int],
    limit: float,
    kind: Cost = "parameters",
    unit: UnitChoice = "bottleneck",
) -> dict[str, list[int]]:
    """The filters whose priorities sum highest while their units fit a budget.

    A site's first n filters are worth the sum of their priorities, as far as these are positive,
    and cost what a unit for n filters costs. The choice maximises worth minus a price times cost
    at each site, the price being the lowest at which the whole fits (Lagrange relaxation); then it
    is filled up by the additions that are worth most for their cost.

    Args:
        priorities: for each site, its filters' priorities, (filters,): gains in the network's
            answer, so that sites can be compared.
        pixels: for each site, the number of pixels of a map; used for `multiply_adds`.
        limit: what all units together may cost.
        kind: what is counted, `parameters` or `multiply_adds` (for one image).
        unit: the kind of the units.

    Returns:
        The chosen filters by site, ascending; sites that give none are left out.

    Raises:
        InputError: nothing fits, or no priority is positive.
    """
    sites: Sequence[str] = tuple(priorities)
    worths = {site: _worths(priorities[site]) for site in sites}
    while True:  # a site that gives none moves the others forward, where units may cost more
        costs = {
            site: _costs(len(priorities[site]), pixels.get(site, 0), unit_config(unit, place), kind)
            for place, site in enumerate(sites)
        }
        here = {site: worths[site] for site in sites}
        counts = _fill(_relax(here, costs, limit), here, costs, limit)
        kept = [site for site in sites if counts[site]]
        if not kept:
            least = min(float(values[1]) for values in costs.values())
            raise InputError(
                f"no unit fits the budget: the smallest costs {least:,.0f} "
                f"{kind.replace('_', '-')}, the budget is {limit:,.0f}"
                if least > limit
                else "no filter has a positive priority: there is nothing to correct"
            )
        if len(kept) == len(sites):
            return {site: sorted(_order(priorities[site])[: counts[site]]) for site in sites}
        sites = kept


def _order(priorities: Tensor) -> list[int]:
    """Filters by priority, highest first; equal ones in their own order."""
    return torch.argsort(priorities, descending=True, stable=True).tolist()


def _worths(priorities: Tensor) -> Tensor:
    """What a site's first 0, 1, 2, ... filters are worth; falling ones never pay."""
    values = priorities.double()[_order(priorities)]
    return torch.cat([torch.zeros(1, dtype=torch.float64), values]).cumsum(0)


def _costs(filters: int, pixels: int, config: UnitConfig, kind: Cost) -> Tensor:
    """What a unit for a site's first 0, 1, 2, ... filters costs."""
    each = [unit_costs(config, count) for count in range(1, filters + 1)]
    values = [
        cost.parameters
        if kind == "parameters"
        else cost.multiply_adds * pixels + cost.multiply_adds_once
        for cost in each
    ]
    return torch.tensor([0, *values], dtype=torch.float64)


def _relax(
    worths: Mapping[str, Tensor], costs: Mapping[str, Tensor], limit: float
) -> dict[str, int]:
    """Counts by site at the lowest price at which they fit."""

    def at(price: float) -> dict[str, int]:
        return {site: int((worths[site] - price * costs[site]).argmax()) for site in worths}

    def fits(counts: Mapping[str, int]) -> bool:
        return sum(float(costs[site][count]) for site, count in counts.items()) <= limit

    if fits(at(0)):
        return at(0)
    low, high = 0.0, 1.0
    while not fits(at(high)):
        high *= 4
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(at(middle)) else (middle, high)
    return at(high)


def _fill(
    counts: dict[str, int],
    worths: Mapping[str, Tensor],
    costs: Mapping[str, Tensor],
    limit: float,
) -> dict[str, int]:
    """Adds filters, the most worth for their cost first, while they fit."""
    while True:
        left = limit - sum(float(costs[site][count]) for site, count in counts.items())
        best: tuple[float, str, int] | None = None
        for site, count in counts.items():
            extra = costs[site][count + 1 :] - costs[site][count]
            gain = worths[site][count + 1 :] - worths[site][count]
            ratio = torch.where((extra <= left) & (gain > 0), gain / extra.clamp_min(1e-9), -1.0)
            if len(ratio) and float(ratio.max()) > (best[0] if best else 0.0):
                best = (float(ratio.max()), site, count + 1 + int(ratio.argmax()))
        if best is None:
            return counts
        counts = {**counts, best[1]: best[2]}
