"""What modules return in a forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._branches import ungated
from deepcorrect.networks._classifier import logits_of
from deepcorrect.networks._hooks import forward_hooks
from deepcorrect.networks._layout import layout_of
from deepcorrect.runtime import InputError, widened


@dataclass(frozen=True)
class Seen:
    """A module's output in one forward pass.

    Attributes:
        rows: The batch size of the output.
        channels: The number of maps per image.
        pixels: The pixels per output map.
        read: The pixels per input map.
        flat: Whether the output is N x C.
        mean: The mean of the maps.
        size: The root of the maps' mean square.
        refused: The reason why the output contains no maps, or None.
    """

    rows: int = 0
    channels: int = 0
    pixels: int = 0
    read: int = 0
    flat: bool = False
    mean: float = 0.0
    size: float = 0.0
    refused: InputError | None = None

    def require_maps(self, name: str, images: int) -> None:
        """Checks that there is one row of maps per image.

        Args:
            name: The site's name, used in messages.
            images: The number of images.

        Raises:
            InputError: The output contains no maps, or another number of rows.
        """
        if self.refused:
            raise self.refused
        if self.rows != images:
            raise InputError(
                f"site {name!r} returns {self.rows} rows for {images} images, as a layer inside "
                "windows or patches does: a site must return one row of maps per image"
            )


def outputs_of(
    model: nn.Module, modules: Mapping[str, nn.Module], images: Tensor
) -> dict[str, list[Seen]]:
    """Each module's outputs, one entry per call, in the order of the modules' first calls.

    Args:
        model: A network, wrapped or bare, in inference mode.
        modules: Modules that may run when `model` is called, by name.
        images: N x C x H x W.
    """
    seen: dict[str, list[Seen]] = defaultdict(list)

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        read = args[0].shape[2:].numel() if args and isinstance(args[0], Tensor) else 0
        try:
            layout = layout_of(name, module, output)
        except InputError as error:
            seen[name].append(Seen(read=read, refused=error))
            return
        maps = layout.maps(output)
        values = widened(maps.detach())
        mean, size = float(values.mean()), float(values.square().mean().sqrt())
        rows, channels, height, width = maps.shape
        seen[name].append(Seen(rows, channels, height * width, read, layout.flat, mean, size))

    with torch.no_grad(), ungated(model), forward_hooks(modules, hook):
        logits_of(model, images)
    return seen
