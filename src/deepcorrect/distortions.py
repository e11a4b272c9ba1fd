"""Image distortions on tensors: a registry of kinds, and a grid of levels for each.

Every distortion takes float images in [0, 1], N x C x H x W, on any device, before
normalisation, with one level for all or one a image, and an explicit generator.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcorrect.errors import InputError, unknown

Function = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]

SMALL_INPUT = 128  # pixels; below it the CIFAR grids of levels apply, from it on the ImageNet ones


@dataclass(frozen=True)
class Kind:
    """A registered kind of distortion.

    Attributes:
        name: how specs call it.
        function: (images, levels of shape (N,), generator) -> images of the same shape.
        unit: what a level means.
        small_levels: the paper's grid for inputs under 128 pixels (CIFAR-100).
        large_levels: the paper's grid for larger inputs (ImageNet).
        source: where the definition comes from.
        random: whether a generator is drawn from.
    """

    name: str
    function: Function
    unit: str
    small_levels: tuple[float, ...]
    large_levels: tuple[float, ...]
    source: str
    random: bool


KINDS: dict[str, Kind] = {}


def register(
    name: str,
    *,
    unit: str,
    small_levels: tuple[float, ...],
    large_levels: tuple[float, ...],
    source: str,
    random: bool,
) -> Callable[[Function], Function]:
    """Adds a function to `KINDS` under `name`; see `Kind` for the arguments."""

    def add(function: Function) -> Function:
        KINDS[name] = Kind(name, function, unit, small_levels, large_levels, source, random)
        return function

    return add


@dataclass(frozen=True)
class Distortion:
    """A kind of distortion, its grid of levels, and how its output is stored.

    Args:
        name: a registered kind.
        levels: the levels to measure and train at; None takes the paper's grid for the input size.
        clip: clamp the result to [0, 1], as a camera does. The paper does not.
        quantize: clamp and round to 8 bits (multiples of 1/255).

    Raises:
        InputError: no such kind, no level, or a negative one.
    """

    name: str
    levels: tuple[float, ...] | None = None
    clip: bool = False
    quantize: bool = False

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise unknown("distortion", self.name, KINDS)
        if self.levels is None:
            return
        if not self.levels:
            raise InputError(f"distortion {self.name!r} has an empty list of levels")
        for level in self.levels:
            if not 0 <= level < float("inf"):
                raise InputError(
                    f"level {level} of {self.name!r} is not a number from 0 up "
                    f"({KINDS[self.name].unit})"
                )
        if len(set(self.levels)) != len(self.levels):
            raise InputError(f"distortion {self.name!r} names a level twice: {self.levels}")

    @classmethod
    def parse(cls, spec: str | Distortion) -> Distortion:
        """Reads `NAME`, `NAME:LEVEL,LEVEL` or `NAME:LEVELS:OPTION,OPTION`.

        Options are `clip` and `quantize`; an empty LEVELS takes the grid (`awgn::quantize`).

        Raises:
            InputError: the name, a level or an option is not accepted.
        """
        if isinstance(spec, Distortion):
            return spec
        name, _, rest = spec.partition(":")
        levels_text, _, options_text = rest.partition(":")
        if name not in KINDS:
            raise unknown("distortion", name, KINDS)
        try:
            levels = tuple(float(text) for text in levels_text.split(",")) if levels_text else None
        except ValueError:
            raise InputError(
                f"levels {levels_text!r} of {name!r} are not numbers between commas, "
                f"such as {name}:{','.join(f'{level:g}' for level in KINDS[name].small_levels)}"
            ) from None
        options = [text for text in options_text.split(",") if text]
        for option in options:
            if option not in ("clip", "quantize"):
                raise unknown("distortion option", option, ("clip", "quantize"))
        return cls(name, levels, clip="clip" in options, quantize="quantize" in options)

    @property
    def random(self) -> bool:
        """Whether it needs a generator."""
        return KINDS[self.name].random

    def for_size(self, pixels: int) -> Distortion:
        """This distortion with its levels filled in from the grid that suits `pixels` inputs."""
        if self.levels is not None:
            return self
        kind = KINDS[self.name]
        levels = kind.small_levels if pixels < SMALL_INPUT else kind.large_levels
        return dataclasses.replace(self, levels=levels)

    def __call__(
        self, images: Tensor, level: float | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Distorts a batch.

        Args:
            images: floats in [0, 1], N x C x H x W, any device.
            level: one level for all images, or a tensor of N of them.
            generator: source of randomness. Images draw from it in order, so a batch cut in two
                gives the same result from the same CPU generator. With a CPU generator the result
                does not depend on the images' device either.

        Returns:
            The distorted images: same shape, device and type.

        Raises:
            InputError: the shape, the type, the level or the generator does not fit.
        """
        if images.dim() != 4 or not images.is_floating_point():
            raise InputError(
                f"distortions act on float images N x C x H x W in [0, 1], "
                f"not on a {images.dtype} tensor of shape {tuple(images.shape)}"
            )
        levels = torch.as_tensor(level, dtype=torch.float32, device=images.device)
        if levels.dim() == 0:
            levels = levels.expand(len(images))
        if levels.shape != (len(images),):
            raise InputError(
                f"level has shape {tuple(levels.shape)}: give one number, or one a image "
                f"({len(images)} here)"
            )
        kind = KINDS[self.name]
        if not bool((levels >= 0).all()):
            raise InputError(
                f"level {float(levels.min()):g} of {self.name!r} is not a number from 0 up "
                f"({kind.unit})"
            )
        if kind.random and generator is None:
            raise InputError(
                f"distortion {self.name!r} is random: give a torch.Generator, "
                "such as torch.Generator().manual_seed(0)"
            )
        result = kind.function(images.float(), levels, generator)
        if self.clip or self.quantize:
            result = result.clamp(0, 1)
        if self.quantize:
            result = (result * 255).round() / 255
        return result.to(images.dtype)


