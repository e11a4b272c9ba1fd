"""The adapter: right filters, nothing else; off is off; off the network means as before; files."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import itertools
import json
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, TINY_SITES, Batch, TinyCNN, tiny_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepcorrect.correction import (
    AdaptedModel,
    CorrectionUnit,
    correct,
    fit_gate,
    load_adapter,
    looks_distorted,
)
from deepcorrect.correction._checkpoint import config_sha256
from deepcorrect.data import Preprocessing
from deepcorrect.deployment import fuse
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.evaluation import evaluate
from deepcorrect.models import CifarAllCNN, CifarResNet20, load_model
from deepcorrect.networks import Classifier, convolutions, costs, tap
from deepcorrect.networks._fingerprint import fingerprint
from deepcorrect.ranking import Ranking, load_ranking
from deepcorrect.runtime import InputError
from deepcorrect.training import fit

FILTERS = {"stem": [1, 4, 6], "depthwise": [0, 7], "pointwise": [2, 3, 11]}


def adapted_tiny(network: nn.Module, start: str = "he", seed: int = 0) -> AdaptedModel:
    """Units that are not the identity, as after training."""
    return correct(network, FILTERS, unit={"kind": "bottleneck", "start": start}, seed=seed)


def unit_at(adapted: AdaptedModel, site: str) -> CorrectionUnit:
    unit = adapted.corrected_site(site).unit
    assert unit is not None
    return unit


def answers(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def ranking_of(model: nn.Module, seed: int = 0) -> Ranking:
    generator = torch.Generator().manual_seed(seed)
    by_level = {
        name: torch.rand(1, module.out_channels, generator=generator)
        for name, module in convolutions(model).items()
    }
    return Ranking(by_level, "random", (LevelledDistortion("awgn", (5,)),), 1, 0.0)


def by_hand(network: TinyCNN, adapted: AdaptedModel, images: Tensor) -> Tensor:
    """The tiny network's forward pass with the corrections written out."""

    def corrected(site: str, maps: Tensor) -> Tensor:
        if site not in FILTERS:
            return maps
        unit = adapted.units[site]
        assert isinstance(unit, CorrectionUnit)
        selected = torch.stack([maps[:, i] for i in FILTERS[site]], 1)
        residual = unit.residual(selected)
        channels = list(maps.unbind(1))
        for place, index in enumerate(FILTERS[site]):
            channels[index] = channels[index] + residual[:, place]
        return torch.stack(channels, 1)

    def convolve(site: str, maps: Tensor) -> Tensor:
        layer = network.get_submodule(site)
        assert isinstance(layer, nn.Conv2d)
        (padding, _) = (p if isinstance(p, int) else 0 for p in layer.padding)
        raw = F.conv2d(maps, layer.weight, layer.bias, padding=padding, groups=layer.groups)
        return corrected(site, raw)

    maps = F.relu(network.norm(convolve("stem", images)))
    out = F.relu(convolve("depthwise", F.relu(convolve("grouped", maps))) + maps)
    out = F.hardswish(network.out_norm(convolve("pointwise", F.avg_pool2d(out, 2))))
    return network.head(out.mean((2, 3)))


# --- correcting


def test_the_right_filters_are_corrected_in_the_right_order(
    network: TinyCNN, images: Tensor
) -> None:
    adapted = adapted_tiny(network)
    with torch.no_grad():
        assert torch.allclose(adapted(images), by_hand(network, adapted, images), atol=1e-5)
        assert not torch.allclose(adapted(images), network(images), atol=1e-2)


@pytest.mark.parametrize("site", FILTERS)
def test_the_other_filters_of_a_site_pass_untouched(
    network: TinyCNN, images: Tensor, site: str
) -> None:
    with torch.no_grad():
        with tap(network, [site]) as before:
            network(images)
        adapted = correct(network, {site: FILTERS[site]}, unit={"kind": "full", "start": "he"})
        with tap(adapted, [site]) as after:
            adapted(images)
    others = [i for i in range(before[site].shape[1]) if i not in FILTERS[site]]
    assert torch.equal(after[site][:, others], before[site][:, others])
    for index in FILTERS[site]:
        assert not torch.allclose(after[site][:, index], before[site][:, index], atol=1e-6)


@pytest.mark.parametrize("unit", ["full", "bottleneck", "lite", "cifar", "rank_constrained"])
def test_untrained_it_starts_as_the_baseline(
    classifier: Classifier, images: Tensor, unit: str
) -> None:
    with torch.no_grad():
        baseline = classifier(images)
        adapted = correct(classifier, ranking_of(classifier), 0.5, unit)
        assert torch.equal(adapted(images), baseline)


