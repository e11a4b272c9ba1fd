"""Recognising the sites of an adapter in a network whose modules have other names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

from torch import nn

from deepcorrect.networks._classifier import network_of
from deepcorrect.networks._fingerprint import has_module, layer_digests, site_digest
from deepcorrect.networks._site_facts import Sketch, sketches
from deepcorrect.runtime import InputError


class Identity(Protocol):
    """What identifies a site, such as a `SiteFacts`."""

    @property
    def content(self) -> str: ...
    @property
    def sketch(self) -> Sketch | None: ...


def match_sites(
    model: nn.Module, prefix: str, saved: Mapping[str, Identity], source: object
) -> dict[str, str]:
    """Finds the names of an adapter's sites in a network whose modules may be named otherwise.

    A layer is recognised by its tensors and geometry. A block is recognised by those of all layers
    inside, and, as the layers inside it may be a module too, by how large its maps are.

    Args:
        model: The model that contains the adapter's network.
        prefix: The prefix of the network's module names, see `find_subnetwork`.
        saved: What identified each site when the adapter was saved, by name.
        source: The source of the adapter, used in messages.

    Returns:
        The name in `model` of each site in `saved`.

    Raises:
        InputError: A site cannot be identified.
    """
    known = layer_digests(network_of(model))
    own = {name.removeprefix(prefix): d for name, d in known.items() if name.startswith(prefix)}
    names = {name: f"{prefix}{name}" for name in saved}
    if all(has_module(model, name) for name in names.values()) and all(
        site.content in ("", own.get(name), site_digest(own, name)) for name, site in saved.items()
    ):
        return names
    renamed = {}
    blocks = {name: site for name, site in saved.items() if site.sketch is not None}
    for digest in dict.fromkeys(site.content for name, site in saved.items() if name not in blocks):
        before = [n for n, site in saved.items() if site.content == digest and n not in blocks]
        now = [name for name, here in own.items() if here == digest]
        if not digest or len(before) != len(now):
            raise _unknown(source, before[0])
        renamed |= dict(zip(before, now, strict=True))
    renamed |= _blocks(network_of(model).get_submodule(prefix.rstrip(".")), own, blocks, source)
    return {old: f"{prefix}{renamed[old]}" for old in saved}


def _blocks(
    network: nn.Module, digests: Mapping[str, str], saved: Mapping[str, Identity], source: object
) -> dict[str, str]:
    """The names of blocks in a network without our wrappers.

    Of modules inside one another with the same maps, the innermost is taken.
    """
    wanted = {site.content for site in saved.values()}
    here = {name: site_digest(digests, name) for name, _ in network.named_modules() if name}
    candidates = [name for name, digest in here.items() if digest in wanted]
    found: dict[str, str] = {}
    drawn: dict[tuple[int, ...], dict[str, Sketch]] = {}
    for name, site in saved.items():
        assert site.sketch is not None
        shape = tuple(site.sketch.shape)
        if shape not in drawn:
            drawn[shape] = sketches(network, candidates, shape)
        alike = [
            each
            for each in candidates
            if here[each] == site.content and site.sketch.is_close(drawn[shape].get(each))
        ]
        outside = [a for a, b in pairwise(alike) if not b.startswith(f"{a}.")]
        if not alike or outside:
            raise _unknown(source, name)
        found[name] = alike[-1]
    return found


def _unknown(source: object, name: str) -> InputError:
    return InputError(
        f"the adapter in {source} was trained for this network with other module names, and its "
        f"site {name!r} cannot be identified: build the network as for the training"
    )
