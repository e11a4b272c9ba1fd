"""Sites that are no single layers: blocks, wrappers, tokens, pooled values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import cut
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect import networks
from deepcorrect.data import Preprocessing
from deepcorrect.networks import Classifier
from deepcorrect.networks.patching import Graph, GraphPass, Replay
from deepcorrect.runtime import InputError
from deepcorrect.runtime._optional_imports import try_torchvision

SIZE = 16


class Block(nn.Module):
    """A residual block whose shortcut has no layer, so that `branch` holds all its tensors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        out = self.branch(maps)
        out += maps
        return F.relu(out)


class ChannelsLast(nn.Module):
    """A block on N x H x W x C, as in Swin: a linear MLP behind a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.mlp(self.norm(maps))


class Net(nn.Module):
    """Residual blocks, a block with its channels last, and a pooled neck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.stage = nn.Sequential(Block(6), Block(6))
        self.last = ChannelsLast(6)
        self.neck = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU())
        self.head = nn.Linear(10, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stage(F.relu(self.stem(images)))
        pixels = self.last(maps.permute(0, 2, 3, 1))
        return self.head(self.neck(pixels.mean((1, 2))))


class Renamed(nn.Module):
    """The same network from another library: other names, one wrapper more around each block."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.first = net.stem
        self.body = nn.ModuleList([nn.Sequential(block) for block in net.stage])
        self.mixer = net.last
        self.end = nn.Sequential(net.neck, net.head)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.first(images))
        for block in self.body:
            maps = block(maps)
        return self.end(self.mixer(maps.permute(0, 2, 3, 1)).mean((1, 2)))


class BranchesAlone(nn.Module):
    """The same tensors and answers, but no module returns the sums."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.first = net.stem
        self.body = nn.ModuleList([net.get_submodule(f"stage.{n}.branch") for n in (0, 1)])
        self.mixer = net.last
        self.end = nn.Sequential(net.neck, net.head)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.first(images))
        for branch in self.body:
            maps = F.relu(branch(maps) + maps)
        return self.end(self.mixer(maps.permute(0, 2, 3, 1)).mean((1, 2)))


SITES = {"stem": 6, "stage.0": 6, "stage.1": 6, "stage": 6, "last": 6, "last.mlp": 6, "neck": 10}


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = Net()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                nn.init.normal_(module.weight, 1, 0.2)
                nn.init.normal_(module.bias, 0, 0.5)
    return made.eval()


@pytest.fixture
def network() -> Net:
    return net()


@pytest.fixture
def classifier(network: Net) -> Classifier:
    return Classifier(network, Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.3, 0.3)), "net").eval()


def as_maps(output: Tensor, site: str) -> Tensor:
    if site.startswith("last"):
        return output.permute(0, 3, 1, 2)
    return output[:, :, None, None] if output.dim() == 2 else output


def hooked(
    network: nn.Module, images: Tensor, site: str, change: Callable[[Tensor], Tensor]
) -> Any:
    """A pass in which a plain hook changes a site's output."""
    module = network.get_submodule(site)
    handle = module.register_forward_hook(lambda m, a, out: change(out.clone()))
    try:
        return network(images)
    finally:
        handle.remove()


# --- widths and layouts


@pytest.mark.parametrize("wrap", [False, True])
def test_widths_are_found_by_a_pass(network: Net, classifier: Classifier, wrap: bool) -> None:
    model = classifier if wrap else network
    found = networks.describe(model, networks.find(model, SITES))
    assert {name: site.channels for name, site in found.items()} == SITES
    assert [name for name, site in found.items() if site.sketch is None] == ["stem"]


def test_a_probe_leaves_modes_hooks_and_statistics_alone(network: Net) -> None:
    network.train()
    network.last.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = {name: module.training for name, module in network.named_modules()}
    networks.describe(network, networks.find(network, SITES))
    assert modes == {name: module.training for name, module in network.named_modules()}
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_size_of_a_bare_networks_images_can_be_given() -> None:
    block = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
    network = nn.Sequential(block, nn.Flatten(), nn.Linear(4 * 9 * 5, 3))
    with pytest.raises(InputError, match=r"filters of '0' is found by running .* give `image`"):
        dc.correct(network, {"0": [1]}, unit="lite")
    adapted = dc.correct(network, {"0": [1]}, unit="lite", image=(2, 11, 7))
    assert adapted.config.sites["0"].channels == 4
    images = torch.rand(2, 2, 11, 7)
    assert torch.equal(adapted(images), network.eval()(images))


def test_attributes_of_blocks_are_not_believed() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 3))
    block.out_channels = block.num_features = 99  # pyright: ignore
    network = nn.Sequential(block, nn.ReLU())
    assert networks.describe(network, {"0": block})["0"].channels == 4


