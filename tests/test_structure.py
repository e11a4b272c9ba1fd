"""Sites chosen by a network's structure; the expected names are written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import cut
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect import networks
from deepcorrect.models import AlexNet, CifarAllCNN, CifarResNet20
from deepcorrect.networks import choose, structure_of
from deepcorrect.runtime import InputError
from deepcorrect.runtime._optional_imports import try_torchvision


def images(size: int = 32, count: int = 1) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def numbered(pattern: str, *counts: int) -> list[str]:
    """The names of some numbers of blocks, stage by stage."""
    return [pattern.format(s, b) for s, count in enumerate(counts) for b in range(count)]


# --- networks of libraries


def torchvision(name: str, **options: Any) -> nn.Module:
    try_torchvision()
    models = pytest.importorskip("torchvision.models")
    return getattr(models, name)(weights=None, **options).eval()


def timm(name: str, **options: Any) -> nn.Module:
    try_torchvision()
    return pytest.importorskip("timm").create_model(name, pretrained=False, **options).eval()


RESNET = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


@pytest.mark.parametrize(
    ("name", "size", "auto", "sites"),
    [
        ("resnet18", 32, "stem+sums", ["conv1", *RESNET]),
        (
            "resnet50",
            32,
            "stem+sums",
            ["conv1"]
            + [f"layer{s + 1}.{b}" for s, count in enumerate((3, 4, 6, 3)) for b in range(count)],
        ),
        (
            "regnet_x_400mf",
            32,
            "stem+sums",
            ["stem.0"]
            + [
                f"trunk_output.block{s + 1}.block{s + 1}-{b}"
                for s, count in enumerate((1, 2, 7, 12))
                for b in range(count)
            ],
        ),
        ("mobilenet_v2", 32, "bottlenecks", [f"features.{at}" for at in range(1, 18)]),
        ("mobilenet_v3_small", 32, "bottlenecks", [f"features.{at}" for at in range(1, 12)]),
        (
            "efficientnet_b0",
            32,
            "bottlenecks",
            [
                f"features.{s + 1}.{b}"
                for s, n in enumerate((1, 2, 2, 3, 3, 4, 1))
                for b in range(n)
            ],
        ),
        (
            "convnext_tiny",
            32,
            "stem+sums",
            ["features.0.0"]
            + [f"features.{2 * s + 1}.{b}" for s, n in enumerate((3, 3, 9, 3)) for b in range(n)],
        ),
        (
            "swin_t",
            64,
            "stem+mlps",
            ["features.0.0"]
            + [
                f"features.{2 * s + 1}.{b}.mlp.0"
                for s, n in enumerate((2, 2, 6, 2))
                for b in range(n)
            ],
        ),
        (
            "vit_b_32",
            224,
            "stem+mlps",
            ["conv_proj"] + [f"encoder.layers.encoder_layer_{at}.mlp.0" for at in range(12)],
        ),
        ("alexnet", 64, "convolutions", [f"features.{at}" for at in (0, 3, 6, 8, 10)]),
        ("vgg11_bn", 32, "convolutions", [f"features.{a}" for a in (0, 4, 8, 11, 15, 18, 22, 25)]),
    ],
)
def test_torchvisions_networks(name: str, size: int, auto: str, sites: list[str]) -> None:
    found = structure_of(torchvision(name), images(size))
    assert (found.auto, list(found.sites())) == (auto, sites)


@pytest.mark.parametrize(
    ("name", "size", "auto", "sites"),
    [
        ("resnet26d", 32, "stem+sums", ["conv1.6", *RESNET]),
        (
            "resnetv2_50",
            32,
            "stem+sums",
            ["stem.conv", *numbered("stages.{}.blocks.{}", 3, 4, 6, 3)],
        ),
        (
            "test_vit",
            160,
            "stem+mlps",
            ["patch_embed.proj", *(f"blocks.{at}.mlp.fc1" for at in range(6))],
        ),
        ("tf_efficientnet_lite0", 32, "bottlenecks", numbered("blocks.{}.{}", 1, 2, 2, 3, 3, 4, 1)),
        (
            "convnext_atto",
            32,
            "stem+sums",
            ["stem.0", *numbered("stages.{}.blocks.{}", 2, 2, 6, 2)],
        ),
    ],
)
def test_timms_networks(name: str, size: int, auto: str, sites: list[str]) -> None:
    found = structure_of(timm(name), images(size))
    assert (found.auto, list(found.sites())) == (auto, sites)


@pytest.mark.parametrize("name", ["densenet121", "shufflenet_v2_x0_5", "squeezenet1_0"])
def test_networks_that_concatenate_have_no_sums(name: str) -> None:
    network = torchvision(name)
    found = structure_of(network, images(64))
    assert (found.auto, found.sums, found.bottlenecks) == ("convolutions", (), ())
    assert found.sites() == tuple(networks.convolutions(network))


# --- our own


def test_the_resnet_gets_the_sites_of_its_recipe() -> None:
    expected = ["conv1", *(f"layer{s}.{b}" for s in (1, 2, 3) for b in range(3))]
    found = structure_of(CifarResNet20().eval(), images())
    assert (found.auto, list(found.sites())) == ("stem+sums", expected)


@pytest.mark.parametrize(("make", "size", "count"), [(CifarAllCNN, 32, 9), (AlexNet, 227, 5)])
def test_plain_networks_get_their_convolutions(make: Any, size: int, count: int) -> None:
    found = structure_of(make().eval(), images(size))
    assert found.auto == "convolutions"
    assert len(found.sites()) == count


# --- networks by hand


class PreAct(nn.Module):
    """A pre-activation block; its output is the sum itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.short = nn.Conv2d(inputs, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        ready = F.silu(self.norm(maps))
        return self.short(ready).add_(self.conv(ready))


class Add(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class Outer(nn.Module):
    """A wrapper that returns what the module inside returns."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, maps: Tensor) -> Tensor:
        return self.inside(maps)


class Odd(nn.Module):
    """Sums at every place where a network may have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.stages = nn.Sequential(
            nn.Sequential(Outer(PreAct(8, 8)), PreAct(8, 12)), nn.Sequential(Outer(PreAct(12, 12)))
        )
        self.one, self.two = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 1)
        self.add, self.act = Add(), nn.ReLU()
        self.last = nn.Conv2d(12, 12, 3, padding=1)
        self.twice = PreAct(12, 12)
        self.place = nn.Parameter(torch.rand(1, 12, 1, 1))
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stages(self.stem(images))
        maps = self.add(self.one(maps), maps)  # returned by a module for additions alone
        maps = self.act(self.two(maps) + maps)  # returned by an activation alone
        maps = F.relu(self.last(maps) + maps)  # returned by no module
        maps = self.twice(self.twice(maps))  # by one that runs twice
        maps = maps * torch.sigmoid(maps) + maps**2  # no layer between
        return self.head((maps + self.place).mean((2, 3)))  # not of two values of the images


def test_sums_are_given_to_the_innermost_module_that_returns_them() -> None:
    found = structure_of(Odd().eval(), images())
    assert found.stem == ("stem.0",)
    assert found.sums == ("stages.0.0.inside", "stages.0.1", "stages.1.0.inside", "add", "act")
    assert found.unnamed_sums == 3
    assert found.auto == "stem+sums"


def test_names_of_classes_play_no_part() -> None:
    plain = torchvision("resnet18")
    for module in plain.modules():
        if type(module).__module__.startswith("torchvision"):
            module.__class__ = type("Thing", (type(module),), {})
    assert structure_of(plain, images()).sites() == ("conv1", *RESNET)


def test_three_branches_are_one_sum() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, maps: Tensor) -> Tensor:
            return F.relu(self.a(maps) + self.b(maps) + maps)

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Three(), Three()).eval()
    found = structure_of(network, images())
    assert (found.sums, found.unnamed_sums) == (("1", "2"), 0)


