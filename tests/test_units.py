"""Correction units: the paper's shapes, their parameter counts, and how they start."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcorrect.correction import CorrectionUnit, UnitConfig, correct
from deepcorrect.correction._unit_config import KINDS, unit_config
from deepcorrect.correction._units import _Moments
from deepcorrect.runtime import InputError

MODULATIONS = st.just({}) | st.fixed_dictionaries(
    {"modulation": st.integers(1, 9), "hidden_gains": st.booleans()}
)
"""Of a unit's options, those of its modulation."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def described(unit: CorrectionUnit) -> list[str]:
    """The unit's layers as the paper writes them, such as `conv 3x3 48-48 d2`."""
    lines: list[str] = []
    for layer in unit.residual:
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            dilated = f" d{layer.dilation[0]}" if layer.dilation != (1, 1) else ""
            lines.append(f"conv {height}x{width} {layer.in_channels}-{layer.out_channels}{dilated}")
        else:
            assert isinstance(layer, nn.BatchNorm2d | nn.ReLU)
            lines.append("BN" if isinstance(layer, nn.BatchNorm2d) else "ReLU")
    return lines


def stages(*convolutions: str) -> list[str]:
    """Each convolution but the last is followed by BN and ReLU."""
    *inner, last = (f"conv {text}" for text in convolutions)
    return [line for text in inner for line in (text, "BN", "ReLU")] + [last]


@pytest.mark.parametrize(
    ("kind", "position", "filters", "expected"),
    [
        ("full", 0, 72, stages("1x1 72-72", "5x5 72-72", "5x5 72-72", "1x1 72-72")),
        ("full", 1, 192, stages("1x1 192-192", "3x3 192-192", "3x3 192-192", "1x1 192-192")),
        (
            "bottleneck",
            0,
            72,
            stages("1x1 72-36", "3x3 36-36", "3x3 36-36", "3x3 36-36 d2", "1x1 36-72"),
        ),
        (
            "bottleneck",
            3,
            192,
            stages("1x1 192-96", "3x3 96-96", "3x3 96-96", "3x3 96-96", "1x1 96-192"),
        ),
        ("lite", 0, 72, stages("1x1 72-128", "3x3 128-128", "3x3 128-128 d2", "1x1 128-72")),
        ("lite", 1, 192, stages("1x1 192-128", "3x3 128-128", "3x3 128-128 d2", "1x1 128-192")),
        ("lite", 2, 192, stages("1x1 192-128", "3x3 128-128", "3x3 128-128", "1x1 128-192")),
        ("cifar", 0, 48, ["BN", *stages("1x1 48-64", "3x3 64-64", "3x3 64-64", "1x1 64-48")]),
        ("cifar", 4, 96, ["BN", *stages("1x1 96-64", "3x3 64-64", "3x3 64-64", "1x1 64-96")]),
    ],
)
def test_units_are_the_papers(kind: str, position: int, filters: int, expected: list[str]) -> None:
    assert described(CorrectionUnit(filters, unit_config(kind, position))) == expected


@pytest.mark.parametrize(("position", "k"), [(0, 5), (2, 3)])
def test_rank_constrained_replaces_each_stage_by_two_separable_ones(position: int, k: int) -> None:
    unit = CorrectionUnit(10, unit_config("rank_constrained", position))
    pair = [f"conv 1x{k} 10-10", f"conv {k}x1 10-10", "BN", "ReLU"]
    assert described(unit) == ["conv 1x1 10-10", "BN", "ReLU", *pair, *pair, "conv 1x1 10-10"]


@pytest.mark.parametrize(("filters", "width"), [(1, 8), (32, 8), (34, 8), (38, 16), (384, 96)])
def test_a_dense_unit_is_as_wide_as_whole_blocks_of_8(filters: int, width: int) -> None:
    ends = [f"1x1 {filters}-{width}", f"3x3 {width}-{width}", f"1x1 {width}-{filters}"]
    assert described(CorrectionUnit(filters, unit_config("dense", 5))) == stages(*ends)


def test_a_depthwise_stage_filters_each_hidden_channel_by_itself() -> None:
    options = {"width_share": 3, "kernel_size": 5, "dilations": [1], "depthwise": True}
    unit = CorrectionUnit(4, unit_config(options, 1))
    stage = unit.residual[3]
    assert isinstance(stage, nn.Conv2d)
    maps = torch.randn(2, 12, 9, 9, generator=seeded())
    by_hand = [
        torch.nn.functional.conv2d(maps[:, [c]], stage.weight[[c]], padding=2) for c in range(12)
    ]
    torch.testing.assert_close(stage(maps), torch.cat(by_hand, 1))
    assert described(unit)[0] == "conv 1x1 4-12"


