"""Random numbers for a batch in which every image has a stream of its own."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


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
