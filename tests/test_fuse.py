"""Fusing: the same answers from a plain network, with what can be folded exactly folded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SIZE, TinyCNN, tiny_cnn
from torch import Tensor, nn

from deepcorrect.correction import AdaptedModel, correct
from deepcorrect.correction._unit_config import KINDS
from deepcorrect.data import Preprocessing
from deepcorrect.deployment import First, fuse
from deepcorrect.deployment._trace import trace
from deepcorrect.models import AlexNet, CifarAllCNN, CifarResNet20
from deepcorrect.networks import Classifier, convolutions
from deepcorrect.networks._cost import multiply_adds
from deepcorrect.runtime import InputError

FILTERS = {"stem": [1, 4, 6], "grouped": [2, 3], "depthwise": [0, 7], "pointwise": [2, 3, 11]}


def trained(
    network: nn.Module,
    images: Tensor,
    unit: str = "bottleneck",
    modulation: Mapping[str, Any] | None = None,
    *,
    depthwise: bool = False,
) -> AdaptedModel:
    """Units as after training: not the identity, their batch norms used."""
    options = {"kind": unit, "start": "he", "depthwise": depthwise, **(modulation or {})}
    adapted = correct(network, FILTERS, unit=options)
    with torch.no_grad():
        for parameter in adapted.units.parameters():
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.3)
        adapted.train()(images)
    return adapted.eval()


def norms(network: nn.Module) -> list[str]:
    return [n for n, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]


def different(network: nn.Module, other: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        return float((network(images) - other(images)).abs().max())


@pytest.mark.parametrize(
    "modulation", [None, {"modulation": 3}, {"modulation": 3, "hidden_gains": True}]
)
@pytest.mark.parametrize("first", ["cheaper", "always"])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("unit", KINDS)
def test_every_unit_folds_and_answers_as_before(
    network: TinyCNN,
    images: Tensor,
    unit: str,
    depthwise: bool,
    first: First,
    modulation: Mapping[str, Any] | None,
) -> None:
    # in float64: answers of these units pass 100, which float32 rounds by more than the bound
    network, images = network.double(), images.double()
    adapted = trained(network, images, unit, modulation, depthwise=depthwise)
    fused = fuse(adapted, images[:2], first)
    assert different(adapted, fused, images) < 5e-5
    last = images.contiguous(memory_format=torch.channels_last)
    assert different(adapted, fused, last) < 5e-5
    assert different(network, fused, images) > 1e-2
    # a modulated unit stays behind its site, and the batch norm behind both
    assert norms(fused) == ([] if modulation is None else ["norm", "out_norm"])
    assert not any(module._forward_hooks for module in fused.modules())
    assert not any(p.requires_grad for p in fused.parameters())


def test_the_network_and_its_adapter_stay_as_they_were(network: TinyCNN, images: Tensor) -> None:
    adapted = trained(network, images)
    with torch.no_grad():
        before = adapted(images), network(images)
    fused = fuse(adapted, images)
    for parameter in fused.parameters():
        parameter.fill_(9)
    with torch.no_grad():
        assert torch.equal(adapted(images), before[0])
        assert torch.equal(network(images), before[1])
        with adapted.disable_adapter():
            assert torch.equal(adapted(images), before[1])


def test_the_first_convolution_goes_into_the_sites_by_hand(images: Tensor) -> None:
    """W1 (W x + b), batch norms folded: written out for one convolution and one unit."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1)).eval()
    adapted = correct(network, {"0": [0, 5]}, unit={"kind": "full", "start": "he"})
    (site,) = fuse(adapted, images, "always").children()
    conv, unit = network[0], adapted.units["0"]
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    first = unit.residual[0].weight.flatten(1)  # pyright: ignore
    scale = 1 / torch.sqrt(torch.tensor(1.0) + 1e-5)  # of a batch norm that has seen nothing
    expected = scale * torch.einsum("wn,nchk->wchk", first, conv.weight[[0, 5]])
    assert torch.allclose(site.conv.weight[6:], expected, atol=1e-6)  # pyright: ignore
    assert torch.allclose(site.conv.bias[6:], scale * first @ conv.bias[[0, 5]], atol=1e-6)  # pyright: ignore
    assert torch.equal(site.conv.weight[:6], conv.weight)  # pyright: ignore