def test_disabled_is_bit_identical_to_the_untouched_network(
    classifier: Classifier, images: Tensor
) -> None:
    with torch.no_grad():
        baseline = classifier(images)
        adapted = adapted_tiny(classifier)
        corrected = adapted(images)
        with adapted.disable_adapter():
            assert torch.equal(adapted(images), baseline)
            with adapted.disable_adapter():
                assert torch.equal(adapted(images), baseline)
            assert torch.equal(adapted(images), baseline)
        assert torch.equal(adapted(images), corrected)
        with pytest.raises(ZeroDivisionError), adapted.disable_adapter():
            raise ZeroDivisionError
        assert torch.equal(adapted(images), corrected)


class Strided(nn.Module):
    """A linear layer over transposed tokens: torch multiplies it in another order where its weights
    require no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 96, 4, 4)
        self.proj = nn.Linear(96, 96)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.stem(images).flatten(2).transpose(1, 2)).mean(1)


def test_disabled_it_is_the_network_itself() -> None:
    torch.manual_seed(0)
    network, images = Strided().eval(), torch.rand(4, 3, 8, 8)
    network.stem.bias.requires_grad_(False)  # pyright: ignore[reportOptionalMemberAccess]
    required = {name: p.requires_grad for name, p in network.named_parameters()}
    with torch.no_grad():
        baseline = network(images)
        adapted = correct(network, {"stem": [0, 3]})
        with adapted.disable_adapter(), adapted.disable_adapter():
            assert torch.equal(adapted(images), baseline)
    assert {name: p.requires_grad for name, p in network.named_parameters()} == required


def test_the_network_called_directly_stays_the_baseline(
    classifier: Classifier, images: Tensor
) -> None:
    with torch.no_grad():
        baseline = classifier(images)
        adapted = adapted_tiny(classifier)
        assert not torch.equal(adapted(images), baseline)
        assert torch.equal(classifier(images), baseline)
        with pytest.raises(RuntimeError):
            adapted(torch.zeros(1, 3, 1, 1))  # too small: the pass fails half-way
        assert torch.equal(classifier(images), baseline)


def test_two_adapters_on_one_network_do_not_mix(network: TinyCNN, images: Tensor) -> None:
    with torch.no_grad():
        first, second = adapted_tiny(network, seed=1), adapted_tiny(network, seed=2)
        alone = adapted_tiny(tiny_cnn(), seed=1)(images)
        assert torch.equal(first(images), alone)
        assert not torch.equal(second(images), alone)


def test_a_deep_copy_is_corrected_by_its_own_units(network: TinyCNN, images: Tensor) -> None:
    adapted = adapted_tiny(network)
    twin = copy.deepcopy(adapted)
    with torch.no_grad():
        corrected = adapted(images)
        assert torch.equal(twin(images), corrected)
        for parameter in twin.units.parameters():
            parameter.zero_()
        assert not torch.equal(twin(images), corrected)
        assert torch.equal(adapted(images), corrected)
        assert twin.network is not network
        with twin.disable_adapter():
            assert torch.equal(twin(images), network(images))


def state_of(network: nn.Module) -> list[Any]:
    """All that an adapter must not change of a network, but its tensors' values."""
    return [
        [(name, module, module.training) for name, module in network.named_modules()],
        [(name, p, p.requires_grad, p.grad) for name, p in network.named_parameters()],
        [dict(module._forward_hooks) for module in network.modules()],
        [dict(module._forward_pre_hooks) for module in network.modules()],
        [dict(vars(module)) for module in network.modules()],
    ]


def test_the_network_is_never_changed(
    classifier: Classifier, images: Tensor, batches: list[Batch], tmp_path: Path
) -> None:
    classifier.train()  # its owner trains it, but one layer is frozen and one in inference mode
    classifier.network.get_submodule("norm").eval()
    classifier.network.get_submodule("head").requires_grad_(False)
    before, tensors = state_of(classifier), copy.deepcopy(classifier.state_dict())
    adapted = adapted_tiny(classifier)
    assert str(state_of(classifier)) == str(before)
    adapted.train()
    fit(adapted, batches, "awgn:20", validation=batches, epochs=1, precision="float32")
    evaluate(adapted, batches, "awgn:20", target="prediction")
    fit_gate(adapted, [(torch.rand(40, 3, 16, 16), torch.zeros(40))] * 2, "awgn:20")
    answers(adapted, images)
    adapted.save_pretrained(tmp_path)
    fuse(adapted)
    adapted.eval()
    assert str(state_of(classifier)) == str(before)
    assert all(torch.equal(tensors[name], t) for name, t in classifier.state_dict().items())
    assert adapted.network is classifier


