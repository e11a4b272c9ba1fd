"""A recorded forward pass that can be re-run from a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor


class Swap(NamedTuple):
    """Logits of passes in which one filter's map was replaced by its clean map, one per row.

    Attributes:
        images: The index of each row's image in the batch, (rows,).
        filters: The index of each row's filter, (rows,).
        logits: rows x classes.
    """

    images: Tensor
    filters: Tensor
    logits: Tensor


class Pass(Protocol):
    """One recorded forward pass of one batch.

    Attributes:
        logits: The logits of the pass, N x classes.
        maps: The maps of each site, N x C x H x W.
    """

    logits: Tensor
    maps: dict[str, Tensor]

    def from_site(self, site: str, maps: Tensor) -> Tensor:
        """Computes the logits, N x classes, of the recorded pass with other maps at a site.

        Args:
            site: The name of the site.
            maps: The maps that replace the site's, N x C x H x W. If they require gradients, the
                logits are differentiable with respect to them.
        """
        ...

    def swaps(self, site: str, clean: Tensor) -> Iterator[Swap]:
        """Replaces one filter's map at a time by its clean map (the paper's swap).

        Args:
            site: The name of the site.
            clean: The site's clean maps, N x C x H x W.

        Yields:
            Rows for every pair of an image and a filter, except pairs whose swap changes nothing:
            their logits are the recorded ones.
        """
        ...


Recorder = Callable[[Tensor], Pass]
"""A function that runs a batch, N x C x H x W, and records the pass."""
