"""A site in a corrected network: the site's module followed by its correction unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction._config import SiteConfig
from deepcorrect.correction._units import CorrectionUnit
from deepcorrect.networks import LayoutRule, Replacement, stated_width
from deepcorrect.runtime import InputError


class CorrectedSite(Replacement):
    """A site's module followed by its correction unit.

    Args:
        site: The module.
        name: The site's dotted name, used in messages.
        config: The site's corrected filters and number of channels.
        rule: Where the module's output holds its maps.
        unit: The unit that corrects the filters.
        device: The device of the unit.
        ran: Gets the site's name when the module is called.
    """

    filters: Tensor

    def __init__(
        self,
        site: nn.Module,
        name: str,
        config: SiteConfig,
        rule: LayoutRule,
        unit: CorrectionUnit,
        device: torch.device,
        ran: set[str],
    ) -> None:
        super().__init__(site)
        self.name, self.config, self.unit, self.ran = name, config, unit, ran
        self.rule = rule
        filters = torch.tensor(config.filters, device=device)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the module's output with corrected maps (paper, equation 6)."""
        if not torch.compiler.is_compiling():
            self.ran.add(self.name)
        output = self.site(*args, **kwargs)
        layout = self.rule(output)
        maps, channels = layout.maps(output), self.config.channels
        if maps.shape[1] != channels:
            raise InputError(
                f"site {self.name!r} returns {tuple(output.shape)}: a corrected site must have "
                f"{channels} channels"
            )
        return layout.output(self.unit(maps, self.filters), output)


def check_site(name: str, module: nn.Module, site: SiteConfig) -> None:
    """Checks that a site's module has the configured channels and filters.

    The channels of a module that does not state them are checked when it runs.

    Raises:
        InputError: The number of channels differs, or the filters are not ascending indices.
    """
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