def test_sums_inside_a_block_are_part_of_it() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

        def forward(self, maps: Tensor) -> Tensor:
            first, second = maps.chunk(2, 1)
            first = self.one(first)
            second = self.two(first + second)  # as in Res2Net
            return F.relu(torch.cat([first, second], 1) + maps)

    network = nn.Sequential(nn.Conv2d(3, 8, 1), Split(), Split()).eval()
    found = structure_of(network, images())
    assert (found.auto, found.sites()) == ("stem+sums", ("0", "1", "2"))
    assert found.unnamed_sums == 0


def test_position_encodings_by_depthwise_convolutions_are_no_residual_blocks() -> None:
    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(2)])
            self.norm = nn.LayerNorm(8)
            self.wide, self.back = nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, maps: Tensor) -> Tensor:
            for place in self.places:
                maps = maps + place(maps)
            pixels = maps.permute(0, 2, 3, 1)
            pixels = pixels + self.back(F.gelu(self.wide(self.norm(pixels))))
            return pixels.permute(0, 3, 1, 2)

    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Encoded(), Encoded()).eval()
    found = structure_of(network, images())
    assert (found.auto, found.sites()) == ("stem+mlps", ("0", "1.wide", "2.wide"))
    assert found.sums == ("1", "2")  # returned in another order of dimensions


