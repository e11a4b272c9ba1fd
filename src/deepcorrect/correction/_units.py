"""Correction units: small residual stacks that read ranked filters' outputs (paper, section IV).

A unit maps N x n x H x W to a residual of the same shape, n being the number of corrected
filters. The adapter adds it to what it read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from torch import Tensor, nn

from deepcorrect.runtime import InputError, first_problem, unknown


class UnitConfig(BaseModel):
    """The shape of a correction unit.

    Attributes:
        width: hidden channels; None takes `width_share` of the corrected filters.
        width_share: hidden channels as a share of the corrected filters.
        kernel_size: of the k x k stages; odd.
        dilations: one k x k stage for each entry.
        separable: each k x k stage is a 1 x k and a k x 1 convolution (rank-constrained).
        depthwise: each k x k stage filters every hidden channel by itself, which costs so little
            that the hidden layer can be wider than the corrected filters: an inverted bottleneck
            (Sandler et al. 2018). Not the paper's.
        norm_first: a batch norm before the first convolution.
        affine: the corrected filters, behind the sum, get a trained scale and shift each. Before
            a frozen batch norm this is the same as training that norm's weight and bias.
        modulation: hidden width of a `Modulation`, which gives the corrected filters a scale and a
            shift for each image, by how badly it is distorted; None for none. Not the paper's.
        hidden_gains: the modulation gives each hidden channel, too, a gain behind the last stage,
            so that an image's residual is made by what serves its distortion.
        start: `identity` sets the last convolution to zero, so that an untrained unit changes
            nothing; `he` draws it as the others (He et al. 2015).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int | None = Field(default=None, ge=1)
    width_share: float = Field(default=1.0, gt=0, le=4)
    kernel_size: Literal[1, 3, 5, 7] = 3
    dilations: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 1), max_length=8)
    separable: bool = False
    depthwise: bool = False
    norm_first: bool = False
    affine: bool = False
    modulation: int | None = Field(default=None, ge=1)
    hidden_gains: bool = False
    start: Literal["identity", "he"] = "identity"

    @field_validator("hidden_gains")
    @classmethod
    def _of_a_modulation(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("modulation") is None:
            raise ValueError("a modulation gives the gains: give modulation, too")
        return value


def _full(position: int, share: float = 1.0, separable: bool = False) -> UnitConfig:
    return UnitConfig(
        width_share=share,
        kernel_size=5 if position == 0 else 3,
        separable=separable,
    )


def _bottleneck(position: int) -> UnitConfig:
    return UnitConfig(width_share=0.5, dilations=(1, 1, 2) if position == 0 else (1, 1, 1))


def _lite(position: int) -> UnitConfig:
    return UnitConfig(width=128, dilations=(1, 2) if position <= 1 else (1, 1))


def _cifar(position: int) -> UnitConfig:
    del position
    return UnitConfig(width=64, norm_first=True, affine=True)


def _inverted(position: int) -> UnitConfig:
    del position
    return UnitConfig(width_share=2.0, kernel_size=5, dilations=(1,), depthwise=True, affine=True)


KINDS = {
    "full": _full,
    "bottleneck": _bottleneck,
    "lite": _lite,
    "cifar": _cifar,
    "rank_constrained": lambda position: _full(position, separable=True),
    "inverted": _inverted,
}
"""The paper's units, and one of ours: a name, and the configuration at the site's position, from 0.

full: "CW", width n, two stages (5 x 5 at the first site). bottleneck: width n/2, three stages, the
last dilated by 2 at the first site. lite: width 128, the second stage dilated by 2 at the first two
sites. cifar: batch norm first, width 64, trainable scale and shift behind the sum.
rank_constrained: full with separable stages. inverted, not the paper's: twice as wide as what it
corrects, one depthwise 5 x 5 stage, trainable scale and shift.
"""

DESCRIPTIONS = {
    "full": "the paper's CW unit: as wide as the corrected filters, two k x k stages",
    "bottleneck": "half as wide, three 3 x 3 stages",
    "lite": "128 wide, two 3 x 3 stages",
    "cifar": "the paper's CIFAR unit: batch norm first, 64 wide, trained scale and shift behind",
    "rank_constrained": "full, with separable 1 x k and k x 1 stages",
    "inverted": "twice as wide as its filters, one depthwise 5 x 5 stage; not the paper's",
}


UnitChoice = str | UnitConfig | Mapping[str, Any]


def unit_config(choice: UnitChoice, position: int) -> UnitConfig:
    """The configuration of a unit at the network's site number `position`, from 0.

    Args:
        choice: a kind; or a mapping with a `kind` and the attributes to change; or a configuration,
            which is returned as it is.
        position: place of the site among the corrected ones, first to run first.

    Raises:
        InputError: no such kind, no such attribute, or a value that is not accepted.
    """
    if isinstance(choice, UnitConfig):
        return choice
    changes = {} if isinstance(choice, str) else dict(choice)
    kind = choice if isinstance(choice, str) else str(changes.pop("kind", "full"))
    if kind not in KINDS:
        raise unknown("correction unit", kind, KINDS)
    try:
        return UnitConfig.model_validate({**KINDS[kind](position).model_dump(), **changes})
    except ValidationError as error:
        where, given, message = first_problem(error)
        raise InputError(
            f"unit option {where}={given!r} is not accepted: {message}. "
            f"Options: {', '.join(UnitConfig.model_fields)}"
        ) from None


def hidden_width(config: UnitConfig, filters: int) -> int:
    """Hidden channels of a unit for so many filters."""
    return config.width or max(1, round(filters * config.width_share))


class UnitCosts(NamedTuple):
    """What a unit costs.

    Attributes:
        parameters: trained numbers.
        multiply_adds: of its convolutions, for one pixel of the maps.
        multiply_adds_once: of its modulation, for one image.
    """

    parameters: int
    multiply_adds: int
    multiply_adds_once: int


def unit_costs(config: UnitConfig, filters: int) -> UnitCosts:
    """What a `CorrectionUnit` of this shape for so many filters costs."""
    width, k = hidden_width(config, filters), config.kernel_size
    stages = len(config.dilations) * (2 if config.separable else 1)
    seen = 1 if config.depthwise else width  # by each filter of a stage
    stage = width * seen * k * (1 if config.separable else k)
    weights = 2 * filters * width + stages * stage
    norms = 2 * width * (1 + len(config.dilations)) + (2 * filters if config.norm_first else 0)
    ends = filters + (2 * filters if config.affine else 0)  # the last bias; scale and shift
    hidden = config.modulation or 0
    answers = 2 * filters + (width if config.hidden_gains else 0)
    modulation = hidden * (2 * filters + 1 + answers) + answers if hidden else 0
    return UnitCosts(weights + norms + ends + modulation, weights, (2 * filters + answers) * hidden)


class _RecomputedOnce(nn.Module):
    """A batch norm whose statistics follow each batch once.

    Activation checkpointing runs a forward pass again in the backward pass; there the statistics
    stay, so that a checkpointed network trains as it would without.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        """As the batch norm."""
        in_backward = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not (self.training and in_backward):
            return super().forward(input)
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(input, mean, variance, self.weight, self.bias, True, 0.0, self.eps)


class UnitNorm1d(_RecomputedOnce, nn.BatchNorm1d):
    """The batch norm of a modulation."""


class UnitNorm2d(_RecomputedOnce, nn.BatchNorm2d):
    """The batch norm of a unit."""


class Modulation(nn.Module):
    """A scale and a shift for each map of each image, and gains for a unit's hidden channels.

    Blur lowers and noise raises the deviations of the maps behind an edge detector, so the means
    and deviations of an image's maps say how it is distorted, and how badly. A perceptron with one
    hidden layer reads them, as a squeeze-and-excitation block does (Hu et al. 2018), and answers
    with a feature-wise linear modulation (Perez et al. 2018), at first the identity.

    Args:
        filters: number of maps, n.
        hidden: the perceptron's hidden width.
        gains: number of hidden channels that get a gain.
        generator: draws the He-initialised weights of the hidden layer.
    """

    def __init__(
        self, filters: int, hidden: int, gains: int = 0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.answers = [filters, filters, *([gains] if gains else [])]
        self.norm = UnitNorm1d(2 * filters, affine=False)
        self.hidden = nn.Linear(2 * filters, hidden)
        self.last = nn.Linear(hidden, sum(self.answers))
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu", generator=generator)
        for zero in (self.hidden.bias, self.last.weight, self.last.bias):
            nn.init.zeros_(zero)

    def forward(self, maps: Tensor, filters: Tensor | None = None) -> tuple[Tensor, ...]:
        """What to add to a scale of 1, and a shift, each N x n x 1 x 1, of N x n x H x W maps; with
        `filters`, of these of the maps alone. With gains, what to add to gains of 1, too."""
        means, squares = _Moments.apply(maps) if self.training else _moments(maps)
        if filters is not None:
            means, squares = means[:, filters], squares[:, filters]
        # maps are not so far from zero that it cancels
        deviations = ((squares - means * means).clamp_min(0) + self.norm.eps).sqrt()
        hidden = torch.relu(self.hidden(self.norm(torch.cat([means, deviations], 1))))
        return self.last(hidden)[:, :, None, None].split(self.answers, dim=1)


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each map of each image, N x C, in float32 at least."""
    wide = maps.float() if maps.dtype in (torch.bfloat16, torch.float16) else maps
    return wide.mean((2, 3)), (wide * wide).mean((2, 3))


class _Moments(torch.autograd.Function):
    """`_moments` with a gradient of one pass over the maps, in their type: autograd's takes five
    in float32."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(maps)
        return _moments(maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        means, squares = (
            (each[:, :, None, None] / maps[0, 0].numel()).to(maps.dtype) for each in gradients
        )
        return torch.addcmul(means, maps, squares, value=2)


class Depthwise(nn.Conv2d):
    """A convolution that filters each channel by itself, trained in float32 on a CPU.

    There, oneDNN's gradient of a depthwise 5 x 5 convolution in bfloat16 takes four times as long
    as float32's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Conv2d`; under autocast the result has autocast's type."""
        on_cpu = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (on_cpu and torch.is_grad_enabled()):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            wide = input.float().contiguous(memory_format=torch.channels_last)
            return super().forward(wide).to(torch.get_autocast_dtype("cpu"))


class CorrectionUnit(nn.Module):
    """1x1 convolution, batch norm, ReLU; k x k stages likewise; a linear 1x1 convolution back.

    Args:
        filters: number of corrected filters, n.
        config: its shape.
        generator: draws the He-initialised weights (He et al. 2015, fan-in).
    """

    def __init__(
        self, filters: int, config: UnitConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.filters = filters
        width = hidden_width(config, filters)
        layers: list[nn.Module] = [UnitNorm2d(filters)] if config.norm_first else []
        layers += [nn.Conv2d(filters, width, 1, bias=False), UnitNorm2d(width), nn.ReLU()]
        k = config.kernel_size
        for dilation in config.dilations:
            shapes = [(1, k), (k, 1)] if config.separable else [(k, k)]
            for shape in shapes:
                padding = ((shape[0] - 1) // 2 * dilation, (shape[1] - 1) // 2 * dilation)
                kind, groups = (Depthwise, width) if config.depthwise else (nn.Conv2d, 1)
                layers.append(kind(width, width, shape, 1, padding, dilation, groups, bias=False))
            layers += [UnitNorm2d(width), nn.ReLU()]
        last = nn.Conv2d(width, filters, 1)
        self.residual = nn.Sequential(*layers, last)
        for module in self.residual.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        with torch.no_grad():
            if last.bias is not None:
                last.bias.zero_()
            if config.start == "identity":
                last.weight.zero_()
        # one dimension, as in a batch norm: weight decay and L1 leave those alone
        self.scale = nn.Parameter(torch.ones(filters)) if config.affine else None
        self.shift = nn.Parameter(torch.zeros(filters)) if config.affine else None
        self.modulation = None
        if config.modulation:
            gains = width if config.hidden_gains else 0
            self.modulation = Modulation(filters, config.modulation, gains, generator)

    def forward(self, maps: Tensor, filters: Tensor | None = None) -> Tensor:
        """The corrected maps: what was read plus the residual (paper, eq. 6).

        Args:
            maps: N x n x H x W; with `filters`, N x C x H x W.
            filters: the n of the C maps that are corrected; the others stay as they are.
        """
        if filters is not None and len(filters) == maps.shape[1]:
            filters = None
        scale, shift = self.scale, self.shift
        if scale is not None and shift is not None:
            scale, shift = scale[:, None, None], shift[:, None, None]
        gains: list[Tensor] = []
        if self.modulation is not None:
            more, offset, *gains = self.modulation(maps, filters)
            scale = 1 + more if scale is None else scale * (1 + more)
            shift = offset if shift is None else shift * (1 + more) + offset
        corrected = maps + self._residual(maps, filters, *gains)
        if scale is not None and shift is not None:
            if filters is not None:
                scale, shift = (
                    spread_out(each, -3, filters, maps.shape[1], fill)
                    for each, fill in ((scale, 1), (shift, 0))
                )
            # in the maps' type: under autocast a float32 scale would make float32 maps
            scale, shift = scale.to(corrected.dtype), shift.to(corrected.dtype)
            corrected = torch.addcmul(shift, corrected, scale)
        return corrected.to(maps.dtype)

    def multiply_adds(self, output: Tensor) -> int:
        """Multiply-adds for one image, given its maps N x C x H x W: those for the filters that are
        corrected, and not of the zeros that it multiplies others by."""
        weights = [layer.weight for layer in self.residual if isinstance(layer, nn.Conv2d)]
        once = [layer.weight for layer in self.modules() if isinstance(layer, nn.Linear)]
        pixels = output[0, 0].numel()
        return pixels * sum(w.numel() for w in weights) + sum(w.numel() for w in once)

    def _residual(
        self, maps: Tensor, filters: Tensor | None, gains: Tensor | None = None
    ) -> Tensor:
        """The residual of all maps, zero for those that are not corrected.

        Taking some maps out and putting them back takes longer than the convolutions of a unit. So
        the first and the last read and write all maps, with weights of zero for the others.
        """
        channels = maps.shape[1]
        first, last = self.residual[0], self.residual[-1]
        if filters is None:
            hidden = first(maps)
        elif isinstance(first, nn.Conv2d):
            hidden = F.conv2d(maps, spread_out(first.weight, 1, filters, channels), first.bias)
        else:  # a batch norm, which sees the corrected alone
            channels_last = maps.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            chosen = maps.index_select(1, filters).contiguous(memory_format=layout)
            hidden = first(chosen)
        hidden = self.residual[1:-1](hidden)
        if gains is not None:
            hidden = hidden * (1 + gains.to(hidden.dtype))
        if filters is None:
            return last(hidden)
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        weight, bias = (spread_out(each, 0, filters, channels) for each in (last.weight, last.bias))
        return F.conv2d(hidden, weight, bias)


def spread_out(
    values: Tensor, dim: int, filters: Tensor, channels: int, fill: float = 0.0
) -> Tensor:
    """Values of some filters as values of all, the others' being `fill`."""
    shape = list(values.shape)
    shape[dim] = channels
    return values.new_full(shape, fill).index_copy(dim, filters, values)
