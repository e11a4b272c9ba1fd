"""Sites: finding them, reading their outputs, and re-running only what lies behind them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_SITES, TinyCNN, tiny_cnn, with_convolutions_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcorrect.models import CifarResNet20
from deepcorrect.networks import Classifier, convolutions, find, tap
from deepcorrect.networks.patching import Replay
from deepcorrect.runtime import InputError


class PreActivation(nn.Module):
    """An in-place activation changes the shortcut that is added later on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.inside = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1))
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        out = self.act(maps)  # `maps` is rectified from here on
        maps = maps + self.conv(out)
        shortcut = maps
        out = self.inside(maps) + shortcut  # and again, inside a container
        return self.head(out.mean((2, 3)))


class Repeated(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.last = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.relu(self.conv(F.relu(self.conv(images))))).mean((2, 3))


class Branches(nn.Module):
    """Two branches joined, a shared activation in both, and a container run as one module."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.left = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), self.act)
        self.right = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), self.act, nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        joined = torch.cat([self.left(images), self.right(images)], 1)
        return self.head(self.act(joined).mean((2, 3)))


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tiny": tiny_cnn,
    "resnet20": lambda: built(CifarResNet20),
    "pre-activation": lambda: built(PreActivation),
    "branches": lambda: built(Branches),
}


@pytest.fixture(params=NETWORKS)
def any_network(request: pytest.FixtureRequest) -> nn.Module:
    return NETWORKS[request.param]()


# --- finding


def test_convolutions_are_found_in_module_order_inside_wrappers(classifier: Classifier) -> None:
    assert tuple(convolutions(classifier)) == TINY_SITES
    assert tuple(convolutions(classifier.network)) == TINY_SITES


def test_find_gives_named_modules_in_module_order(network: TinyCNN) -> None:
    found = find(network, ["out_norm", "stem", "stem"])
    assert list(found.items()) == [("stem", network.stem), ("out_norm", network.out_norm)]
    assert tuple(find(network)) == TINY_SITES


def test_an_unknown_site_suggests_near_ones(network: TinyCNN) -> None:
    with pytest.raises(InputError, match="unknown site 'depthwize', did you mean 'depthwise'"):
        find(network, ["stem", "depthwize"])
    with pytest.raises(InputError, match="unknown site ''"):
        find(network, [""])


def test_a_network_without_convolutions_says_so() -> None:
    with pytest.raises(InputError, match="no 2-D convolution"):
        find(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


# --- tap


def test_tap_reads_outputs_before_in_place_layers_change_them(
    network: TinyCNN, images: Tensor
) -> None:
    with torch.no_grad(), tap(network) as maps:
        logits = network(images)
    assert tuple(maps) == TINY_SITES
    assert torch.equal(logits, network(images))
    stem = F.conv2d(images, network.stem.weight, padding=1)
    grouped = network.grouped(F.relu(network.norm(stem)))
    assert torch.allclose(maps["stem"], stem, atol=1e-6)
    assert torch.allclose(maps["grouped"], grouped, atol=1e-6)
    assert float(maps["grouped"].detach().min()) < 0


def test_tap_replaces_what_edit_returns(network: TinyCNN, images: Tensor) -> None:
    def edit(site: str, maps: Tensor) -> Tensor | None:
        return maps * 2 if site == "grouped" else None

    with torch.no_grad():
        with tap(network, ["stem", "grouped"], edit):
            edited = network(images)
        expected = with_convolutions_by_hand(network, {"grouped": lambda maps: maps * 2}, images)
    assert torch.equal(edited, expected)


def test_tap_leaves_no_hook_behind_even_when_the_block_fails(
    network: TinyCNN, images: Tensor
) -> None:
    def fail(site: str, maps: Tensor) -> Tensor | None:
        raise RuntimeError(site)

    with pytest.raises(RuntimeError, match="stem"), tap(network, edit=fail):
        network(images)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_site_must_give_maps(images: Tensor) -> None:
    pair = nn.ModuleDict({"pair": nn.LSTM(8, 4, batch_first=True)})
    message = "site 'pair' returns tuple: .*N x C x H x W"
    with pytest.raises(InputError, match=message), tap(pair, ["pair"]):
        pair["pair"](images[:, 0, :, :8])


# --- replay


def test_replay_with_the_recorded_maps_gives_the_recorded_logits(
    any_network: nn.Module, images: Tensor
) -> None:
    sites = list(convolutions(any_network))
    with torch.no_grad():
        expected = any_network(images)
        replay = Replay(any_network, images, sites)
        assert torch.equal(replay.logits, expected)
        for site in sites:
            assert torch.equal(replay.from_site(site, replay.maps[site]), expected), site


def test_replay_with_edited_maps_is_a_full_pass_with_them(
    any_network: nn.Module, images: Tensor
) -> None:
    sites = list(convolutions(any_network))
    with torch.no_grad():
        replay = Replay(any_network, images, sites)
        for site in sites:
            maps = replay.maps[site].clone()
            maps[:, 1] = maps[:, 1].flip(0) + 0.3
            given = maps.clone()
            expected = with_convolutions_by_hand(
                any_network, {site: lambda _, maps=given: maps.clone()}, images
            )
            again = [replay.from_site(site, maps) for _ in range(2)]
            assert torch.allclose(again[0], expected, atol=1e-6), site
            assert torch.equal(again[0], again[1])
            assert torch.equal(maps, given), "the maps given are not changed"
            assert not torch.allclose(again[0], replay.logits, atol=1e-6)


def test_sites_need_not_be_convolutions(network: TinyCNN, images: Tensor) -> None:
    sites = ["norm", "out_norm"]
    replay = Replay(network, images, sites)
    for site in sites:
        edited = replay.maps[site] * 1.5
        expected = with_convolutions_by_hand(network, {site: lambda maps: maps * 1.5}, images)
        assert torch.allclose(replay.from_site(site, edited), expected, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(TINY_SITES), st.integers(0, 7), st.floats(-3, 3, width=32))
def test_any_filter_at_any_site_can_be_replaced(site: str, index: int, value: float) -> None:
    network = tiny_cnn()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(4))

    def edit(maps: Tensor) -> Tensor:
        maps[:, index] = value
        return maps

    with torch.no_grad():
        replay = Replay(network, images, [site])
        expected = with_convolutions_by_hand(network, {site: edit}, images)
        assert torch.allclose(
            replay.from_site(site, edit(replay.maps[site].clone())), expected, atol=1e-5
        )


def test_only_what_lies_behind_the_site_is_computed(network: TinyCNN, images: Tensor) -> None:
    replay = Replay(network, images, ["depthwise"])
    ran: list[str] = []
    convolution = F.conv2d

    def counted(*args: Tensor, **kwargs: object) -> Tensor:
        ran.append(str(tuple(args[1].shape)))
        return convolution(*args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", counted)
        replay.from_site("depthwise", replay.maps["depthwise"])
    assert ran == [str(tuple(network.pointwise.weight.shape))]


def test_gradients_flow_to_the_maps(network: TinyCNN, images: Tensor) -> None:
    replay = Replay(network, images, ["grouped"])
    maps = replay.maps["grouped"].clone().requires_grad_()
    replay.from_site("grouped", maps).square().sum().backward()
    assert maps.grad is not None

    held: list[Tensor] = []

    def hold(output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[0].clone()

    with_convolutions_by_hand(network, {"grouped": hold}, images).square().sum().backward()
    assert held[0].grad is not None
    assert torch.allclose(maps.grad, held[0].grad, atol=1e-6)


def test_replay_sees_through_wrappers(classifier: Classifier, images: Tensor) -> None:
    with torch.no_grad():
        replay = Replay(classifier, images, ["stem"])
        assert torch.equal(replay.logits, classifier(images))
        assert torch.equal(replay.from_site("stem", replay.maps["stem"]), classifier(images))


@pytest.mark.parametrize(("site", "times"), [("conv", 2), ("unused", 0)])
def test_a_site_that_does_not_run_once_is_refused(site: str, times: int, images: Tensor) -> None:
    with pytest.raises(InputError, match=f"site '{site}' runs {times} times"):
        Replay(built(Repeated), images, [site])


def test_modules_that_run_twice_may_surround_a_site(images: Tensor) -> None:
    network = built(Repeated)
    with torch.no_grad():
        replay = Replay(network, images, ["last"])
        assert torch.equal(replay.from_site("last", replay.maps["last"]), network(images))


def test_the_network_is_as_before_even_when_a_pass_fails(network: TinyCNN, images: Tensor) -> None:
    own = network.pointwise.forward
    network.pointwise.forward = own  # a forward of the instance's own, as some wrappers set
    replay = Replay(network, images, ["stem"])
    with pytest.raises(InputError, match="running_mean should contain 3 elements not 8"):
        replay.from_site("stem", torch.zeros(1, 3, 2, 2))  # does not fit what follows
    with pytest.raises(InputError, match="does not accept images"):
        Replay(network, torch.zeros(1, 1, 16, 16), ["stem"])
    assert network.pointwise.__dict__["forward"] == own
    patched = [module for module in network.modules() if "forward" in module.__dict__]
    assert patched == [network.pointwise]