def test_the_copy_follows_the_network(network: TinyCNN, images: Tensor) -> None:
    """Through steps of an optimiser, load_state_dict, a new parameter, .to and its way back."""
    adapted = adapted_tiny(network)

    def follows() -> bool:
        expected = by_hand(network, adapted, images.to(network.head.weight.dtype))
        found = answers(adapted, images.to(network.head.weight.dtype))
        return torch.allclose(found, expected, atol=1e-4)

    with torch.no_grad():
        network.stem.weight.mul_(1.5)
    assert follows()
    network.load_state_dict(tiny_cnn(seed=5).state_dict())
    assert follows()
    network.head.weight = nn.Parameter(network.head.weight.detach() * 2)
    assert follows()
    network.to(torch.float64)
    adapted.units.to(torch.float64)
    assert follows()
    adapted.to(torch.float32)
    assert network.stem.weight.dtype == torch.float32
    assert follows()
    held = {t.data_ptr() for t in (*network.parameters(), *network.buffers())}
    own = {t.data_ptr() for t in (*adapted.units.parameters(), *adapted.units.buffers())}
    extra = {adapted.corrected_site(site).filters.data_ptr() for site in FILTERS}
    assert {t.data_ptr() for t in (*adapted.parameters(), *adapted.buffers())} <= held | own | extra


def test_stacked_adapters_come_off_in_any_order(classifier: Classifier, images: Tensor) -> None:
    baseline = answers(classifier, images)
    first = adapted_tiny(classifier, seed=1)
    second = adapted_tiny(first, seed=2)
    other = correct(classifier, {"grouped": [0, 3]}, unit={"start": "he"})
    third = correct(first, {"grouped": [0, 3]}, unit={"start": "he"})
    both = answers(third, images)
    with first.disable_adapter():  # the lower one off: the upper one's units alone
        assert torch.equal(answers(third, images), answers(other, images))
        with third.disable_adapter():
            assert torch.equal(answers(third, images), baseline)
    with third.disable_adapter():
        assert torch.equal(answers(third, images), answers(first, images))
        with first.disable_adapter():
            assert torch.equal(answers(third, images), baseline)
    assert torch.equal(answers(third, images), both)
    assert not torch.allclose(both, answers(first, images), atol=1e-3)
    assert not torch.allclose(both, answers(other, images), atol=1e-3)
    assert not torch.allclose(answers(second, images), answers(first, images), atol=1e-3)
    del first, third
    assert torch.equal(answers(second.network.network, images), baseline)  # pyright: ignore
    assert second.trainable_parameters() == list(second.units.parameters())


