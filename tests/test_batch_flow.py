"""Swaps in networks whose values that are not per image have as many rows as there are images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Batch, cut
from test_graph import CHANNELS, SIDE, all_swaps, built, maps_of, some_images, swapped_by_hand
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from deepcorrect.networks import Classifier
from deepcorrect.networks.patching import Graph, GraphPass, Replay, recorder
from deepcorrect.ranking import rank

FILTERS, TOKENS = 6, 9


class ScaledConv(nn.Conv2d):
    """Its weight is computed in `forward`."""

    gain: Tensor

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.register_buffer("gain", torch.ones(1))

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.gain, self.bias)


class StdConv2d(nn.Conv2d):
    """Weight standardisation as in timm."""

    def forward(self, input: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6)
        return self._conv_forward(input, weight.reshape_as(self.weight), self.bias)


def convolutions(make: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    """Two convolutions with a batch norm and a shortcut around a third."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = make(CHANNELS, FILTERS, 3, padding=1)
            self.norm = nn.BatchNorm2d(FILTERS)
            self.second = make(FILTERS, FILTERS, 3, padding=1)
            self.third = make(FILTERS, FILTERS, 3, padding=1)
            self.head = nn.Linear(FILTERS, 4)

        def forward(self, images: Tensor) -> Tensor:
            maps = F.relu(self.norm(self.first(images)))
            maps = maps + self.third(F.relu(self.second(maps)))
            return self.head(F.relu(maps).mean((2, 3)))

    return Net


class Attention(nn.Module):
    """Tokens with positions, and attention with a bias that is gathered from a table, as in Swin.

    Both have one row per token, as a value has one row per image.
    """

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, FILTERS, 3, stride=3)
        self.again = nn.Conv2d(FILTERS, FILTERS, 1)
        self.positions = nn.Parameter(torch.randn(TOKENS, FILTERS))
        self.table = nn.Parameter(torch.randn(25))
        self.register_buffer("places", torch.randint(25, (TOKENS, TOKENS)))
        self.qkv = nn.Linear(FILTERS, 3 * FILTERS)
        self.head = nn.Linear(FILTERS, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.again(F.relu(self.stem(images)))
        tokens = maps.flatten(2).transpose(1, 2) + self.positions
        query, key, value = self.qkv(tokens).chunk(3, 2)
        bias = self.table[self.places.flatten()].view(TOKENS, TOKENS)
        weights = (query @ key.transpose(1, 2) + bias).softmax(2)
        return self.head(tokens + weights @ value).mean(1)


class TokensFirst(nn.Module):
    """A shortcut around the second convolution, tokens x images x channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, FILTERS, 3, stride=3)
        self.again = nn.Conv2d(FILTERS, FILTERS, 1)
        self.positions = nn.Parameter(torch.randn(TOKENS, 1, FILTERS))
        self.attention = nn.MultiheadAttention(FILTERS, 2)
        self.head = nn.Linear(FILTERS, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.stem(images))
        shortcut = maps.flatten(2).permute(2, 0, 1) + self.positions
        tokens = self.again(maps).flatten(2).permute(2, 0, 1) * shortcut
        return self.head(tokens + self.attention(tokens, shortcut, shortcut)[0]).mean(0)


class Windows(nn.Module):
    """A shortcut in windows, of which there are three per image, added before they are merged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, FILTERS, 3, stride=3)
        self.again = nn.Conv2d(FILTERS, FILTERS, 1)
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(FILTERS, 4)

    def windows(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 1, 3).reshape(-1, FILTERS, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.stem(images))
        shortcut = self.mix(self.windows(maps))
        merged = self.mix(self.windows(self.again(maps)) * shortcut).view(-1, 3, FILTERS, 3)
        return self.head(merged.mean((1, 3)))


