"""Weights of their own for some filters: the right ones, at no cost, in every use of an adapter."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import Batch, TinyCNN, cut
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from deepcorrect.correction import (
    AdaptedModel,
    AdapterSet,
    FilterWeights,
    correct,
    fit_gate,
    load_adapter,
)
from deepcorrect.data import Preprocessing
from deepcorrect.deployment import fuse
from deepcorrect.networks import Classifier, costs, multiply_adds
from deepcorrect.ranking import load_ranking, rank
from deepcorrect.runtime import InputError
from deepcorrect.training import fit

SIZE = 16


class Mixed(nn.Module):
    """A plain, a depthwise and a grouped convolution, with and without bias, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4, bias=False)
        self.hidden = nn.Linear(12, 24)
        self.last = nn.Linear(24, 5, bias=False)
        for values in (self.norm.weight, self.norm.running_var):
            assert values is not None
            nn.init.uniform_(values, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.plain(images)))
        maps = torch.relu(self.grouped(torch.relu(self.depthwise(maps))))
        return self.last(torch.relu(self.hidden(maps.permute(0, 2, 3, 1))).mean((1, 2)))


class Scaled(nn.Conv2d):
    """A convolution that computes further with its weight, as weight standardisation does."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(input, weight * 3, self.bias)


FILTERS = {"plain": [0, 3], "depthwise": [1, 2, 7], "grouped": [5, 11], "hidden": [0, 8, 23]}


@pytest.fixture
def mixed() -> Mixed:
    return Mixed().eval()


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))


def moved(adapted: AdaptedModel) -> AdaptedModel:
    """Tensors that are not those of the start, as after training."""
    with torch.no_grad():
        for parameter in adapted.trainable_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return adapted


def by_hand(network: nn.Module, adapted: AdaptedModel) -> nn.Module:
    """The network with the changed rows written into its layers, filter by filter."""
    twin = copy.deepcopy(network)
    for site, filters in {
        name: each.filters for name, each in adapted.config.sites.items()
    }.items():
        layer, own = twin.get_submodule(site), adapted.weights[site.replace(".", "/")]
        assert isinstance(own, FilterWeights)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        given = layer.bias
        bias = given.detach().clone() if isinstance(given, Tensor) else torch.zeros(len(weight))
        for place, filter_ in enumerate(filters):
            row = weight.data[filter_]
            scale, size = float(own.scale.detach()[place]), float(row.norm().detach())
            change = own.change.data[place] * size / row.numel() ** 0.5
            weight.data[filter_] = scale * (row + change)
            bias[filter_] = scale * bias[filter_] + size * float(own.shift.detach()[place])
        layer.bias = nn.Parameter(bias)
    return twin


def test_rows_are_replaced_in_plain_grouped_depthwise_and_linear_layers(
    mixed: Mixed, pictures: Tensor
) -> None:
    before = copy.deepcopy(mixed.state_dict())
    adapted = correct(mixed, FILTERS, unit="weights")
    assert torch.equal(adapted(pictures), mixed(pictures))
    expected = by_hand(mixed, moved(adapted))
    torch.testing.assert_close(adapted(pictures), expected(pictures))
    assert not torch.allclose(adapted(pictures), mixed(pictures))
    with adapted.disable_adapter():
        assert torch.equal(adapted(pictures), mixed(pictures))
    assert all(torch.equal(value, before[name]) for name, value in mixed.state_dict().items())


def test_a_layer_that_computes_with_its_weight_does_so_with_the_new_one(pictures: Tensor) -> None:
    network = nn.Sequential(Scaled(3, 6, 3), nn.ReLU()).eval()
    adapted = moved(correct(network, {"0": [0, 4]}, unit="weights"))
    torch.testing.assert_close(adapted(pictures), by_hand(network, adapted)(pictures))


def test_nothing_is_added_to_the_computation(mixed: Mixed, pictures: Tensor) -> None:
    adapted = moved(correct(mixed, FILTERS, unit="weights"))
    assert multiply_adds(adapted, pictures[:1]) == multiply_adds(mixed, pictures[:1])
    fused, plain = fuse(adapted, pictures), fuse(mixed, pictures)
    assert [type(each) for each in fused.modules()] == [type(each) for each in plain.modules()]
    torch.testing.assert_close(fused(pictures), adapted(pictures))
    preprocessing = Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3)
    added = costs(adapted, preprocessing).parameters - costs(mixed, preprocessing).parameters
    rows = 2 * 27 + 3 * 9 + 2 * 18 + 3 * 12
    assert added == adapted.config.parameters == rows + 2 * (2 + 3 + 2 + 3)


def test_the_network_may_change_afterwards(mixed: Mixed, pictures: Tensor) -> None:
    adapted = moved(correct(mixed, FILTERS, unit="weights")).requires_grad_(False)
    other = Mixed().state_dict()
    with torch.inference_mode():
        first = adapted(pictures)
        mixed.load_state_dict(other)
        second = adapted(pictures)
        moved_again = adapted.weights["plain"].scale
        assert isinstance(moved_again, Tensor)
    with torch.no_grad():
        moved_again *= 2
    assert not torch.allclose(first, second)
    torch.testing.assert_close(adapted(pictures), by_hand(mixed, adapted)(pictures))
    assert not torch.allclose(adapted(pictures), second)


def test_weights_and_a_unit_at_one_site(mixed: Mixed, pictures: Tensor) -> None:
    unit = {"kind": "weights+bottleneck", "start": "he"}
    both = moved(correct(mixed, {"plain": [1, 5]}, unit=unit))
    rows_only = correct(mixed, {"plain": [1, 5]}, unit="weights")
    rows_only.load_state_dict({k: v for k, v in both.state_dict().items() if "/weights." in k})
    written = by_hand(mixed, rows_only)
    unit_only = correct(written, {"plain": [1, 5]}, unit={"kind": "bottleneck", "start": "he"})
    unit_only.load_state_dict({k: v for k, v in both.state_dict().items() if "/weights." not in k})
    torch.testing.assert_close(both(pictures), unit_only(pictures))
    torch.testing.assert_close(fuse(both, pictures)(pictures), both(pictures))


def test_each_site_may_have_a_kind_of_its_own(mixed: Mixed, pictures: Tensor) -> None:
    kinds = {
        "plain": "lite",
        "depthwise": "weights",
        "grouped": {"kind": "full", "separable": True},
    }
    adapted = correct(mixed, {site: FILTERS[site] for site in kinds}, unit=kinds)
    assert set(adapted.units) == {"plain", "grouped"}
    assert set(adapted.weights) == {"depthwise"}
    assert adapted.config.sites["grouped"].unit is not None
    assert adapted.config.sites["grouped"].unit.separable
    assert torch.equal(adapted(pictures), mixed(pictures))
    with pytest.raises(InputError, match="unknown site with a unit 'hidden'"):
        correct(mixed, FILTERS, unit=kinds)


def test_saved_loaded_copied_and_pickled(mixed: Mixed, pictures: Tensor, tmp_path: Path) -> None:
    kinds = {**dict.fromkeys(FILTERS, "weights"), "plain": "weights+inverted"}
    adapted = moved(correct(mixed, FILTERS, unit=kinds))
    expected = adapted(pictures)
    folder = adapted.save_pretrained(tmp_path / "adapter")
    assert "| `plain` | 2 | 8 | weights and unit |" in (folder / "README.md").read_text()
    loaded = load_adapter(copy.deepcopy(mixed), folder)
    assert torch.equal(loaded(pictures), expected)
    assert torch.equal(copy.deepcopy(adapted)(pictures), expected)
    file = io.BytesIO()
    torch.save(adapted, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(pictures), expected)


def test_several_adapters_on_one_network(mixed: Mixed, pictures: Tensor) -> None:
    first, second = (moved(correct(mixed, FILTERS, unit="weights")) for _ in range(2))
    adapters = AdapterSet({"first": first, "second": second})
    for name, each in (("first", first), ("second", second)):
        with adapters.use(name):
            assert torch.equal(adapters(pictures), each(pictures))
    assert torch.equal(adapters(pictures), mixed(pictures))


def test_on_top_of_another_adapter(mixed: Mixed, pictures: Tensor) -> None:
    below = moved(correct(mixed, {"plain": [1]}, unit="weights"))
    above = moved(correct(below, {"grouped": [2]}, unit="weights"))
    with above.disable_adapter():
        assert torch.equal(above(pictures), below(pictures))
    written = by_hand(mixed, below)
    torch.testing.assert_close(above(pictures), by_hand(written, above)(pictures))
    with pytest.raises(InputError, match="another adapter corrects this site"):
        correct(below, {"plain": [2]}, unit="weights")


def test_compiled_and_in_threads(mixed: Mixed, pictures: Tensor) -> None:
    adapted = moved(correct(mixed, FILTERS, unit="weights"))
    expected = by_hand(mixed, adapted)(pictures)
    with ThreadPoolExecutor(4) as pool:
        for given in pool.map(adapted, [pictures] * 16):
            torch.testing.assert_close(given, expected)
    compiled = torch.compile(adapted, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pictures), expected)


def test_only_the_rows_are_trained(
    classifier: Classifier, network: TinyCNN, batches: list[Batch], images: Tensor, labels: Tensor
) -> None:
    before = copy.deepcopy(network.state_dict())
    ranking = rank(classifier, batches, "awgn:20")
    adapted = correct(classifier, ranking, 0.25, "weights")
    fit_gate(adapted, cut(images, labels, 6), "awgn:60", 0.3)
    history = fit(
        adapted, batches, "awgn:20", epochs=3, learning_rate=0.05, objective={"logits": 1}
    )
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    trained = [own.change for own in adapted.weights.values() if isinstance(own, FilterWeights)]
    assert len(trained) == len(ranking.sites)
    assert all(bool((change != 0).any()) for change in trained)


def test_a_budget_counts_rows(classifier: Classifier, batches: list[Batch], tmp_path: Path) -> None:
    ranking = load_ranking(rank(classifier, batches, "awgn:20", "path").save(tmp_path / "ranking"))
    adapted = correct(classifier, ranking, unit="weights", budget={"parameters": 300})
    used = sum(parameter.numel() for parameter in adapted.trainable_parameters())
    assert 0 < used == adapted.config.parameters <= 300
    free = correct(classifier, ranking, unit="weights", budget={"multiply_adds": 1})
    positive = {s: int((p > 0).sum()) for s, p in ranking.priorities.items() if (p > 0).any()}
    assert {s: len(each.filters) for s, each in free.config.sites.items()} == positive


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.BatchNorm2d(3), "BatchNorm2d"),
        (nn.ConvTranspose2d(3, 3, 1), "ConvTranspose2d"),
        (weight_norm(nn.Conv2d(3, 3, 1)), "ParametrizedConv2d"),
    ],
)
def test_sites_without_rows_are_refused(layer: nn.Module, kind: str) -> None:
    with pytest.raises(InputError, match=f"'0' cannot get weights of their own: it is a {kind}"):
        correct(nn.Sequential(layer), {"0": [1]}, unit="weights")


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ({"kind": "weights", "width": 3}, "'width' is not accepted: weights has none"),
        ("weights+none", "unknown correction unit 'none'"),
        ("lite+weights", "unknown correction unit"),
    ],
)
def test_unknown_kinds_are_refused(mixed: Mixed, unit: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        correct(mixed, FILTERS, unit=unit)  # pyright: ignore[reportArgumentType]


def test_depthwise_gradients_are_computed_in_float32_under_bfloat16() -> None:
    """They would take three times as long; nothing else is."""
    layer = nn.Conv2d(4, 4, 5, padding=2, groups=4)
    network = nn.Sequential(layer, nn.ReLU())
    adapted = correct(network, {"0": [1, 3]}, unit="weights")
    images = torch.rand(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        trained = adapted.corrected(images)
        with torch.no_grad():
            answered, usual = adapted.corrected(images), network(images)
    expected = layer(images).relu()  # the correction is the identity before training
    assert torch.equal(trained, expected.bfloat16())
    assert torch.equal(answered, usual)
    assert not torch.equal(trained, usual)
    trained.float().sum().backward()
    assert all(each.grad is not None for each in adapted.parameters() if each.requires_grad)