class Checkpointed(nn.Module):
    """The tiny network with its parts under activation checkpointing."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.inner, self.reentrant = tiny_cnn(), reentrant

    def part(self, call: Callable[..., Tensor], *args: Tensor) -> Tensor:
        if self.reentrant is None:
            return call(*args)
        out: Any = checkpoint(call, *args, use_reentrant=self.reentrant)
        return out

    def forward(self, images: Tensor) -> Tensor:
        net = self.inner
        maps = self.part(lambda x: F.relu(net.norm(net.stem(x))), images)
        out = self.part(lambda x: F.relu(net.depthwise(F.relu(net.grouped(x))) + x), maps)
        out = F.avg_pool2d(out, 2)
        out = self.part(lambda x: F.hardswish(net.out_norm(net.pointwise(x))), out)
        return net.head(out.mean((2, 3)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_networks_train_units_to_the_same(
    reentrant: bool, batches: list[Batch]
) -> None:
    found = []
    for how in (None, reentrant):
        filters = {f"inner.{site}": some for site, some in FILTERS.items()}
        unit = {"kind": "bottleneck", "modulation": 4}
        adapted = correct(Checkpointed(how), filters, unit=unit)
        start = copy.deepcopy(adapted.state_dict())
        fit(adapted, batches, "awgn:20", epochs=2, learning_rate=0.01, precision="float32")
        found.append(copy.deepcopy(adapted.state_dict()))
        weights = [name for name in start if name.endswith("residual.0.weight")]
        assert weights
        assert not any(torch.equal(start[name], found[-1][name]) for name in weights)
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_training_changes_units_alone(classifier: Classifier, batches: list[Batch]) -> None:
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    adapted = adapted_tiny(classifier).train()
    units = [p.detach().clone() for p in adapted.units.parameters()]
    trainable = adapted.trainable_parameters()
    assert {id(p) for p in trainable} == {id(p) for p in adapted.units.parameters()}
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(adapted(images), labels).backward()
        optimizer.step()
    assert all(torch.equal(state[name], t) for name, t in classifier.state_dict().items())
    after = list(adapted.units.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(units, after, strict=True) if a.dim() == 4)


def test_a_checkpointed_network_with_a_gate_trains_its_units() -> None:
    """Also where the gate would let the first images pass."""

    class Whole(TinyCNN):
        def forward(self, images: Tensor) -> Tensor:
            out: Any = checkpoint(super().forward, images, use_reentrant=True)
            return out

    generator = torch.Generator().manual_seed(0)
    soft = F.interpolate(torch.rand(120, 3, 4, 4, generator=generator), size=(16, 16))
    adapted = correct(Whole().eval(), {"stem": [1, 4]}, unit={"kind": "lite", "width": 4})
    fit_gate(adapted, [(soft, torch.zeros(120))], ["awgn:40"])
    assert not looks_distorted(adapted, soft[:1]).any()
    before = copy.deepcopy(adapted.state_dict())
    lessons = [(soft[:8], torch.arange(8) % CLASSES)] * 2
    fit(adapted, lessons, "awgn:40", epochs=1, precision="float32")
    changed = {
        name for name, tensor in adapted.state_dict().items() if not tensor.equal(before[name])
    }
    assert "stem/residual.6.weight" in changed


def test_a_checkpointed_network_of_timm_trains_units_to_the_same() -> None:
    if importlib.util.find_spec("timm") is None:  # importing it needs what load_model prepares
        pytest.skip("timm is not installed")
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        network: Any = load_model("timm:resnet10t", "random", classes=4).network
        network.set_grad_checkpointing(checkpointed)
        filters = {"layer1.0.conv1": [0, 3], "layer4.0.conv2": [1, 2, 9]}
        adapted = correct(network, filters, unit={"kind": "bottleneck", "dilations": [1]})
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        batches = [(images, torch.tensor([0, 1, 2, 3]))] * 2
        fit(adapted, batches, "awgn:20", epochs=1, learning_rate=0.01, precision="float32")
        found.append(adapted.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-5, rtol=1e-4, msg=name)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(8)), st.integers(1, 8))
def test_the_order_in_which_filters_are_named_does_not_matter(order: list[int], count: int) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    chosen = order[:count]
    unit = {"kind": "full", "start": "he"}
    with torch.no_grad():
        named = correct(tiny_cnn(), {"stem": chosen}, unit=unit)
        ascending = correct(tiny_cnn(), {"stem": sorted(chosen)}, unit=unit)
        assert named.config.sites["stem"].filters == tuple(sorted(chosen))
        assert torch.equal(named(images), ascending(images))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(8)))
def test_permuting_a_convolutions_filters_permutes_the_correction(order: list[int]) -> None:
    """A unit sees its filters in ascending order, so a network with its filters renumbered needs
    the unit's first and last weights renumbered, and then corrects alike."""
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    place = torch.tensor(order)
    network, renumbered = tiny_cnn(), tiny_cnn()
    unit = {"kind": "full", "start": "he"}
    original = correct(network, {"stem": range(8)}, unit=unit)
    moved = correct(renumbered, {"stem": range(8)}, unit=unit)
    with torch.no_grad():
        renumbered.stem.weight.copy_(network.stem.weight[place])
        tensors = dict(original.state_dict())
        last = max(int(n.split(".")[1]) for n in (k.split("/")[1] for k in tensors) if "res" in n)
        tensors["stem/residual.0.weight"] = tensors["stem/residual.0.weight"][:, place]
        for name in (f"stem/residual.{last}.weight", f"stem/residual.{last}.bias"):
            tensors[name] = tensors[name][place]
        moved.load_state_dict(tensors)
        with tap(original, ["stem"]) as a:
            original(images)
        with tap(moved, ["stem"]) as b:
            moved(images)
    assert torch.allclose(a["stem"][:, place], b["stem"], atol=1e-5)


def test_positions_follow_the_network_not_the_order_of_naming(network: TinyCNN) -> None:
    """The paper's larger first unit belongs to the site that comes first."""
    adapted = correct(network, {"pointwise": [0], "stem": [0]}, unit="full")
    units = {site: entry.unit for site, entry in adapted.config.sites.items()}
    sizes = {site: unit.kernel_size for site, unit in units.items() if unit is not None}
    assert sizes == {"stem": 5, "pointwise": 3}


# --- choosing filters


@pytest.mark.parametrize(
    ("beta", "counts"), [(0.5, (4, 4, 4, 6)), (0.01, (1, 1, 1, 1)), (1, (8, 8, 8, 12))]
)
def test_beta_is_the_share_of_each_sites_filters(
    network: TinyCNN, beta: float, counts: tuple[int, ...]
) -> None:
    ranking = ranking_of(network)
    adapted = correct(network, ranking, beta)
    for site, count in zip(TINY_SITES, counts, strict=True):
        best = sorted(ranking.by_level[site][0].topk(count).indices.tolist())
        assert adapted.config.sites[site].filters == tuple(best)


