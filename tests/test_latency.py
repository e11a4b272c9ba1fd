"""Latency: what is timed, in which order, and what a budget of time chooses."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZE, TINY_SITES, tiny_cnn
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, correct, hidden_width
from deepcorrect.correction._config import SiteConfig
from deepcorrect.correction._model_card import card
from deepcorrect.deployment import (
    LatencyChoice,
    MeasuredLatency,
    correct_within,
    measure_latency,
    within_latency,
)
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.experiments._systems import CorrectionSystem
from deepcorrect.networks import convolutions, latencies
from deepcorrect.ranking import Ranking
from deepcorrect.runtime import InputError


class Timed(nn.Module):
    """A network that advances a clock by a number of seconds, one after the other, when it runs."""

    def __init__(self, name: str, clock: Clock, seconds: list[float]) -> None:
        super().__init__()
        self.name, self.clock, self.left = name, clock, list(seconds)

    def forward(self, images: Tensor) -> Tensor:
        self.clock.now += self.left.pop(0)
        self.clock.ran.append(self.name)
        return images.flatten(1)


class Clock:
    """A clock that only `Timed` networks advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now


def test_latencies_are_medians_over_turns_of_the_second_run_of_each() -> None:
    clock = Clock()
    # each turn: a run that is not timed, and one that is
    first = Timed("first", clock, [9, 1, 9, 2, 9, 4])
    second = Timed("second", clock, [9, 3, 9, 4, 9, 40])
    reference, other = latencies([first, second], torch.rand(2, 3, 4, 4), turns=3, clock=clock)
    assert (reference.seconds, reference.ratio) == (2, 1)
    assert (other.seconds, other.ratio) == (4, 3)  # of 3, 2 and 10; the medians' ratio is 2
    assert clock.ran == ["first"] * 2 + ["second"] * 4 + ["first"] * 4 + ["second"] * 2


# --- a budget of time


