"""Seeds that are hashes of what they stand for: the same on every machine, and independent."""

from __future__ import annotations

import hashlib
import operator

import torch
from torch import Tensor

from deepcorrect.runtime._errors import InputError

SEEDS = range(1 << 63)
"""The seeds that are accepted: every generator takes them, and every file holds them exactly."""


def check_seed(seed: int) -> int:
    """Returns a seed if it is an integer from 0 to 2^63 - 1.

    Raises:
        InputError: It is not.

    Example:
        >>> from deepcorrect.runtime import check_seed
        >>> check_seed(-1)
        Traceback (most recent call last):
        deepcorrect.runtime._errors.InputError: seed -1 is not an integer from 0 to 2^63 - 1
    """
    if (
        isinstance(seed, bool)
        or not hasattr(seed, "__index__")
        or operator.index(seed) not in SEEDS
    ):
        raise InputError(f"seed {seed!r} is not an integer from 0 to 2^63 - 1")
    return operator.index(seed)


def seed_of(*parts: int | str | float) -> int:
    """A seed from 0 to 2^56 - 1 that is a hash of `parts`, the same on every machine.

    The numbers 5 and 5.0 are the same part, so a level gives the same seed either way.

    Example:
        >>> from deepcorrect.runtime import seed_of
        >>> seed_of(0, "awgn", 5) == seed_of(0, "awgn", 5.0)
        True
        >>> seed_of(0, "awgn", 5) == seed_of(0, "awgn", 6)
        False
    """
    texts = [str(int(p) if isinstance(p, float) and p.is_integer() else p) for p in parts]
    digest = hashlib.sha256("/".join(texts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def seeds_for(*parts: int | str | float, first: int, count: int) -> Tensor:
    """One seed per image, int64, for the images `first` to `first + count - 1`.

    An image's seed depends on its number and not on its batch.

    Example:
        >>> from deepcorrect.runtime import seeds_for
        >>> together = seeds_for(0, "awgn", 5, first=0, count=4)
        >>> together[2:].equal(seeds_for(0, "awgn", 5, first=2, count=2))
        True
    """
    numbers = range(first, first + count)
    return torch.tensor([seed_of(*parts, number) for number in numbers], dtype=torch.int64)


def generator_for(*parts: int | str | float) -> torch.Generator:
    """A CPU generator whose seed is a hash of `parts`.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import generator_for
        >>> first = torch.rand(3, generator=generator_for(0, "augmentation"))
        >>> first.equal(torch.rand(3, generator=generator_for(0, "augmentation")))
        True
    """
    return torch.Generator().manual_seed(seed_of(*parts))