class Inverted(nn.Module):
    """Expand, depthwise, project; named by nothing, in one list."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.parts = nn.ModuleList(
            [
                nn.Conv2d(inputs, wide, 1),
                nn.Conv2d(wide, wide, 3, stride, 1, groups=wide),
                nn.Conv2d(wide, outputs, 1),
            ]
        )
        self.gate = nn.Conv2d(wide, wide, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        hidden = F.hardswish(self.parts[1](F.hardswish(self.parts[0](maps))))
        hidden = hidden * torch.sigmoid(self.gate(hidden.mean((2, 3), keepdim=True)))
        out = self.parts[2](hidden)
        return out + maps if self.residual else out


def test_inverted_bottlenecks_end_with_or_without_a_sum() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Sequential(Inverted(8, 8, 1), Inverted(8, 12, 2)),
        Inverted(12, 12, 1),
        Inverted(12, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    found = structure_of(network, images())
    assert found.auto == "bottlenecks"
    assert found.bottlenecks == ("1.0", "1.1", "2", "3")
    assert found.sums == ("1.0", "2")


# --- choosing


def test_a_choice_is_ranked_corrected_and_printed(
    labels: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    network = CifarResNet20(5).eval()
    batches = cut(images(32, len(labels)), labels, 6)
    ranking = dc.rank(network, batches, ["awgn:40"], sites="auto")
    assert "note: sites: stem+sums (10)" in capsys.readouterr().err
    assert len(ranking.sites) == 10
    adapted = dc.correct(network, ranking, beta=0.5)
    assert set(adapted.config.sites) == set(ranking.sites)
    again = dc.rank(adapted, batches, ["awgn:40"], sites="sums")  # of the untouched network
    assert again.sites == ranking.sites[1:]


def test_choices_are_joined_and_checked() -> None:
    network = torchvision("resnet18")
    assert list(choose(network, images(), "sums + stem")) == ["conv1", *RESNET]
    assert list(choose(network, images(), "convolutions")) == list(networks.convolutions(network))
    with pytest.raises(InputError, match="unknown choice of sites 'sum', did you mean 'sums'"):
        dc.rank(network, [], ["awgn:40"], sites="sum")
    with pytest.raises(InputError, match="no mlps and no bottlenecks: choose its stem or sums"):
        choose(network, images(), "mlps+bottlenecks")


def test_modules_that_cannot_be_sites_are_left_out_of_a_choice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = timm("test_vit", num_classes=3)
    found = choose(network, images(160), "mlps")
    # no later layer reads the image's tokens of the sixth block
    assert list(found) == [f"blocks.{at}.mlp.fc1" for at in range(5)]
    assert "1 give tokens that no later layer reads" in capsys.readouterr().err


def test_what_cannot_be_recorded_says_so() -> None:
    class Broken(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            raise KeyError("left")

    with pytest.raises(InputError, match=r"cannot be recorded \('left'\): name the sites yourself"):
        structure_of(Broken(), images())


def test_a_compiled_network_and_training_state_are_left_alone() -> None:
    network = CifarResNet20().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    compiled = torch.compile(network)
    assert len(structure_of(compiled, images()).sites()) == 10  # pyright: ignore
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
