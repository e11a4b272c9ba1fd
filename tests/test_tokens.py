"""Sites in transformers, MLP channels on the tokens' grid; and what can be a site at all."""

from __future__ import annotations

import os
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

SIZE, GRID, WIDTH, HIDDEN = 16, 4, 6, 10
SHARED = os.environ.get("DEEPCORRECT_SHARED")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
        tokens = tokens + F.scaled_dot_product_attention(query, key, value)
        return tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))


class TinyViT(nn.Module):
    """A vision transformer: class token and one more before 4 x 4 tokens, two blocks."""

    def __init__(self, others: int = 2, pooled: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.others = nn.Parameter(torch.randn(1, others, WIDTH)) if others else None
        self.first, self.second = Block(), Block()
        self.head = nn.Linear(WIDTH, 5)
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if self.others is not None:
            tokens = torch.cat([self.others.expand(images.shape[0], -1, -1), tokens], 1)
        tokens = self.second(self.first(tokens))
        return self.head(tokens.mean(1) if self.pooled else tokens[:, 0])


@pytest.fixture
def vit() -> TinyViT:
    network = TinyViT()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.7)
    return network.eval()


def on_grid(tokens: Tensor, others: int = 2) -> Tensor:
    """The maps of N x T x C, by hand."""
    rows, _, channels = tokens.shape
    maps = torch.zeros(rows, channels, GRID, GRID)
    for place in range(GRID * GRID):
        maps[:, :, place // GRID, place % GRID] = tokens[:, others + place]
    return maps


def changed_by_hand(network: nn.Module, images: Tensor, site: str, edit: Any) -> Tensor:
    """A full pass in which `edit` changes a site's output, N x T x C, in a plain hook."""
    handle = network.get_submodule(site).register_forward_hook(lambda m, a, out: edit(out.clone()))
    try:
        return network(images)
    finally:
        handle.remove()


# --- finding


def test_a_vision_transformers_sites_are_its_patches_and_its_mlp_channels(vit: TinyViT) -> None:
    assert list(networks.find(vit)) == ["patches", "first.fc1", "second.fc1"]
    assert list(networks.mlp_channels(vit)) == ["first.fc1", "second.fc1"]
    with pytest.raises(InputError, match="no 2-D convolution and no transformer's MLP"):
        networks.find(nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 4)))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("test_vit", {}, ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]),
        ("test_mlp_mixer", {"img_size": 32}, ["blocks.0.mlp_channels.fc1"]),
        ("test_convnext", {}, ["stages.0.blocks.0.mlp.fc1"]),
    ],
)
def test_mlp_channels_are_found_in_timms_networks(
    name: str, options: dict[str, Any], expected: list[str]
) -> None:
    try_torchvision()
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        name = {"test_mlp_mixer": "mixer_s32_224"}[name]
    found = list(networks.mlp_channels(timm.create_model(name, num_classes=3, **options)))
    assert found[: len(expected)] == expected
    assert all("qkv" not in each and "mlp_tokens" not in each for each in found)


def test_mlp_channels_are_found_in_torchvisions_networks() -> None:
    try_torchvision()
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        vit, swin, next_ = models.vit_b_16(), models.swin_t(), models.convnext_tiny()
        classic = models.alexnet()
    assert len(networks.mlp_channels(vit)) == 12
    assert len(networks.mlp_channels(swin)) == sum((2, 2, 6, 2))
    assert len(networks.mlp_channels(next_)) == sum((3, 3, 9, 3))
    assert networks.mlp_channels(classic) == {}


# --- reading and changing


def test_tokens_are_read_as_maps_on_their_grid(vit: TinyViT, images: Tensor) -> None:
    outputs: list[Tensor] = []
    handle = vit.first.fc1.register_forward_hook(lambda *given: outputs.append(given[2]))
    with networks.tap(vit, ["first.fc1"]) as maps:
        vit(images)
    handle.remove()
    assert torch.equal(maps["first.fc1"], on_grid(outputs[0]))


