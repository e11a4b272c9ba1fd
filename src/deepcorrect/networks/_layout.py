"""The layout of a site's output: as a convolution's maps, or as tokens with the channels last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._sharing import original
from deepcorrect.runtime import InputError

OTHER_TOKENS = 8
"""The largest number of tokens before those of the image (class, distillation, registers)."""


_ACCEPTED = (
    "a site's output must be N x C x H x W (of a linear layer: N x H x W x C or N x tokens x C)"
)


@dataclass(frozen=True)
class Layout:
    """The place of a site's maps, N x C x H x W, in its output.

    Attributes:
        last: Whether the channels are the last dimension.
        others: The number of tokens before those of the image in an output N x T x C, which belong
            to no map. None if the output has four dimensions.
        side: The height and width of the grid of the image's tokens in an output N x T x C.
    """

    last: bool = False
    others: int | None = None
    side: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """Returns the maps of an output, N x C x H x W, as a view."""
        if not self.last:
            return output
        if self.others is None:
            return output.permute(0, 3, 1, 2)
        image = output[:, self.others :].unflatten(1, (self.side, self.side))
        return image.permute(0, 3, 1, 2)

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """Returns an output with these maps; values outside the maps are copied from `like`."""
        if not self.last:
            return maps
        if self.others is None:
            return maps.permute(0, 2, 3, 1)
        image = maps.permute(0, 2, 3, 1).flatten(1, 2)
        if not self.others:
            return image
        return torch.cat([like[:, : self.others].to(image.dtype), image], 1)


def layout_of(name: str, module: nn.Module, output: Any) -> Layout:
    """Determines the layout of a site's output.

    The output of a linear layer is N x H x W x C, or N x T x C, whose T tokens are a square grid,
    row by row, after at most 8 other tokens. The output of any other module is N x C x H x W.

    Args:
        name: The site's name, used in messages.
        module: The site's module.
        output: The module's output.

    Raises:
        InputError: The output has none of these forms.
    """
    if not isinstance(output, Tensor):
        raise InputError(f"site {name!r} returns {type(output).__name__}: {_ACCEPTED}")
    if not isinstance(original(module), nn.Linear):
        if output.dim() != 4:
            raise InputError(f"site {name!r} returns {tuple(output.shape)}: {_ACCEPTED}")
        return Layout()
    if output.dim() == 4:
        return Layout(last=True)
    if output.dim() != 3:
        raise InputError(f"site {name!r} returns {tuple(output.shape)}: {_ACCEPTED}")
    side = math.isqrt(output.shape[1])
    others = output.shape[1] - side * side
    if others > OTHER_TOKENS:
        raise InputError(
            f"site {name!r} returns {tuple(output.shape)}: its {output.shape[1]} tokens are not a "
            f"square grid after at most {OTHER_TOKENS} others, so its maps are unknown"
        )
    return Layout(True, others, side)
