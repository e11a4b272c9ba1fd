"""Fusing a corrected network into plain layers."""

from __future__ import annotations

import copy
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcorrect.correction import (
    AdaptedModel,
    CorrectionUnit,
    FilterWeights,
    GatedCopy,
    GatedModel,
)
from deepcorrect.deployment._fused_layers import (
    FollowedSite,
    folded_unit,
    fused_site,
    scaled,
)
from deepcorrect.deployment._gated import GatedNetwork, exchange
from deepcorrect.deployment._trace import Trace, trace
from deepcorrect.networks import (
    Affine,
    Replacement,
    affine_of,
    innermost,
    layout_rule,
    logits_of,
    network_of,
    output_rows,
    preprocessing_of,
    ungated,
    unparallel,
)
from deepcorrect.runtime import InputError, device_of, exact_float32, inference, widest_float

First = Literal["cheaper", "always"]
TOLERANCE = 1e-4
LARGEST_ROUNDING = 100
"""The largest accepted rounding error as a multiple of the tolerance."""


def fuse(model: nn.Module, images: Tensor | None = None, first: First = "cheaper") -> nn.Module:
    """Fuses a network into a plain one with the same logits and less computation.

    Batch norms are folded into the convolutions before them, where nothing else reads these
    convolutions. Each correction unit is folded into its site's convolution, and the selection of
    the corrected filters becomes part of the unit's own 1x1 convolutions. Layers that cannot be
    folded exactly stay as they are, as do modulated units, whose computation depends on the image.
    With a gate, the result is the gate and two networks, fused with the units and without them,
    which share equal tensors: each image passes one of the two.

    Args:
        model: A corrected network, a `GatedCopy`, or any network, of which only batch norms are
            folded. It is not changed: the result is a copy.
        images: A batch, used to trace which batch norm reads which convolution and to check the
            result. It is not required for a `Classifier`.
        first: When a unit's first 1x1 convolution is merged into the site's convolution: if that
            is `cheaper`, or `always` if it is exact. After a k x k convolution, merging saves a
            layer but needs more multiply-adds.

    Returns:
        The network with its units, in inference mode, without hooks and without trainable
        parameters; a `Classifier` if `model` is one. It supports `torch.compile`, `torch.export`
        and ONNX as far as the network does.

    Raises:
        InputError: The network cannot be copied or run, or its logits differ when fused.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
        >>> adapted = dc.correct(network, {"0": [1, 5]}, unit={"kind": "lite", "start": "he"})
        >>> images = torch.rand(2, 3, 16, 16)
        >>> fused = dc.fuse(adapted, images)
        >>> torch.allclose(fused(images), adapted(images), atol=1e-4)
        True
        >>> any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
        False
    """
    model = unparallel(model)
    images = example_images(model) if images is None else images.to(device_of(model))
    corrected = model if isinstance(model, AdaptedModel) else None
    gateable = model if isinstance(model, GatedModel) else None
    changed = model.tuned if isinstance(model, GatedCopy) else model
    twin = unparallel(copy.deepcopy(corrected.network if corrected else changed)).eval()
    if any(isinstance(module, GatedModel) for module in twin.modules()):
        raise InputError("the network contains a corrected network: fuse that one")
    units: dict[str, tuple[CorrectionUnit, Tensor]] = {}
    channels: dict[str, int] = {}
    gate = None if gateable is None else gateable.gate
    gated_base = gateable.network if gateable is not None and gate else None
    base = unparallel(copy.deepcopy(gated_base)).eval() if gated_base is not None else None
    for network in (twin, base):
        for module in () if network is None else network.modules():
            module.training = False  # whatever a network's own `train` does
    if corrected is not None:
        channels = {name: site.channels for name, site in corrected.config.sites.items()}
        for name in corrected.config.sites:
            site = corrected.corrected_site(name)
            if site.weights is not None:
                _give_weights(network_of(twin).get_submodule(name), site.weights, site.filters)
            if site.unit is not None:
                units[name] = (site.unit, site.filters)
    with torch.no_grad(), inference(model), exact_float32():
        seen = trace(twin, images)
        gated = "" if gateable is None else _gated_name(network_of(twin), gateable.subnetwork)
        folding = _Folding(network_of(twin), seen.within(gated), first == "always")
        folding.fold_norms(skip=units.keys())
        # inner sites first: a replaced site has other module names inside
        for name in sorted(units, key=lambda name: name.count("."), reverse=True):
            unit, filters = units[name]
            folding.correct(name, copy.deepcopy(unit).eval(), filters.clone(), channels[name])
        with ungated(model):  # the gate may not correct these images
            check_logits(model, images, logits_of(twin, images), "the fused network")
        if gateable is not None and gate is not None and base is not None:
            with inference(gateable.network):
                # of its own: the copy may have other modules, as adapters have
                seen = trace(base, images).within(gated)
                _Folding(network_of(base), seen, first == "always").fold_norms()
                given = logits_of(base, images)
                check_logits(gateable.network, images, given, "the fused network without units")
            read, own = (network_of(each).get_submodule(gated) for each in (twin, base))
            twin = exchange(twin, read, GatedNetwork(read, own, copy.deepcopy(gate)))
            check_logits(model, images, logits_of(twin, images), "the fused network")
    return twin.requires_grad_(False)


