"""The layout of a site's output: where it holds the maps, and which dimension is the channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._sharing import original
from deepcorrect.runtime import InputError

OTHER_TOKENS = 8
"""The largest number of tokens before those of the image (class, distillation, registers)."""

CHANNELS_FIRST = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.GroupNorm,
)
"""Layers whose outputs, where they have four dimensions, are N x C x H x W."""

CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
"""Layers whose outputs have their channels last. Subclasses of layer norms may differ."""

_ACCEPTED = "a site's output must be N x C x H x W, N x H x W x C, N x tokens x C or N x C"


@dataclass(frozen=True)
class Layout:
    """The place of a site's maps, N x C x H x W, in its output.

    Attributes:
        last: Whether the channels are the last of at least three dimensions.
        others: The number of tokens before those of the image in an output N x T x C, which belong
            to no map. None if the output has another form.
        side: The height and width of the grid of the image's tokens in an output N x T x C.
        flat: Whether the output is N x C, so that a map is one value.
    """

    last: bool = False
    others: int | None = None
    side: int = 0
    flat: bool = False

    def maps(self, output: Tensor) -> Tensor:
        """Returns the maps of an output, N x C x H x W, as a view."""
        if self.flat:
            return output[:, :, None, None]
        if not self.last:
            return output
        if self.others is None:
            return output.permute(0, 3, 1, 2)
        image = output[:, self.others :].unflatten(1, (self.side, self.side))
        return image.permute(0, 3, 1, 2)

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """Returns an output with these maps; values outside the maps are copied from `like`."""
        if self.flat:
            return maps.flatten(1)
        if not self.last:
            return maps
        if self.others is None:
            return maps.permute(0, 2, 3, 1)
        image = maps.permute(0, 2, 3, 1).flatten(1, 2)
        if not self.others:
            return image
        return torch.cat([like[:, : self.others].to(image.dtype), image], 1)


@dataclass(frozen=True)
class LayoutRule:
    """What a module's layers say about the layout of its output.

    Attributes:
        name: The site's name, used in messages.
        kind: The class of the module, used in messages.
        order: `first` or `last` if the module is one layer, which settles where its channels are,
            or else an empty text.
        layers: `first` or `last` if all layers inside agree on where channels are, or else an
            empty text.
        widths: The numbers of channels that the output may have.
    """

    name: str
    kind: str
    order: str
    layers: str
    widths: frozenset[int]

    def __call__(self, output: Any) -> Layout:
        """Determines the layout of an output; see `layout_of`.

        Raises:
            InputError: The output has none of the accepted forms, or two of them.
        """
        if not isinstance(output, Tensor):
            raise InputError(f"site {self.name!r} returns {type(output).__name__}: {_ACCEPTED}")
        if output.dim() == 2:
            return Layout(flat=True)
        if output.dim() == 3:
            return self._tokens(output)
        if output.dim() != 4:
            raise InputError(f"site {self.name!r} returns {tuple(output.shape)}: {_ACCEPTED}")
        return Layout(last=(self.order or self._voted(*output.shape[1:])) == "last")

    def _tokens(self, output: Tensor) -> Layout:
        length, channels = output.shape[1:]
        if self.order != "last" and channels not in self.widths:
            raise InputError(
                f"site {self.name!r} returns {tuple(output.shape)}, and no layer of this "
                f"{self.kind} has {channels} channels, so that these may not be tokens: "
                f"{_ACCEPTED}; name the linear layer or the block before it"
            )
        side = math.isqrt(length)
        others = length - side * side
        if others > OTHER_TOKENS:
            raise InputError(
                f"site {self.name!r} returns {tuple(output.shape)}: its {length} tokens are not a "
                f"square grid after at most {OTHER_TOKENS} others, so its maps are unknown"
            )
        return Layout(True, others, side)

    def _voted(self, first: int, middle: int, last: int) -> str:
        """Where the channels are, by the layers inside, their widths, and maps that are square."""
        votes = [self.layers]
        if (first in self.widths) != (last in self.widths):
            votes.append("first" if first in self.widths else "last")
        if (first == middle) != (middle == last):
            votes.append("first" if middle == last else "last")
        ahead = votes.count("first") - votes.count("last")
        if not self.widths and first == middle == last:
            ahead = 1  # an activation or a pooling layer, which networks seldom apply to tokens
        if ahead == 0:
            raise InputError(
                f"site {self.name!r} returns N x {first} x {middle} x {last}, in which its "
                f"channels may come first or last, as this {self.kind} does not say which: name "
                "the convolution or the linear layer that computes it, or take images of another "
                "size"
            )
        return "first" if ahead > 0 else "last"


def layout_rule(name: str, module: nn.Module, channels: int | None = None) -> LayoutRule:
    """Determines what a module's layers say about the layout of its output.

    Args:
        name: The site's name, used in messages.
        module: The site's module.
        channels: The number of the site's channels if it is known.
    """
    own = original(module)
    layers = [each for each in _layers(own) if not any(True for _ in each.children())]
    known = {_order(each) for each in layers} - {""}
    parameters = [
        tensor
        for each in _layers(own)
        for tensor in (*each._parameters.values(), *each._buffers.values())
        if tensor is not None
    ]
    widths = {size for tensor in parameters for size in tensor.shape[:2]} - {1}
    return LayoutRule(
        name,
        type(own).__name__,
        _order(own),
        known.pop() if len(known) == 1 else "",
        frozenset(widths if channels is None or not widths else {channels}),
    )


def layout_of(name: str, module: nn.Module, output: Any) -> Layout:
    """Determines the layout of a site's output.

    The output of any module may be N x C x H x W; N x H x W x C; N x T x C, whose T tokens are a
    square grid, row by row, after at most 8 other tokens; or N x C. Of four dimensions, a
    convolution, a linear layer and a normalisation say which one is the channels. For any other
    module, such as a block, it is found by the layers inside, their widths, and maps that are
    square.

    Args:
        name: The site's name, used in messages.
        module: The site's module.
        output: The module's output.

    Raises:
        InputError: The output has none of these forms, or it cannot be told which one it has.
    """
    return layout_rule(name, module)(output)


def _order(layer: nn.Module) -> str:
    """Where a layer's channels are; an empty text if its class does not say."""
    if isinstance(layer, CHANNELS_FIRST):
        return "first"
    last = isinstance(layer, nn.Linear) or type(layer) in CHANNELS_LAST
    return "last" if last else ""


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yields a module and all inside it, without correction units."""
    yield module
    for child in module.children():
        yield from _layers(original(child))
