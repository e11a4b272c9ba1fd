"""The shape of a correction unit, the named kinds, and the cost of a unit (paper, section IV)."""

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

WIDEST = 1 << 16
"""The largest number of hidden channels."""


class UnitConfig(BaseModel):
    """The shape of a correction unit.

    Attributes:
        width: The number of hidden channels; None computes it from `width_share`.
        width_share: The number of hidden channels as a multiple of the number of corrected
            filters, above 0 and up to 4.
        width_multiple: The number that the computed number of hidden channels is rounded up to a
            multiple of. Runtimes compute channels in blocks of 8 or 16. It is not in the paper.
        kernel_size: The kernel size k of the k x k stages: 1, 3, 5 or 7.
        dilations: The dilation of each k x k stage; one stage per entry.
        separable: Whether each k x k stage is a 1 x k and a k x 1 convolution (the paper's
            rank-constrained unit).
        depthwise: Whether each k x k stage filters every hidden channel separately. This costs so
            little that the hidden layer can be wider than the corrected filters: an inverted
            bottleneck (Sandler et al. 2018). It is not in the paper.
        norm_first: Whether a batch norm precedes the first convolution.
        affine: Whether the corrected filters get a trained scale and shift after the sum. Before a
            frozen batch norm, this is equivalent to training the norm's weight and bias.
        modulation: The hidden width of a `Modulation`, which computes a scale and a shift of the
            corrected filters for each image; None for no modulation. It is not in the paper.
        hidden_gains: Whether the modulation also computes a gain of each hidden channel after the
            last stage, so that the residual depends on the image's distortion. It is not in the
            paper.
        start: `identity` sets the last convolution to zero, so that an untrained unit changes
            nothing; `he` initialises it as the others (He et al. 2015).

    Example:
        >>> import torch, deepcorrect as dc
        >>> config = dc.UnitConfig(width_share=0.5, dilations=(1, 1, 2))
        >>> unit = dc.CorrectionUnit(64, config)
        >>> [layer.out_channels for layer in unit.residual if isinstance(layer, torch.nn.Conv2d)]
        [32, 32, 32, 32, 64]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int | None = Field(default=None, ge=1, le=WIDEST)
    width_share: float = Field(default=1.0, gt=0, le=4)
    width_multiple: int = Field(default=1, ge=1, le=64)
    kernel_size: Literal[1, 3, 5, 7] = 3
    dilations: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(1, 1), max_length=8)
    separable: bool = False
    depthwise: bool = False
    norm_first: bool = False
    affine: bool = False
    modulation: int | None = Field(default=None, ge=1, le=WIDEST)
    hidden_gains: bool = False
    start: Literal["identity", "he"] = "identity"

    @field_validator("hidden_gains")
    @classmethod
    def _of_a_modulation(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("modulation") is None:
            raise ValueError("hidden_gains need a modulation: set modulation as well")
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


def _dense(position: int) -> UnitConfig:
    del position
    return UnitConfig(width_share=0.25, width_multiple=8, dilations=(1,))


KINDS = {
    "full": _full,
    "bottleneck": _bottleneck,
    "lite": _lite,
    "cifar": _cifar,
    "rank_constrained": lambda position: _full(position, separable=True),
    "inverted": _inverted,
    "dense": _dense,
}
"""Each kind's configuration as a function of the site's position, from 0: the paper's and two more.

full: the paper's "CW", width n, two stages (5 x 5 at the first site). bottleneck: width n/2, three
stages, the last dilated by 2 at the first site. lite: width 128, two stages, the second dilated by
2 at the first two sites. cifar: batch norm first, width 64, trained scale and shift after the sum.
rank_constrained: full with separable stages. inverted, which is not in the paper: width 2n, one
depthwise 5 x 5 stage, trained scale and shift after the sum. dense, which is not in the paper
either: width n/4, rounded up to a multiple of 8, one 3 x 3 stage. Runtimes take the least time for
the multiply-adds of such a unit.
"""

WEIGHTS = "weights"
"""The kind without a unit, whose filters have weights of their own."""

DESCRIPTIONS = {
    WEIGHTS: "no unit: the filters' own weights are trained, at no cost; not in the paper",
    "full": "the paper's CW unit: as wide as the corrected filters, two k x k stages",
    "bottleneck": "half as wide, three 3 x 3 stages",
    "lite": "128 wide, two 3 x 3 stages",
    "cifar": "the paper's CIFAR unit: batch norm first, 64 wide, trained scale and shift after",
    "rank_constrained": "full, with separable 1 x k and k x 1 stages",
    "inverted": "twice as wide as its filters, one depthwise 5 x 5 stage; not in the paper",
    "dense": "8 wide or more, one 3 x 3 stage: the fastest for its size; not in the paper",
}


UnitChoice = str | UnitConfig | Mapping[str, Any]
"""What corrects a site's filters, or each of several sites; see `parts_at`."""


