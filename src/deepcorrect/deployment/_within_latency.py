"""The sites, kinds and filters of a correction whose added time is limited, by measuring it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from deepcorrect.correction import (
    AdaptedModel,
    Budget,
    Runtime,
    UnitChoice,
    UnitConfig,
    best_options,
    check_gains,
    check_unit,
    correct,
    hidden_width,
    parts_at,
    read_budget,
    unit_costs,
)
from deepcorrect.deployment._latency import MeasuredLatency, Stopwatch
from deepcorrect.networks import (
    find,
    fingerprint,
    original,
    tensors_digest,
    weights_per_filter,
)
from deepcorrect.ranking import Ranking, count_for
from deepcorrect.runtime import InputError, measured_once, progress

SHARES = (0.25, 0.5, 0.75, 1.0)
"""The shares of a site's filters among which a unit's are chosen."""
BLOCK = 8
"""Hidden widths are multiples of it where possible: runtimes compute channels in such blocks."""
LEAST_COST = 1e-4
"""The smallest cost of a unit that is believed, as a share of the network's time."""
WITHIN_LATENCY = "weights+dense"
"""What corrects a network within a latency if nothing is chosen."""
ROUNDS = 6
"""The largest number of choices that are tried."""

Measure = Callable[[nn.Module], MeasuredLatency]
"""Measures the time of a corrected network."""


class LatencyChoice(BaseModel):
    """A correction whose added time is within a limit.

    Attributes:
        filters: The corrected filters of each site, ascending.
        unit: What corrects them: `weights`, or a kind of unit with its attributes.
        latency: The measured time of the network with this correction.
    """

    model_config = ConfigDict(frozen=True)

    filters: dict[str, list[int]]
    unit: dict[str, str | dict[str, Any]]
    latency: MeasuredLatency


def within_latency(
    model: nn.Module,
    ranking: Ranking,
    limit: float,
    runtime: Runtime = "torch",
    unit: UnitChoice = WITHIN_LATENCY,
    *,
    beta: float = 0.5,
    images: Tensor | None = None,
    measure: Measure | None = None,
) -> LatencyChoice:
    """Chooses sites, kinds and filters so that the correction adds at most so much time.

    Nothing is trained: a unit takes the same time before its training. First, the time of the
    smallest and the largest unit is measured at the sites of each shape, in the network. The
    priorities then choose the units with the largest gain within the limit, see
    `deepcorrect.correction.best_options`. The network with all chosen units is measured, and again
    if it fits; the choice is repeated with the times that this shows, until it stays the same.

    Filters' own weights take no time. With a kind `weights+KIND`, the first filters of every
    convolution and linear layer have weights of their own, and units come where they fit. With
    another kind, and if no unit fits, the correction consists of such weights alone.

    Args:
        model: The network to correct.
        ranking: Priorities that are gains in the network's answer.
        limit: The largest accepted added time, as a fraction of the time of the network with folded
            batch norms, at least 0. Zero chooses weights alone.
        runtime: Where the network will run: `torch`, `onnx`, or `onnx-int8` (ONNX Runtime in eight
            bits). It is measured on this machine, with as many threads as PyTorch uses.
        unit: The kind of the units, as in `correct`.
        beta: The share of a site's filters that have weights of their own, above 0 and up to 1. A
            unit beside them corrects at least these.
        images: The batch that is timed, N x C x H x W. The default is one image of the size that
            the network reads; it must be given for a bare network.
        measure: Measures a corrected network in place of the runtime.

    Returns:
        The filters and units, as `correct` reads them, and their measured time.

    Raises:
        InputError: The limit, the runtime or the unit is not accepted, the priorities are not
            gains, the network cannot be fused or exported, or no unit fits and no site can have
            weights of its own.
        MissingExtraError: The `onnx` extra is not installed.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.distortions import parse_all
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
        >>> blur = parse_all("gaussian_blur:1", pixels=32)
        >>> gains = {"0": torch.tensor([[0.1, 0.4, 0.0, 0.3]])}  # one level, four filters
        >>> ranking = dc.Ranking(gains, "swap", blur, images=100, seconds=1.0)
        >>> choice = dc.within_latency(network, ranking, 0, images=torch.rand(1, 3, 32, 32))
        >>> choice.filters, choice.unit
        ({'0': [1, 3]}, {'0': 'weights'})
        >>> adapted = dc.correct(network, choice.filters, unit=choice.unit)
    """
    read_budget({"latency": limit, "runtime": runtime})
    check_unit(unit)
    sites = _sites(model, ranking, unit, beta)
    open_to_units = [site for site in sites if site.unit is not None] if limit else []
    if open_to_units:
        check_gains(ranking)
    measure = measure or Stopwatch(model, images, runtime)
    shape: Any = None if images is None else tuple(images.shape[1:])

    def measured(chosen: Iterable[_Corrected]) -> MeasuredLatency:
        named = {each.site: each for each in chosen}
        filters = {name: each.filters for name, each in named.items()}
        units = {name: each.unit for name, each in named.items()}
        return measure(correct(model, filters, unit=units, image=shape))

    if open_to_units:
        values = {site.name: site.values(ranking) for site in open_to_units}
        costs = _costs(open_to_units, measured)
        found = _fitting(sites, values, costs, limit, measured)
        if found is not None:
            return found
    weights = [each.with_weights(beta).corrected(0) for each in sites]
    chosen = [each for each in weights if each is not None]
    if not chosen:
        raise InputError(
            f"no unit fits a latency of {limit:g} in {runtime}, and no ranked site can have "
            "weights of its own, which take no time: give a larger limit, or rank convolutions"
        )
    return _choice(chosen, measured(chosen))


