"""A fused network with a gate: each image passes one network, in PyTorch and in files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZE, tiny_cnn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, GateConfig
from deepcorrect.deployment import _export
from deepcorrect.deployment._export import onnx_model
from deepcorrect.deployment._gated import GatedNetwork, gated_parts
from deepcorrect.deployment._onnx_gate import compose_gated
from deepcorrect.networks import Classifier, forward_pre_hooks, multiply_adds

FILTERS = {"stem": [1, 4, 6], "depthwise": [0, 7], "pointwise": [2, 3, 11]}
NOISE = GateConfig(kinds=("awgn",), weights=((1.0,) * 38,), biases=(170.0,), false_alarms=0.05)


def gated(classifier: Classifier, unit: Any = None) -> AdaptedModel:
    """A corrected network whose gate takes noise for distorted, and flat images for clean."""
    adapted = dc.correct(classifier, FILTERS, unit=unit or {"kind": "bottleneck", "start": "he"})
    with torch.no_grad():
        for parameter in adapted.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    adapted.set_gate(NOISE)
    return adapted


def batch(kinds: str) -> Tensor:
    """Images by a letter each: noisy or flat."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(len(kinds), 3, SIZE, SIZE, generator=generator)
    noisy = torch.tensor([kind == "n" for kind in kinds])[:, None, None, None]
    return torch.where(noisy, noise, noise.mean((1, 2, 3), keepdim=True))


KINDS = ["n", "f", "nnn", "ffff", "nf", "fnnfffn"]


def expected(adapted: AdaptedModel, kinds: str) -> Tensor:
    """Row by row, from the network alone and from the correction alone."""
    with torch.no_grad():
        alone = adapted.network(batch(kinds))
        with adapted.ungated():
            corrected = adapted(batch(kinds))
    assert not torch.allclose(alone, corrected, atol=1e-3)
    noisy = torch.tensor([kind == "n" for kind in kinds], dtype=torch.bool)
    return torch.where(noisy[:, None], corrected, alone)


