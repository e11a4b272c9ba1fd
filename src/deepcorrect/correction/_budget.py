"""The number of corrected filters per site under a budget for the whole adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from deepcorrect.correction._unit_config import (
    Parts,
    UnitChoice,
    own_parameters,
    parts_at,
    unit_costs,
)
from deepcorrect.runtime import InputError, first_problem

HALVINGS = 60

Cost = Literal["parameters", "multiply_adds"]
"""The quantity that a budget limits."""


Runtime = Literal["torch", "onnx", "onnx-int8"]
"""Where a network runs: PyTorch, ONNX Runtime, or ONNX Runtime in eight bits."""


class Budget(BaseModel):
    """The largest accepted cost of an adapter.

    Exactly one of the first three is set. Parameters and multiply-adds up to 1 are a fraction of
    the network's own cost, larger ones are absolute.

    Attributes:
        parameters: The number of parameters of the adapter: of its units, and of the weights that
            filters have of their own.
        multiply_adds: The number of multiply-adds of all units together, per image.
        latency: The added time as a fraction of the time of the network with folded batch norms;
            0 for none. It is measured on this machine.
        runtime: Where the latency is measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    parameters: float | None = Field(default=None, gt=0, strict=True)
    multiply_adds: float | None = Field(default=None, gt=0, strict=True)
    latency: float | None = Field(default=None, ge=0, strict=True)
    runtime: Runtime = "torch"

    @model_validator(mode="after")
    def _one(self) -> Budget:
        limits = (self.parameters, self.multiply_adds, self.latency)
        if sum(limit is not None for limit in limits) != 1:
            raise ValueError("give exactly one of parameters, multiply_adds and latency")
        if self.latency is None and "runtime" in self.model_fields_set:
            raise ValueError("a runtime belongs to a latency: give latency, too")
        return self


def read_budget(value: Any) -> Budget:
    """Reads a budget from a mapping with one limit, such as `{parameters: X}`; see `Budget`.

    Raises:
        InputError: The value is not such a mapping.
    """
    try:
        return value if isinstance(value, Budget) else Budget.model_validate(value)
    except ValidationError as error:
        where, given, message = first_problem(error)
        raise InputError(
            f"budget {given!r} is not accepted{f' at {where}' if where else ''}: {message}. "
            "Accepted: {parameters: X} or {multiply_adds: X}, where X is a fraction of the "
            "network's cost (up to 1) or an absolute number (above 1); or {latency: X, runtime: "
            f"RUNTIME}}, where X is the added time as a fraction of the network's, and RUNTIME is "
            f"{', '.join(get_args(Runtime)[:-1])} or {get_args(Runtime)[-1]}"
        ) from None