def test_beta_by_site_leaves_the_others_out(network: TinyCNN) -> None:
    adapted = correct(network, ranking_of(network), {"stem": 0.75, "pointwise": 0.5})
    counts = {site: len(entry.filters) for site, entry in adapted.config.sites.items()}
    assert counts == {"stem": 6, "pointwise": 6}


@pytest.mark.parametrize(
    ("ranking", "beta", "message"),
    [
        (None, 0, "beta=0 is not a share"),
        (None, 1.5, "beta=1.5 is not a share"),
        (None, float("nan"), "beta=nan is not a share"),
        (None, {"stem": -1}, "beta=-1 is not a share"),
        (None, {"stemm": 0.5}, "unknown ranked site 'stemm', did you mean 'stem'"),
        (None, {}, "there is no site to correct"),
        ({}, 0.5, "there is no site to correct"),
        ({"stemm": [0]}, 0.5, "unknown site 'stemm', did you mean 'stem'"),
        ({"stem": [8]}, 0.5, r"from 0 to 7; given: \(8,\)"),
        ({"stem": [-1]}, 0.5, r"from 0 to 7; given: \(-1,\)"),
    ],
)
def test_what_cannot_be_corrected_is_refused_and_leaves_the_network_alone(
    network: TinyCNN, ranking: Mapping[str, list[int]] | None, beta: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        correct(network, ranking_of(network) if ranking is None else ranking, beta)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())


def test_a_site_without_filters_is_refused(network: TinyCNN) -> None:
    with pytest.raises(InputError, match="stem"):
        correct(network, {"stem": []})


def test_a_refused_site_leaves_no_hook_on_the_others(network: TinyCNN) -> None:
    with pytest.raises(InputError, match="from 0 to 11"):
        correct(network, {"stem": [0], "pointwise": [99]})
    assert not any(module._forward_hooks for module in network.modules())


# --- files


def saved_tiny(folder: Path, images: Tensor) -> Tensor:
    """Saves an adapter with used batch norms, and gives its answers."""
    adapted = adapted_tiny(tiny_cnn()).train()
    with torch.no_grad():
        adapted(images)
        adapted.eval()
        adapted.save_pretrained(folder, notes={"trained_on": ["awgn"]})
        return adapted(images)


def test_save_and_load_round_trip_exactly(tmp_path: Path, images: Tensor) -> None:
    expected = saved_tiny(tmp_path / "a" / "b", images)
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    loaded = load_adapter(tiny_cnn(), tmp_path / "a" / "b")
    with torch.no_grad():
        assert torch.equal(loaded(images), expected)
        loaded.save_pretrained(tmp_path / "again")
        assert torch.equal(load_adapter(tiny_cnn(), tmp_path / "again")(images), expected)
    assert loaded.config.notes == {"trained_on": ["awgn"]}
    weights = [(tmp_path / f / "adapter_model.safetensors").read_bytes() for f in ("a/b", "again")]
    assert weights[0] == weights[1]


def test_an_adapter_loads_onto_the_network_bare_or_wrapped(
    tmp_path: Path, classifier: Classifier, images: Tensor
) -> None:
    adapted = adapted_tiny(classifier)
    adapted.save_pretrained(tmp_path)
    normalised = (images - classifier.mean) / classifier.std
    with torch.no_grad():
        expected = adapted(images)
        assert torch.equal(load_adapter(tiny_cnn(), tmp_path)(normalised), expected)


def test_an_adapter_on_whole_blocks_loads_onto_the_network_in_a_wrapper(
    tmp_path: Path, images: Tensor
) -> None:
    class Own(nn.Module):  # has no tensors, so that its fingerprint is the network's
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images)

    network = CifarResNet20(classes=5).eval()
    adapted = correct(network, {"conv1": [1], "layer1.0": [0, 3]}, unit={"start": "he"})
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(images)
        loaded = load_adapter(Own(copy.deepcopy(adapted.network)), tmp_path)
        assert torch.equal(loaded(images), expected)
    assert list(loaded.config.sites) == ["inner.conv1", "inner.layer1.0"]


def test_the_network_is_not_in_the_adapters_file(tmp_path: Path, network: TinyCNN) -> None:
    adapted = adapted_tiny(network)
    adapted.save_pretrained(tmp_path)
    assert {name.split("/")[0] for name in adapted.state_dict()} == set(FILTERS)
    held = sum(tensor.numel() for tensor in adapted.state_dict().values())
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * held + 10_000


def edit_config(
    change: Callable[[dict[str, Any]], None], *, signed: bool = True
) -> Callable[[Path], None]:
    """Changes a configuration; `signed` as if it had been saved so."""

    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        change(config)
        if signed and isinstance(config, dict):
            config["config_sha256"] = config_sha256(config)
        path.write_text(json.dumps(config))

    return edit