@contextmanager
def rows_of(fused: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """The inputs of both branches of a fused network."""
    found: dict[str, list[Tensor]] = {"site": [], "base": []}
    branches = next(each for each in fused.modules() if isinstance(each, GatedNetwork))

    def seen(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module, kwargs
        found[name].append(args[0])

    with forward_pre_hooks({"site": branches.site, "base": branches.base}, seen):
        yield found


@pytest.mark.parametrize("unit", [None, "weights", {"kind": "bottleneck", "modulation": 2}])
@pytest.mark.parametrize("kinds", KINDS)
def test_each_image_passes_one_network(classifier: Classifier, unit: Any, kinds: str) -> None:
    adapted = gated(classifier, unit)
    fused = dc.fuse(adapted)
    for model in (adapted, fused):
        with torch.no_grad():
            given = model(batch(kinds))
        torch.testing.assert_close(given, expected(adapted, kinds), atol=1e-4, rtol=1e-4)
    with rows_of(fused) as rows, torch.no_grad():
        fused(batch(kinds).contiguous(memory_format=torch.channels_last))
    for name, letter in (("site", "n"), ("base", "f")):
        assert sum(map(len, rows[name])) == kinds.count(letter)
        for each in rows[name]:
            assert each.is_contiguous(memory_format=torch.channels_last)


def test_units_behind_a_gate_are_folded_and_equal_tensors_kept_once(
    classifier: Classifier, tmp_path: Path
) -> None:
    adapted = gated(classifier)
    fused, plain = dc.fuse(adapted), dc.fuse(classifier)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with adapted.ungated():
        alone = dc.correct(classifier, FILTERS, unit={"kind": "bottleneck", "start": "he"})
    models = (fused, dc.fuse(alone), plain)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert counts[0] < counts[1] + counts[2]
    image = batch("n")
    assert multiply_adds(fused, image) == multiply_adds(dc.fuse(alone), image)
    save_file(fused.state_dict(), tmp_path / "fused.safetensors")
    again = dc.fuse(gated(classifier))
    again.load_state_dict(load_file(tmp_path / "fused.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(batch("fnn")), fused(batch("fnn")))
        doubled = fused.double()
        assert doubled(batch("fnn").double()).dtype == torch.float64


class Around(nn.Module):
    """A network whose gate stands inside, behind a norm that reads across its border."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.inner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3))
        self.norm = nn.BatchNorm2d(5)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.inner(self.first(images))).mean((2, 3))


def test_a_gate_inside_a_larger_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inner = dc.correct(Around().inner.eval(), {"0": [1, 5], "2": [0, 3]}, unit={"start": "he"})
    inner.set_gate(NOISE)
    inner.save_pretrained(tmp_path / "adapter")
    around = Around().eval()
    around.inner.load_state_dict(inner.network.state_dict())
    adapted = dc.load_adapter(around, tmp_path / "adapter")
    assert adapted.gated_module is around.inner
    images = batch("fnnfffn")
    assert 0 < int(dc.looks_distorted(adapted, images).sum()) < 7
    fused = dc.fuse(adapted, images)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), adapted(images), atol=1e-4, rtol=1e-4)
        dc.export(adapted, tmp_path / "a.pt2", images=images)
        given = dc.load_exported(tmp_path / "a.pt2")(images)
    torch.testing.assert_close(given, adapted(images), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module", params=["bottleneck", "weights"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AdaptedModel, Path]:
    pytest.importorskip("onnxruntime")
    preprocessing = dc.Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    torch.manual_seed(0)
    unit = None if request.param == "bottleneck" else request.param
    adapted = gated(Classifier(tiny_cnn(), preprocessing, "tiny").eval(), unit)
    folder = tmp_path_factory.mktemp("gated")
    for name in ("a.onnx", "a.pt2"):
        dc.export(adapted, folder / name)
    return adapted, folder


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2"])
@pytest.mark.parametrize("kinds", KINDS)
def test_a_file_gives_the_same_for_clean_distorted_and_mixed_batches(
    exported: tuple[AdaptedModel, Path], name: str, kinds: str
) -> None:
    adapted, folder = exported
    given = dc.load_exported(folder / name)(batch(kinds))
    torch.testing.assert_close(given, expected(adapted, kinds), atol=1e-4, rtol=1e-4)


def test_no_images_have_no_logits(exported: tuple[AdaptedModel, Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported[1] / "a.onnx")
    none = np.zeros((0, 3, SIZE, SIZE), np.float32)
    assert session.run(None, {"images": none})[0].shape == (0, 5)


@pytest.mark.parametrize("name", ["b.onnx", "b.pt2"])
def test_a_file_for_one_batch_size(
    exported: tuple[AdaptedModel, Path], name: str, tmp_path: Path
) -> None:
    adapted, _ = exported
    done = dc.export(adapted, tmp_path / name, batch_size=3)
    assert done.images == 12  # among them flat and noisy ones
    run = dc.load_exported(tmp_path / name)
    for kinds in ("nnn", "fff", "fnf"):
        wanted = expected(adapted, kinds)
        torch.testing.assert_close(run(batch(kinds)), wanted, atol=1e-4, rtol=1e-4)


def onnx_parts(adapted: AdaptedModel) -> list[Any]:
    """The gate, the base and the corrected network, each as an ONNX model."""
    parts = gated_parts(dc.fuse(adapted))
    assert parts is not None
    images = batch("nf")
    with torch.no_grad():
        return [
            onnx_model(part, images, True) for part in (parts.gate, parts.base, parts.corrected)
        ]


def test_composed_networks_are_those_that_are_converted_apart(
    exported: tuple[AdaptedModel, Path], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    adapted, folder = exported
    onnx.checker.check_model(onnx.load(folder / "a.onnx"), full_check=True)
    gate, base, corrected = onnx_parts(adapted)
    onnx.save(compose_gated(gate, corrected, base), tmp_path / "exchanged.onnx")
    given = dc.load_exported(tmp_path / "exchanged.onnx")(batch("fnnf"))
    with torch.no_grad(), adapted.ungated():
        both = adapted(batch("fnnf")), adapted.network(batch("fnnf"))
    noisy = torch.tensor([False, True, True, False])[:, None]
    wanted = torch.where(noisy, both[1], both[0])
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)


def test_an_output_without_a_fixed_shape_is_refused_in_onnx(
    exported: tuple[AdaptedModel, Path],
) -> None:
    gate, base, corrected = onnx_parts(exported[0])
    base.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "any"
    with pytest.raises(dc.InputError, match="no fixed shape"):
        compose_gated(gate, base, corrected)


def test_both_networks_must_fit_into_one_file(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = gated(classifier)
    parts = gated_parts(dc.fuse(adapted))
    assert parts is not None
    sizes = [
        sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())
        for part in (parts.base, parts.corrected)
    ]
    monkeypatch.setattr(_export, "LARGEST_ONNX", sum(sizes) - 1)
    with pytest.raises(dc.InputError, match="GB of tensors, but one ONNX file holds at most 2"):
        dc.export(adapted, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
