"""Swaps on the exported graph against full passes with plain hooks, and what is run instead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_SITES, tiny_cnn, with_convolutions_by_hand
from torch import Tensor, nn

from deepcorrect.networks import Classifier
from deepcorrect.networks.patching import ExportError, Graph, GraphPass, Pass, Replay, recorder
from deepcorrect.runtime import InputError

CHANNELS, SIDE, ROWS = 3, 9, 4


class DepthMultiplier(nn.Module):
    """A depthwise convolution that makes two maps of each, then a hard swish in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.twofold = nn.Conv2d(4, 8, 3, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.hardswish(self.norm(self.twofold(self.conv(images))), inplace=True)
        return self.last(maps).mean((2, 3))


class Grouped(nn.Module):
    """Grouped convolutions one behind another, in-place activations, channels shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.again = nn.Conv2d(6, 9, 3, groups=3)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(9, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.act(self.norm(self.grouped(self.act(self.first(images)))))
        maps = maps.unflatten(1, (3, 2)).transpose(1, 2).flatten(1, 2)
        return self.head(self.act(self.again(maps)).amax((2, 3)))


class PaddedShortcut(nn.Module):
    """The CIFAR ResNet's shortcut: every second pixel, and maps of zeros around the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.conv_norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm(self.stem(images)), inplace=True)
        shortcut = F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        out = self.conv_norm(self.conv(maps))
        out += shortcut
        return self.head(F.relu(out, inplace=True).mean((2, 3)))


class Gated(nn.Module):
    """Squeeze and excitation, whose inner convolutions give 1 x 1 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.squeeze = nn.Conv2d(6, 3, 1)
        self.excite = nn.Conv2d(3, 6, 1)
        self.last = nn.Conv2d(6, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.silu(self.conv(images))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(maps, 1))))
        return self.last(maps * gate.sigmoid()).mean((2, 3))


class Dense(nn.Module):
    """A dense block: each convolution sees all maps so far, through a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(7)])
        self.convs = nn.ModuleList([nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(7, 3, 3, padding=1)])
        self.head = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            maps = torch.cat([maps, conv(F.relu(norm(maps)))], 1)
        return self.head(F.adaptive_avg_pool2d(maps, 1).flatten(1))


class Kernels(nn.Module):
    """Strides, dilations and paddings that differ down and across, by numbers and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, (3, 2), padding="same", bias=False)
        self.tall = nn.Conv2d(4, 5, (3, 1), stride=(1, 2), padding=(2, 1), dilation=(2, 1))
        self.norm = nn.BatchNorm2d(5)
        self.wide = nn.Conv2d(5, 4, (1, 4), padding=(0, 3), dilation=(1, 2))
        self.same = nn.Conv2d(4, 4, 3, padding="same", dilation=2)
        self.valid = nn.Conv2d(4, 4, 2, padding="valid")
        self.head = nn.Linear(4 * 2 * 3, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.leaky_relu(self.norm(self.tall(self.first(images))), inplace=True)
        maps = F.max_pool2d(self.same(F.gelu(self.wide(maps))), 2)
        return self.head(F.adaptive_max_pool2d(self.valid(maps), (2, 3)).flatten(1))


class Ring(nn.Module):
    """Padding that goes round; maps made larger again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular")
        self.last = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, images: Tensor) -> Tensor:
        maps = F.interpolate(F.relu6(self.first(images)), scale_factor=2.0)
        return self.last(maps).softmax(3).amax((2, 3))