def truncate(share: float) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return edit


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def flip_a_bit(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("adapter_config.json"), "holds no adapter: it has no adapter_config.json"),
        (without("adapter_model.safetensors"), "an incomplete adapter: it has no adapter_model"),
        (truncate(0.5), "checksum differs"),
        (truncate(0), "checksum differs"),
        (flip_a_bit, "checksum differs"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "is not a JSON file"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "not an adapter's configuration"),
        (edit_config(lambda c: c.update(schema_version=3)), "schema_version"),
        (edit_config(lambda c: c.update(format="peft")), "format"),
        (edit_config(lambda c: c.update(sites={})), "sites"),
        (edit_config(lambda c: c.update(extra=1)), "extra"),
        (
            edit_config(lambda c: c["sites"]["stem"].update(filters=[1, 4, 7]), signed=False),
            "was changed since it was saved",
        ),
        (edit_config(lambda c: c["sites"].pop("stem")), "do not match its units"),
        (edit_config(lambda c: c["sites"]["stem"].update(filters=[1, 4])), "needs"),
        (edit_config(lambda c: c["sites"]["stem"].update(filters=[4, 1, 6])), "ascending"),
        (edit_config(lambda c: c["sites"]["stem"].update(filters=[1, 4, 8])), "from 0 to 7"),
        (edit_config(lambda c: c["sites"]["stem"].update(channels=9)), "made for 9"),
        (edit_config(lambda c: c["sites"]["stem"]["unit"].update(width=5)), "needs"),
        (edit_config(lambda c: c["sites"]["stem"]["unit"].update(affine=True)), "scale"),
        (edit_config(lambda c: c["sites"]["stem"]["unit"].update(kernel_size=4)), "kernel_size"),
    ],
)
def test_a_damaged_adapter_is_refused_and_the_network_left_alone(
    tmp_path: Path, images: Tensor, damage: Callable[[Path], None], message: str
) -> None:
    saved_tiny(tmp_path, images)
    damage(tmp_path)
    network = tiny_cnn()
    with pytest.raises(InputError, match=message):
        load_adapter(network, tmp_path)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())


def test_an_adapter_refuses_another_network(tmp_path: Path, images: Tensor) -> None:
    saved_tiny(tmp_path, images)
    with pytest.raises(InputError, match="with other weights"):
        load_adapter(tiny_cnn(seed=1), tmp_path)
    with pytest.raises(InputError, match="for the network 'TinyCNN': this network has no site"):
        load_adapter(CifarResNet20(), tmp_path)
    with pytest.raises(InputError, match="holds no adapter"):
        load_adapter(tiny_cnn(), tmp_path / "nowhere")


def test_the_fingerprint_sees_one_changed_bit_of_weights_or_statistics(
    classifier: Classifier,
) -> None:
    before = fingerprint(classifier)
    assert fingerprint(tiny_cnn()) == before
    for name in ("pointwise.bias", "norm.running_var", "head.weight"):
        tensor = classifier.network.state_dict()[name]
        kept = tensor.clone()
        tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0))
        assert fingerprint(classifier) != before, name
        tensor.copy_(kept)
    assert fingerprint(classifier) == before


# --- the budget


@pytest.mark.parametrize(
    ("network", "sites", "share"),
    [
        # the paper corrects layers 1 to 6 of its CIFAR-100 network
        (CifarAllCNN(), [f"features.{k}.0" for k in range(6)], 0.20),
        (CifarResNet20(), None, 0.25),
    ],
    ids=["allcnn, six sites", "resnet20, all sites"],
)
def test_bottleneck_units_are_at_most_a_quarter_of_the_network(
    network: nn.Module, sites: list[str] | None, share: float
) -> None:
    whole = sum(p.numel() for p in network.parameters())
    ranking = ranking_of(network)
    adapted = correct(network, ranking if sites is None else ranking.only(sites), 0.5, "bottleneck")
    added = sum(p.numel() for p in adapted.units.parameters())
    assert added / whole <= share


