"""What a kind of distortion is, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from deepcorrect.distortions._random import Draws
from deepcorrect.runtime import InputError, unknown

SMALL_INPUT = 128
"""Pixels: below it the CIFAR grids and parameters apply, from it on the ImageNet ones."""

Parameters = Literal["cifar", "imagenet"]
PARAMETERS: tuple[Parameters, ...] = ("cifar", "imagenet")
Function = Callable[..., Tensor]
SEVERITIES = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class Kind:
    """A registered kind of distortion.

    Attributes:
        name: how specs call it.
        function: (images, draws, *arguments) -> images of the same shape, not clipped unless the
            definition clips. The arguments are the level or, where there are severities, that
            severity's numbers.
        summary: one sentence.
        unit: what a level means.
        small_levels: the grid for inputs under 128 pixels (CIFAR).
        large_levels: the grid for larger inputs (ImageNet).
        source: where the definition comes from.
        random: whether it draws random numbers.
        severities: for kinds whose levels are severities, the numbers of each, by parameter set.
        weakest: the level that changes nothing; lower ones are refused.
        strongest: the highest level accepted.
        colours: whether images must be grey or RGB.
        smooth: whether gradients pass through it.
        at_once: images of 224 x 224 pixels that it is given at a time on a CPU.
    """

    name: str
    function: Function
    summary: str
    unit: str
    small_levels: tuple[float, ...]
    large_levels: tuple[float, ...]
    source: str
    random: bool
    severities: Mapping[Parameters, Sequence[tuple[Any, ...]]] | None = None
    weakest: float = 0.0
    strongest: float = float("inf")
    colours: bool = False
    smooth: bool = True
    at_once: int = 8  # the fastest of 2 to 32 for most (measured)

    def arguments(self, level: float, parameters: Parameters) -> tuple[Any, ...]:
        """What its function takes at a level."""
        if self.severities is None:
            return (level,)
        return self.severities[parameters][int(level) - 1]

    def levels(self, parameters: Parameters) -> tuple[float, ...]:
        """The grid that goes with a parameter set."""
        return self.small_levels if parameters == "cifar" else self.large_levels

    def check(self, level: float) -> None:
        """Raises InputError where a level is not accepted."""
        whole = self.severities is None or float(level).is_integer()
        if self.weakest <= level <= self.strongest and level < float("inf") and whole:
            return
        accepted = "whole number" if self.severities else "number"
        limit = f"from {self.weakest:g} up"
        if self.strongest < float("inf"):
            limit = f"from {self.weakest:g} to {self.strongest:g}"
        raise InputError(
            f"level {level} of {self.name!r} is not a {accepted} {limit} ({self.unit})"
        )


KINDS: dict[str, Kind] = {}

GROUPS: dict[str, tuple[str, ...]] = {
    "imagenet_c": (
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
        "frost",
        "fog",
        "brightness",
        "contrast",
        "elastic_transform",
        "pixelate",
        "jpeg_compression",
    ),
    "imagenet_c_extra": ("speckle_noise", "gaussian_blur_c", "spatter", "saturate"),
    "paper": ("gaussian_blur", "awgn"),
    "camera": (
        "resize",
        "bit_depth",
        "low_light",
        "occlusion",
        "colour_cast",
        "rolling_mixture",
    ),
}
"""Names that stand for several kinds: ImageNet-C's fifteen common corruptions and its four for
validation, the paper's two, and those of cameras and pipelines."""


def register(
    name: str,
    *,
    unit: str,
    small_levels: tuple[float, ...],
    large_levels: tuple[float, ...] | None = None,
    source: str,
    random: bool,
    **options: Any,
) -> Callable[[Function], Function]:
    """Adds a function to `KINDS` under `name`, summed up by its docstring's first sentence.

    See `Kind` for the arguments; one grid serves both sizes where `large_levels` is not given.
    """

    def add(function: Function) -> Function:
        KINDS[name] = Kind(
            name,
            function,
            _first_sentence(function),
            unit,
            small_levels,
            large_levels or small_levels,
            source,
            random,
            **options,
        )
        return function

    return add


def corruption(
    name: str,
    *,
    imagenet: Sequence[tuple[Any, ...]],
    cifar: Sequence[tuple[Any, ...]],
    random: bool = False,
    **options: Any,
) -> Callable[[Function], Function]:
    """Registers one of ImageNet-C's corruptions, with each severity's numbers in each benchmark."""
    return register(
        name,
        unit="severity",
        small_levels=SEVERITIES,
        source="Hendrycks and Dietterich 2019 (ImageNet-C, CIFAR-C)",
        random=random,
        severities={"imagenet": tuple(imagenet), "cifar": tuple(cifar)},
        strongest=5.0,
        **options,
    )


def kind_of(name: str) -> Kind:
    """The kind called `name`; `A+B` is A, then B on its result.

    Raises:
        InputError: there is none.
    """
    if name in KINDS:
        return KINDS[name]
    parts = name.split("+")
    for part in parts:
        if part not in KINDS:
            raise unknown("distortion", part, [*GROUPS, *KINDS])
    return _composed(name, [KINDS[part] for part in parts])


def _composed(name: str, parts: Sequence[Kind]) -> Kind:
    """Several kinds one after the other; level k is the k-th level of each one's grid."""

    def apply(images: Tensor, draws: Draws, level: float, parameters: Parameters) -> Tensor:
        for part in parts:
            at = part.levels(parameters)[int(level) - 1]
            images = part.function(images, draws, *part.arguments(at, parameters))
        return images

    grids: dict[Parameters, tuple[float, ...]] = {
        size: tuple(float(k + 1) for k in range(min(len(part.levels(size)) for part in parts)))
        for size in PARAMETERS
    }
    return Kind(
        name,
        apply,
        ", then ".join(part.name for part in parts) + ".",
        "place in each part's grid, from 1",
        grids["cifar"],
        grids["imagenet"],
        "; ".join(dict.fromkeys(part.source for part in parts)),
        any(part.random for part in parts),
        severities={size: tuple((k, size) for k in grid) for size, grid in grids.items()},
        strongest=min(len(grid) for grid in grids.values()),
        colours=any(part.colours for part in parts),
        smooth=all(part.smooth for part in parts),
        at_once=min(part.at_once for part in parts),
    )


def _first_sentence(function: Function) -> str:
    text = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".") + "."
