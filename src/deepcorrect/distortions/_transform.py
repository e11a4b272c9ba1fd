"""Distortions as a transform: for torchvision's pipelines, data sets and `DataLoader`s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.distortions._distortion import (
    Distortion,
    LevelledDistortion,
    distort_some,
    parse_all,
    ungrouped,
)
from deepcorrect.runtime import InputError

Severities = int | Sequence[int] | None


class Distort(nn.Module):
    """Gives each image a distortion: a transform for `torchvision.transforms.v2` and `DataLoader`s.

    Each image draws its kind with equal probability among those that are named, its level with
    equal probability among the kind's levels, and its noise, all from PyTorch's default generator.
    `torch.manual_seed` therefore repeats the results, and a `DataLoader` gives each of its workers
    other random numbers, in each epoch. Kinds, levels and seeds are drawn on the CPU, the noise of
    images on a GPU there.

    Args:
        distortions: a spec such as `"fog"`, `"awgn:10,20"`, `"imagenet_c"` (a group, which stands
            for all its kinds) or `"defocus_blur+jpeg_compression"`, or a `Distortion`, or a list
            of these.
        severity: from 1, the place in the kind's grid: for ImageNet-C's kinds their severity, for
            the others the first, second, ... of their usual levels at the size of the image.
            A list of places, from which each image draws one; None stands for all levels, or those
            that a spec names.

    Raises:
        InputError: there is no such kind or severity, or `severity` is given for a spec that names
            its levels.

    Example:
        >>> import torch
        >>> from deepcorrect.distortions import Distort
        >>> photo = torch.randint(256, (3, 224, 224), dtype=torch.uint8)
        >>> foggy = Distort("fog", severity=3)(photo)
        >>> foggy.shape, foggy.dtype
        (torch.Size([3, 224, 224]), torch.uint8)
        >>> augment = Distort(["imagenet_c", "gaussian_blur"], severity=range(1, 4))
        >>> augment(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        distortions: str | Distortion | Sequence[str | Distortion],
        severity: Severities = None,
    ) -> None:
        super().__init__()
        self.severity = _places(severity)
        self.distortions = tuple(ungrouped(distortions))
        parse_all(self.distortions, 1)  # refuses an empty list, and a kind that is named twice
        for each in self.distortions:
            if self.severity and each.levels is not None:
                raise InputError(
                    f"severity={severity!r} is given beside {each.name}'s own levels "
                    f"{each.levels}: give one of the two"
                )
            for pixels in (1, 10_000):  # the grids of CIFAR and of ImageNet
                self._levelled(each, pixels)

    def forward(self, images: Tensor, *others: Any) -> Tensor | tuple[Any, ...]:
        """Distorts an image or a batch.

        Args:
            images: C x H x W or N x C x H x W, uint8 or floats in [0, 1], on any device. A
                subclass of tensors such as `tv_tensors.Image` stays what it is.
            others: what a pipeline passes on beside the images, such as labels: returned as given.

        Returns:
            The distorted images, of the same shape, type and device; bytes are clipped and rounded.
            With `others`, a tuple of the images and these.

        Raises:
            InputError: the images have another form, or a kind does not accept them.
        """
        _check(images)
        given = images.as_subclass(Tensor)
        batch = given if given.dim() == 4 else given[None]
        floats = batch / 255 if batch.dtype == torch.uint8 else batch
        pixels = min(batch.shape[-2:])
        levelled = [self._levelled(each, pixels) for each in self.distortions]
        result = distort_some(floats, levelled, 0.0, torch.default_generator)
        if batch.dtype == torch.uint8:
            result = result.clamp(0, 1).mul(255).round().to(torch.uint8)
        result = result.view(images.shape).as_subclass(type(images))
        return (result, *others) if others else result

    def _levelled(self, distortion: Distortion, pixels: int) -> LevelledDistortion:
        """A distortion with the levels to draw from at a size."""
        levelled = distortion.for_size(pixels)
        if not self.severity:
            return levelled
        grid = levelled.levels
        if max(self.severity) > len(grid):
            raise InputError(
                f"severity {max(self.severity)} of {distortion.name!r} is not a whole number from "
                f"1 to {len(grid)}"
            )
        return replace(levelled, levels=tuple(grid[place - 1] for place in self.severity))

    def extra_repr(self) -> str:
        """The kinds and severities, for `print`."""
        names = ", ".join(each.name for each in self.distortions)
        return f"{names}, severity={self.severity}" if self.severity else names


def _places(severity: Severities) -> tuple[int, ...]:
    """The severities as places in a grid, counted from 1; empty if none is given."""
    if severity is None:
        return ()
    places = tuple(severity) if isinstance(severity, Iterable) else (severity,)
    whole = all(isinstance(place, Integral) and not isinstance(place, bool) for place in places)
    if not places or not whole or min(places) < 1 or len(set(places)) != len(places):
        raise InputError(
            f"severity={severity!r} is not a whole number from 1 on, or several different ones"
        )
    return places


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise InputError(
            f"Distort acts on tensors, not on a {type(images).__name__}: put "
            "torchvision.transforms.v2.ToImage() before it, or use deepcorrect.distortions.corrupt "
            "for NumPy arrays"
        )
    accepted = images.dtype == torch.uint8 or images.is_floating_point()
    if images.dim() not in (3, 4) or not accepted:
        raise InputError(
            "Distort acts on images C x H x W or batches N x C x H x W, uint8 or floats in [0, 1], "
            f"not on a {images.dtype} tensor of shape {tuple(images.shape)}"
        )