class Meeting(nn.Module):
    """Passes on what it gets once the other thread has come, or is done."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)

    def forward(self, images: Tensor) -> Tensor:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(5)
        return images


class Awkward(nn.Module):
    """A network with what is hard to copy or to replace: a lock, a list that refers to a layer, a
    bound method, weight norm, TorchScript, a tensor that is not registered, an in-place layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.first = nn.Conv2d(3, 6, 3)
        self.by_list = [self.first]
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.third = nn.utils.weight_norm(nn.Conv2d(6, 6, 1))
            self.scripted = torch.jit.script(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()))
        self.call = self.second.forward
        self.offset = torch.rand(1, 6, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        with self.lock:
            maps = self.relu(self.by_list[0](images))
        maps = self.third(self.second(maps)) + self.offset
        return self.scripted(maps).mean((2, 3)) + self.call(maps).mean((2, 3))


def test_networks_that_are_hard_to_copy_are_corrected(images: Tensor) -> None:
    network = Awkward().eval()
    baseline = answers(network, images)
    filters = {"first": [0, 2], "third": [1]}
    unit = {"kind": "full", "start": "he"}
    adapted = correct(network, filters, unit=unit)

    def edit(site: str, maps: Tensor) -> Tensor:
        unit, chosen = unit_at(adapted, site), adapted.corrected_site(site).filters
        return unit(maps, chosen)

    with tap(network, filters, edit), torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(answers(adapted, images), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, baseline, atol=1e-3)
    assert torch.equal(answers(network, images), baseline)
    with pytest.raises(InputError, match="inside a TorchScript module"):
        correct(network, {"scripted.0": [0]})


class Referring(nn.Module):
    """A network that calls its layer through something else than an attribute."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3)
        lock = threading.Lock()
        self.shared = {"lock": lock, "factor": 2.0}
        self.again = self.shared
        self.calls: dict[str, Any] = {
            "closure": lambda images: self.layer(images + 0.0),
            "list with a lock": [self.layer, lock],
            "partial of a closure": partial(lambda scale, images: self.layer(images) * scale, 2.0),
            "weak reference": weakref.ref(self.layer),
        }
        self.how = how
        before = self.layer.forward
        if how == "wrapped forward":

            @wraps(before)
            def forward(images: Tensor) -> Tensor:
                return before(images) + before(images.flip(-1))

            self.forward = forward_of(self, forward)
        if how == "compiled in place":
            self.compile(backend="eager")
        if how == "compiled forward":
            self.forward = torch.compile(self.forward, backend="eager")

    def forward(self, images: Tensor) -> Tensor:
        call = self.calls.get(self.how, self.layer)
        call = call[0] if isinstance(call, list) else call
        call = call() if isinstance(call, weakref.ref) else call
        assert call is not None
        return call(images).mean((2, 3)) * self.again["factor"]


def forward_of(network: Referring, forward: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A forward pass that is set on an instance and leads to the network through its closure."""

    def call(images: Tensor) -> Tensor:
        return network.layer(images).mean((2, 3))

    return wraps(forward)(call)


@pytest.mark.parametrize(
    "how",
    [
        "closure",
        "list with a lock",
        "partial of a closure",
        "weak reference",
        "wrapped forward",
        "compiled in place",
        "compiled forward",
    ],
)
def test_whatever_calls_a_site_calls_its_correction(how: str, images: Tensor) -> None:
    torch.manual_seed(0)
    network = Referring(how).eval()
    adapted = correct(network, {"layer": [0, 2, 5]}, unit={"kind": "bottleneck", "start": "he"})
    unit, chosen = unit_at(adapted, "layer"), adapted.corrected_site("layer").filters
    baseline = answers(network, images)
    plain = answers(network.layer, images)
    scale = baseline[0, 0] / plain.mean((2, 3))[0, 0]
    expected = answers(lambda x: unit(x, chosen), plain).mean((2, 3)) * scale
    torch.testing.assert_close(answers(adapted, images), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, baseline, atol=1e-3)


class Encoder(nn.Module):
    """Torch's transformer, whose layers in inference mode do not call their linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.patches(images).flatten(2).transpose(1, 2)).mean(1)


def test_layers_whose_weights_torch_reads_itself_are_corrected_or_refused(images: Tensor) -> None:
    torch.manual_seed(0)
    network, unit = Encoder().eval(), {"kind": "bottleneck", "start": "he"}
    adapted = correct(network, {"layers.layers.1.linear1": [0, 1, 5]}, unit=unit)
    with torch.enable_grad():  # torch calls the layers where gradients are computed
        expected = adapted(images).detach()
    torch.testing.assert_close(answers(adapted, images), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answers(fuse(adapted, images), images), expected)
    assert not torch.allclose(answers(network, images), expected, atol=1e-3)
    adapted = correct(network, {"layers.layers.0.self_attn.out_proj": [0, 1]}, unit=unit)
    with pytest.raises(InputError, match=r"did not call .*out_proj.*name other sites"):
        answers(adapted, images)


def test_layers_in_a_list_are_corrected(images: Tensor) -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)])
            self.chain = nn.Sequential(*self.layers)

        def forward(self, images: Tensor) -> Tensor:
            for layer in self.layers:
                images = layer(images)
            return images.mean((2, 3))

    class Chain(Layers):
        def forward(self, images: Tensor) -> Tensor:
            for number in range(len(self.chain)):
                images = self.chain[number](images)
            return images.mean((2, 3))

    torch.manual_seed(0)
    for kind, rest in ((Layers, "chain"), (Chain, "layers")):
        network = kind().eval()
        delattr(network, rest)
        site = f"{'layers' if rest == 'chain' else 'chain'}.0"
        adapted = correct(network, {site: [0, 2]}, unit={"kind": "bottleneck", "start": "he"})
        with tap(adapted) as maps:
            found = answers(adapted, images)
        assert not torch.allclose(found, answers(network, images), atol=1e-5)
        torch.testing.assert_close(maps[f"{site[:-1]}2"].mean((2, 3)), found)


def test_tensors_that_are_exchanged_for_one_call_come_back(
    network: TinyCNN, images: Tensor
) -> None:
    adapted = adapted_tiny(network)
    held = [*network.parameters(), *adapted.units.parameters()]
    before = copy.deepcopy(held)
    doubled = {name: each.detach() * 2 for name, each in adapted.named_parameters()}
    found = torch.func.functional_call(adapted, doubled, (images,))
    now = [*network.parameters(), *adapted.units.parameters()]
    assert all(a is b for a, b in zip(held, now, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(found.detach(), answers(adapted, images))


def test_a_network_may_ask_what_its_layers_are(images: Tensor) -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3)])

        def forward(self, images: Tensor) -> Tensor:
            total = torch.zeros(len(images), 6)
            for layer in self.layers:
                images = layer(images)
                if isinstance(layer, nn.Conv2d):
                    total = total + images.mean((2, 3))
            return total

    network = Asking().eval()
    adapted = correct(network, {"layers.0": [0, 2]}, unit={"kind": "full", "start": "he"})

    def edit(site: str, maps: Tensor) -> Tensor:
        unit, chosen = unit_at(adapted, site), adapted.corrected_site(site).filters
        return unit(maps, chosen)

    with tap(network, ["layers.0"], edit), torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(answers(adapted, images), expected)
    again = pickle.loads(pickle.dumps(correct(tiny_cnn(), FILTERS, unit={"start": "he"})))
    twin = copy.deepcopy(again)
    assert torch.equal(answers(again, images), answers(twin, images))
    preprocessing = Preprocessing(16, (0.5,) * 3, (0.25,) * 3)
    added = (
        costs(adapted, preprocessing).multiply_adds - costs(network, preprocessing).multiply_adds
    )
    assert added == unit_at(adapted, "layers.0").multiply_adds(torch.zeros(1, 6, 14, 14))


def test_threads_that_call_it_at_once_get_their_own_answers() -> None:
    meeting = Meeting()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), meeting, nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3))
    unit = {"kind": "bottleneck", "start": "he"}
    one = correct(network, {"2": [0, 1], "3": [1]}, unit=unit)
    other = correct(network, {"2": [3]}, unit=unit, seed=1)
    images = torch.rand(8, 3, 16, 16)
    calls = [(one, images), (one, images[:1]), (other, images), (network, images)]
    meeting.barrier.abort()  # nobody waits
    expected = [answers(*call) for call in calls]
    meeting.barrier.reset()
    with ThreadPoolExecutor(2) as pool:
        for pair in itertools.permutations(range(4), 2):
            # the first that is done leaves while the other is in the middle
            found = [pool.submit(answers, *calls[each]) for each in pair]
            for each, future in zip(pair, found, strict=True):
                torch.testing.assert_close(future.result(), expected[each])


def test_parts_that_a_compiler_leaves_to_python_are_corrected() -> None:
    def call(layer: nn.Module, images: Tensor) -> Tensor:
        return layer(images)

    in_python = cast(Any, torch.compiler.disable(call))

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return in_python(self.conv, images)

    network = nn.Sequential(Broken(), nn.Conv2d(4, 2, 3))
    filters = {"0.conv": [0, 1], "1": [1]}
    adapted = correct(network, filters, unit={"kind": "bottleneck", "start": "he"})
    images = torch.rand(2, 3, 16, 16)
    compiled = torch.compile(adapted, backend="eager")
    torch.testing.assert_close(answers(compiled, images), answers(adapted, images))


# --- what earlier versions wrote

EARLIER = Path(__file__).parent / "files" / "earlier"
"""An adapter with a gate and a ranking of digits_cnn, as the version before the rooms saved them,
with four images and the answers that the adapter then gave."""


def test_adapters_and_rankings_of_the_version_before_are_read() -> None:
    kept = load_file(EARLIER / "answers.safetensors")
    images = kept["images"].float() / 255
    adapted = load_adapter(load_model("digits_cnn"), EARLIER / "adapter")
    assert looks_distorted(adapted, images).tolist() == [True, False, True, False]
    torch.testing.assert_close(answers(adapted, images), kept["logits"], atol=1e-4, rtol=1e-4)
    site, config = next(iter(adapted.config.sites.items()))
    assert load_ranking(EARLIER / "ranking").top({site: 0.25})[site] == list(config.filters)