def test_changed_maps_leave_the_other_tokens_alone(vit: TinyViT, images: Tensor) -> None:
    def by_hand(tokens: Tensor) -> Tensor:
        tokens[:, 2:, 3] *= 2
        return tokens

    def edit(site: str, maps: Tensor) -> Tensor:
        return maps.index_copy(1, torch.tensor([3]), 2 * maps[:, 3:4])

    with torch.no_grad():
        expected = changed_by_hand(vit, images, "first.fc1", by_hand)
        with networks.tap(vit, ["first.fc1"], edit):
            assert torch.allclose(vit(images), expected, atol=1e-6)
        assert not torch.allclose(vit(images), expected, atol=1e-3)


def test_channels_may_come_last(images: Tensor) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, WIDTH, 4, 4)
            self.mlp = nn.Linear(WIDTH, HIDDEN)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.mlp(self.conv(images).permute(0, 2, 3, 1))
            return maps.relu().mean((1, 2))

    network = Last().eval()
    with torch.no_grad(), networks.tap(network, ["mlp"]) as maps:
        logits = network(images)
        assert maps["mlp"].shape == (len(images), HIDDEN, 4, 4)
        assert torch.allclose(maps["mlp"].relu().mean((2, 3)), logits, atol=1e-6)
    config = {"mlp": [1, 4]}
    adapted = dc.correct(network, config, unit={"kind": "bottleneck", "start": "he"})
    assert not torch.allclose(adapted(images), network(images))


def test_gradients_of_maps_are_those_of_the_tokens(vit: TinyViT, images: Tensor) -> None:
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        kept.append(out)
        return out

    handle = vit.first.fc1.register_forward_hook(keep)
    gain = vit(images).logsumexp(1).sum()
    handle.remove()
    (expected,) = torch.autograd.grad(gain, kept)
    _, slopes = networks.gradients(vit, images, ["first.fc1"], lambda out: out.logsumexp(1).sum())
    assert torch.allclose(slopes["first.fc1"], on_grid(expected), atol=1e-6)


@pytest.mark.parametrize("how", ["graph", "replay"])
@pytest.mark.parametrize("site", ["patches", "first.fc1"])
def test_swaps_are_full_passes_by_hand(vit: TinyViT, images: Tensor, how: str, site: str) -> None:
    with torch.no_grad():
        clean, distorted = images[:4], images[4:8]
        with networks.tap(vit, [site]) as maps:
            vit(clean)
        if how == "graph":
            recorded: Any = GraphPass(Graph(vit, distorted, [site]), distorted)
        else:
            recorded = Replay(vit, distorted, [site])
        assert torch.allclose(recorded.logits, vit(distorted), atol=1e-5)
        found = torch.zeros(4, maps[site].shape[1], 5)
        for rows, filters, logits in recorded.swaps(site, maps[site]):
            found[rows, filters] = logits
        outputs: list[Tensor] = []
        handle = vit.get_submodule(site).register_forward_hook(
            lambda *given: outputs.append(given[2])
        )
        vit(clean)
        handle.remove()
        for channel in range(found.shape[1]):

            def swap(out: Tensor, channel: int = channel) -> Tensor:
                if site == "patches":
                    out[:, channel] = outputs[0][:, channel]
                else:
                    out[:, 2:, channel] = outputs[0][:, 2:, channel]
                return out

            expected = changed_by_hand(vit, distorted, site, swap)
            assert torch.allclose(found[:, channel], expected, atol=1e-4), channel
        whole = recorded.from_site(site, maps[site])
        again = recorded.from_site(site, recorded.maps[site])
        assert torch.allclose(again, recorded.logits, atol=1e-5)
        assert not torch.allclose(whole, recorded.logits, atol=1e-3)


