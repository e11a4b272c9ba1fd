"""The structure of a network, by which its sites are chosen: sums, bottlenecks, MLPs, stem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from deepcorrect.networks._classifier import network_of
from deepcorrect.networks._flow import flow_of
from deepcorrect.networks._flow_search import FlowSearch
from deepcorrect.networks._layers import convolutions, mlp_channels, wrapped
from deepcorrect.runtime import unknown

CHOICES = {
    "auto": "what suits the network: stem+mlps for transformers, bottlenecks, stem+sums, or "
    "convolutions where no module returns sums",
    "stem": "the last convolution before the first sum",
    "sums": "modules that return the sum of a residual block, after its activation if the module "
    "includes it",
    "bottlenecks": "modules that end an inverted bottleneck: a linear projection to fewer channels "
    "behind a spatial convolution, with the sum after it, if there is one",
    "mlps": "the first linear layers of transformers' MLPs",
    "convolutions": "all 2-D convolutions",
}
"""The choices of sites by structure. Several are joined by `+`, as in `stem+sums`."""


@dataclass(frozen=True)
class Structure:
    """The modules of a network that suit as sites, by their role; names in module order.

    Attributes:
        stem: The last convolution before the first sum, or nothing.
        sums: The modules that return sums.
        bottlenecks: The modules that end inverted bottlenecks.
        mlps: The first linear layers of transformers' MLPs.
        convolutions: All convolutions.
        auto: The choice that suits the network, such as `stem+sums`.
        unnamed_sums: The number of sums that no module returns, outside the modules of `sums`.
    """

    stem: tuple[str, ...]
    sums: tuple[str, ...]
    bottlenecks: tuple[str, ...]
    mlps: tuple[str, ...]
    convolutions: tuple[str, ...]
    auto: str
    unnamed_sums: int

    def sites(self, choice: str = "auto") -> tuple[str, ...]:
        """The names of the sites of a choice such as `stem+sums`; see `CHOICES`."""
        parts = parse_choice(choice)
        if "auto" in parts:
            parts += parse_choice(self.auto)
        named = (getattr(self, part) for part in parts if part != "auto")
        return tuple(dict.fromkeys(name for names in named for name in names))


def parse_choice(choice: str) -> tuple[str, ...]:
    """The parts of a choice of sites such as `stem+sums`.

    Raises:
        InputError: A part is not one of `CHOICES`.
    """
    parts = tuple(part.strip() for part in choice.split("+"))
    for part in parts:
        if part not in CHOICES:
            raise unknown("choice of sites", part, CHOICES)
    return parts


def structure_of(model: nn.Module, images: Tensor) -> Structure:
    """Finds the structure of a network from the operations of one forward pass.

    Names of classes and modules play no part. A sum is an addition of two values that depend on
    the images, between which a layer lies. It is given to the innermost module that runs once,
    computes it, and returns it, before or after an activation. A wrapper that returns the same
    value is not a second site.

    Args:
        model: A network, wrapped or bare, in inference mode. Corrections are left out.
        images: One or a few images that `model` reads, N x C x H x W.

    Raises:
        InputError: The network does not run while its operations are recorded.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = nn.Conv2d(4, 4, 3, padding=1)
        ...     def forward(self, maps):
        ...         return torch.relu(self.conv(maps) + maps)
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), Residual(), nn.Sequential(Residual()))
        >>> found = structure_of(network, torch.rand(1, 3, 8, 8))
        >>> found.auto, found.sites()
        ('stem+sums', ('0', '1', '2.0'))
    """
    search = FlowSearch(flow_of(model, images))
    modules = dict(network_of(model).named_modules())
    order = {name: place for place, name in enumerate(modules)}
    named = {place: search.module_of(place) for place in search.sums}
    names = {name for name in named.values() if name}
    unnamed = sum(
        name is None and not search.is_inside(place, names) for place, name in named.items()
    )
    kinds = {type(modules[name]) for name in names}
    alike = {name for name, module in modules.items() if type(module) in kinds}
    stem = search.stem()

    def ordered(names: Iterable[str | None]) -> tuple[str, ...]:
        return tuple(sorted({name for name in names if name}, key=order.__getitem__))

    mlps = wrapped(model, mlp_channels(model))
    return Structure(
        stem=ordered([stem]),
        sums=ordered(names),
        bottlenecks=ordered(search.end_of(*end, alike) for end in search.bottlenecks),
        mlps=tuple(mlps),
        convolutions=tuple(wrapped(model, convolutions(model))),
        auto=_auto(search, stem, len(names), unnamed, len(mlps)),
        unnamed_sums=unnamed,
    )


def _auto(search: FlowSearch, stem: str | None, named: int, unnamed: int, mlps: int) -> str:
    """The choice that suits a network."""
    before = "stem+" if stem else ""
    if mlps > sum(search.sums.values()):
        return f"{before}mlps"
    if 2 * len(search.bottlenecks) > named:
        return "bottlenecks"
    if named and named >= unnamed:
        return f"{before}sums"
    return "convolutions"