def test_by_default_a_unit_goes_where_it_takes_fewer_multiply_adds() -> None:
    images = torch.rand(2, 3, 16, 16)
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    adapted = correct(network, {"0": range(32), "2": range(32)})
    least, most = fuse(adapted, images), fuse(adapted, images, "always")
    assert [name for name, _ in least.named_modules() if name.endswith("first")] == ["2.first"]
    assert not [name for name, _ in most.named_modules() if name.endswith("first")]
    assert multiply_adds(least, images[:1]) < multiply_adds(most, images[:1])


def test_filters_that_a_batch_norm_nearly_silences_are_still_exact(images: Tensor) -> None:
    network = tiny_cnn()
    with torch.no_grad():
        network.norm.weight[1] = 0
        network.norm.weight[4] = 1e-6
    adapted = trained(network, images)
    assert different(adapted, fuse(adapted, images), images) < 5e-5


def test_a_classifier_needs_no_images_and_stays_one(classifier: Classifier, images: Tensor) -> None:
    fused = fuse(trained(classifier, images))
    assert isinstance(fused, Classifier)
    assert fused.preprocessing == classifier.preprocessing
    plain = fuse(classifier)
    assert norms(plain) == []
    assert different(plain, classifier, images) < 5e-5
    with pytest.raises(InputError, match="give a batch"):
        fuse(classifier.network)


class Awkward(nn.Module):
    """Convolutions whose batch norm must not be folded: read elsewhere, shared, run twice, behind
    an operation, without statistics; and one that a subclass computes otherwise."""

    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, self.weight / self.weight.norm(), self.bias, padding=1)

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.shared_a, self.shared_b, self.again, self.behind, self.blind = (
            nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(6)
        )
        self.doubled, self.ends = self.Doubled(3, 3, 3), nn.Conv2d(3, 3, 1)
        self.norm_read, self.norm_shared, self.norm_again, self.norm_behind, self.norm_doubled = (
            nn.BatchNorm2d(3) for _ in range(5)
        )
        self.norm_blind = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.read_twice(x)
        x = self.norm_read(raw) + raw.shape[1] * raw
        x = self.norm_shared(self.shared_a(x)) + self.norm_shared(self.shared_b(x))
        x = self.norm_again(self.again(self.norm_again(self.again(x))))
        x = self.norm_behind(self.behind(x).abs())
        x = self.norm_doubled(self.doubled(self.norm_blind(self.blind(x))))
        return self.ends(x).mean((2, 3))


def test_what_cannot_be_folded_exactly_stays() -> None:
    network = Awkward().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
    images = torch.rand(4, 3, 8, 8)
    seen = trace(network, images)
    assert dict(seen.norms) == {"blind": "norm_blind", "doubled": "norm_doubled"}
    fused = fuse(network, images)
    assert len(norms(fused)) == 6
    assert different(network, fused, images) < 5e-5
    sites = ("read_twice", "shared_a", "behind", "blind", "doubled", "ends")
    adapted = correct(network, {site: [0, 2] for site in sites}, unit={"start": "he"})
    assert different(adapted, fuse(adapted, images), images) < 1e-4
    always = fuse(adapted, images, "always")
    assert different(adapted, always, images) < 1e-4
    assert type(always.get_submodule("doubled")).__name__ == "FollowedSite"