class Odd(nn.Module):
    """Modules that give no maps of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pair = Split()
        self.rows = Regrouped()
        self.idle = nn.Sequential(nn.Conv2d(4, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.pair(self.conv(images))
        self.rows(first)
        return (first + second).mean((2, 3))


class Split(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return maps, maps


class Regrouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Conv2d(4, 4, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.inside(maps.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("pair", "site 'pair' returns tuple: a site's output must be N x C x H x W"),
        ("rows", "site 'rows' returns 4 rows for 2 images"),
        ("idle", "site 'idle' does not run in a forward pass"),
    ],
)
def test_modules_without_maps_are_refused(site: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dc.correct(Odd(), {site: [0]})


@pytest.mark.parametrize(
    ("module", "shape", "last"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (8, 8, 8), False),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), (24, 8, 8), False),
        (ChannelsLast(8), (8, 8, 8), True),
        (ChannelsLast(8), (4, 6, 8), True),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 8)), (8, 5, 5), False),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 8)), (5, 5, 8), True),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 8)), (8, 4, 6), False),
        (nn.LayerNorm(8), (4, 4, 8), True),
        (nn.ReLU(), (12, 5, 5), False),
        (nn.ReLU(), (5, 5, 12), True),
        (nn.ReLU(), (32, 32, 32), False),
    ],
)
def test_the_channels_of_a_blocks_output_are_found(
    module: nn.Module, shape: tuple[int, ...], last: bool
) -> None:
    assert networks.layout_of("site", module, torch.zeros(2, *shape)).last is last


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8)), (8, 8, 8)),
        (nn.ReLU(), (12, 5, 7)),
    ],
)
def test_an_output_that_may_be_read_in_two_ways_is_refused(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="may come first or last"):
        networks.layout_of("site", module, torch.zeros(2, *shape))
    with pytest.raises(InputError, match="may not be tokens"):
        networks.layout_of("site", nn.GELU(), torch.zeros(2, 16, 9))


# --- swaps, ranking and correction


@pytest.mark.parametrize("site", SITES)
def test_swaps_at_any_site_are_those_of_plain_hooks(
    network: Net, images: Tensor, site: str
) -> None:
    clean = images.flip(0)
    with torch.no_grad():
        graph = GraphPass(Graph(network, images, [site]), images)
        replay = Replay(network, images, [site])
        kept: list[Tensor] = []
        hooked(network, clean, site, lambda out: kept.append(out) or out)
        maps = as_maps(kept[0], site)
        assert graph.maps[site].shape == maps.shape
        for recorded in (graph, replay):
            for swap in recorded.swaps(site, maps):
                for row in range(0, len(swap.logits), 7):
                    image, at = int(swap.images[row]), int(swap.filters[row])

                    def change(out: Tensor, image: int = image, at: int = at) -> Tensor:
                        as_maps(out, site)[image, at] = maps[image, at]
                        return out

                    expected = hooked(network, images, site, change)[image]
                    assert torch.allclose(swap.logits[row], expected, atol=1e-4)


def test_blocks_are_ranked_corrected_saved_and_loaded_under_other_names(
    network: Net, classifier: Classifier, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    batches = cut(images, labels, 6)
    sites = ["stem", "stage.0", "stage.1", "last", "neck"]
    ranking = dc.rank(classifier, batches, ["awgn:40"], sites=sites)
    assert {n: len(p) for n, p in ranking.priorities.items()} == {n: SITES[n] for n in sites}
    assert ranking.maps["last"] == (SIZE, SIZE)
    assert ranking.maps["neck"] == (1, 1)
    adapted = dc.correct(classifier, ranking, beta=0.5, unit={"kind": "lite", "start": "he"})
    with torch.no_grad():
        expected = adapted(images)
        assert not torch.allclose(expected, classifier(images), atol=1e-3)
        adapted.save_pretrained(tmp_path)
        assert torch.equal(dc.load_adapter(classifier, tmp_path)(images), expected)
        again = Classifier(Renamed(net()).eval(), classifier.preprocessing)
        loaded = dc.load_adapter(again, tmp_path)
        assert list(loaded.config.sites) == ["first", "body.0.0", "body.1.0", "mixer", "end.0"]
        assert torch.equal(loaded(images), expected)
        wrapped = nn.Sequential(Renamed(net())).eval()
        normalised = (images - classifier.mean) / classifier.std
        assert torch.allclose(dc.load_adapter(wrapped, tmp_path)(normalised), expected, atol=1e-5)
        assert torch.allclose(dc.fuse(adapted)(images), expected, atol=1e-4)


def test_layers_with_a_blocks_tensors_are_not_taken_for_the_block(
    network: Net, images: Tensor, tmp_path: Path
) -> None:
    dc.correct(network, {"stage.0": [1, 3]}, unit="lite").save_pretrained(tmp_path)
    other = BranchesAlone(net()).eval()
    assert torch.equal(other(images), network(images))
    with pytest.raises(InputError, match="its site 'stage.0' cannot be identified"):
        dc.load_adapter(other, tmp_path)


def test_a_unit_corrects_a_blocks_output(network: Net, images: Tensor) -> None:
    adapted = dc.correct(network, {"last": [0, 4]}, unit={"kind": "lite", "start": "he"})
    place = adapted.corrected_site("last")
    unit, filters = place.unit, place.filters
    assert unit is not None

    def change(out: Tensor) -> Tensor:
        return unit(out.permute(0, 3, 1, 2), filters).permute(0, 2, 3, 1)

    with torch.no_grad():
        expected = hooked(network, images, "last", change)
        assert torch.allclose(adapted(images), expected, atol=1e-6)
        assert not torch.allclose(expected, network(images), atol=1e-3)


def test_torchvisions_blocks_can_be_sites(images: Tensor) -> None:
    try_torchvision()
    network = pytest.importorskip("torchvision.models").resnet18(num_classes=5).eval()
    adapted = dc.correct(network, {"layer1.0": [0], "layer3.1": [255]}, unit="lite")
    assert {n: s.channels for n, s in adapted.config.sites.items()} == {
        "layer1.0": 64,
        "layer3.1": 256,
    }
    with torch.no_grad():
        assert torch.equal(adapted(images), network(images))
