"""Two networks in one place: one for the images that are chosen, another for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from deepcorrect.networks._sharing import Replacement
from deepcorrect.runtime import InputError


class Branches(Replacement):
    """Runs `site` for the images that `chooser` picks, and `base` for all others.

    Of a batch of both, each network runs on its own images alone. Where the network is traced
    (`torch.compile`, `torch.export`), both run on all images, as a choice that depends on the data
    would break the graph.

    Args:
        site: runs on the chosen images; on all images without a chooser, in training mode, and
            where `choosing` is False.
        base: runs on the others.
        base_modules: the modules of `base`, by their names in the network.

    Attributes:
        chooser: images N x C x H x W -> N truth values; None for no choice.
        choosing: whether it is asked.
        calls: how often this was called, by which its owner sees that it is called at all.
    """

    def __init__(
        self, site: nn.Module, base: nn.Module, base_modules: dict[str, nn.Module]
    ) -> None:
        super().__init__(site)
        self.base, self.base_modules = base, base_modules
        self.chooser: nn.Module | None = None
        self.choosing = True
        self.calls = 0

    @property
    def deciding(self) -> bool:
        """Whether images are asked which network they are for."""
        return self.chooser is not None and self.choosing and not self.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of one network or the other, image by image."""
        if self.chooser is None or not self.deciding:
            return self.site(*args, **kwargs)
        chosen: Tensor = self.chooser(input_images(args, kwargs))
        if torch.compiler.is_compiling():
            given, other = self.site(*args, **kwargs), self.base(*args, **kwargs)
            return tree_map(lambda a, b: torch.where(_column(chosen, a), a, b), given, other)
        self.calls += 1
        if bool(chosen.all()):
            return self.site(*args, **kwargs)
        if not bool(chosen.any()):
            return self.base(*args, **kwargs)
        parts = []
        for network, mask in ((self.site, chosen), (self.base, ~chosen)):
            some_args, some_kwargs = _rows((args, kwargs), mask)
            parts.append(network(*some_args, **some_kwargs))
        return tree_map(lambda a, b: merged(a, b, chosen), *parts)


def merged(given: Tensor, other: Tensor, chosen: Tensor) -> Tensor:
    """One batch again, N x ..., of the rows of the chosen images and of the others.

    Raises:
        InputError: they are not one row per image.
    """
    if not isinstance(given, Tensor):
        return given
    counts = int(chosen.sum()), int((~chosen).sum())
    if not given.dim() or (len(given), len(other)) != counts:
        raise InputError(
            f"a gate chooses image by image, and for {counts[0]} images the network gives "
            f"{tuple(given.shape)}: it must give one row per image; correct it without a gate"
        )
    both = given.new_empty(len(chosen), *given.shape[1:])
    both[chosen], both[~chosen] = given, other.to(given.dtype)
    return both


def input_images(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The images, N x C x H x W, among the arguments that a network is called with.

    Raises:
        InputError: there are none.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() == 4:
            return value
    raise InputError("a gate reads images N x C x H x W: the network was called with none")


def _rows(values: Any, mask: Tensor) -> Any:
    """The rows of every tensor that has one per image."""
    count = len(mask)

    def some(value: Any) -> Any:
        per_image = isinstance(value, Tensor) and value.dim() > 0 and len(value) == count
        return value[mask] if per_image else value

    return tree_map(some, values)


def _column(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (like.dim() - 1))