def _give_weights(layer: nn.Module, own: FilterWeights, filters: Tensor) -> None:
    """Writes the weights that filters have of their own into their layer."""
    with torch.no_grad():
        weight, bias = own.merged(layer, filters)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)


def _gated_name(network: nn.Module, subnetwork: str) -> str:
    """The name of the module whose input a gate reads, see `GatedModel.gated_module`."""
    read = innermost(network.get_submodule(subnetwork))
    return next(name for name, module in network.named_modules() if module is read)


def example_images(model: nn.Module, count: int = 2) -> Tensor:
    """Makes images in [0, 1] of the size that a model reads: noise over smooth patterns.

    Args:
        model: A model that contains a `Classifier`.
        count: The number of images.

    Returns:
        The images, count x C x H x W, on the model's device.

    Raises:
        InputError: The model is a bare network, whose input size is unknown.
    """
    known = preprocessing_of(model)
    if known is None:
        raise InputError(
            "the input size of a bare network is unknown: give a batch of images, "
            "or wrap the network in a deepcorrect.Classifier"
        )
    generator = torch.Generator().manual_seed(0)
    shape = (count, known.channels, 5, 5)
    size = (known.input_size, known.input_size)
    soft = F.interpolate(torch.rand(shape, generator=generator), size, mode="bilinear")
    noise = torch.rand(soft.shape, generator=generator)
    return (0.8 * soft + 0.2 * noise).to(device_of(model))


def on_cpu(model: nn.Module) -> nn.Module:
    """The network on the CPU: itself if it is there, else a copy.

    Files are written from the CPU, so that every machine can read them.
    """
    if device_of(model).type == "cpu":
        return model
    twin = copy.deepcopy(model).to(torch.device("cpu"))
    for module in twin.modules():
        if isinstance(module, nn.DataParallel):
            module.device_ids = []  # it would refuse to run on the CPU
    return twin


def check_logits(model: nn.Module, images: Tensor, given: Any, what: str) -> float:
    """Checks logits against those of a network.

    The accepted difference is 1e-4 of the largest logit (or of 1). Where float32 itself is less
    exact in the network, it is four times the network's rounding error.

    Args:
        model: The network, in inference mode.
        images: The images, N x C x H x W, whose logits are compared.
        given: The logits to check, N x classes.
        what: The source of the logits, used in messages.

    Returns:
        The largest difference.

    Raises:
        InputError: The difference is larger than accepted.
    """
    with torch.no_grad(), exact_float32():
        given, expected = (_values(each, images) for each in (given, logits_of(model, images)))
        if given.shape != expected.shape:
            raise InputError(
                f"{what} returns {tuple(given.shape)}, the network {tuple(expected.shape)}"
            )
        difference = float((given.to(expected) - expected).abs().max())
        accepted = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= accepted:
            rounding = 4 * _rounding(model, images, expected)
            accepted = max(accepted, min(rounding, LARGEST_ROUNDING * accepted))
    if not difference <= accepted:
        raise InputError(
            f"the logits of {what} differ from the network's by {difference:.2g}, but at most "
            f"{accepted:.2g} is accepted. Please report the network"
        )
    return difference


def _rounding(model: nn.Module, images: Tensor, given: Tensor) -> float:
    """How much float32 changes a network's output; 0 for one that computes in its own precision."""
    place = images.device if widest_float(images.device) == torch.float64 else torch.device("cpu")
    try:
        exact = _values(copy.deepcopy(model).to(place).double()(images.to(place).double()), images)
    except RuntimeError:
        return 0.0
    return float((given.to(place) - exact).abs().max())


