"""A site in a corrected network: the site's module, its filters' own weights, and its unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction._config import SiteConfig
from deepcorrect.correction._filter_weights import FilterWeights, called_with, layer_weights
from deepcorrect.correction._units import CorrectionUnit
from deepcorrect.networks import LayoutRule, Replacement, WithConstants, stated_width
from deepcorrect.runtime import InputError


class CorrectedSite(WithConstants, Replacement):
    """A site's module, with weights of their own for some filters, followed by its unit.

    Args:
        site: The module.
        name: The site's dotted name, used in messages.
        config: The site's corrected filters and number of channels.
        rule: Where the module's output holds its maps.
        unit: The unit that corrects the filters' outputs; None for no unit.
        weights: The filters' own weights; None for the module's weights.
        device: The device of the unit.
        ran: Gets the site's name when the module is called.

    Raises:
        InputError: The filters are to get weights of their own, but another adapter corrects the
            site already.
    """

    filters: Tensor

    def __init__(
        self,
        site: nn.Module,
        name: str,
        config: SiteConfig,
        rule: LayoutRule,
        unit: CorrectionUnit | None,
        weights: FilterWeights | None,
        device: torch.device,
        ran: set[str],
    ) -> None:
        super().__init__(site)
        if weights is not None and isinstance(site, Replacement):
            raise InputError(
                f"the filters of {name!r} cannot get weights of their own: another adapter "
                "corrects this site already. Choose another kind of unit for it"
            )
        self.name, self.config, self.rule, self.ran = name, config, rule, ran
        self.unit, self.weights = unit, weights
        self.register_constant("filters", torch.tensor(config.filters, device=device))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the module's output with corrected maps (paper, equation 6)."""
        if not torch.compiler.is_compiling():
            self.ran.add(self.name)
        if self.weights is None:
            output = self.site(*args, **kwargs)
        else:
            merged = self.weights.merged(self.site, self.filters)
            output = called_with(self.site, *merged, (args, kwargs))
        if self.unit is None:
            return output
        layout = self.rule(output)
        maps, channels = layout.maps(output), self.config.channels
        if maps.shape[1] != channels:
            raise InputError(
                f"site {self.name!r} returns {tuple(output.shape)}: a corrected site must have "
                f"{channels} channels"
            )
        return layout.output(self.unit(maps, self.filters), output)


def check_site(
    name: str, module: nn.Module, site: SiteConfig, modules: Mapping[str, nn.Module]
) -> None:
    """Checks that a site's module has the configured channels and filters, and can be corrected.

    The channels of a module that does not state them are checked when it runs.

    Args:
        name: The site's dotted name.
        module: Its module.
        site: Its configuration.
        modules: The network's modules by name.

    Raises:
        InputError: The number of channels or of weights differs, or the filters are not ascending
            indices.
    """
    if site.weights and site.weights != layer_weights(name, module):
        raise InputError(
            f"each filter of site {name!r} has {layer_weights(name, module)} weights; the adapter "
            f"was made for {site.weights}"
        )
    channels = site.channels
    if stated_width(module) not in (None, channels):
        raise InputError(
            f"site {name!r} has {stated_width(module)} filters; the adapter was made for {channels}"
        )
    if list(site.filters) != sorted(set(site.filters)) or not (
        site.filters[0] >= 0 and site.filters[-1] < channels
    ):
        raise InputError(
            f"the filters to correct at {name!r} must be ascending and distinct, "
            f"from 0 to {channels - 1}; given: {site.filters}"
        )
    _check_layers_around(name, modules)


def _check_layers_around(name: str, modules: Mapping[str, nn.Module]) -> None:
    """Checks that a network computes the same while torch calls a transformer layer's parts.

    In inference, torch reads the weights of a `TransformerEncoderLayer`'s linear layers without
    calling them, but calls them in the corrected copy. A layer in their place that does more than
    its `weight` says, such as PEFT's LoRA, works then, and does nothing in the network itself.

    Args:
        name: The site's dotted name.
        modules: The network's modules by name.

    Raises:
        InputError: Such a layer is in the transformer layer around the site.
    """
    parts = name.split(".")
    for around in (".".join(parts[:count]) for count in range(len(parts))):
        layer = modules.get(around)
        if not isinstance(layer, nn.TransformerEncoderLayer):
            continue
        for inside in ("linear1", "linear2"):
            kind = type(getattr(layer, inside))
            if not isinstance(getattr(layer, inside), nn.Linear):
                raise InputError(
                    f"{around}.{inside} is a {kind.__module__.split('.')[0]} {kind.__name__}, "
                    "which torch's TransformerEncoderLayer does not call in inference: it reads "
                    "the weights alone. Merge what was added into the layer first (PEFT: "
                    "merge_and_unload()), then correct the network"
                )