def test_linear_sites_keep_their_module_too(images: Tensor) -> None:
    """Channels last, as in a ConvNeXt's blocks."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.up = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.stem(x).permute(0, 2, 3, 1)).relu().mean((1, 2))

    adapted = correct(
        Last().eval(), {"stem": [0, 2], "up": [1, 2, 5]}, unit={"kind": "full", "start": "he"}
    )
    assert different(adapted, fuse(adapted, images), images) < 5e-5


def test_a_batch_norm_that_is_a_site_is_folded_before_its_unit(
    network: TinyCNN, images: Tensor
) -> None:
    adapted = correct(network, {"norm": [0, 3]}, unit={"kind": "full", "start": "he"})
    fused = fuse(adapted, images)
    assert different(adapted, fused, images) < 5e-5
    assert norms(fused) == []


@pytest.mark.parametrize(
    ("build", "side"), [(CifarResNet20, 32), (CifarAllCNN, 32), (AlexNet, 227)]
)
def test_built_in_networks_fuse(build: type[nn.Module], side: int) -> None:
    network = build().eval()
    preprocessing = Preprocessing(side, (0.5,) * 3, (0.25,) * 3)
    model = Classifier(network, preprocessing)
    chosen = {n: range(0, c.out_channels, 4) for n, c in convolutions(model).items()}
    adapted = correct(model, chosen, unit={"kind": "cifar", "width": 8, "start": "he"})
    fused = fuse(adapted)
    assert norms(fused) == []
    images = torch.rand(2, 3, side, side)
    assert different(adapted, fused, images) < 1e-4


def test_the_sum_of_a_block_is_corrected_and_so_is_a_convolution_inside() -> None:
    network = CifarResNet20().eval()
    images = torch.rand(3, 3, 32, 32)
    filters = {"conv1": [0, 3], "layer1.0": [2, 5, 7], "layer2.0": range(32), "layer2.0.conv1": [1]}
    adapted = correct(network, filters, unit={"kind": "bottleneck", "start": "he"})
    fused = fuse(adapted, images)
    assert norms(fused) == []
    assert different(adapted, fused, images) < 5e-5
    assert different(network, fused, images) > 1e-3


def test_a_fused_network_can_be_trained_through(network: TinyCNN, images: Tensor) -> None:
    """For saliency maps and attacks, which need the images' gradients."""
    adapted = trained(network, images)
    fused = fuse(adapted, images, "cheaper")
    wanted, given = (images.clone().requires_grad_() for _ in range(2))
    adapted(wanted).square().sum().backward()
    fused(given).square().sum().backward()
    assert wanted.grad is not None
    assert given.grad is not None
    assert torch.allclose(wanted.grad, given.grad, atol=1e-3)


def test_an_adapter_inside_is_refused(classifier: Classifier, images: Tensor) -> None:
    adapted = trained(classifier.network, images)
    wrapped = Classifier(adapted, Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3))
    with pytest.raises(InputError, match="contains a corrected network"):
        fuse(wrapped)


def test_a_network_that_answers_otherwise_is_refused(images: Tensor) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3)) + torch.rand(len(x), 4).to(x)

    with pytest.raises(InputError, match="logits of the fused network differ"):
        fuse(Random().eval(), images)


def test_torch_compile_takes_the_corrected_and_the_fused_network(images: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)).eval()
    adapted = correct(network, {"0": [1, 2, 6]}, unit={"kind": "full", "start": "he"})
    for model in (adapted, fuse(adapted, images)):
        # needs no C++ compiler; benchmarks/deployment/latency.py takes the default backend
        compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            assert torch.allclose(compiled(images), adapted(images), atol=1e-5)
    with torch.no_grad(), adapted.disable_adapter():
        assert torch.equal(adapted(images), network(images))


def test_a_network_may_ask_a_fused_convolution_for_its_geometry() -> None:
    class Padding(nn.Module):
        """Pads by what its convolution says, as DaViT's stem does."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, stride=2)

        def forward(self, images: Tensor) -> Tensor:
            height, width = (size // 2 for size in self.conv.kernel_size)
            maps = self.conv(F.pad(images, (width, width, height, height)))
            assert self.conv.stride == (2, 2)
            return maps.mean((2, 3))

    adapted = correct(Padding().eval(), {"conv": [0, 2, 5]}, unit={"start": "he"})
    images = torch.rand(2, 3, 9, 9)
    fused = fuse(adapted, images)
    assert torch.allclose(fused(images), adapted(images), atol=1e-4)
