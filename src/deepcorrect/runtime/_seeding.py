"""Seeds that are hashes of what they stand for: the same on every machine, and independent."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

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


def seed_random(seed: int, device: torch.device | None = None) -> None:
    """Seeds PyTorch's global generator of the CPU, and that of one device if it is given.

    `torch.manual_seed` seeds the generators of all GPUs as well, also where
    `torch.random.fork_rng(devices=[])` restores that of the CPU alone.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import forked_random, seed_random
        >>> with forked_random():
        ...     seed_random(7)
        ...     first = torch.rand(3)
        ...     seed_random(7)
        ...     first.equal(torch.rand(3))
        True
    """
    torch.default_generator.manual_seed(seed)
    if (module := _module(device)) is not None:
        with _current(device):
            module.manual_seed(seed)


@contextmanager
def forked_random(device: torch.device | None = None, *, seed: int | None = None) -> Iterator[None]:
    """Restores PyTorch's global generator of the CPU, and that of `device`, after the block.

    The generators of other devices are not touched: in the block, seed with `seed_random`.

    Args:
        device: A device on which the block draws random numbers, as dropout does; None for the CPU.
        seed: With which the block begins; None leaves the generators as they are.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import forked_random
        >>> before = torch.get_rng_state()
        >>> with forked_random(seed=7):
        ...     drawn = torch.rand(3)
        >>> before.equal(torch.get_rng_state())
        True
    """
    module, state = _module(device), torch.get_rng_state()
    with _current(device):
        own = None if module is None else module.get_rng_state()
    try:
        if seed is not None:
            seed_random(seed, device)
        yield
    finally:
        torch.set_rng_state(state)
        if module is not None:
            with _current(device):
                module.set_rng_state(own)


def _module(device: torch.device | None) -> Any:
    """PyTorch's module for a device with a generator of its own, such as `torch.cuda`."""
    return None if device is None or device.type == "cpu" else torch.get_device_module(device)


def _current(device: torch.device | None) -> AbstractContextManager[object]:
    """Makes a GPU the one whose generator `torch.cuda` seeds."""
    is_cuda = device is not None and device.type == "cuda"
    return torch.cuda.device(device) if is_cuda else nullcontext()