class Norms(nn.Module):
    """Norms over groups, single maps and single pixels; a norm without weights; a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.group = nn.GroupNorm(2, 4)
        self.second = nn.Conv2d(4, 4, 3)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.third = nn.Conv2d(4, 4, 1)
        self.bare = nn.BatchNorm2d(4, affine=False)
        self.layer = nn.LayerNorm(4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.elu(self.group(self.first(images)))
        maps = self.bare(self.third(self.instance(self.second(maps)).softmax(1)))
        return self.layer(maps.permute(0, 2, 3, 1)).amax((1, 2))


class Answers(nn.Module):
    """A site's maps, averaged, are the answer; the other site's are added behind."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3)
        self.right = nn.Conv2d(3, 4, 5, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return (self.left(images) + self.right(images)).mean((2, 3))


class OneByOne(nn.Module):
    """A convolution as large as what it reads, then a flattened linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=2)
        self.norm = nn.BatchNorm2d(5)
        self.whole = nn.Conv2d(5, 6, 3)
        self.hidden = nn.Linear(6, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(self.norm(self.conv(images)), 1).relu_()
        return self.head(F.relu(self.hidden(self.whole(maps).relu_().flatten(1)), inplace=True))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Sequence[str]]] = {
    "tiny": (tiny_cnn, TINY_SITES),
    "tiny norms": (tiny_cnn, ("norm", "out_norm")),
    "depth multiplier": (DepthMultiplier, ("conv", "twofold", "norm", "last")),
    "grouped": (Grouped, ("first", "grouped", "again")),
    "padded shortcut": (PaddedShortcut, ("stem", "norm", "conv", "conv_norm")),
    "gated": (Gated, ("conv", "squeeze", "excite", "last")),
    "dense": (Dense, ("stem", "norms.0", "convs.0", "norms.1", "convs.1")),
    "kernels": (Kernels, ("first", "tall", "wide", "same", "valid")),
    "ring": (Ring, ("first", "last")),
    "norms": (Norms, ("first", "second", "instance", "third", "bare")),
    "answers": (Answers, ("left", "right")),
    "one by one": (OneByOne, ("conv", "norm", "whole")),
}


def built(make: Callable[[], nn.Module]) -> nn.Module:
    """In inference mode; batch norms that do something."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = make().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.3)
    return network


def some_images(count: int = ROWS, seed: int = 0) -> Tensor:
    """In the layout that blocks of images have, channels last."""
    drawing = torch.Generator().manual_seed(seed)
    images = torch.randn(count, CHANNELS, SIDE, SIDE, generator=drawing)
    return images.contiguous(memory_format=torch.channels_last)


def maps_of(network: nn.Module, site: str, images: Tensor) -> Tensor:
    """A site's output, read by a plain hook."""
    held: list[Tensor] = []

    def hold(output: Tensor) -> Tensor:
        held.append(output.clone())
        return output

    with torch.no_grad():
        with_convolutions_by_hand(network, {site: hold}, images)
    return held[0]


def swapped_by_hand(network: nn.Module, site: str, images: Tensor, other: Tensor) -> Tensor:
    """Full passes with hooks, one filter at a time: filters x images x classes."""

    def put(index: int) -> Callable[[Tensor], Tensor]:
        def edit(output: Tensor) -> Tensor:
            output[:, index] = other[:, index]
            return output

        return edit

    with torch.no_grad():
        return torch.stack(
            [
                with_convolutions_by_hand(network, {site: put(index)}, images)
                for index in range(other.shape[1])
            ]
        )


def all_swaps(recorded: Pass, site: str, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of every pair, filters x images x classes, and how often each was yielded."""
    filters, images = clean.shape[1], len(clean)
    logits = recorded.logits.repeat(filters, 1, 1)
    times = torch.zeros(filters, images, dtype=torch.long)
    with torch.no_grad():
        for rows, channels, values in recorded.swaps(site, clean):
            logits[channels, rows] = values
            times[channels, rows] += 1
    return logits, times


@pytest.fixture(params=NETWORKS, scope="module")
def exported(request: pytest.FixtureRequest) -> tuple[nn.Module, Sequence[str], Graph]:
    make, sites = NETWORKS[request.param]
    network = built(make)
    return network, sites, Graph(network, some_images(seed=9), sites)


# --- swaps


@pytest.mark.parametrize("count", [ROWS, 1], ids=["as many images as rows", "fewer"])
def test_swaps_are_full_passes_with_hooks(
    exported: tuple[nn.Module, Sequence[str], Graph], count: int
) -> None:
    network, sites, graph = exported
    images, others = some_images(count), some_images(count, seed=1)
    recorded = GraphPass(graph, images)
    with torch.no_grad():
        assert torch.allclose(recorded.logits, network(images), atol=1e-5)
    for site in sites:
        clean = maps_of(network, site, others)
        assert torch.allclose(recorded.maps[site], maps_of(network, site, images), atol=1e-5)
        logits, times = all_swaps(recorded, site, clean)
        expected = swapped_by_hand(network, site, images, clean)
        assert torch.allclose(logits, expected, atol=1e-4), site
        assert int(times.max()) <= 1
        assert bool((times == 1).any()), "the comparison would say little if nothing changed"
        by_replay, _ = all_swaps(Replay(network, images, sites), site, clean)
        assert torch.allclose(by_replay, expected, atol=1e-5), site


def test_pairs_left_out_change_nothing(
    exported: tuple[nn.Module, Sequence[str], Graph],
) -> None:
    """Half of the filters of some images, and all of one image, are clean already."""
    network, sites, graph = exported
    images = some_images()
    recorded = GraphPass(graph, images)
    for site in sites:
        clean = maps_of(network, site, some_images(seed=1))
        clean[0] = recorded.maps[site][0]
        clean[1, ::2] = recorded.maps[site][1, ::2]
        logits, times = all_swaps(recorded, site, clean)
        expected = swapped_by_hand(network, site, images, clean)
        assert torch.allclose(logits, expected, atol=1e-4), site
        assert not times[:, 0].any()
        assert not times[::2, 1].any()
        with torch.no_grad():
            before = network(images).expand_as(expected)
        assert torch.allclose(expected[times == 0], before[times == 0], atol=1e-4)


def test_a_map_that_a_rectifier_flattens_is_not_run_again() -> None:
    network = built(OneByOne)
    recorded = GraphPass(Graph(network, some_images(), ["whole"]), some_images())
    clean = -recorded.maps["whole"].abs() - 1
    dead = recorded.maps["whole"][:, :, 0, 0] <= 0
    assert 0 < int(dead.sum()) < dead.numel()
    _, times = all_swaps(recorded, "whole", clean)
    assert torch.equal(times == 0, dead.T)


def test_nothing_is_yielded_where_nothing_changes(
    exported: tuple[nn.Module, Sequence[str], Graph],
) -> None:
    network, sites, graph = exported
    images = some_images()
    for recorded in (GraphPass(graph, images), Replay(network, images, sites)):
        for site in sites:
            assert list(recorded.swaps(site, recorded.maps[site].clone())) == []


def test_swaps_come_filter_by_filter_image_by_image() -> None:
    network, images = tiny_cnn(), torch.rand(3, 3, 8, 8)
    graph = Graph(network, torch.rand(5, 3, 8, 8), ["stem"])
    recorded = GraphPass(graph, images)
    clean = recorded.maps["stem"] + 1
    blocks = list(recorded.swaps("stem", clean))
    assert all(len(block.images) == len(block.filters) == len(block.logits) for block in blocks)
    pairs = [
        pair
        for block in blocks
        for pair in zip(block.filters.tolist(), block.images.tolist(), strict=True)
    ]
    assert pairs == sorted(pairs)
    assert len(set(pairs)) == len(pairs)
    assert max(len(block.images) for block in blocks) <= 5


def test_the_recorded_pass_is_not_changed_by_swaps(
    exported: tuple[nn.Module, Sequence[str], Graph],
) -> None:
    network, sites, graph = exported
    recorded = GraphPass(graph, some_images())
    first = {}
    for turn in range(2):
        for site in sites:
            clean = maps_of(network, site, some_images(seed=1))
            given = clean.clone()
            logits, _ = all_swaps(recorded, site, clean)
            assert torch.equal(clean, given)
            if turn:
                assert torch.equal(logits, first[site])
            first[site] = logits


# --- from_site


@pytest.mark.parametrize("count", [ROWS, 2], ids=["as many images as rows", "fewer"])
def test_from_site_and_its_gradient_are_those_of_hooks(
    exported: tuple[nn.Module, Sequence[str], Graph], count: int
) -> None:
    network, sites, graph = exported
    images = some_images(count)
    recorded = GraphPass(graph, images)
    for site in sites:
        maps = maps_of(network, site, some_images(count, seed=1)).requires_grad_()
        by_hand = maps.detach().clone().requires_grad_()
        weight = torch.randn(recorded.logits.shape)
        expected = with_convolutions_by_hand(
            network, {site: lambda _, held=by_hand: held.clone()}, images
        )
        found = recorded.from_site(site, maps)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4), site
        slope = torch.autograd.grad((found * weight).sum(), maps)[0]
        other = torch.autograd.grad((expected * weight).sum(), by_hand)[0]
        assert torch.allclose(slope, other, atol=1e-4), site


def test_the_graph_sees_through_wrappers(classifier: Classifier, images: Tensor) -> None:
    graph = Graph(classifier, images, ["stem"])
    with torch.no_grad():
        recorded = GraphPass(graph, images)
        assert torch.allclose(recorded.logits, classifier(images), atol=1e-5)
        again = recorded.from_site("stem", recorded.maps["stem"])
        assert torch.allclose(again, classifier(images), atol=1e-5)


# --- recorder


class Branching(nn.Module):
    """Which layer runs depends on the values: no graph holds both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        maps = maps * 2 if float(maps.sum()) > 0 else maps - 1
        return self.head(maps).mean((2, 3))


class Counting(nn.Module):
    """Its second pass, which is the one that is exported, is not like the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 4, 1)
        self.passes = itertools.count()

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.conv(images))
        return self.head(maps + 1 if next(self.passes) == 1 else maps).mean((2, 3))


class Hiding(nn.Module):
    """Behind one site alone, what is exported is not what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        if torch.compiler.is_exporting():
            maps = maps.clamp_min(-1e3).detach() * 1.5
        return self.head(F.relu(maps)).mean((2, 3))


@pytest.mark.parametrize("make", [Branching, Counting, Hiding])
def test_a_network_whose_graph_cannot_be_used_is_re_run_module_by_module(
    make: Callable[[], nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    network, sites = built(make), ["conv", "head"]
    record = recorder(network, some_images(seed=9), sites)
    said = capsys.readouterr()
    assert "note: re-running module by module" in said.err
    assert said.out == ""
    recorded = record(some_images(3))
    assert isinstance(recorded, Replay)
    for site in sites:
        clean = maps_of(network, site, some_images(3, seed=1))
        logits, _ = all_swaps(recorded, site, clean)
        expected = swapped_by_hand(network, site, some_images(3), clean)
        assert torch.allclose(logits, expected, atol=1e-5)


def test_a_network_that_can_be_exported_runs_on_its_graph(
    exported: tuple[nn.Module, Sequence[str], Graph], capsys: pytest.CaptureFixture[str]
) -> None:
    network, sites, _ = exported
    record = recorder(network, some_images(seed=9), sites)
    recorded = record(some_images(2))
    assert isinstance(recorded, GraphPass)
    assert capsys.readouterr().err == ""
    with torch.no_grad():
        assert torch.allclose(recorded.logits, network(some_images(2)), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_may_be_flattened_into_a_linear_layer(
    channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 2),
        nn.Flatten(),
        nn.Linear(20, 3),
    ).eval()
    images = torch.rand(4, channels, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    recorded = recorder(network, images, ["0", "2"])(images)
    assert capsys.readouterr().err == ""
    assert isinstance(recorded, GraphPass)


def test_what_cannot_be_exported_is_an_export_error() -> None:
    with pytest.raises(ExportError, match="torch.export"):
        Graph(built(Branching), some_images(), ["conv"])
    identity = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Identity(), nn.Flatten())
    with pytest.raises(ExportError, match="site '1' is not found"):
        Graph(identity.eval(), some_images(), ["1"])


@pytest.mark.parametrize("site", ["twice", "never"])
def test_a_recorder_refuses_a_site_that_does_not_run_once(site: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.never = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.twice(self.twice(images)).mean((2, 3))

    with pytest.raises(InputError, match=f"site '{site}' runs [02] times"):
        recorder(Odd().eval(), some_images(), [site])