def correct_within(
    model: nn.Module,
    ranking: Ranking,
    budget: Budget | Mapping[str, Any],
    unit: UnitChoice | None = None,
    seed: int = 0,
    *,
    beta: float | None = None,
    images: Tensor | None = None,
    kept: Path | None = None,
) -> AdaptedModel:
    """Corrects a network within a budget of any kind, see `correct` and `within_latency`.

    Args:
        model: The network to correct.
        ranking: Priorities that are gains in the network's answer.
        budget: The largest accepted cost, see `Budget`.
        unit: The kind of the units; None for `weights+dense` within a latency, and for
            `bottleneck` within the others.
        seed: The seed of the units' initial weights.
        beta: Within a latency, the share of filters with weights of their own, see
            `within_latency`. It excludes the other budgets.
        images: The batch that is timed, see `within_latency`.
        kept: A file that keeps the measured choice. If it exists, nothing is measured: another
            measurement could give another choice, with which a training could not continue.

    Raises:
        InputError: See `correct` and `within_latency`.
    """
    budget = read_budget(budget)
    if budget.latency is None:
        return correct(model, ranking, beta, unit or "bottleneck", seed, budget=budget)
    unit, share = unit or WITHIN_LATENCY, 0.5 if beta is None else beta
    limit, where = budget.latency, budget.runtime
    inputs = {
        "network": fingerprint(model),
        "ranking": tensors_digest(ranking.by_level),
        "budget": budget.model_dump(mode="json"),
        "unit": str(unit),
        "beta": share,
    }

    def measured() -> dict[str, Any]:
        found = within_latency(model, ranking, limit, where, unit, beta=share, images=images)
        return found.model_dump(mode="json")

    choice = measured_once(kept, inputs, measured, LatencyChoice)
    shape: Any = None if images is None else tuple(images.shape[1:])
    return correct(model, choice.filters, unit=choice.unit, seed=seed, image=shape)


@dataclass(frozen=True)
class _Corrected:
    """A site with its corrected filters, and what corrects them."""

    site: str
    filters: list[int]
    unit: str | dict[str, Any]


@dataclass(frozen=True)
class _Site:
    """What can be done at a site.

    Attributes:
        name: Its dotted name.
        order: Its filters, highest priority first.
        layer: Whether its filters can have weights of their own.
        own: The number of filters that have, whether a unit is added or not.
        unit: The unit that can be added; None for none.
        counts: The numbers of filters among which the unit's is chosen, ascending.
        shape: What the time of the unit depends on.
    """

    name: str
    order: list[int]
    layer: bool
    own: int
    unit: UnitConfig | None
    counts: tuple[int, ...]
    shape: tuple[object, ...]

    def values(self, ranking: Ranking) -> Tensor:
        """The value of no unit and of each unit: the sum of its filters' priorities.

        Filters that get weights of their own because of the unit count twice.
        """
        ordered = ranking.priorities[self.name].double()[self.order]
        sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
        more = sums - sums[self.own] if self.own else torch.zeros_like(sums)
        return torch.stack([sums[0], *(sums[count] + more[count] for count in self.counts)])

    def with_weights(self, beta: float) -> _Site:
        """The site with weights of its own in place of a unit, as far as it can have them."""
        own = count_for(beta, len(self.order)) if self.layer else 0
        return _Site(self.name, self.order, self.layer, own, None, (), self.shape)

    def corrected(self, option: int) -> _Corrected | None:
        """The site without a unit (0) or with the unit of the option's number of filters."""
        if option == 0:
            filters = sorted(self.order[: self.own])
            return _Corrected(self.name, filters, "weights") if filters else None
        assert self.unit is not None
        filters = sorted(self.order[: self.counts[option - 1]])
        # every attribute is stated, so that it does not matter which other sites are corrected
        kind = "weights+full" if self.own else "full"
        return _Corrected(self.name, filters, {"kind": kind, **self.unit.model_dump(mode="json")})

    def alone(self, option: int) -> _Corrected:
        """The unit of an option, at least 1, without weights."""
        filters = sorted(self.order[: self.counts[option - 1]])
        assert self.unit is not None
        return _Corrected(self.name, filters, {"kind": "full", **self.unit.model_dump(mode="json")})