class ImageKernels(nn.Module):
    """The kernels of the last convolution are computed from the image; one group per image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, FILTERS, 3)
        self.again = nn.Conv2d(FILTERS, FILTERS, 3)
        self.kernels = nn.Linear(FILTERS, FILTERS * FILTERS)
        self.head = nn.Linear(FILTERS, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.stem(images))
        kernels = self.kernels(maps.mean((2, 3))).view(-1, FILTERS, 1, 1)
        maps = self.again(maps)
        grouped = F.conv2d(maps.reshape(1, -1, *maps.shape[2:]), kernels, groups=len(images))
        return self.head(grouped.view_as(maps).relu().mean((2, 3)))


def normed(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return convolutions(lambda *args, **kw: norm(nn.Conv2d(*args, **kw)))


THREE, TWO = ("first", "second", "third"), ("stem", "again")
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Sequence[str], bool]] = {
    "scaled": (convolutions(ScaledConv), THREE, True),
    "standardised": (convolutions(StdConv2d), THREE, True),
    "spectral norm": (normed(parametrizations.spectral_norm), THREE, True),
    "weight norm": (normed(parametrizations.weight_norm), THREE, True),
    "spectral norm, by hooks": (normed(spectral_norm), THREE, False),
    "weight norm, by hooks": (normed(weight_norm), THREE, False),
    "attention": (Attention, TWO, True),
    "tokens first": (TokensFirst, TWO, True),
    "windows": (Windows, TWO, True),
    "image kernels": (ImageKernels, TWO, True),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("rows", [2, FILTERS, TOKENS])
@pytest.mark.parametrize("name", NETWORKS)
def test_swaps_for_every_block_size(name: str, rows: int) -> None:
    """Exactly in counts of right answers, for full and partial blocks."""
    make, sites, on_graph = NETWORKS[name]
    network = built(make)
    record = recorder(network, some_images(rows, seed=9), sites)
    for count in {1, FILTERS, TOKENS, rows - 1, rows} & set(range(1, rows + 1)):
        images = some_images(count)
        recorded = record(images)
        assert isinstance(recorded, GraphPass) or not on_graph
        for site in sites:
            clean = maps_of(network, site, some_images(count, seed=1))
            clean[0, 0] = recorded.maps[site][0, 0]
            logits, times = all_swaps(recorded, site, clean)
            expected = swapped_by_hand(network, site, images, clean)
            assert torch.allclose(logits, expected, atol=1e-4), (site, count)
            assert torch.equal(logits.argmax(2), expected.argmax(2)), (site, count)
            assert bool((times == 1).any())


def scaled(model: Classifier) -> Classifier:
    """The same network; each convolution multiplies its weight by one in `forward`."""
    model = copy.deepcopy(model)
    for name, conv in list(model.named_modules()):
        if isinstance(conv, nn.Conv2d):
            made = ScaledConv(conv.in_channels, conv.out_channels, conv.kernel_size,
                              conv.stride, conv.padding, bias=conv.bias is not None)  # fmt: skip
            made.load_state_dict({**conv.state_dict(), "gain": torch.ones(1)})
            model.set_submodule(name, made)
    return model.eval()


@pytest.mark.parametrize("size", [1, 8, 16, 32])
def test_a_weight_that_is_multiplied_by_one_changes_no_priority(
    digits_model: Classifier, digits_batch: Batch, size: int
) -> None:
    """Blocks as large as the convolutions have filters; the last block is smaller or not."""
    images, labels = (values[:40] for values in digits_batch)
    plain, other = (
        rank(model, cut(images, labels, size), ["awgn:30"], "swap", ["features.2.0"])
        for model in (digits_model, scaled(digits_model))
    )
    assert torch.equal(plain.by_level["features.2.0"], other.by_level["features.2.0"])
    assert bool(plain.by_level["features.2.0"].any())


def test_what_does_not_depend_on_the_images_is_computed_once() -> None:
    """A computed weight is a constant, so that it is folded as a plain one is."""
    graph = Graph(built(convolutions(ScaledConv)), some_images(FILTERS), THREE)
    convs = {step.conv for cut in graph.cuts.values() for step in cut.swap} - {None}
    assert len(convs) == 2


class LastBlock(nn.Module):
    """Its answers depend on the images beside one, unless all blocks are full."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, FILTERS, 3)
        self.head = nn.Linear(FILTERS, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        if len(images) < 5:
            maps = maps * 2
        return self.head(F.relu(maps - 1).mean((2, 3)))


def test_the_graph_is_checked_for_each_block_size(capsys: pytest.CaptureFixture[str]) -> None:
    network = built(LastBlock)
    record = recorder(network, some_images(5), ["conv"])
    assert isinstance(record(some_images(5)), GraphPass)
    assert capsys.readouterr().err == ""
    for turn in range(2):
        recorded = record(some_images(3))
        assert isinstance(recorded, Replay)
        assert ("note: re-running blocks of 3 images" in capsys.readouterr().err) == (turn == 0)
        clean = maps_of(network, "conv", some_images(3, seed=1))
        logits, _ = all_swaps(recorded, "conv", clean)
        expected = swapped_by_hand(network, "conv", some_images(3), clean)
        assert torch.allclose(logits, expected, atol=1e-5)
    assert isinstance(record(some_images(5, seed=3)), GraphPass)


def test_a_network_that_mixes_images_is_not_swapped_on_its_graph(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The rows of a block of swaps are not the images of one batch."""

    class Mixing(LastBlock):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return self.head((maps - maps.mean(0, keepdim=True)).relu().mean((2, 3)))

    record = recorder(built(Mixing), some_images(5), ["conv"])
    assert isinstance(record(some_images(5)), Replay)
    assert "note: re-running module by module" in capsys.readouterr().err


def test_the_probe_leaves_the_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    Graph(built(Attention), some_images(4), TWO)
    assert torch.equal(state, torch.random.get_rng_state())
    assert SIDE == 3 * 3, "nine tokens"