class FakeRuntime:
    """A runtime in which a network takes so much more time: 2 % for each 8 hidden channels.

    Args:
        joint: The added time of several units as a multiple of the sum of their own.
        later: What each further measurement of a network adds to its time.
    """

    def __init__(self, joint: float = 1.0, later: float = 0.0) -> None:
        self.joint, self.later = joint, later
        self.measured: list[dict[str, SiteConfig]] = []

    def __call__(self, model: nn.Module) -> MeasuredLatency:
        assert isinstance(model, AdaptedModel)
        sites = model.config.sites
        added = [
            0.02 * math.ceil(hidden_width(site.unit, len(site.filters)) / 8)
            for site in sites.values()
            if site.unit is not None
        ]
        again = self.later * self.measured.count(sites)
        self.measured.append(sites)
        factor = self.joint if len(added) > 1 else 1
        ratio = 1 + factor * sum(added) + again
        return MeasuredLatency(ratio=ratio, milliseconds=1, runtime="onnx", threads=1, batch=1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return tiny_cnn()


def ranking_of(sites: Iterable[str] = TINY_SITES, *, gains: bool = True) -> Ranking:
    """Priorities that fall from filter to filter; the pointwise convolution's are the largest."""
    widths = {"stem": 8, "grouped": 8, "depthwise": 8, "pointwise": 12}
    values = {
        site: torch.linspace(1, 0.1, widths[site])[None] * (2 if site == "pointwise" else 1)
        for site in sites
    }
    kinds = (LevelledDistortion("awgn", (10,)),)
    maps: dict[str, tuple[int, int]] = dict.fromkeys(values, (SIZE, SIZE))
    return Ranking(values, "swap", kinds, 9, 0.5, maps=maps, gains=gains)


def choose(network: nn.Module, limit: float, runtime: FakeRuntime, **given: Any) -> LatencyChoice:
    ranking = given.pop("ranking", None) or ranking_of()
    images = torch.rand(1, 3, SIZE, SIZE)
    return within_latency(network, ranking, limit, "onnx", images=images, measure=runtime, **given)


@pytest.mark.parametrize("joint", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(
    "unit", ["weights+dense", "weights+bottleneck", "weights+inverted", "inverted", "full"]
)
def test_the_measured_time_is_within_the_limit_and_what_fits_is_used(
    network: nn.Module, unit: str, joint: float
) -> None:
    """However the times of single units and of all together are related."""
    units = []
    for limit in (0.03, 0.06, 0.1, 0.2, 1.0):
        choice = choose(network, limit, FakeRuntime(joint), unit=unit)
        adapted = correct(network, choice.filters, unit=choice.unit)
        assert FakeRuntime(joint)(adapted).ratio == choice.latency.ratio <= 1 + limit
        units.append(len(adapted.units))
        by_weights = {name for name, site in adapted.config.sites.items() if site.weights}
        assert by_weights == (set(TINY_SITES) if unit.startswith("weights") else set()) or (
            not adapted.units and by_weights == set(TINY_SITES)
        )
    assert units == sorted(units)
    assert units[-1] == len(TINY_SITES)


def test_the_site_with_the_largest_gain_per_time_gets_the_unit(network: nn.Module) -> None:
    choice = choose(network, 0.021, FakeRuntime(), unit={"kind": "weights+full", "width": 8})
    with_unit = [site for site, unit in choice.unit.items() if unit != "weights"]
    assert with_unit == ["pointwise"]
    # a hidden layer of the same width serves all filters
    assert choice.filters["pointwise"] == list(range(12))
    assert choice.filters["stem"] == list(range(4))


def test_beta_is_the_share_of_filters_with_weights(network: nn.Module) -> None:
    choice = choose(network, 0.0, FakeRuntime(), beta=0.25)
    assert {site: len(filters) for site, filters in choice.filters.items()} == {
        "stem": 2,
        "grouped": 2,
        "depthwise": 2,
        "pointwise": 3,
    }


@pytest.mark.parametrize("unit", ["weights+dense", "bottleneck", "weights"])
@pytest.mark.parametrize("limit", [0, 0.001])
def test_where_no_unit_fits_the_correction_is_weights_alone(
    network: nn.Module, unit: str, limit: float
) -> None:
    runtime = FakeRuntime()
    choice = choose(network, limit, runtime, unit=unit)
    assert choice.unit == dict.fromkeys(TINY_SITES, "weights")
    assert choice.filters == ranking_of().top(0.5)
    assert choice.latency.ratio == 1
    if limit == 0 or unit == "weights":
        assert len(runtime.measured) == 1, "there is nothing to choose"


def test_a_choice_that_does_not_fit_when_measured_again_is_not_taken(network: nn.Module) -> None:
    once = choose(network, 0.1, FakeRuntime())
    choice = choose(network, 0.1, FakeRuntime(later=0.03))
    assert once.latency.ratio <= 1.1
    assert 1.03 < choice.latency.ratio <= 1.1, "the second measurement counts"
    units = [sum(u != "weights" for u in each.unit.values()) for each in (once, choice)]
    assert units[0] > units[1] > 0
    never = choose(network, 0.1, FakeRuntime(later=1.0))
    assert never.unit == dict.fromkeys(TINY_SITES, "weights")


def test_units_follow_blocks_that_can_have_no_weights_of_their_own() -> None:
    model = dc.load_model("cifar_resnet20", "random")
    widths = {"conv1": 16, "layer1.0": 16, "layer3.2": 64}
    values = {site: torch.linspace(1, 0.1, width)[None] for site, width in widths.items()}
    kinds = (LevelledDistortion("awgn", (10,)),)
    ranking = Ranking(values, "swap", kinds, 9, 0.5, maps=dict.fromkeys(values, (8, 8)))
    choice = within_latency(model, ranking, 10, measure=FakeRuntime())
    sites = correct(model, choice.filters, unit=choice.unit).config.sites
    found = {name: (bool(site.weights), site.unit is not None) for name, site in sites.items()}
    assert found == {"conv1": (True, True), "layer1.0": (False, True), "layer3.2": (False, True)}
    free = within_latency(model, ranking, 0, measure=FakeRuntime())
    assert free.unit == {"conv1": "weights"}
    blocks = ranking.only(["layer1.0", "layer3.2"])
    with pytest.raises(InputError, match="no unit fits a latency of 0.01 in torch"):
        within_latency(model, blocks, 0.01, measure=FakeRuntime())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": "fast"}, "latency"),
        ({"limit": True}, "latency"),
        ({"limit": -0.1}, "latency"),
        ({"limit": math.nan}, "latency"),
        ({"runtime": "tensorrt"}, "'torch', 'onnx' or 'onnx-int8'"),
        ({"unit": "tiny"}, "tiny"),
        ({"unit": "weights+tiny"}, "tiny"),
        ({"beta": 0}, "beta=0"),
        ({"ranking": ranking_of(gains=False)}, "comparable only within a site"),
    ],
)
def test_what_is_not_accepted(network: nn.Module, given: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"ranking": ranking_of(), "limit": 0.1, **given}
    with pytest.raises(InputError, match=message):
        within_latency(network, measure=FakeRuntime(), **arguments)