def _sites(model: nn.Module, ranking: Ranking, unit: UnitChoice, beta: float) -> list[_Site]:
    """What can be done at each ranked site."""
    modules = find(model, ranking.sites)
    sites = []
    for position, name in enumerate(ranking.sites):
        module = original(modules[name])
        parts = parts_at(unit, name, position)
        order = ranking.order(name)
        layer = weights_per_filter(module) is not None
        own = count_for(beta, len(order)) if parts.weights and layer else 0
        counts = () if parts.unit is None else _counts(parts.unit, len(order), max(own, 1))
        shape = (*_geometry(module), len(order), ranking.maps.get(name), parts.unit, counts)
        sites.append(_Site(name, order, layer, own, parts.unit, counts, shape))
    return sites


def _counts(unit: UnitConfig, channels: int, least: int) -> tuple[int, ...]:
    """The numbers of filters among which a unit's is chosen, at least `least` and ascending.

    The hidden widths fill whole blocks where possible, and each number is the largest with its
    width, which takes the same time as fewer.
    """
    widths = {count: hidden_width(unit, count) for count in range(least, channels + 1)}
    largest = {width: count for count, width in widths.items()}
    full = [count for width, count in largest.items() if width % BLOCK == 0 or count == channels]
    wanted = [max(least, round(share * channels)) for share in SHARES]
    return tuple(sorted({next(each for each in full if each >= count) for count in wanted}))


def _geometry(module: nn.Module) -> tuple[object, ...]:
    """What the time of a unit depends on in the site's module, into which it may be folded."""
    if isinstance(module, nn.Conv2d):
        return "conv", module.in_channels, module.kernel_size, module.stride, module.groups
    return (type(module).__name__,)


def _costs(
    sites: list[_Site], measured: Callable[[Iterable[_Corrected]], MeasuredLatency]
) -> dict[str, Tensor]:
    """The added time of no unit and of each unit at each site, as a share of the network's time.

    The units of all sites of the same shape are measured together, which is more exact than one
    of them. Those between the smallest and the largest are interpolated by their multiply-adds.
    """
    alike: dict[tuple[object, ...], list[_Site]] = {}
    for site in sites:
        alike.setdefault(site.shape, []).append(site)
    costs = {}
    total = sum(min(2, len(group[0].counts)) for group in alike.values())
    with progress("measuring latency", total, "networks") as step:
        for group in alike.values():
            unit, counts = group[0].unit, group[0].counts
            assert unit is not None
            times = []
            for option in sorted({1, len(counts)}):
                latency = measured(site.alone(option) for site in group)
                times.append(max(LEAST_COST, (latency.ratio - 1) / len(group)))
                step(1)
            work = torch.tensor([unit_costs(unit, n).multiply_adds for n in counts]).double()
            place = (work - work[0]) / (work[-1] - work[0]).clamp_min(1)
            between = times[0] + place * max(0.0, times[-1] - times[0])
            for site in group:
                costs[site.name] = torch.cat([torch.zeros(1).double(), between])
    return costs


def _fitting(
    sites: list[_Site],
    values: Mapping[str, Tensor],
    costs: Mapping[str, Tensor],
    limit: float,
    measured: Callable[[Iterable[_Corrected]], MeasuredLatency],
) -> LatencyChoice | None:
    """The most valuable units whose measured time is within the limit; None if there are none."""
    scale, best, highest = 1.0, None, 0.0
    tried: list[dict[str, int]] = []
    with progress("measuring latency of all units", 0, "networks") as step:
        while len(tried) < ROUNDS:
            scaled = {name: scale * each for name, each in costs.items()}
            options = best_options(values, scaled, limit)
            if not any(options.values()) or options in tried:
                break
            tried.append(options)
            corrected = (site.corrected(options.get(site.name, 0)) for site in sites)
            chosen = [each for each in corrected if each is not None]
            latency = measured(chosen)
            step(1)
            if latency.ratio - 1 <= limit:  # by chance, perhaps
                again = measured(chosen)
                step(1)
                latency = max(latency, again, key=lambda each: each.ratio)
            gain = sum(float(values[name][option]) for name, option in options.items())
            if latency.ratio - 1 <= limit and gain > highest:
                best, highest = _choice(chosen, latency), gain
            expected = sum(float(costs[name][option]) for name, option in options.items())
            scale = max(latency.ratio - 1, LEAST_COST) / expected
    return best


def _choice(chosen: Iterable[_Corrected], latency: MeasuredLatency) -> LatencyChoice:
    named = {each.site: each for each in chosen}
    return LatencyChoice(
        filters={name: each.filters for name, each in named.items()},
        unit={name: each.unit for name, each in named.items()},
        latency=latency,
    )
