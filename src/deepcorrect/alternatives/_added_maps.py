"""A module of a frozen network to whose maps trained maps are added."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from deepcorrect.networks import Replacement, Wrapper, find, network_of


class AddedMaps(Replacement):
    """A site of a network, with what a trained part makes of its input or of its output added.

    Args:
        site: the module of the network.
        part: the trained part.
        after: whether the part reads the site's output; else it reads its input.
    """

    def __init__(self, site: nn.Module, part: nn.Module, *, after: bool) -> None:
        super().__init__(site)
        self.part, self.after = part, after

    @property
    def base_layer(self) -> nn.Module:
        """The module of the network, as PEFT's wrappers name it: only the whole is a site."""
        return self.site

    def forward(self, images: Tensor) -> Tensor:
        """The maps, N x C x H x W."""
        maps = self.site(images)
        return maps + self.part(maps if self.after else images)


class FrozenNetwork(Wrapper):
    """A copy of a network in which some sites have trained maps added. All else is frozen.

    Batch norms of the network keep their statistics, as its weights.

    Attributes:
        network: the copy.
        compared_sites: the sites whose maps the objective `activations` compares; None for all.
    """

    def __init__(self, network: nn.Module, compared_sites: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.network, self.compared_sites = network, compared_sites
        self.train(False)

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Sets the mode. The network stays in inference mode, batch norms included."""
        self.training = mode
        self.network.train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of images in [0, 1], N x C x H x W."""
        return self.network(images)


def with_added_maps(model: nn.Module, parts: Mapping[str, nn.Module], *, after: bool) -> nn.Module:
    """A frozen copy of the model with a trained part at each of some sites.

    Args:
        model: the baseline. It is not changed.
        parts: the trained part by the site's name.
        after: whether parts read the sites' output; else they read their input.
    """
    place = next(model.parameters())
    copied = copy.deepcopy(model).requires_grad_(False)
    network = network_of(copied)
    for name, site in find(copied, parts).items():
        parent, _, last = name.rpartition(".")
        part = parts[name].to(place.device, place.dtype)
        setattr(network.get_submodule(parent), last, AddedMaps(site, part, after=after))
    return copied