@pytest.mark.parametrize(
    ("tokens", "others", "side"), [(16, 0, 4), (17, 1, 4), (24, 8, 4), (25, 0, 5), (198, 2, 14)]
)
def test_the_grid_is_square_behind_the_other_tokens(tokens: int, others: int, side: int) -> None:
    layout = networks.layout_of("mlp", nn.Linear(3, 4), torch.zeros(2, tokens, 4))
    assert (layout.others, layout.side) == (others, side)


def test_tokens_that_are_no_grid_are_refused() -> None:
    with pytest.raises(InputError, match="35 tokens are not a square grid after at most 8 others"):
        networks.layout_of("mlp", nn.Linear(3, 4), torch.zeros(2, 35, 4))
    with pytest.raises(InputError, match=r"site 'head' returns \(4,\)"):
        networks.layout_of("head", nn.Linear(3, 4), torch.zeros(4))


# --- ranking and correcting


@pytest.fixture
def classifier(vit: TinyViT) -> Classifier:
    return Classifier(vit, Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), "vit").eval()


@pytest.mark.parametrize("method", ["conductance", "path", "swap_logprob", "gradient", "change"])
def test_a_transformer_is_ranked_without_naming_sites(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    method: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ranking = dc.rank(classifier, cut(images, labels, 6), ["awgn:40"], method)
    assert list(ranking.sites) == ["patches", "first.fc1"]
    assert ranking.maps["first.fc1"] == (GRID, GRID)
    assert len(ranking.priorities["first.fc1"]) == HIDDEN
    said = capsys.readouterr().err
    assert "not taken as sites: 1 give tokens that no later layer reads (second.fc1)" in said


def test_tokens_that_are_pooled_are_read(images: Tensor) -> None:
    network = TinyViT(others=0, pooled=True).eval()
    assert list(networks.choose(network, images[:1])) == ["patches", "first.fc1", "second.fc1"]


def test_a_transformer_is_corrected_trained_switched_off_saved_and_loaded(
    classifier: Classifier, images: Tensor, labels: Tensor, tmp_path: Any
) -> None:
    batches = cut(images, labels, 6)
    ranking = dc.rank(classifier, batches, ["awgn:40"])
    with torch.no_grad():
        before = classifier(images)
        adapted = dc.correct(classifier, ranking, beta=0.5)
        assert torch.allclose(adapted(images), before, atol=1e-5)
    dc.fit(adapted, batches, ["awgn:40"], epochs=2)
    with torch.no_grad():
        assert not torch.allclose(adapted(images), before, atol=1e-4)
        with adapted.disable_adapter():
            assert torch.equal(adapted(images), before)
        expected = adapted(images)
        adapted.save_pretrained(tmp_path)
        assert torch.equal(dc.load_adapter(classifier, tmp_path)(images), expected)


def test_a_units_maps_are_the_grid_and_the_class_token_passes(
    classifier: Classifier, images: Tensor
) -> None:
    adapted = dc.correct(
        classifier, {"first.fc1": [0, 7]}, unit={"kind": "bottleneck", "start": "he"}
    )
    outputs: list[Tensor] = []
    seen: list[Tensor] = []
    twin: Any = adapted.corrected.get_submodule("network")
    handles = [
        *(
            each.get_submodule("first.fc2").register_forward_pre_hook(
                lambda m, args: outputs.append(args[0])
            )
            for each in (classifier.network, twin.site)
        ),
        adapted.units["first/fc1"].register_forward_hook(lambda m, args, out: seen.append(args[0])),
    ]
    with torch.no_grad():
        adapted(images)
        with adapted.disable_adapter():
            adapted(images)
    for handle in handles:
        handle.remove()
    assert seen[0].shape == (len(images), HIDDEN, GRID, GRID)
    corrected, own = outputs
    kept = [channel for channel in range(HIDDEN) if channel not in (0, 7)]
    assert torch.equal(corrected[:, :2], own[:, :2])
    assert torch.equal(corrected[:, :, kept], own[:, :, kept])
    assert not torch.equal(corrected[:, 2:, 0], own[:, 2:, 0])


@pytest.mark.parametrize("unit", ["weights", {"kind": "bottleneck", "start": "he"}])
def test_a_compiled_transformer_is_corrected(
    classifier: Classifier, images: Tensor, unit: Any
) -> None:
    adapted = dc.correct(classifier, {"first.fc1": [1, 2, 9], "second.fc1": [0]}, unit=unit)
    with torch.no_grad():
        for parameter in adapted.trainable_parameters():
            parameter.add_(0.3)
        compiled = torch.compile(adapted, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), adapted(images))
        assert not torch.allclose(adapted(images), classifier(images))


