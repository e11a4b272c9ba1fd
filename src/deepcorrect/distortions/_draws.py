"""Random numbers for a batch in which every image has a stream of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepcorrect.distortions._filters import constant


class Draws:
    """Draws for a few images, each from a generator that its own seed starts.

    So what an image gets depends neither on its batch nor on its place in it.

    Args:
        seeds: one a image.
        device: where numbers are drawn; another device gives other numbers.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.seeds = list(seeds)
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in self.seeds]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, N x shape."""
        return self._fill(shape, lambda row, generator: row.normal_(generator=generator))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers from `low` up to `high`, N x shape."""
        return self._fill(shape, lambda row, g: row.uniform_(low, high, generator=g))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from `low` to `high` - 1, N x shape, as int64."""
        return self._fill(shape, lambda row, g: row.random_(low, high, generator=g), torch.int64)

    def poisson(self, shares: Tensor, most: float) -> Tensor:
        """Poisson counts whose means are `shares`, N x ..., in [0, 1], of `most`.

        A mean is cut into the nearest of 256 evenly spaced ones below, whose counts come from
        alias tables (Walker 1977), and the rest, whose few counts come from inverting their
        distribution; the sum of both is exactly Poisson. torch's own is ten times as slow.
        """
        scaled = (shares * 255).clamp_(0, 255)
        base = (scaled + 1e-3).floor_()  # 8-bit images are all base
        chances, aliases, width = _alias_tables(float(most), self.device)
        bits = self._fill(shares.shape[1:], lambda row, g: row.random_(generator=g), torch.int32)
        column = bits & (width - 1)
        chance = bits.bitwise_right_shift_(width.bit_length() - 1).float().mul_(width / 2**31)
        cell = base.to(torch.int32).mul_(width).add_(column).flatten()
        other = chance >= chances.index_select(0, cell).view_as(chance)
        counts = torch.where(other, aliases.index_select(0, cell).view_as(column), column).float()
        rest = scaled.sub_(base).clamp_min_(0).mul_(most / 255)
        for place, means in enumerate(rest):  # image by image: neighbours change nothing
            if bool((means > 1e-3).any()):
                counts[place] += _few(means, most / 255, self.generators[place])
        return counts

    def of(self, place: int) -> Draws:
        """Fresh draws for the image at `place` alone, of another stream than this one's."""
        return Draws([seed_of(self.seeds[place], "again")], self.device)

    def _fill(
        self,
        shape: tuple[int, ...],
        fill: Callable[[Tensor, torch.Generator], Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        numbers = torch.empty(len(self.seeds), *shape, dtype=dtype, device=self.device)
        for row, generator in zip(numbers, self.generators, strict=True):
            fill(row, generator)
        return numbers


def _few(means: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Poisson counts of small means, up to `most`, by inversion."""
    chance = torch.rand(means.shape, generator=generator, device=means.device)
    density = torch.exp(-means)
    below, counts = density.clone(), torch.zeros_like(means)
    for count in range(1, 12 + 4 * math.ceil(most)):
        counts += chance > below
        density = density * means / count
        below += density
    return counts


@constant
def _alias_tables(most: float, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Walker's alias tables of Poisson counts with means k / 255 of `most`, k from 0 to 255.

    A row has `width` cells, a power of two. Cell c of a row keeps c with its chance, and gives its
    alias otherwise. Returns both flattened, and the width.
    """
    width = 1 << math.ceil(math.log2(most + 8 * math.sqrt(most) + 16))
    means = torch.arange(256, dtype=torch.float64)[:, None] * most / 255
    counts = torch.arange(width, dtype=torch.float64)
    logarithms = torch.xlogy(counts, means) - means - torch.lgamma(counts + 1)
    share = logarithms.exp()
    share *= width / share.sum(1, keepdim=True)  # a full cell has 1
    chances, aliases = torch.ones_like(share), counts.long().repeat(256, 1)
    rows, open_ = torch.arange(256), torch.ones_like(share, dtype=torch.bool)
    for _ in range(width - 1):  # each row settles its emptiest cell with what its fullest can spare
        low = torch.where(open_, share, math.inf).argmin(1)
        high = torch.where(open_, share, -math.inf).argmax(1)
        chances[rows, low] = share[rows, low]
        aliases[rows, low] = high
        share[rows, high] -= 1 - share[rows, low]
        open_[rows, low] = False
    chances = torch.where(open_, 1.0, chances)
    return chances.float().flatten().to(device), aliases.int().flatten().to(device), width


def seed_of(*parts: int | str | float) -> int:
    """A seed that is a hash of `parts`, the same on every machine.

    A level is the same part whether it is written 5 or 5.0.
    """
    texts = [str(int(p) if isinstance(p, float) and p.is_integer() else p) for p in parts]
    digest = hashlib.sha256("/".join(texts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def seeds_for(*parts: int | str | float, first: int, count: int) -> Tensor:
    """A seed for each of `count` images, whose numbers count from `first`: int64, (count,)."""
    return torch.tensor(
        [seed_of(*parts, first + place) for place in range(count)], dtype=torch.int64
    )


def generator_for(*parts: int | str | float) -> torch.Generator:
    """A CPU generator whose seed is a hash of `parts`."""
    return torch.Generator().manual_seed(seed_of(*parts))
