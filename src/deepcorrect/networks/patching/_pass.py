"""A recorded forward pass that can be re-run from a site on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor


class Swap(NamedTuple):
    """Answers with one filter's clean output swapped in; one row each.

    Attributes:
        images: which image of the batch, (rows,).
        filters: which filter of the site, (rows,).
        logits: rows x classes.
    """

    images: Tensor
    filters: Tensor
    logits: Tensor


class Pass(Protocol):
    """One recorded forward pass of one batch.

    Attributes:
        logits: N x classes.
        maps: each site's maps, N x C x H x W.
    """

    logits: Tensor
    maps: dict[str, Tensor]

    def from_site(self, site: str, maps: Tensor) -> Tensor:
        """Logits, N x classes, of the recorded pass with `site`'s maps replaced by `maps`.

        Gradients flow to `maps` where it requires them.
        """
        ...

    def swaps(self, site: str, clean: Tensor) -> Iterator[Swap]:
        """The paper's swap, one filter at a time: the site's output with that filter's map taken
        from `clean`, N x C x H x W.

        Yields rows for every pair of an image and a filter, but for pairs whose swap changes
        nothing: their logits are the recorded ones.
        """
        ...


Recorder = Callable[[Tensor], Pass]
"""Runs a batch and records the pass."""