def parse_all(
    specs: Sequence[str | Distortion] | str | Distortion, pixels: int
) -> tuple[Distortion, ...]:
    """Reads several specs, with the levels that suit inputs of `pixels` filled in.

    Raises:
        InputError: a spec is not accepted, there is none, or a kind stands twice.
    """
    if isinstance(specs, str | Distortion):
        specs = [specs]
    distortions = tuple(Distortion.parse(spec).for_size(pixels) for spec in specs)
    names = [distortion.name for distortion in distortions]
    if not names:
        raise InputError(f"no distortion is named. Accepted: {', '.join(KINDS)}")
    if len(set(names)) != len(names):
        raise InputError(f"a distortion is named twice: {', '.join(names)}")
    return distortions


def generator_for(*parts: int | str | float) -> torch.Generator:
    """A CPU generator whose seed is a hash of `parts`, the same on every machine.

    A level is the same part whether it is written 5 or 5.0.
    """
    texts = [str(int(p) if isinstance(p, float) and p.is_integer() else p) for p in parts]
    digest = hashlib.sha256("/".join(texts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@register(
    "gaussian_blur",
    unit="standard deviation in pixels",
    small_levels=(0.5, 1, 1.5, 2, 2.5, 3),
    large_levels=(1, 2, 3, 4, 5, 6),
    source="Borkar and Karam 2019, section III",
    random=False,
)
def gaussian_blur(images: Tensor, levels: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gaussian blur with a kernel of 4 sigma + 1 pixels (made odd) and a border of zeros.

    Equal to OpenCV's `GaussianBlur` with `BORDER_CONSTANT`. The filter is separable and linear,
    so it is two products with a banded matrix a image, B_h X B_w^T, which takes every image's
    own sigma in one pass. `generator` is not used.
    """
    del generator
    rows = _blur_matrix(levels, images.shape[-2])
    columns = _blur_matrix(levels, images.shape[-1])
    return rows.unsqueeze(1) @ images @ columns.unsqueeze(1).transpose(-1, -2)


def kernel_size(sigma: Tensor) -> Tensor:
    """The blur's kernel size, 4 sigma + 1, rounded to the nearest odd number of pixels."""
    return 2 * torch.round(2 * sigma) + 1


def _blur_matrix(sigma: Tensor, pixels: int) -> Tensor:
    """Banded matrices, N x pixels x pixels, that blur one axis. Sigma 0 gives the identity."""
    place = torch.arange(pixels, device=sigma.device, dtype=torch.float32)
    distance = (place[:, None] - place[None, :]).abs()
    radius = (kernel_size(sigma) - 1) / 2
    widest = int(radius.max()) if len(sigma) else 0
    taps = torch.arange(-widest, widest + 1, device=sigma.device, dtype=torch.float32).abs()
    safe = sigma.clamp_min(1e-6)[:, None]

    def weight(offset: Tensor) -> Tensor:  # offsets (K,) -> (N, K)
        value = torch.exp(-0.5 * (offset[None] / safe) ** 2)
        return torch.where(offset[None] <= radius[:, None], value, torch.zeros(()).to(value))

    total = weight(taps).sum(1)
    return (weight(distance.flatten()) / total[:, None]).view(-1, pixels, pixels)


@register(
    "awgn",
    unit="standard deviation on the 0-255 scale",
    small_levels=(5, 10, 15, 20, 25, 30),
    large_levels=(10, 20, 40, 60, 80, 100),
    source="Borkar and Karam 2019, section III",
    random=True,
)
def awgn(images: Tensor, levels: Tensor, generator: torch.Generator | None) -> Tensor:
    """Additive white Gaussian noise, independent for every pixel and channel, not clipped."""
    noise = _normal(images, generator)
    return images + noise * (levels / 255).view(-1, 1, 1, 1)


def _normal(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the images' shape, drawn image after image.

    torch's CPU generator fills blocks of 16, so each image draws a multiple of 16: then a batch
    cut in two draws the same numbers.
    """
    count = images[0].numel() if len(images) else 0
    padded = -(-count // 16) * 16
    device = images.device if generator is None else generator.device
    noise = torch.randn(len(images), padded, generator=generator, device=device)
    return noise[:, :count].reshape(images.shape).to(images.device)
