"""A distortion with its levels: how it is named in specs, and how it is applied to a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deepcorrect.distortions._filters import tracked
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import (
    GROUPS,
    KINDS,
    PARAMETERS,
    SMALL_INPUT,
    Kind,
    Parameters,
    kind_of,
)
from deepcorrect.runtime import InputError, unknown

OPTIONS = ("clip", "quantize", *PARAMETERS)
IMAGE_VALUES = 3 * 224 * 224


@dataclass(frozen=True)
class Distortion:
    """A kind of distortion, its grid of levels, and how its output is stored.

    Args:
        name: a registered kind, or several joined by plus signs, applied in that order.
        levels: the levels to measure and train at; None takes the grid for the input size.
        clip: clamp the result to [0, 1], as a camera does. The paper does not.
        quantize: clamp and round to 8 bits (multiples of 1/255).
        parameters: `cifar` or `imagenet`, whose grid and severities apply; None takes those of
            CIFAR below 128 pixels and those of ImageNet otherwise.

    Raises:
        InputError: there is no such kind, the list of levels is empty or names one twice, or a
            level is not accepted.

    Example:
        >>> import torch, deepcorrect as dc
        >>> blur, noise = dc.Distortion("gaussian_blur"), dc.Distortion("awgn", clip=True)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> blur(images, 1.5).shape
        torch.Size([2, 3, 32, 32])
        >>> noisy = noise(images, 20, torch.Generator().manual_seed(0))
        >>> bool((noisy >= 0).all() and (noisy <= 1).all())
        True
    """

    name: str
    levels: tuple[float, ...] | None = None
    clip: bool = False
    quantize: bool = False
    parameters: Parameters | None = None

    def __post_init__(self) -> None:
        kind = kind_of(self.name)
        if self.parameters not in (None, *PARAMETERS):
            raise unknown("parameter set", str(self.parameters), PARAMETERS)
        if self.levels is None:
            return
        if not self.levels:
            raise InputError(f"distortion {self.name!r} has an empty list of levels")
        for level in self.levels:
            kind.check(level)
        if len(set(self.levels)) != len(self.levels):
            raise InputError(f"distortion {self.name!r} names a level twice: {self.levels}")

    @staticmethod
    def parse(spec: str | Distortion) -> Distortion:
        """Reads `NAME`, `NAME:LEVEL,LEVEL` or `NAME:LEVELS:OPTION,OPTION`.

        Options are `clip`, `quantize`, and `cifar` or `imagenet`; an empty LEVELS takes the grid
        (`awgn::quantize`).

        Raises:
            InputError: the name, a level or an option is not accepted.
        """
        if isinstance(spec, Distortion):
            return spec
        name, _, rest = spec.partition(":")
        levels_text, _, options_text = rest.partition(":")
        kind = kind_of(name)
        try:
            levels = tuple(float(text) for text in levels_text.split(",")) if levels_text else None
        except ValueError:
            raise InputError(
                f"levels {levels_text!r} of {name!r} are not numbers between commas, "
                f"such as {name}:{','.join(f'{level:g}' for level in kind.small_levels)}"
            ) from None
        options = [text for text in options_text.split(",") if text]
        for option in options:
            if option not in OPTIONS:
                raise unknown("distortion option", option, OPTIONS)
        if {"cifar", "imagenet"} <= set(options):
            raise InputError(f"{spec!r} asks for both cifar's and imagenet's parameters: name one")
        chosen: Parameters | None = "cifar" if "cifar" in options else None
        chosen = "imagenet" if "imagenet" in options else chosen
        return Distortion(name, levels, "clip" in options, "quantize" in options, chosen)

    @property
    def kind(self) -> Kind:
        """The registered kind, or the composition of several."""
        return kind_of(self.name)

    @property
    def random(self) -> bool:
        """Whether it needs a source of randomness."""
        return self.kind.random

    def for_size(self, pixels: int) -> LevelledDistortion:
        """This distortion with its levels, or else the grid for inputs of `pixels`, filled in."""
        levels = self.levels
        if levels is None:
            levels = self.kind.levels(self.parameters_at(pixels))
        return LevelledDistortion(self.name, levels, self.clip, self.quantize, self.parameters)

    def parameters_at(self, pixels: int) -> Parameters:
        """The parameter set that applies to inputs of `pixels`."""
        return self.parameters or ("cifar" if pixels < SMALL_INPUT else "imagenet")

    def __call__(
        self,
        images: Tensor,
        level: float | Tensor,
        generator: torch.Generator | Tensor | None = None,
    ) -> Tensor:
        """Distorts a batch.

        Args:
            images: floats in [0, 1], N x C x H x W, any device.
            level: one level for all images, or a tensor of N levels.
            generator: the source of randomness. Each image takes one seed from it, in order, so a
                batch that is split in two gets the same result from the same generator. Or the
                seeds themselves, an int64 tensor of N (see `seeds_for`). Numbers are drawn on the
                device of the images.

        Returns:
            The distorted images, with the same shape, device and type, computed in float32.

        Raises:
            InputError: the shape, the type, the level or the generator does not fit.
        """
        kind = self.kind
        _check_images(images, kind)
        levels = _levels(images, level, kind)
        seeds = _seeds(len(images), generator, kind)
        parameters = self.parameters_at(min(images.shape[-2:]))
        with torch.autocast(images.device.type, enabled=False):
            return self._distorted(images, levels, seeds, parameters)

    def _distorted(
        self, images: Tensor, levels: Tensor, seeds: Tensor, parameters: Parameters
    ) -> Tensor:
        kind = self.kind
        tracks = tracked(images) and len(images) > 0

        def distorted(piece: _Piece, into: Tensor | None = None) -> Tensor:
            part = images[piece.rows].float().contiguous()
            if piece.level != kind.weakest:
                draws = Draws(seeds[piece.rows].tolist(), images.device)
                part = kind.apply(part, draws, piece.level, parameters, into)
            return self._stored(part).to(images.dtype)

        at_once = max(1, len(images))
        if images.device.type == "cpu" and not tracks:
            # As many as fit the cache, with all threads on the same images: threads with images
            # of their own wait for each other (measured).
            at_once = max(1, kind.at_once * IMAGE_VALUES // max(1, images[:1].numel()))
        pieces = list(_pieces(levels, at_once))
        if len(pieces) == 1:
            whole = distorted(pieces[0]).contiguous()
            return whole.clone() if whole.data_ptr() == images.data_ptr() else whole
        if tracks:
            numbers = torch.arange(len(images), device=images.device)
            order = torch.cat([numbers[piece.rows] for piece in pieces])
            return torch.cat([distorted(piece) for piece in pieces])[order.argsort()]
        result = torch.empty_like(images, memory_format=torch.contiguous_format)
        for piece in pieces:
            in_place = isinstance(piece.rows, slice) and images.dtype == torch.float32
            into = result[piece.rows] if in_place else None
            made = distorted(piece, into)
            if into is None or made.data_ptr() != into.data_ptr():
                result[piece.rows] = made
        return result

    def _stored(self, images: Tensor) -> Tensor:
        if self.quantize:
            return images.clamp(0, 1).mul_(255).round_().div_(255)
        return images.clamp(0, 1) if self.clip else images


@dataclass(frozen=True)
class LevelledDistortion(Distortion):
    """A distortion whose levels are filled in (see `Distortion.for_size` and `parse_all`).

    Args:
        levels: at least one level.

    Example:
        >>> from deepcorrect.distortions import parse_all
        >>> blur, noise = parse_all(["gaussian_blur:1,2", "awgn"], pixels=32)
        >>> blur.levels
        (1.0, 2.0)
        >>> len(noise.levels)
        6
    """

    levels: tuple[float, ...] = ()


class _Piece(NamedTuple):
    """Images with the same level: their rows of the batch."""

    level: float
    rows: slice | Tensor


def _pieces(levels: Tensor, at_once: int) -> Iterator[_Piece]:
    """A batch in pieces of one level each, of at most `at_once` images."""
    present = levels.unique().tolist()
    for level in present:
        if len(present) == 1:
            places = range(0, len(levels), at_once)
            yield from (_Piece(level, slice(place, place + at_once)) for place in places)
            return
        rows = (levels == level).nonzero().flatten()
        yield from (_Piece(level, some) for some in rows.split(at_once))


def _check_images(images: Tensor, kind: Kind) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise InputError(
            f"distortions act on float images N x C x H x W in [0, 1], "
            f"not on a {images.dtype} tensor of shape {tuple(images.shape)}"
        )
    if kind.colours and images.shape[1] not in (1, 3):
        raise InputError(
            f"distortion {kind.name!r} acts on grey or RGB images (1 or 3 channels), "
            f"not on {images.shape[1]} channels"
        )
    if not images.shape[2] or not images.shape[3]:
        raise InputError(f"images of {images.shape[2]} x {images.shape[3]} pixels are empty")


def _levels(images: Tensor, level: float | Tensor, kind: Kind) -> Tensor:
    """One level per image, checked; float64 on the CPU, so that 0.1 stays 0.1."""
    level = level.cpu() if isinstance(level, Tensor) else level  # not every device has float64
    levels = torch.as_tensor(level, dtype=torch.float64, device="cpu")
    if levels.dim() == 0:
        levels = levels.expand(len(images))
    if levels.shape != (len(images),):
        raise InputError(
            f"level has shape {tuple(levels.shape)}: give one number, or one per image "
            f"({len(images)} here)"
        )
    for value in levels.unique().tolist():
        kind.check(value)
    return levels


def _seeds(count: int, generator: torch.Generator | Tensor | None, kind: Kind) -> Tensor:
    """One seed per image, int64 on the CPU."""
    if generator is None:
        if not kind.random:
            return torch.zeros(count, dtype=torch.int64)
        raise InputError(
            f"distortion {kind.name!r} is random: give a torch.Generator, "
            "such as torch.Generator().manual_seed(0), or a seed for each image"
        )
    if isinstance(generator, Tensor):
        if generator.dtype != torch.int64 or generator.shape != (count,):
            raise InputError(
                f"seeds are one int64 per image ({count} here), not a {generator.dtype} tensor of "
                f"shape {tuple(generator.shape)}"
            )
        seeds = generator.cpu()
        if bool((seeds < 0).any()):
            raise InputError(f"seed {int(seeds.min())} is not from 0 to 2^63 - 1")
        return seeds
    if not kind.random:
        return torch.zeros(count, dtype=torch.int64)
    at_once = (
        count if generator.device.type == "cpu" else 1
    )  # a GPU's numbers depend on how many it draws at once
    drawn = [
        torch.randint(2**62, (at_once,), generator=generator, device=generator.device)
        for _ in range(count // max(1, at_once))
    ]
    return torch.cat(drawn).cpu() if drawn else torch.zeros(0, dtype=torch.int64)


def parse_all(
    specs: Sequence[str | Distortion] | str | Distortion, pixels: int
) -> tuple[LevelledDistortion, ...]:
    """Reads several specs, with the levels that suit inputs of `pixels` filled in.

    The name of a group (`imagenet_c:1,3`) stands for all its kinds.

    Raises:
        InputError: a spec is not accepted, there is no spec, or a kind is named twice.

    Example:
        >>> from deepcorrect.distortions import parse_all
        >>> [(each.name, each.levels) for each in parse_all(["awgn:10,20", "fog:1"], pixels=32)]
        [('awgn', (10.0, 20.0)), ('fog', (1.0,))]
    """
    distortions = tuple(each.for_size(pixels) for each in ungrouped(specs))
    names = [distortion.name for distortion in distortions]
    if not names:
        raise InputError(f"no distortion is named. Accepted: {', '.join([*GROUPS, *KINDS])}")
    if len(set(names)) != len(names):
        raise InputError(f"a distortion is named twice: {', '.join(names)}")
    return distortions


def ungrouped(specs: Sequence[str | Distortion] | str | Distortion) -> list[Distortion]:
    """Reads specs; the name of a group becomes all its kinds."""
    if isinstance(specs, str | Distortion):
        specs = [specs]
    found = []
    for spec in specs:
        name, colon, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
        members = GROUPS.get(name)
        each = [f"{member}{colon}{rest}" for member in members] if members else [spec]
        found += [Distortion.parse(one) for one in each]
    return found


def distort_some(
    images: Tensor,
    distortions: Sequence[LevelledDistortion],
    clean_share: float,
    generator: torch.Generator,
    part: tuple[int, int] | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """Leaves `clean_share` of a batch clean and gives each other image a random distortion.

    Args:
        images: floats in [0, 1], N x C x H x W, any device.
        distortions: with their levels.
        clean_share: from 0 to 1.
        generator: a CPU generator.
        part: the place of the first image in a larger batch, and that batch's size, where other
            processes have the rest of it. Kinds and levels are then drawn for all, and each process
            has noise of its own.
        shares: the probability of each level, those of the first distortion first, on the CPU; None
            draws the kind uniformly, and then its level.
    """
    first, count = part or (0, len(images))
    order = torch.randperm(count, generator=generator)[round(count * clean_share) :]
    kinds = torch.randint(len(distortions), (count,), generator=generator)
    places = torch.rand(count, generator=generator)
    if shares is not None:
        kinds, places = _drawn(distortions, shares, places)
    if count > len(images):
        own = slice(first, first + len(images))
        order = order[(order >= own.start) & (order < own.stop)] - first
        kinds, places = kinds[own], places[own]
        seed = int(torch.randint(1 << 62, (), generator=generator)) + first
        generator = torch.Generator().manual_seed(seed)
    result = images.clone()
    for number, distortion in enumerate(distortions):
        rows = order[kinds[order] == number].sort().values
        if len(rows):
            levels = torch.tensor(distortion.levels, dtype=torch.float64)
            chosen = levels[(places[rows] * len(levels)).long()]
            here = rows.to(images.device)
            result[here] = distortion(images[here], chosen, generator)
    return result


def _drawn(
    distortions: Sequence[LevelledDistortion], shares: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """The kind of each image, and the place of its level in the kind's levels, from 0 to 1."""
    cells = torch.bucketize(places.double(), shares.double().cumsum(0)[:-1], right=True)
    counts = torch.tensor([len(each.levels) for each in distortions])
    kinds = torch.arange(len(counts)).repeat_interleave(counts)[cells]
    firsts = counts.cumsum(0) - counts
    return kinds, (cells - firsts[kinds] + 0.5) / counts[kinds]
