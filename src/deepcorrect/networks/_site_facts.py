"""What is known of a site: its number of filters, and what identifies it in another network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from deepcorrect.networks._classifier import network_of, preprocessing_of
from deepcorrect.networks._fingerprint import innermost, layer_digests, site_digest
from deepcorrect.networks._layers import stated_width
from deepcorrect.networks._site_outputs import Seen, outputs_of
from deepcorrect.runtime import InputError, device_of, inference

Shape = tuple[int, ...]
SIZES = (32, 64, 224, 28, 96, 128, 256, 299, 384, 512)
"""The image sizes that a bare network is tried with."""

CLOSE = 0.05
"""The largest accepted difference of two sketches, as a share of the size of the maps."""


@dataclass(frozen=True)
class Sketch:
    """How large a module's maps are when its network reads noise.

    Two modules with the same tensors, such as a residual block and the layers inside it, can
    compute different maps. Their sketches tell them apart.

    Attributes:
        shape: The shape of the noise, N x C x H x W.
        mean: The mean of the maps.
        size: The root of the maps' mean square.
    """

    shape: Shape
    mean: float
    size: float

    def is_close(self, other: Sketch | None) -> bool:
        """Whether another sketch may be of the same maps, on another device or more exactly."""
        if other is None or other.shape != self.shape:
            return False
        accepted = CLOSE * max(self.size, other.size)
        return abs(self.mean - other.mean) <= accepted and abs(self.size - other.size) <= accepted


@dataclass(frozen=True)
class SiteFacts:
    """What is known of a site.

    Attributes:
        channels: The number of its filters.
        content: The digest of its tensors and geometry.
        sketch: How large its maps are; None for a single layer, which its digest identifies, and
            for a network that does not accept noise.
    """

    channels: int
    content: str
    sketch: Sketch | None = None


def describe(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    image: Shape | None = None,
    widths: Mapping[str, int] | None = None,
) -> dict[str, SiteFacts]:
    """Finds the number of filters of sites, and what identifies them.

    A single layer states its number of filters. Modules of several layers, such as blocks, are
    found by running two images of noise through the network. Their size is that of the images that
    a `Classifier` reads. For a bare network, common sizes are tried.

    Args:
        model: A network, wrapped or bare.
        modules: The modules of the sites by name, as `find` returns them.
        image: The shape of an image that the network inside reads, C x H x W.
        widths: Numbers of filters that are already known, for networks that do not accept noise.

    Returns:
        The facts by name, in the order of `modules`.

    Raises:
        InputError: A site has no maps, or no image size works.

    Example:
        >>> from torch import nn
        >>> block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> network = nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> describe(network, {"0": block})["0"].channels
        8
    """
    digests = layer_digests(network_of(model))
    stated = {name: stated_width(module) for name, module in modules.items()}
    probed: dict[str, _Probed] = {}
    asked = [name for name, width in stated.items() if width is None]
    if asked:
        probed = _probed(model, asked, image, set(widths or ()))
    found = {}
    for name, width in stated.items():
        seen = probed.get(name)
        channels = width or (seen.channels if seen else (widths or {})[name])
        found[name] = SiteFacts(channels, site_digest(digests, name), seen.sketch if seen else None)
    return found


def sketches(network: nn.Module, names: Iterable[str], shape: Shape) -> dict[str, Sketch]:
    """The sketches of those modules that run once, by name.

    Args:
        network: A network without our wrappers.
        names: The dotted names of modules of the network.
        shape: The shape of the noise, N x C x H x W.
    """
    try:
        runs = _runs(innermost(network), network, names, shape)
    except Exception:  # user code may raise anything
        return {}
    return {
        name: Sketch(shape, seen[0].mean, seen[0].size)
        for name, seen in runs.items()
        if len(seen) == 1 and seen[0].refused is None
    }


@dataclass(frozen=True)
class _Probed:
    channels: int
    sketch: Sketch | None


def _probed(
    model: nn.Module, names: list[str], image: Shape | None, known: set[str]
) -> dict[str, _Probed]:
    """What a pass of noise shows of modules; empty if none is possible and all are `known`."""
    network = network_of(model)
    reason = ""
    for shape in _shapes(model, image):
        for inside in dict.fromkeys((innermost(network), network)):
            try:
                runs = _runs(inside, network, names, shape)
            except Exception as error:  # user code may raise anything
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                continue
            if all(runs.get(name) for name in names) or inside is network:
                own = inside is innermost(network)
                return {n: _checked(n, runs.get(n, []), shape, sketched=own) for n in names}
    if known.issuperset(names):
        return {}
    raise InputError(
        f"the number of filters of {names[0]!r} is found by running the network, but it runs on "
        f"no image that was tried ({reason}): wrap it in a deepcorrect.Classifier, whose "
        "preprocessing says the size, or give `image`, the shape of an image, C x H x W"
    )


def _runs(
    inside: nn.Module, network: nn.Module, names: Iterable[str], shape: Shape
) -> dict[str, list[Seen]]:
    """What modules return when a part of a network reads noise."""
    modules = dict(network.named_modules())
    weight = next((p for p in inside.parameters() if p.is_floating_point()), torch.zeros(()))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with inference(network):
        noise = noise.to(device_of(inside), weight.dtype)
        return outputs_of(inside, {name: modules[name] for name in names}, noise)


def _checked(name: str, runs: list[Seen], shape: Shape, *, sketched: bool) -> _Probed:
    if not runs:
        raise InputError(f"site {name!r} does not run in a forward pass: name another module")
    for seen in runs:
        seen.require_maps(name, shape[0])
    widths = sorted({seen.channels for seen in runs})
    if len(widths) > 1:
        raise InputError(
            f"site {name!r} runs {len(runs)} times in a forward pass, with {widths} channels: a "
            "site must always have the same number"
        )
    once = sketched and len(runs) == 1
    sketch = Sketch(shape, runs[0].mean, runs[0].size) if once else None
    return _Probed(widths[0], sketch)


def _shapes(model: nn.Module, image: Shape | None) -> Iterator[Shape]:
    """Shapes of two images that a network may read, the most likely first."""
    known = preprocessing_of(model)
    if image is not None:
        yield (2, *image)
    elif known is not None:
        yield (2, known.channels, known.input_size, known.input_size)
    else:
        network = network_of(model)
        layers = (getattr(each, "in_channels", None) for each in network.modules())
        first = next((width for width in layers if isinstance(width, int)), None)
        for channels in (first,) if first else (3, 1):
            for size in dict.fromkeys((*_stated_sizes(network), *SIZES)):
                yield (2, channels, size, size)


def _stated_sizes(network: nn.Module) -> Iterator[int]:
    """The image sizes that a network's attributes state, as those of vision transformers do."""
    for module in network.modules():
        for attribute in ("img_size", "image_size"):
            value = getattr(module, attribute, None)
            side = value[0] if isinstance(value, tuple | list) and value else value
            if isinstance(side, int) and side > 0:
                yield side
