"""What is done to a picture: kinds of distortion, one after the other, at one level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepcorrect.distortions import Cell, Distortion, LevelledDistortion, parse_all


@dataclass(frozen=True)
class Setting:
    """A distortion at a level.

    Attributes:
        kinds: Names of kinds of distortion, applied in this order; empty for none. Level k of
            several kinds is the k-th level of each one's grid.
        level: The level, in the unit of the kind. The kind's weakest level changes nothing.
        quantize: Whether the result is clamped and rounded to 8 bits, as a stored picture is.
        seed: The seed of the noise.

    Raises:
        InputError: There is no such kind, or the level or the seed is not accepted.

    Example:
        >>> import torch
        >>> from deepcorrect.explorer import Setting
        >>> setting = Setting(("gaussian_blur", "awgn"), level=2)
        >>> setting.text, setting.levels(pixels=224)
        ('gaussian_blur+awgn:2', (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
        >>> setting.show(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    kinds: tuple[str, ...] = ()
    level: float = 0.0
    quantize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        distortion = self.distortion
        if distortion is not None:
            distortion.kind.check(self.level)

    @property
    def distortion(self) -> Distortion | None:
        """The distortion without a level; None without a kind."""
        if not self.kinds:
            return None
        return Distortion("+".join(self.kinds), quantize=self.quantize)

    @property
    def text(self) -> str:
        """The distortion as the command line names it: `NAME:LEVEL`, or `clean`."""
        return f"{'+'.join(self.kinds)}:{self.level:g}" if self.kinds else "clean"

    @property
    def clean(self) -> bool:
        """Whether it changes nothing."""
        distortion = self.distortion
        return distortion is None or self.level == distortion.kind.weakest

    def levels(self, pixels: int) -> tuple[float, ...]:
        """The grid of levels for inputs of `pixels`; empty without a kind."""
        distortion = self.distortion
        return () if distortion is None else tuple(map(float, distortion.for_size(pixels).levels))

    def only(self, pixels: int) -> LevelledDistortion | None:
        """The distortion with this level alone, for a ranking; None if it changes nothing."""
        distortion = self.distortion
        if distortion is None or self.clean:
            return None
        single = Distortion(distortion.name, (self.level,), quantize=self.quantize)
        return parse_all([single], pixels)[0]

    def show(self, images: Tensor, level: float | None = None, first: int = 0) -> Tensor:
        """The images as the setting changes them, with the noise that an evaluation would give.

        Args:
            images: N x C x H x W in [0, 1].
            level: A level to use instead of the setting's.
            first: The number of the first image, on which its noise depends.
        """
        distortion = self.distortion
        if distortion is None:
            return images
        level = self.level if level is None else level
        cell = Cell(distortion.for_size(min(images.shape[-2:])), level)
        return cell.show(images, self.seed, range(first, first + len(images)))