def closed_form_parameters(n: int, config: UnitConfig) -> int:
    wanted = max(1, round(n * config.width_share)) / config.width_multiple
    width = config.width or math.ceil(wanted) * config.width_multiple
    k = config.kernel_size
    read = 1 if config.depthwise else width
    stage = width * read * (2 * k if config.separable else k * k) + 2 * width
    first = n * width + 2 * width + (2 * n if config.norm_first else 0)
    last = width * n + n + (2 * n if config.affine else 0)
    if config.modulation:
        answers = 2 * n + config.hidden_gains * width
        last += (2 * n + 1) * config.modulation + (config.modulation + 1) * answers
    return first + len(config.dilations) * stage + last


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 24),
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    MODULATIONS,
)
def test_parameters_are_the_closed_form(
    n: int,
    kind: str,
    position: int,
    separable: bool,
    depthwise: bool,
    modulation: dict[str, Any],
) -> None:
    options = {"kind": kind, "separable": separable, "depthwise": depthwise, **modulation}
    config = unit_config(options, position)
    unit = CorrectionUnit(n, config)
    assert sum(p.numel() for p in unit.parameters()) == closed_form_parameters(n, config)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 2),
    st.booleans(),
    MODULATIONS,
)
def test_an_untrained_unit_is_exactly_the_identity(
    filters: int,
    height: int,
    width: int,
    kind: str,
    position: int,
    training: bool,
    modulation: dict[str, Any],
) -> None:
    maps = torch.randn(2, filters, height, width, generator=seeded()) * 10
    config = unit_config({"kind": kind, **modulation}, position)
    unit = CorrectionUnit(filters, config, seeded(1)).train(training)
    assert torch.equal(unit(maps), maps)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([1, 3, 5, 7]),
    st.lists(st.integers(1, 3), max_size=3),
    st.booleans(),
    st.booleans(),
    st.integers(1, 8),
)
def test_every_shape_keeps_the_maps_size(
    kernel: int, dilations: list[int], separable: bool, depthwise: bool, size: int
) -> None:
    config = UnitConfig.model_validate(
        {
            "kernel_size": kernel,
            "dilations": tuple(dilations),
            "separable": separable,
            "depthwise": depthwise,
            "start": "he",
        }
    )
    maps = torch.randn(2, 4, size, size + 1)
    assert CorrectionUnit(4, config).eval()(maps).shape == maps.shape


def test_he_start_draws_the_last_convolution_too() -> None:
    config = unit_config({"kind": "full", "start": "he"}, 1)
    unit = CorrectionUnit(64, config, seeded()).eval()
    maps = torch.randn(2, 64, 5, 5)
    assert not torch.allclose(unit(maps), maps)
    for layer in unit.residual:
        if isinstance(layer, nn.Conv2d):  # He et al. 2015: variance 2 / fan-in
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)


def test_initial_weights_are_the_generators() -> None:
    config = unit_config("full", 0)
    first, same, other = (CorrectionUnit(4, config, seeded(s)).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["residual.0.weight"], other["residual.0.weight"])


def test_the_residual_is_added_to_what_was_read() -> None:
    unit = CorrectionUnit(3, unit_config({"kind": "full", "start": "he"}, 1), seeded()).eval()
    maps = torch.randn(2, 3, 6, 6)
    assert torch.equal(unit(maps), maps + unit.residual(maps))


def test_affine_is_the_weight_and_bias_of_the_batch_norm_behind() -> None:
    """A scale and shift before a frozen norm reach what training its weight and bias reaches."""
    network = tiny_cnn()
    images = torch.rand(4, 3, 16, 16)
    norm = network.norm
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    weight, bias = torch.rand(8) + 0.5, torch.randn(8)
    adapted = correct(network, {"stem": range(8)}, unit={"kind": "full", "affine": True})
    unit = adapted.units["stem"]
    assert isinstance(unit, CorrectionUnit)
    assert unit.scale is not None
    assert unit.shift is not None
    deviation = (var + norm.eps).sqrt()
    with torch.no_grad():
        scale = weight / norm.weight  # w (x - m) / d + b  =  w0 (s x + t - m) / d + b0
        shift = mean * (1 - scale) + (bias - norm.bias) * deviation / norm.weight
        unit.scale.copy_(scale.view_as(unit.scale))
        unit.shift.copy_(shift.view_as(unit.shift))
        corrected = adapted(images)
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
        assert torch.allclose(corrected, network(images), atol=1e-4)


