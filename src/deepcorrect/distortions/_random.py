"""Random numbers for a batch in which each image has its own random stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import cached
from deepcorrect.runtime import seed_of


class Draws:
    """Random draws for the images of a batch, each from a generator with its own seed.

    An image's numbers therefore depend neither on its batch nor on its index in it. On a CPU, bits
    come from NumPy's SFC64, which takes a third of the time of PyTorch's Mersenne twister
    (measured).

    Args:
        seeds: One seed per image.
        device: The device that draws; another kind of device draws other numbers.

    Example:
        >>> import torch
        >>> from deepcorrect.distortions._random import Draws
        >>> first = Draws([7, 8], torch.device("cpu")).normal(3, 4)
        >>> first.shape
        torch.Size([2, 3, 4])
        >>> first[1:].equal(Draws([8], torch.device("cpu")).normal(3, 4))
        True
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.seeds = list(seeds)
        self.device = device
        self._sources = [_source(seed, device) for seed in self.seeds]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, N x shape.

        Each pair comes from two independent numbers a and b with 65,536 equally likely values: the
        pair (a + b, a - b) / sqrt(2) extends to 6 standard deviations, in much finer steps.
        """
        count = math.prod(shape)
        half = -(-count // 2)
        if self.device.type != "cpu":  # a few operations for all images, and one for each
            cells = self.bits(16, 2 * half).add_(2**15)
            drawn = _half_normals(self.device)[cells]
            first, second = drawn[:, :half], drawn[:, half:]
            numbers = torch.cat([first + second, first - second], 1)
            return numbers[:, :count].reshape(len(numbers), *shape)
        numbers = torch.empty(len(self.seeds), 2, half)
        cells, drawn = torch.empty(2 * half, dtype=torch.int32), torch.empty(2 * half)
        (first, second), table = drawn.view(2, half), _half_normals(self.device)
        # one image at a time, which fits a core's cache
        for (above, below), source in zip(numbers, self._sources, strict=True):
            _fill_bits(cells, 16, source, signed=False)
            torch.index_select(table, 0, cells, out=drawn)
            torch.add(first, second, out=above)
            torch.sub(first, second, out=below)
        return numbers.flatten(1)[:, :count].reshape(len(numbers), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high) with a resolution of 24 bits, N x shape."""
        bits = self.bits(32, *shape)
        numbers = torch.empty(bits.shape, device=self.device)
        for drawn, made in zip(self._at_once(bits), self._at_once(numbers), strict=True):
            made.copy_(drawn.bitwise_right_shift_(8))
            made.mul_((high - low) / 2**24).add_((low + high) / 2)
        return numbers

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform integers from `low` to `high` - 1, at most 256 values: N x shape, int32."""
        numbers = torch.empty(len(self.seeds), *shape, dtype=torch.int32, device=self.device)
        for row, source in zip(numbers, self._sources, strict=True):
            _fill_bits(row, 16, source, signed=False)
        for part in self._at_once(numbers):
            part.mul_(high - low).bitwise_right_shift_(16).add_(low)
        return numbers

    def _at_once(self, numbers: Tensor) -> Sequence[Tensor]:
        """The numbers image by image on a CPU, where they fit a core's cache, else all."""
        return numbers.unbind() if self.device.type == "cpu" else [numbers]

    def poisson(self, shares: Tensor, most: float) -> Tensor:
        """Poisson counts with the means `shares` times `most`.

        A mean is split into the largest of 256 evenly spaced means below it, whose counts come
        from alias tables (Walker 1977), and a small rest, whose counts come from inverting their
        distribution. The sum of the two is Poisson distributed. PyTorch's own function takes ten
        times as long.

        Args:
            shares: N x ..., in [0, 1].
            most: The mean for a share of 1.
        """
        table, width = _alias_table(float(most), self.device)
        if self.device.type != "cpu":
            return self._poisson_at_once(shares.detach(), most, table, width)
        counts = torch.empty(shares.shape, device=self.device)
        for index, share in enumerate(shares.detach()):  # one image fits a core's cache
            rest = (share * 255).clamp_(0, 255)
            base = (rest + 1e-3).floor_()  # images of 8 bits have no rest
            rest.sub_(base)
            bits = _drawn(share.numel(), 32, self._sources[index]).view(share.shape)
            bits.bitwise_and_(2**31 - 1)
            count = bits & (width - 1)
            cells = base.mul_(width).to(torch.int32).add_(count).flatten()
            entry = table.index_select(0, cells).view_as(count)
            other = torch.sub(entry, bits.bitwise_or_(width - 1)).sub_(1)
            alias = entry.bitwise_and_(width - 1)
            count.add_(alias.sub_(count).bitwise_and_(other.bitwise_right_shift_(31)))
            counts[index] = count
            if float(rest.amax()) > 1e-3:
                chance = self.for_image(index).uniform(*share.shape)[0]
                counts[index] += _few(rest.clamp_min_(0) * (most / 255), most / 255, chance)
        return counts

    def _poisson_at_once(self, shares: Tensor, most: float, table: Tensor, width: int) -> Tensor:
        """`poisson` for all images at once, without waiting for the device."""
        rest = (shares * 255).clamp(0, 255)
        base = (rest + 1e-3).floor()
        rest = (rest - base).clamp_min(0)
        bits = self.bits(32, *shares.shape[1:]) & (2**31 - 1)
        count = bits & (width - 1)
        entry = table[base.to(torch.int32) * width + count]
        stays = entry > (bits | (width - 1))
        counts = torch.where(stays, count, entry & (width - 1)).float()
        again = self.for_images(range(len(self.seeds)))
        more = _few(rest * (most / 255), most / 255, again.uniform(*shares.shape[1:]))
        has_rest = rest.flatten(1).amax(1) > 1e-3
        return counts + more * has_rest.view(-1, *[1] * (shares.dim() - 1))

    def of_image(self, index: int) -> Draws:
        """The draws of one image: the numbers that come next in its own stream."""
        own = Draws([], self.device)
        own.seeds, own._sources = [self.seeds[index]], [self._sources[index]]
        return own

    def for_image(self, index: int) -> Draws:
        """New draws for one image alone, from a stream that is independent of this one."""
        return self.for_images([index])

    def for_images(self, indices: Sequence[int]) -> Draws:
        """New draws for some images, each from the stream that `for_image` gives it."""
        return Draws([seed_of(self.seeds[index], "again") for index in indices], self.device)

    def bits(self, width: Literal[16, 32], *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Uniform signed integers of `width` bits, N x shape."""
        kind = dtype if self.device.type == "cpu" else torch.int32  # copied into any, drawn in one
        numbers = torch.empty(len(self.seeds), *shape, dtype=kind, device=self.device)
        for row, source in zip(numbers, self._sources, strict=True):
            _fill_bits(row, width, source)
        return numbers.to(dtype)


Source = np.random.SFC64 | torch.Generator


def _fill_bits(row: Tensor, width: Literal[16, 32], source: Source, *, signed: bool = True) -> None:
    """Fills a tensor with uniform integers of `width` bits; those of 32 bits are signed."""
    if isinstance(source, torch.Generator):
        least = -(2 ** (width - 1)) if signed else 0
        row.random_(least, least + 2**width, generator=source)
    else:
        row.copy_(_drawn(row.numel(), width, source, signed=signed).view(row.shape))


def _drawn(count: int, width: Literal[16, 32], source: Source, *, signed: bool = True) -> Tensor:
    """Uniform integers of `width` bits from a generator of NumPy's, in a tensor of that width."""
    assert isinstance(source, np.random.SFC64)
    words = source.random_raw(-(-count * width // 64))
    if not signed:
        words ^= np.uint64(0x8000_8000_8000_8000)  # adds 2**15 to each signed number
    kind = np.int32 if width == 32 else np.int16 if signed else np.uint16
    return torch.from_numpy(words.view(kind)[:count])


def _source(seed: int, device: torch.device) -> Source:
    if device.type == "cpu":
        return np.random.SFC64(seed)
    return torch.Generator(device).manual_seed(seed)


@cached
def _half_normals(device: torch.device) -> Tensor:
    """The means of 65,536 equally likely parts of a normal distribution with variance 1/2."""
    edges = torch.special.ndtri(torch.arange(1, 2**16, dtype=torch.float64) / 2**16)
    density = F.pad(torch.exp(-(edges**2) / 2), (1, 1))
    means = density[:-1] - density[1:]
    return (means * (means.square().mean() * 2).rsqrt()).float().to(device)


def _few(means: Tensor, most: float, chance: Tensor) -> Tensor:
    """Poisson counts with small means, up to `most`, by inversion of uniform numbers."""
    density = torch.exp(-means)
    below, counts = density.clone(), torch.zeros_like(means)
    for count in range(1, 12 + 4 * math.ceil(most)):
        counts += chance > below
        density = density * means / count
        below += density
    return counts


@cached
def _alias_table(most: float, device: torch.device) -> tuple[Tensor, int]:
    """Walker's alias table of Poisson counts with the means `most` * k / 255, k from 0 to 255.

    A row has `width` cells, a power of two. Cell c stands for the count c with its probability, and
    for its alias otherwise. A cell is an int32 with the alias in its low bits and the probability
    in its high bits, as a fraction of the values that a draw of 31 bits has there. Returns the
    flattened table and the width.
    """
    width = 1 << math.ceil(math.log2(most + 8 * math.sqrt(most) + 16))
    means = torch.arange(256, dtype=torch.float64)[:, None] * most / 255
    counts = torch.arange(width, dtype=torch.float64)
    logarithms = torch.xlogy(counts, means) - means - torch.lgamma(counts + 1)
    share = logarithms.exp()
    share *= width / share.sum(1, keepdim=True)  # 1 is a full cell
    chances, aliases = (torch.from_numpy(part) for part in _alias_method(share.numpy()))
    steps = 2**31 // width
    kept = (chances * steps).round().long().clamp(0, steps - 1)
    return (kept * width + aliases).int().flatten().to(device), width


def _alias_method(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias method for all rows at once: the fullest cell fills up the emptiest one.

    Args:
        share: The content of each cell, rows x width (a power of two); the mean of a row is 1.

    Returns:
        The probability with which each cell stands for its own number, and its alias, which it
        stands for otherwise; both rows x width.
    """
    rows, (count, width) = np.arange(len(share)), share.shape
    cells = 1 << width.bit_length() // 2  # per block, because searching whole rows is slow
    low = share.reshape(count, -1, cells).copy()  # infinity for finished cells
    high = low.copy()  # minus infinity for finished cells
    least, most = low.min(2), high.max(2)
    chances, aliases = np.ones_like(share), np.tile(np.arange(width), (count, 1))
    for _ in range(width - 1):
        poor, rich = least.argmin(1), most.argmax(1)  # blocks
        emptiest, fullest = low[rows, poor].argmin(1), high[rows, rich].argmax(1)
        chances[rows, poor * cells + emptiest] = value = low[rows, poor, emptiest]
        aliases[rows, poor * cells + emptiest] = rich * cells + fullest
        left = low[rows, rich, fullest] - (1 - value)
        low[rows, rich, fullest] = high[rows, rich, fullest] = left
        low[rows, poor, emptiest], high[rows, poor, emptiest] = np.inf, -np.inf
        for block in (poor, rich):
            least[rows, block] = low[rows, block].min(1)
            most[rows, block] = high[rows, block].max(1)
    return chances, aliases