def test_without_the_extra_onnx_says_which(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(dc.MissingExtraError, match=r"deepcorrect-torch\[onnx\]"):
        within_latency(network, ranking_of(), 0.1, "onnx", images=torch.rand(1, 3, SIZE, SIZE))


def test_a_bare_network_needs_the_images_that_are_timed(network: nn.Module) -> None:
    with pytest.raises(InputError, match="give a batch of images"):
        within_latency(network, ranking_of(), 0.1)


def test_the_budget_of_a_correction_without_measurements_says_what_measures(
    network: nn.Module,
) -> None:
    with pytest.raises(InputError, match=r"deepcorrect\.within_latency"):
        correct(network, ranking_of(), budget={"latency": 0.1})
    for given in ({"latency": 0.1, "parameters": 0.1}, {"parameters": 0.1, "runtime": "onnx"}):
        with pytest.raises(InputError, match="latency"):
            correct(network, ranking_of(), budget=given)


def test_a_kept_choice_is_not_measured_again(network: nn.Module, tmp_path: Path) -> None:
    kept, images = tmp_path / "choice.json", torch.rand(1, 3, SIZE, SIZE)
    budget = {"latency": 0.0}
    first = correct_within(network, ranking_of(), budget, images=images, kept=kept)
    assert {site.corrected_by for site in first.config.sites.values()} == {"weights"}
    written = json.loads(kept.read_text())
    LatencyChoice.model_validate(written["kept"])
    written["kept"] |= {"filters": {"stem": [7]}, "unit": {"stem": "lite"}}
    kept.write_text(json.dumps(written))
    again = correct_within(network, ranking_of(), budget, images=images, kept=kept)
    assert again.config.sites["stem"].filters == (7,)


@pytest.mark.parametrize("runtime", ["torch", "onnx", "onnx-int8"])
def test_a_corrected_network_is_measured_in_every_runtime(network: nn.Module, runtime: Any) -> None:
    adapted = correct(network, {"stem": [1, 2]}, unit="weights+bottleneck")
    found = measure_latency(adapted, torch.rand(3, 3, SIZE, SIZE), runtime)
    assert (found.runtime, found.batch) == (runtime, 3)
    assert found.threads == torch.get_num_threads()
    assert found.ratio > 0
    assert found.milliseconds > 0


# --- recipes and cards


def test_a_recipe_limits_the_latency(tmp_path: Path) -> None:
    model = dc.load_model("digits_cnn")
    sites = list(convolutions(model))
    values = {
        site: torch.rand(1, module.out_channels) for site, module in convolutions(model).items()
    }
    maps: dict[str, tuple[int, int]] = dict.fromkeys(values, (8, 8))
    ranking = Ranking(values, "swap", (LevelledDistortion("awgn", (10,)),), 9, 0.5, maps=maps)
    system = CorrectionSystem.model_validate(
        {"method": "deepcorrect", "beta": 0.25, "budget": {"latency": 0, "runtime": "onnx"}}
    )
    assert (system.unit, system.runtime) == ("weights+dense", "onnx")
    kept = tmp_path / "latency.json"
    built = system.build(model, lambda _: ranking, 0, kept)
    assert isinstance(built, AdaptedModel)
    filters = {name: list(site.filters) for name, site in built.config.sites.items()}
    assert filters == ranking.top(0.25)
    assert list(filters) == sites
    assert {site.corrected_by for site in built.config.sites.values()} == {"weights"}
    choice = LatencyChoice.model_validate(json.loads(kept.read_text())["kept"])
    assert (choice.latency.runtime, choice.latency.batch) == ("onnx", 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": {"latency": "fast"}}, "latency"),
        ({"budget": {"latency": 0.1, "runtime": "tvm"}}, "tvm"),
        ({"budget": {"runtime": "onnx"}}, "exactly one of"),
        ({"budget": {"latency": 0.1}, "beta": {"a": 0.5}}, "one share for all sites"),
        ({"budget": {"parameters": 0.1}, "beta": 0.5}, "not both"),
    ],
)
def test_a_budget_that_a_recipe_may_not_have(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrectionSystem.model_validate({"method": "deepcorrect", **given})


def test_the_card_shows_the_latency_with_its_runtime_and_threads(network: nn.Module) -> None:
    config = correct(network, {"stem": [1, 2]}).config
    measured = {"ratio": 1.25, "milliseconds": 2.5, "runtime": "onnx", "threads": 2, "batch": 1}
    noted = config.model_copy(update={"notes": {"cost": {"latency": measured}}})
    row = "| latency per corrected image (onnx, 2 threads) | +25.0 % | 2 ms |"
    assert row in card(noted, bytes=1)
    assert "latency" not in card(config, bytes=1)
    other = {**measured, "ratio": 0.99, "threads": 1, "batch": 32}
    noted = config.model_copy(update={"notes": {"cost": {"latency": other}}})
    assert "| latency per corrected batch of 32 (onnx, 1 thread) | -1.0 % |" in card(noted, bytes=1)
