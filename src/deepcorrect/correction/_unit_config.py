"""The shape of a correction unit, its kinds by name, and what a unit costs (paper, section IV)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

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

    Example:
        >>> import torch, deepcorrect as dc
        >>> config = dc.UnitConfig(width_share=0.5, dilations=(1, 1, 2))
        >>> unit = dc.CorrectionUnit(64, config)
        >>> [layer.out_channels for layer in unit.residual if isinstance(layer, torch.nn.Conv2d)]
        [32, 32, 32, 32, 64]
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
