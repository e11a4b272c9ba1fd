"""Putting correction units on a network: new ones by a ranking, or those of a saved adapter."""

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
    read_verified,
)
from deepcorrect.correction._config import AdapterConfig, SiteConfig
from deepcorrect.correction._corrected_model import AdaptedModel
from deepcorrect.correction._corrected_site import check_site
from deepcorrect.correction._filter_weights import layer_weights
from deepcorrect.correction._tensors import check_shapes
from deepcorrect.correction._unit_config import UnitChoice, parts_at
from deepcorrect.networks import (
    Classifier,
    find_subnetwork,
    fingerprint,
    fingerprint_by_names,
    match_sites,
    network_of,
)
from deepcorrect.runtime import InputError, check_seed, files


class FilterRanking(Ranked, Protocol):
    """A source of the filters to correct at each site, such as a `Ranking`."""

    def top(self, beta: float | Mapping[str, float]) -> dict[str, list[int]]: ...


def correct(
    model: nn.Module,
    ranking: FilterRanking | Mapping[str, Sequence[int]],
    beta: float | Mapping[str, float] | None = None,
    unit: UnitChoice = "bottleneck",
    seed: int = 0,
    *,
    budget: Budget | Mapping[str, float] | None = None,
    image: tuple[int, int, int] | None = None,
) -> AdaptedModel:
    """Corrects the filters of each site that distortion affects most.

    Each site gets a correction unit after these filters, or weights of their own for them. With
    units this is the network of the paper's section IV, before its units are trained.

    Args:
        model: The network to correct. It is never changed.
        ranking: The ranking whose first filters are corrected, or the filters themselves by site.
        beta: The fraction of each site's filters to correct, above 0 and up to 1: one value for
            all sites, or one per site (sites that are left out are not corrected). The default is
            0.5 without a budget. It is ignored if `ranking` gives the filters directly.
        unit: The kind of the units: `full`, `bottleneck`, `lite`, `cifar`, `rank_constrained`,
            `inverted` or `dense`; `weights`, with which the filters get weights of their own in
            place of a unit; or `weights+KIND` for both. Or a mapping with a `kind` and changes to
            it, such as `{"kind": "full", "separable": True}`; or a `UnitConfig`; or a mapping from
            each site to one of these.
        seed: The seed of the units' initial weights.
        budget: The largest accepted cost of all units together, in place of `beta`:
            `{"parameters": X}` or `{"multiply_adds": X}`. Values of X up to 1 are a fraction of the
            network's own cost. The priorities then determine the number of filters per site.
        image: The shape of an image that the network reads, C x H x W. It is needed only if a site
            is a block, `model` is a bare network, and the network reads no common size: the number
            of a block's filters is found by running the network on noise.

    Returns:
        The corrected network. Before training it computes the same as `model`, unless the unit's
        configuration sets another start.

    Raises:
        InputError: `beta`, the budget, the unit, a site or a filter is not accepted.

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
            raise InputError("give either beta or a budget, not both")
        chosen = filters_within(ranking, budget, unit)
    else:
        chosen = ranking.top(0.5 if beta is None else beta)
    if not chosen:
        raise InputError("there is no site to correct: name at least one")
    for name, filters in chosen.items():
        if not filters:
            raise InputError(
                f"there is no filter to correct at {name!r}: name at least one, or omit the site"
            )
    widths = None if isinstance(ranking, Mapping) else _widths(ranking)
    modules = networks.find(model, chosen)
    facts = networks.describe(model, modules, image, widths)
    parts = {name: parts_at(unit, name, position) for position, name in enumerate(facts)}
    entries = {
        name: SiteConfig(
            filters=tuple(chosen[name]),
            channels=site.channels,
            unit=parts[name].unit,
            weights=layer_weights(name, modules[name]) if parts[name].weights else 0,
            content=site.content,
            sketch=site.sketch,
        )
        for name, site in facts.items()
    }
    name = model.name if isinstance(model, Classifier) else type(network_of(model)).__name__
    config = AdapterConfig(base=name, fingerprint=fingerprint(model), sites=entries)
    return AdaptedModel(model, config, torch.Generator().manual_seed(check_seed(seed)))


def _widths(ranking: FilterRanking) -> dict[str, int]:
    """The number of filters of each ranked site."""
    return {name: values.shape[-1] for name, values in ranking.priorities.items()}


def load_adapter(model: nn.Module, source: str | Path) -> AdaptedModel:
    """Loads a saved adapter onto the network that it was trained for.

    The network is recognised by the tensors and the geometry of its layers. It may be bare or
    wrapped, and it may come from another library with other module names.

    Args:
        model: The network, with the weights it had when the adapter was trained.
        source: The folder that `AdaptedModel.save_pretrained` wrote, `hf:OWNER/NAME[@REVISION]`,
            or the name of an adapter that the package ships, such as
            `efficientnet_lite0/blur-noise` (`deepcorrect list adapters`).

    Returns:
        The corrected network.

    Raises:
        InputError: A file is missing or incomplete, or the network is a different one.

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
    config = read_verified(folder)
    check_shapes(config, files.read_shapes(folder / WEIGHTS_FILE))
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
    """The module that the adapter was made for, and the names of its sites here.

    Raises:
        InputError: The network is a different one.
    """
    prefix = (
        ""
        if config.schema_version == 1
        else find_subnetwork(model, config.fingerprint, config.sites)
    )
    if config.schema_version > 1 and prefix is not None:
        return prefix.removesuffix("."), match_sites(model, prefix, config.sites, folder)
    modules = dict(network_of(model).named_modules())
    for name, site in config.sites.items():
        if name not in modules:
            raise InputError(
                f"the adapter in {folder} was trained for the network {config.base!r}: "
                f"this network has no site {name!r}"
            )
        check_site(name, modules[name], site, modules)
    if config.schema_version > 1 or fingerprint_by_names(model) != config.fingerprint:
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
        kinds -= {torch.float32}
        cast = str(min(kinds, key=str)).removeprefix("torch.") if kinds else ""
        raise InputError(
            f"the adapter in {folder} was trained for {config.base!r} with other weights: "
            "load the network with the weights that the adapter was trained for"
            + (f". This network is {cast}: load the adapter first, and cast after" if cast else "")
        )
    return "", {name: name for name in config.sites}