class Parts(NamedTuple):
    """What corrects the filters of a site; at least one of the two.

    Attributes:
        weights: Whether the filters have weights of their own, in place of the network's.
        unit: The unit that corrects the filters' outputs.
    """

    weights: bool
    unit: UnitConfig | None


def parts_at(choice: UnitChoice, site: str, position: int) -> Parts:
    """What corrects the filters of a site.

    Args:
        choice: A kind of unit; `weights`; or `weights+KIND` for both. Or a mapping with such a
            `kind` and the unit's attributes to change. Or a `UnitConfig`. Or a mapping from each
            site's name to one of these.
        site: The site's dotted name.
        position: The position of the site among the corrected sites, from 0 in module order.

    Raises:
        InputError: The kind or an attribute does not exist, a value is not accepted, or a mapping
            from sites lacks this one.
    """
    if isinstance(choice, Mapping) and _names_sites(choice):
        if site not in choice:
            raise unknown("site with a unit", site, choice)
        choice = choice[site]
    options = dict(choice) if isinstance(choice, Mapping) else {"kind": choice}
    kind = str(options.pop("kind", ""))
    if kind == WEIGHTS and options:
        raise InputError(f"unit option {next(iter(options))!r} is not accepted: {WEIGHTS} has none")
    if kind == WEIGHTS:
        return Parts(True, None)
    if kind.startswith(f"{WEIGHTS}+"):
        unit = unit_config({**options, "kind": kind.removeprefix(f"{WEIGHTS}+")}, position)
        return Parts(True, unit)
    return Parts(False, unit_config(choice, position))


def check_unit(choice: UnitChoice) -> None:
    """Checks a choice of units, as far as this is possible without a network.

    Raises:
        InputError: The kind or an attribute does not exist, or a value is not accepted.
    """
    sites = choice if isinstance(choice, Mapping) and _names_sites(choice) else [""]
    for site in sites:
        parts_at(choice, site, 0)


def _names_sites(choice: Mapping[str, Any]) -> bool:
    """Whether a mapping's keys are sites, and not `kind` and attributes of units.

    `start` is the only attribute whose value is a text, as kinds are.
    """
    kinds = all(isinstance(value, str | Mapping | UnitConfig) for value in choice.values())
    return kinds and "kind" not in choice and choice.keys() not in ({"start"}, set())


def unit_config(choice: UnitChoice, position: int) -> UnitConfig:
    """The configuration of the unit at a corrected site.

    Args:
        choice: A kind; or a mapping with a `kind` and the attributes to change; or a configuration,
            which is returned unchanged.
        position: The position of the site among the corrected sites, from 0 in module order.

    Raises:
        InputError: The kind or an attribute does not exist, or a value is not accepted.
    """
    if isinstance(choice, UnitConfig):
        return choice
    changes = {} if isinstance(choice, str) else dict(choice)
    kind = choice if isinstance(choice, str) else str(changes.pop("kind", "full"))
    if kind not in KINDS:
        raise unknown("correction unit", kind, (*DESCRIPTIONS, f"{WEIGHTS}+KIND"))
    try:
        return UnitConfig.model_validate({**KINDS[kind](position).model_dump(), **changes})
    except ValidationError as error:
        where, given, message = first_problem(error)
        raise InputError(
            f"unit option {where}={given!r} is not accepted: {message}. "
            f"Options: {', '.join(UnitConfig.model_fields)}"
        ) from None


def hidden_width(config: UnitConfig, filters: int) -> int:
    """The number of hidden channels of a unit that corrects this number of filters."""
    wanted = max(1, round(filters * config.width_share))
    return config.width or -(-wanted // config.width_multiple) * config.width_multiple


class UnitCosts(NamedTuple):
    """The cost of a unit.

    Attributes:
        parameters: The number of parameters.
        multiply_adds: The multiply-adds of the convolutions per pixel of a map.
        multiply_adds_once: The multiply-adds of the modulation per image.
    """

    parameters: int
    multiply_adds: int
    multiply_adds_once: int


def unit_costs(config: UnitConfig, filters: int) -> UnitCosts:
    """The cost of a `CorrectionUnit` of this shape that corrects this number of filters."""
    width, k = hidden_width(config, filters), config.kernel_size
    stages = len(config.dilations) * (2 if config.separable else 1)
    inputs = 1 if config.depthwise else width  # of each filter of a stage
    stage = width * inputs * k * (1 if config.separable else k)
    weights = 2 * filters * width + stages * stage
    norms = 2 * width * (1 + len(config.dilations)) + (2 * filters if config.norm_first else 0)
    ends = filters + (2 * filters if config.affine else 0)  # the last bias; scale and shift
    hidden = config.modulation or 0
    answers = 2 * filters + (width if config.hidden_gains else 0)
    modulation = hidden * (2 * filters + 1 + answers) + answers if hidden else 0
    return UnitCosts(weights + norms + ends + modulation, weights, (2 * filters + answers) * hidden)


def own_parameters(filters: int, weights: int) -> int:
    """The number of parameters of a `FilterWeights` for filters with so many weights each."""
    return filters * (weights + 2)  # with a scale and a shift
