"""How a site's output holds its maps: as a convolution's, or as tokens with the channels last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._sharing import original
from deepcorrect.runtime import InputError

OTHER_TOKENS = 8
"""Tokens, at most, that a network may have before those of its image (class, distillation,
registers)."""


_ACCEPTED = (
    "a site's output must be N x C x H x W (of a linear layer: N x H x W x C or N x tokens x C)"
)


@dataclass(frozen=True)
class Layout:
    """Where a site's maps, N x C x H x W, are in its output.

    Attributes:
        last: the channels are the last dimension.
        others: of N x T x C: tokens before those of the image, which are in no map. None where the
            output has four dimensions.
        side: of N x T x C: height and width of the grid of the image's tokens.
    """

    last: bool = False
    others: int | None = None
    side: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """The maps of an output, N x C x H x W; a view of it."""
        if not self.last:
            return output
        if self.others is None:
            return output.permute(0, 3, 1, 2)
        image = output[:, self.others :].unflatten(1, (self.side, self.side))
        return image.permute(0, 3, 1, 2)

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """An output with these maps; what is in no map is taken from `like`."""
        if not self.last:
            return maps
        if self.others is None:
            return maps.permute(0, 2, 3, 1)
        image = maps.permute(0, 2, 3, 1).flatten(1, 2)
        if not self.others:
            return image
        return torch.cat([like[:, : self.others].to(image.dtype), image], 1)


def layout_of(name: str, module: nn.Module, output: Any) -> Layout:
    """How the site `name` holds its maps.

    A linear layer's output is N x H x W x C, or N x T x C whose T tokens are a square grid, row by
    row, behind a few others. Any other module's is N x C x H x W.

    Raises:
        InputError: it is none of these.
    """
    if not isinstance(output, Tensor):
        raise InputError(f"site {name!r} gives {type(output).__name__}: {_ACCEPTED}")
    if not isinstance(original(module), nn.Linear):
        if output.dim() != 4:
            raise InputError(f"site {name!r} gives {tuple(output.shape)}: {_ACCEPTED}")
        return Layout()
    if output.dim() == 4:
        return Layout(last=True)
    if output.dim() != 3:
        raise InputError(f"site {name!r} gives {tuple(output.shape)}: {_ACCEPTED}")
    side = math.isqrt(output.shape[1])
    others = output.shape[1] - side * side
    if others > OTHER_TOKENS:
        raise InputError(
            f"site {name!r} gives {tuple(output.shape)}: its {output.shape[1]} tokens are no "
            f"square grid behind at most {OTHER_TOKENS} others, so that maps cannot be told"
        )
    return Layout(True, others, side)