def test_a_corrected_transformer_is_fused_and_exported(
    classifier: Classifier, images: Tensor, tmp_path: Any
) -> None:
    chosen = {"patches": [0, 2], "first.fc1": [1, 2, 9], "second.fc1": [0, 1]}
    adapted = dc.correct(classifier, chosen, unit={"kind": "bottleneck", "start": "he"})
    with torch.no_grad():
        expected = adapted(images)
        assert torch.allclose(dc.fuse(adapted)(images), expected, atol=1e-4)
        dc.export(adapted, tmp_path / "vit.pt2")
        assert torch.allclose(dc.load_exported(tmp_path / "vit.pt2")(images), expected, atol=1e-4)


# --- what cannot serve


class Awkward(nn.Module):
    """One convolution that runs twice, one that never runs, one that gates, one on pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 3)
        self.gate = nn.Conv2d(4, 4, 1)
        self.pieces = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.twice(self.twice(self.stem(images)).relu())
        maps = maps * self.gate(maps.mean((2, 3), keepdim=True)).sigmoid()
        halves = self.pieces(torch.cat(maps.chunk(2, 3)))
        maps = torch.cat(halves.chunk(2), 3)
        return self.last(maps).mean((2, 3))


def test_modules_that_cannot_be_sites_are_left_out_with_a_note(
    images: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Awkward().eval()
    assert list(networks.choose(network, images[:2])) == ["stem", "last"]
    said = capsys.readouterr().err
    for reason in (
        "1 run more than once (twice)",
        "1 do not run (unused)",
        "1 only gate larger maps (gate)",
        "1 do not give one row of maps an image (pieces)",
    ):
        assert reason in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("twice", "site 'twice' runs 2 times in a forward pass"),
        ("unused", "site 'unused' runs 0 times in a forward pass"),
        ("pieces", "site 'pieces' returns 4 rows for 2 images"),
    ],
)
def test_a_named_site_that_cannot_serve_is_an_error(
    images: Tensor, site: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        networks.choose(Awkward().eval(), images[:2], [site, "stem"])
    assert list(networks.choose(Awkward().eval(), images[:2], ["gate"])) == ["gate"]


def test_a_small_map_is_no_gate(images: Tensor) -> None:
    """A stride that leaves one pixel, run before a convolution of larger maps."""

    class Shrinking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shortcut = nn.Conv2d(3, 4, 1, stride=16)
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, stride=16)

        def forward(self, images: Tensor) -> Tensor:
            return (self.shortcut(images) + self.second(self.first(images))).mean((2, 3))

    names = ["shortcut", "first", "second"]
    assert list(networks.choose(Shrinking().eval(), images[:2])) == names


def test_a_head_that_is_zero_hides_no_site(vit: TinyViT, images: Tensor) -> None:
    nn.init.zeros_(vit.head.weight)
    assert list(networks.choose(vit, images[:1])) == ["patches", "first.fc1", "second.fc1"]


def test_a_network_without_any_site_says_why(images: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(self.conv(images)).mean((2, 3))

    with pytest.raises(InputError, match="can be a site: 1 run more than once"):
        networks.choose(Twice(), images)