def _values(output: Any, images: Tensor) -> Tensor:
    """The tensor that a network returned, or the logits in what it returned."""
    return output if isinstance(output, Tensor) else output_rows(output, len(images))


class _Folding:
    """Replaces modules of a network by folded ones."""

    def __init__(self, network: nn.Module, seen: Trace, always: bool) -> None:
        self.network = network
        self.seen = seen
        self.always = always

    def correct(self, name: str, unit: CorrectionUnit, filters: Tensor, channels: int) -> None:
        """Folds a unit, and the batch norm after it where that is exact, into the site `name`."""
        site = self.network.get_submodule(name)
        rule = layout_rule(name, site, channels)
        followed = FollowedSite(site, rule, *folded_unit(unit, filters, channels))
        conv = self._convolution(name)
        # modulations depend on the image, so that no convolution can replace them
        if conv is not None and unit.modulation is None:
            maps = self._like_input(name, conv)
            for norm in dict.fromkeys((self._norm_behind(name), None)):
                affine = norm and norm.affine
                fused = fused_site(conv, unit, filters, affine, self.always)
                if fused and _near(_passed(followed(maps), affine), fused(maps)):
                    self._replace(name, fused)
                    if norm:
                        self._replace(norm.name, norm.rest)
                    return
        self._replace(name, followed)

    def fold_norms(self, skip: Set[str] = frozenset()) -> None:
        """Folds the batch norms after convolutions, without those whose names are in `skip`."""
        for name in self.seen.norms.keys() - skip:
            conv, norm = self._convolution(name), self._norm_behind(name)
            if conv is None or norm is None:
                continue
            maps, folded = self._like_input(name, conv), scaled(conv, norm.affine)
            if _near(_passed(conv(maps), norm.affine), folded(maps)):
                self._replace(name, folded)
                self._replace(norm.name, norm.rest)

    def _convolution(self, name: str) -> nn.Conv2d | None:
        """The convolution `name`; None if it did not run, has hooks, or computes its weights."""
        module = self.network.get_submodule(name)
        if not isinstance(module, nn.Conv2d) or "weight" not in module._parameters:
            return None
        hooked = module._forward_hooks or module._forward_pre_hooks
        return None if hooked or name not in self.seen.shapes else module

    def _norm_behind(self, name: str) -> _Norm | None:
        """The batch norm after a convolution; None if it cannot be separated from its module."""
        if name not in self.seen.norms:
            return None
        module = self.network.get_submodule(self.seen.norms[name])
        corrected = isinstance(module, Replacement)
        if corrected or not isinstance(module, nn.BatchNorm2d) or module._forward_hooks:
            return None
        affine = affine_of(module)
        if affine is None:
            return None
        # timm's batch norms include the activation
        layers = [getattr(module, part, None) for part in ("drop", "act")]
        kept = [each for each in layers if each and not isinstance(each, nn.Identity)]
        rest = nn.Sequential(*kept) if kept else nn.Identity()
        maps = torch.randn_like(affine.scale[None, :, None, None].expand(2, -1, 3, 3))
        maps = maps.to(next(module.buffers()).dtype)
        if not _near(module(maps.clone()), rest(_passed(maps, affine))):
            return None
        return _Norm(self.seen.norms[name], affine, rest)

    def _like_input(self, name: str, conv: nn.Conv2d) -> Tensor:
        """Random values in the shape of the convolution's input for one image."""
        shape = (1, *self.seen.shapes[name][1:])
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator).to(conv.weight)

    def _replace(self, name: str, module: nn.Module) -> None:
        """Replaces the module `name` wherever it is registered."""
        exchange(self.network, self.network.get_submodule(name), module)


@dataclass(frozen=True, eq=False)
class _Norm:
    """A batch norm: its module's name, its affine map, and the remaining layers of the module."""

    name: str
    affine: Affine
    rest: nn.Module


def _passed(maps: Tensor, affine: Affine | None) -> Tensor:
    """Applies the affine map of a batch norm to maps."""
    if affine is None:
        return maps
    scale, shift = (value[:, None, None].to(maps.dtype) for value in affine)
    return maps * scale + shift


def _near(expected: Tensor, given: Tensor) -> bool:
    """Whether values agree to the precision of their data type."""
    if expected.shape != given.shape:
        return False
    accepted = max(TOLERANCE, 16 * torch.finfo(expected.dtype).eps)
    largest = max(1.0, float(expected.abs().max()))
    return bool((given - expected).abs().max() <= accepted * largest)