@pytest.mark.parametrize("hidden_gains", [False, True])
@pytest.mark.parametrize("kind", ["full", "cifar"])
def test_modulation_is_by_the_maps_own_means_and_deviations(kind: str, hidden_gains: bool) -> None:
    """Against the same in float64, image by image, with NumPy."""
    options = {"kind": kind, "start": "he", "modulation": 4, "hidden_gains": hidden_gains}
    unit = CorrectionUnit(3, unit_config(options, 1), seeded()).eval()
    part = unit.modulation
    assert part is not None
    mean, var = part.norm.running_mean, part.norm.running_var
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        mean.copy_(torch.randn(6))
        var.copy_(torch.rand(6) + 0.5)
        for layer in (part.hidden, part.last):
            layer.weight.normal_()
            layer.bias.normal_()
    maps = torch.randn(2, 3, 6, 5) * 3 + 1
    first, last = (
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in (part.hidden, part.last)
    )
    given = unit(maps).detach().double().numpy()
    hidden = unit.residual[:-1](maps).detach().double().numpy()
    back = unit.residual[-1]
    assert isinstance(back, nn.Conv2d)
    assert back.bias is not None
    back, bias = (part.detach().double().squeeze().numpy() for part in (back.weight, back.bias))
    for image in range(2):
        pixels = maps[image].double().numpy().reshape(3, -1)
        read = np.concatenate([pixels.mean(1), pixels.std(1)])
        read = (read - mean.double().numpy()) / np.sqrt(var.double().numpy() + part.norm.eps)
        answer = last[0] @ np.maximum(first[0] @ read + first[1], 0) + last[1]
        scale, shift, gains = np.split(answer[:, None, None], [3, 6])
        assert len(gains) == hidden_gains * len(hidden[image])
        gained = hidden[image] * (1 + gains) if hidden_gains else hidden[image]
        residual = np.einsum("nw,whx->nhx", back, gained) + bias[:, None, None]
        expected = (maps[image].double().numpy() + residual) * (1 + scale) + shift
        assert given[image] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "modulation", [{}, {"modulation": 3}, {"modulation": 3, "hidden_gains": True}]
)
@pytest.mark.parametrize("kind", list(KINDS))
def test_of_some_filters_the_others_stay_as_they_are(kind: str, modulation: dict[str, Any]) -> None:
    """Against the unit on those filters alone, with autograd's gradients, in training too."""
    choice = {"kind": kind, "affine": True, "start": "he", **modulation}
    unit = CorrectionUnit(3, unit_config(choice, 1), seeded()).double()
    assert unit.scale is not None
    assert unit.shift is not None
    with torch.no_grad():
        for changed in (
            unit.scale,
            unit.shift,
            *([unit.modulation.last.weight] if unit.modulation else []),
        ):
            changed.normal_(1, 0.3, generator=seeded(1))
    filters = torch.tensor([0, 2, 5])
    maps = torch.randn(4, 7, 6, 5, dtype=torch.float64, generator=seeded(2))
    wanted = torch.randn(4, 7, 6, 5, dtype=torch.float64, generator=seeded(3))
    for training in (True, False):
        unit.train(training)
        found = []
        for whole in (True, False):
            read = maps.clone().requires_grad_()
            given = (
                unit(read, filters)
                if whole
                else read.index_copy(1, filters, unit(read[:, filters]))
            )
            unit.zero_grad()
            (given * wanted).sum().backward()
            gradients = [read.grad, *(p.grad for p in unit.parameters())]
            found.append([given.detach(), *(g for g in gradients if g is not None)])
        for one, other in zip(*found, strict=True):
            assert torch.allclose(one, other)
        assert torch.equal(found[0][0][:, [1, 3, 4, 6]], maps[:, [1, 3, 4, 6]])


def test_the_gradient_of_a_modulations_moments_is_autograds() -> None:
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True, generator=seeded())
    assert torch.autograd.gradcheck(_Moments.apply, maps)  # pyright: ignore[reportPrivateUsage]


def test_scale_and_shift_are_not_weights_for_decay_and_l1() -> None:
    """Penalties act on parameters with more than one dimension: a decayed scale would silence
    the filter instead of the correction."""
    unit = CorrectionUnit(4, unit_config("cifar", 0))
    penalised = {name for name, p in unit.named_parameters() if p.dim() > 1}
    assert penalised == {name for name, p in unit.named_parameters() if p.dim() == 4}


# --- choosing


def test_a_choice_is_a_kind_a_mapping_or_a_configuration() -> None:
    own = UnitConfig(width=7)
    assert unit_config(own, 3) is own
    assert unit_config({"kind": "lite", "width": 32}, 1) == UnitConfig(width=32, dilations=(1, 2))
    assert unit_config({"separable": True}, 1) == unit_config("rank_constrained", 1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("bottelneck", "unknown correction unit 'bottelneck', did you mean 'bottleneck'"),
        ({"kind": "nothing"}, "unknown correction unit 'nothing'"),
        ({"kind": "full", "kernel": 3}, "unit option kernel=3 is not accepted.*Options: width"),
        ({"kernel_size": 4}, "unit option kernel_size=4 is not accepted"),
        ({"width": 0}, "unit option width=0 is not accepted"),
        ({"width_share": 0}, "unit option width_share=0 is not accepted"),
        ({"start": "zero"}, "unit option start='zero' is not accepted"),
        ({"hidden_gains": True}, "unit option hidden_gains=True .*: set modulation as well"),
    ],
)
def test_bad_choices_say_what_is_wrong(choice: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unit_config(choice, 0)


@pytest.mark.parametrize("dilation", [0, -1])
def test_a_dilation_is_at_least_one(dilation: int) -> None:
    with pytest.raises(InputError, match="unit option dilations"):
        unit_config({"dilations": (1, dilation)}, 0)


def test_half_precision_maps_are_corrected_in_their_own_type() -> None:
    maps: Tensor = torch.randn(1, 4, 5, 5, dtype=torch.bfloat16)
    unit = CorrectionUnit(4, unit_config("cifar", 0)).to(torch.bfloat16).eval()
    assert torch.equal(unit(maps), maps)
