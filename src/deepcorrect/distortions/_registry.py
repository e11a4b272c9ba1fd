"""The kinds of distortion, and the registry of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._severities import PARAMETERS, SEVERITY_PARAMETERS, Parameters
from deepcorrect.runtime import InputError, unknown

SMALL_INPUT = 128
"""The input size, in pixels, from which ImageNet's grids and parameters apply, not CIFAR's."""

Function = Callable[..., Tensor]
SEVERITIES = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class Kind:
    """A registered kind of distortion.

    Attributes:
        name: Its name in specs.
        function: (images, draws, *arguments) -> images of the same shape. The arguments are the
            level or, for severities, the parameters of that severity.
        summary: One sentence.
        source: Where the definition comes from.
        random: Whether it draws random numbers.
        unit: What a level means.
        small_levels: The grid for inputs under 128 pixels (CIFAR).
        large_levels: The grid for larger inputs (ImageNet).
        severities: The parameters of each severity, by benchmark; None if a level is a number.
        weakest: The level that changes nothing; lower levels are refused.
        strongest: The highest level that is accepted.
        colours: Whether images must be grey or RGB.
        smooth: Whether gradients pass through it.
        clips: Whether `apply` clips the function's values to [0, 1].
        at_once: How many images of 224 x 224 pixels it processes at a time on a CPU.
    """

    name: str
    function: Function
    summary: str
    source: str
    random: bool
    unit: str
    small_levels: tuple[float, ...]
    large_levels: tuple[float, ...]
    severities: Mapping[Parameters, Sequence[tuple[Any, ...]]] | None = None
    weakest: float = 0.0
    strongest: float = float("inf")
    colours: bool = False
    smooth: bool = True
    clips: bool = False
    at_once: int = 8  # the fastest of 2 to 32 for most kinds (measured)

    def arguments(self, level: float, parameters: Parameters) -> tuple[Any, ...]:
        """The arguments of its function at a level."""
        if self.severities is None:
            return (level,)
        return self.severities[parameters][int(level) - 1]

    def apply(
        self,
        images: Tensor,
        draws: Draws,
        level: float,
        parameters: Parameters,
        into: Tensor | None = None,
    ) -> Tensor:
        """Distorts images, N x C x H x W in [0, 1] and float32, at one level.

        Args:
            images: The images.
            draws: The random numbers of these images.
            level: The level.
            parameters: The benchmark whose severities apply.
            into: A tensor to write the result to; None for a new one.
        """
        made = self.function(images, draws, *self.arguments(level, parameters))
        if self.clips:
            return torch.clamp(made, 0, 1, out=into)
        return made if into is None else into.copy_(made)

    def levels(self, parameters: Parameters) -> tuple[float, ...]:
        """The grid of levels that belongs to a benchmark's parameters."""
        return self.small_levels if parameters == "cifar" else self.large_levels

    def check(self, level: float) -> None:
        """Checks a level.

        Raises:
            InputError: The level is not accepted.

        Example:
            >>> from deepcorrect.distortions import kind_of
            >>> kind_of("fog").check(3)
            >>> kind_of("fog").check(6)
            Traceback (most recent call last):
            deepcorrect.runtime._errors.InputError: level 6 of 'fog' is not a whole number from ...
        """
        whole = self.severities is None or float(level).is_integer()
        if self.weakest <= level <= self.strongest and level < float("inf") and whole:
            return
        accepted = "whole number" if self.severities else "number"
        limit = f"from {self.weakest:g} on"
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
validation, the paper's two kinds, and those of cameras and image pipelines."""


def register(
    *,
    unit: str,
    levels: tuple[float, ...],
    large_levels: tuple[float, ...] | None = None,
    source: str,
    **options: Any,
) -> Callable[[Function], Function]:
    """Adds a function to `KINDS` under its own name.

    The first sentence of its docstring is the summary, and it is random if it has an argument
    `draws`.

    Args:
        unit: What a level means.
        levels: The grid of levels.
        large_levels: The grid for inputs from 128 pixels on, if it is another.
        source: Where the definition comes from.
        options: Other attributes of `Kind`.
    """

    def add(function: Function) -> Function:
        random = "draws" in inspect.signature(function).parameters
        KINDS[function.__name__] = Kind(
            name=function.__name__,
            function=function if random else lambda images, _, *given: function(images, *given),
            summary=_first_sentence(function),
            unit=unit,
            small_levels=levels,
            large_levels=large_levels or levels,
            source=source,
            random=random,
            **options,
        )
        return function

    return add


def corruption(**options: Any) -> Callable[[Function], Function]:
    """Registers one of ImageNet-C's corruptions, whose severities are in `SEVERITY_PARAMETERS`."""

    def add(function: Function) -> Function:
        return register(
            unit="severity",
            levels=SEVERITIES,
            source="Hendrycks and Dietterich 2019 (ImageNet-C, CIFAR-C)",
            severities=SEVERITY_PARAMETERS[function.__name__],
            strongest=5.0,
            **options,
        )(function)

    return add


def kind_of(name: str) -> Kind:
    """The kind with a name; `A+B` is A followed by B.

    Raises:
        InputError: There is no such kind.

    Example:
        >>> from deepcorrect.distortions import GROUPS, kind_of
        >>> kind_of("gaussian_blur").unit
        'standard deviation in pixels'
        >>> [name for name in GROUPS["paper"] if kind_of(name).random]
        ['awgn']
        >>> kind_of("gaussian_blur+awgn").summary
        'gaussian_blur, then awgn.'
    """
    if name in KINDS:
        return KINDS[name]
    parts = name.split("+")
    for part in parts:
        if part not in KINDS:
            raise unknown("distortion", part, [*GROUPS, *KINDS])
    return _composed(name, [KINDS[part] for part in parts])


def _composed(name: str, parts: Sequence[Kind]) -> Kind:
    """Several kinds one after the other; level k stands for the k-th level of each one's grid."""

    def function(images: Tensor, draws: Draws, level: float, parameters: Parameters) -> Tensor:
        for part in parts:
            own = part.levels(parameters)[int(level) - 1]
            images = part.apply(images, draws, own, parameters)
        return images

    grids: dict[Parameters, tuple[float, ...]] = {
        size: tuple(float(k + 1) for k in range(min(len(part.levels(size)) for part in parts)))
        for size in PARAMETERS
    }
    return Kind(
        name=name,
        function=function,
        summary=", then ".join(part.name for part in parts) + ".",
        unit="number in each part's grid, from 1",
        small_levels=grids["cifar"],
        large_levels=grids["imagenet"],
        source="; ".join(dict.fromkeys(part.source for part in parts)),
        random=any(part.random for part in parts),
        severities={size: tuple((k, size) for k in grid) for size, grid in grids.items()},
        strongest=min(len(grid) for grid in grids.values()),
        colours=any(part.colours for part in parts),
        smooth=all(part.smooth for part in parts),
        at_once=min(part.at_once for part in parts),
    )


def _first_sentence(function: Function) -> str:
    text = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".") + "."
