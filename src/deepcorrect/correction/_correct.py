"""The adapter: correction units at a frozen network's sites, switched on, off, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from deepcorrect import networks
from deepcorrect.correction._budget import Budget, Ranked, filters_within
from deepcorrect.correction._checkpoint import (
    WEIGHTS_FILE,
    folder_of,
    read_whole,
)
from deepcorrect.correction._config import AdapterConfig, SiteConfig
from deepcorrect.correction._corrected_model import AdaptedModel, check_site
from deepcorrect.correction._unit_config import UnitChoice, unit_config
from deepcorrect.networks import (
    Classifier,
    contents,
    find_inside,
    fingerprint,
    fingerprint_by_names,
    network_of,
    same_sites,
)
from deepcorrect.runtime import InputError, files


class FilterRanking(Ranked, Protocol):
    """Anything that names the filters to correct at each site, such as a `Ranking`."""

    def top(self, beta: float | Mapping[str, float]) -> dict[str, list[int]]: ...


def correct(
    model: nn.Module,
    ranking: FilterRanking | Mapping[str, Sequence[int]],
    beta: float | Mapping[str, float] | None = None,
    unit: UnitChoice = "bottleneck",
    seed: int = 0,
    *,
    budget: Budget | Mapping[str, float] | None = None,
) -> AdaptedModel:
    """Puts a correction unit behind the worst filters of each ranked site.

    Args:
        model: the network to correct. It is never changed.
        ranking: whose first filters are corrected; or the filters themselves, by site.
        beta: the corrected share of each site's filters, above 0 and up to 1; one for all sites,
            or one per site (sites left out are not corrected). Without a budget, 0.5 is the
            default. Not used with filters given directly.
        unit: `full`, `bottleneck`, `lite`, `cifar`, `rank_constrained` or `inverted`; or a mapping
            with a `kind` and changes to it, such as `{"kind": "full", "separable": True}`; or a
            `UnitConfig` for every site.
        seed: draws the units' initial weights.
        budget: instead of beta, what all units together may cost: `{"parameters": X}` or
            `{"multiply_adds": X}`, X up to 1 being a fraction of the network's own cost. The
            priorities then say how many filters each site gives.

    Returns:
        The adapted network. Untrained, it starts as the baseline unless the unit says otherwise.

    Raises:
        InputError: beta, the unit, a site or a filter is not accepted.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]}, unit="lite")
        >>> images = torch.rand(2, 3, 16, 16)
        >>> torch.equal(adapted(images), network(images))  # the units are not trained yet
        True
        >>> sum(p.numel() for p in adapted.trainable_parameters())
        296194
    """
    if isinstance(ranking, Mapping):
        chosen = {name: sorted({int(i) for i in filters}) for name, filters in ranking.items()}
    elif budget is not None:
        if beta is not None:
            raise InputError("give beta or a budget, not both")
        chosen = filters_within(ranking, budget, unit)
    else:
        chosen = ranking.top(0.5 if beta is None else beta)
    if not chosen:
        raise InputError("no site is to be corrected: name at least one")
    for name, filters in chosen.items():
        if not filters:
            raise InputError(
                f"no filter of {name!r} is to be corrected: name one, or drop the site"
            )
    modules = networks.find(model, chosen)
    held = contents(network_of(model))
    entries = {
        name: SiteConfig(
            filters=tuple(chosen[name]),
            channels=networks.filter_count(name, module),
            unit=unit_config(unit, position),
            content=held.get(name, ""),
        )
        for position, (name, module) in enumerate(modules.items())
    }
    name = model.name if isinstance(model, Classifier) else type(network_of(model)).__name__
    config = AdapterConfig(base=name, fingerprint=fingerprint(model), sites=entries)
    return AdaptedModel(model, config, torch.Generator().manual_seed(seed))


def load_adapter(model: nn.Module, source: str | Path) -> AdaptedModel:
    """Puts a saved adapter onto the network it was made for.

    The network is recognised by what its layers hold. It may be bare or wrapped in any way, and it
    may come from another library under other names.

    Args:
        model: the network, with the weights it had when the adapter was trained.
        source: the folder that `AdaptedModel.save_pretrained` wrote, or `hf:OWNER/NAME[@REVISION]`.

    Raises:
        InputError: a file is missing or not whole, or the network is another one.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]}, unit={"kind": "lite", "start": "he"})
        >>> folder = adapted.save_pretrained("adapter")
        >>> images = torch.rand(2, 3, 16, 16)
        >>> torch.equal(dc.load_adapter(network, folder)(images), adapted(images))
        True
    """
    folder = folder_of(source)
    config = read_whole(folder)
    subnetwork, names = _names_here(model, config, folder)
    here = {names[name]: site for name, site in config.sites.items()}
    adapted = AdaptedModel(model, config.model_copy(update={"sites": here}), subnetwork=subnetwork)
    tensors = files.read_tensors(folder / WEIGHTS_FILE)
    split = ((key.partition("/"), tensor) for key, tensor in tensors.items())
    adapted.load_state_dict(
        {f"{names.get(site, site)}/{name}": tensor for (site, _, name), tensor in split}
    )
    return adapted


def _names_here(
    model: nn.Module, config: AdapterConfig, folder: Path
) -> tuple[str, dict[str, str]]:
    """The module that the adapter was made for, and the names its sites have in this network.

    Raises:
        InputError: it is another network.
    """
    prefix = (
        "" if config.schema_version == 1 else find_inside(model, config.fingerprint, config.sites)
    )
    if config.schema_version > 1 and prefix is not None:
        held = {name: site.content for name, site in config.sites.items()}
        return prefix.removesuffix("."), same_sites(model, prefix, held, folder)
    modules = dict(network_of(model).named_modules())
    for name, site in config.sites.items():
        if name not in modules:
            raise InputError(
                f"the adapter in {folder} is for the network {config.base!r}: "
                f"this one has no site {name!r}"
            )
        check_site(name, modules[name], site)
    if config.schema_version > 1 or fingerprint_by_names(model) != config.fingerprint:
        raise InputError(
            f"the adapter in {folder} was trained for {config.base!r} with other weights: "
            "load the network with the weights it was made for"
        )
    return "", {name: name for name in config.sites}
