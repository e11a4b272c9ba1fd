"""How many filters each site gives, when the whole adapter has a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from deepcorrect.correction._units import UnitChoice, unit_config, unit_costs
from deepcorrect.runtime import InputError, first_problem

if TYPE_CHECKING:
    from deepcorrect.ranking import Ranking

HALVINGS = 60


class Budget(BaseModel):
    """What an adapter may cost: one of the two. Up to 1 it is a share of the network's own cost,
    above 1 a number.

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
        return Budget.model_validate(value)
    except ValidationError as error:
        where, given, message = first_problem(error)
        raise InputError(
            f"budget {given!r} is not accepted{f' at {where}' if where else ''}: {message}. "
            "Accepted: {parameters: X} or {multiply_adds: X}, X being a share of the network's "
            "(up to 1) or a number"
        ) from None


def within(ranking: Ranking, budget: Budget, unit: UnitChoice) -> dict[str, list[int]]:
    """The filters to correct: those whose priorities sum highest while their units fit the budget.

    A site's first n filters are worth the sum of their priorities, as far as these are positive,
    and cost what a unit for n filters costs. The choice maximises worth minus a price times cost
    at each site, the price being the lowest at which the whole fits (Lagrange relaxation); then it
    is filled up by the additions that are worth most for their cost.

    Args:
        ranking: by a method whose priorities are gains, so that sites can be compared.
        budget: for all units together.
        unit: their kind.

    Returns:
        The chosen filters by site, ascending; sites that give none are left out.

    Raises:
        InputError: the method's priorities are no gains, nothing fits, or no priority is positive.
    """
    if not ranking.gains:
        raise InputError(
            f"a budget compares filters of different sites, and the priorities of method "
            f"{ranking.method!r} compare within a site alone: rank by a method that measures gains "
            "in the answer, such as swap or path (deepcorrect list methods)"
        )
    if ranking.network is None:
        raise InputError("the ranking does not say what its network costs: rank again")
    by_pixel = budget.parameters is None
    limit = budget.multiply_adds if by_pixel else budget.parameters
    whole = ranking.network.multiply_adds if by_pixel else ranking.network.parameters
    if limit is None:
        raise InputError("the budget is empty")
    limit = limit * whole if limit <= 1 else limit
    sites: Sequence[str] = ranking.sites
    while True:  # a site that gives none moves the others forward, where units may cost more
        costs = {s: _costs(ranking, s, unit, at, by_pixel) for at, s in enumerate(sites)}
        worths = _worths(ranking, sites)
        counts = _fill(_relax(worths, costs, limit), worths, costs, limit)
        kept = [site for site in sites if counts[site]]
        if not kept:
            least = min(float(values[1]) for values in costs.values())
            raise InputError(
                f"no unit fits the budget: the smallest costs {least:,.0f} "
                f"{'multiply-adds' if by_pixel else 'parameters'}, the budget is {limit:,.0f}"
                if least > limit
                else "no filter has a positive priority: there is nothing to correct"
            )
        if len(kept) == len(sites):
            return {site: sorted(ranking.order(site)[: counts[site]]) for site in sites}
        sites = kept


def _worths(ranking: Ranking, sites: Sequence[str]) -> dict[str, Tensor]:
    """For each site, what its first 0, 1, 2, ... filters are worth; falling ones never pay."""
    return {
        site: torch.cat(
            [
                torch.zeros(1, dtype=torch.float64),
                ranking.priorities[site].double()[ranking.order(site)],
            ]
        ).cumsum(0)
        for site in sites
    }


def _costs(ranking: Ranking, site: str, unit: UnitChoice, place: int, by_pixel: bool) -> Tensor:
    """What a unit for a site's first 0, 1, 2, ... filters costs."""
    config = unit_config(unit, place)
    height, width = ranking.maps[site]
    filters = ranking.by_level[site].shape[1]
    each = [unit_costs(config, count) for count in range(1, filters + 1)]
    pixels = height * width
    values = [
        cost.multiply_adds * pixels + cost.multiply_adds_once if by_pixel else cost.parameters
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