class Ranked(Protocol):
    """The part of a ranking, such as `deepcorrect.Ranking`, that a budget needs."""

    @property
    def priorities(self) -> Mapping[str, Tensor]: ...
    @property
    def maps(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def weights(self) -> Mapping[str, int]: ...
    @property
    def network(self) -> Size | None: ...
    @property
    def gains(self) -> bool: ...
    @property
    def method(self) -> str: ...


class Size(Protocol):
    """The cost of a whole network."""

    @property
    def parameters(self) -> int: ...
    @property
    def multiply_adds(self) -> int: ...


def filters_within(
    ranking: Ranked, budget: Budget | Mapping[str, float], unit: UnitChoice = "bottleneck"
) -> dict[str, list[int]]:
    """Selects the filters of a ranking to correct within a budget; see `select_within_budget`.

    Args:
        ranking: Priorities that are gains in the network's answer, and the cost of its network.
        budget: The largest accepted cost of all units together.
        unit: The kind of the units, or their configuration.

    Returns:
        The selected filters by site, ascending. Sites without a selected filter are omitted.

    Raises:
        InputError: The budget is not accepted, the ranking's priorities are not gains, the ranking
            does not record the cost of its network, no unit fits, or no priority is positive.
    """
    budget = read_budget(budget)
    if budget.latency is not None:
        raise InputError(
            "a latency is measured before anything is corrected: give the filters and units that "
            "deepcorrect.within_latency(model, ranking, limit) chooses"
        )
    check_gains(ranking)
    if ranking.network is None:
        raise InputError("the ranking does not record the cost of its network: rank again")
    kind: Cost = "multiply_adds" if budget.parameters is None else "parameters"
    given = budget.parameters if budget.multiply_adds is None else budget.multiply_adds
    assert given is not None  # exactly one field is set
    limit = given * getattr(ranking.network, kind) if given <= 1 else given
    pixels = {site: height * width for site, (height, width) in ranking.maps.items()}
    return select_within_budget(ranking.priorities, pixels, limit, kind, unit, ranking.weights)


def check_gains(ranking: Ranked) -> None:
    """Checks that the priorities of different sites can be compared.

    Raises:
        InputError: They cannot.
    """
    if not ranking.gains:
        raise InputError(
            f"a budget compares filters of different sites, but the priorities of method "
            f"{ranking.method!r} are comparable only within a site: rank by a method that measures "
            "gains in the answer, such as swap or path (see deepcorrect list methods)"
        )


def select_within_budget(
    priorities: Mapping[str, Tensor],
    pixels: Mapping[str, int],
    limit: float,
    kind: Cost = "parameters",
    unit: UnitChoice = "bottleneck",
    weights: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:
    """Selects the filters with the largest sum of priorities whose units fit a budget.

    The value of a site's first n filters is the sum of their priorities, and their cost is the cost
    of a unit for n filters. See `best_options` for the choice.

    Args:
        priorities: The priorities of each site's filters, (filters,). They must be gains in the
            network's answer, which are comparable between sites.
        pixels: The number of pixels of a map at each site; used for `multiply_adds`.
        limit: The largest accepted cost of all units together, above 0.
        kind: The cost that is counted: `parameters`, or `multiply_adds` per image.
        unit: The kind of the units, or their configuration.
        weights: The number of weights of each filter of a site. A site that is to have weights of
            its own must be named.

    Returns:
        The selected filters by site, ascending. Sites without a selected filter are omitted.

    Raises:
        InputError: No unit fits the budget, no priority is positive, or a site has no weights.
    """
    if not 0 < limit < math.inf:
        raise InputError(f"a budget of {limit:g} {kind.replace('_', '-')} is not a number above 0")
    for site, each in priorities.items():
        if not bool(each.isfinite().all()):
            raise InputError(f"the priorities at {site!r} are NaN or infinite: rank again")
    sites: Sequence[str] = tuple(priorities)
    values = {site: _values(priorities[site]) for site in sites}
    while True:  # dropping a site changes the positions of the others, and with them their units
        costs = {
            site: _costs(
                len(priorities[site]),
                pixels.get(site, 0),
                parts_at(unit, site, place),
                _weights(site, weights or {}) if parts_at(unit, site, place).weights else 0,
                kind,
            )
            for place, site in enumerate(sites)
        }
        here = {site: values[site] for site in sites}
        counts = best_options(here, costs, limit)
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


def best_options(
    values: Mapping[str, Tensor], costs: Mapping[str, Tensor], limit: float
) -> dict[str, int]:
    """Chooses one option of each site, so that the total value is large and the cost in the limit.

    Each site maximises its value minus a price times its cost, where the price is the lowest at
    which all sites together fit the limit (Lagrangian relaxation). The rest of the limit is then
    filled greedily by the changes with the best ratio of value to cost.

    Args:
        values: The value of each option of each site, (options,); the first one is 0.
        costs: The cost of each option, (options,), ascending; the first one is 0, for no
            correction, and all others are larger.
        limit: The largest accepted cost of all sites together, at least 0.

    Returns:
        The index of each site's option.

    Example:
        >>> import torch
        >>> from deepcorrect.correction import best_options
        >>> values = {"a": torch.tensor([0.0, 3.0, 4.0]), "b": torch.tensor([0.0, 2.0])}
        >>> costs = {"a": torch.tensor([0.0, 1.0, 3.0]), "b": torch.tensor([0.0, 2.0])}
        >>> best_options(values, costs, limit=3)
        {'a': 1, 'b': 1}
    """
    return _fill(_relax(values, costs, limit), values, costs, limit)


def _order(priorities: Tensor) -> list[int]:
    """The filters by descending priority; ties keep their order."""
    return torch.argsort(priorities, descending=True, stable=True).tolist()


def _values(priorities: Tensor) -> Tensor:
    """The value of a site's first 0, 1, 2, ... filters, (filters + 1,)."""
    values = priorities.double()[_order(priorities)]
    return torch.cat([torch.zeros(1, dtype=torch.float64), values]).cumsum(0)


def _weights(site: str, weights: Mapping[str, int]) -> int:
    """The number of weights of each filter of a site.

    Raises:
        InputError: It is not known, or the site has none.
    """
    if not weights.get(site):
        raise InputError(
            f"the filters of {site!r} cannot get weights of their own, or the ranking does not "
            "say how many they have: rank again, or choose another kind of unit for this site"
        )
    return weights[site]


def _costs(filters: int, pixels: int, parts: Parts, weights: int, kind: Cost) -> Tensor:
    """The cost of correcting a site's first 0, 1, 2, ... filters, (filters + 1,)."""
    values = [0]
    for count in range(1, filters + 1):
        parameters, per_pixel, once = unit_costs(parts.unit, count) if parts.unit else (0, 0, 0)
        if parts.weights:
            parameters += own_parameters(count, weights)
        values.append(parameters if kind == "parameters" else per_pixel * pixels + once)
    return torch.tensor(values, dtype=torch.float64)


def _relax(
    values: Mapping[str, Tensor], costs: Mapping[str, Tensor], limit: float
) -> dict[str, int]:
    """The number of filters per site at the lowest price at which the units fit the limit."""

    def at(price: float) -> dict[str, int]:
        return {site: int((values[site] - price * costs[site]).argmax()) for site in values}

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
    values: Mapping[str, Tensor],
    costs: Mapping[str, Tensor],
    limit: float,
) -> dict[str, int]:
    """Adds filters while they fit, those with the best ratio of value to cost first."""
    while True:
        left = limit - sum(float(costs[site][count]) for site, count in counts.items())
        best: tuple[float, str, int] | None = None
        for site, count in counts.items():
            extra = costs[site][count + 1 :] - costs[site][count]
            gain = values[site][count + 1 :] - values[site][count]
            ratio = torch.where((extra <= left) & (gain > 0), gain / extra.clamp_min(1e-9), -1.0)
            if len(ratio) and float(ratio.max()) > (best[0] if best else 0.0):
                best = (float(ratio.max()), site, count + 1 + int(ratio.argmax()))
        if best is None:
            return counts
        counts = {**counts, best[1]: best[2]}
