"""A gate, which decides from an image alone whether it is distorted.

A correction helps distorted images and costs some accuracy on clean ones. A gate sends only images
whose fine detail looks distorted to the corrected network; all others get the baseline's answer,
or the mean of both. The paper's units have no gate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import Tensor, nn

from deepcorrect.runtime import InputError

SCALES = 3
LEAST_PIXELS = 8
FLAT = 1e-5
"""Added to means, so that the logarithm exists for flat images."""


Value = Annotated[float, Field(ge=-1e12, le=1e12)]
"""A weight or a bias; sums of larger ones might not be finite."""

Others = Literal["network", "mean"]
"""Whose answer images get that a gate takes for clean: the network's, or the mean of both."""


class GateConfig(BaseModel):
    """The configuration of a gate: linear classifiers of image statistics, one per distortion kind.

    An image is classified as distorted if the largest output exceeds 0.

    Attributes:
        kinds: The kind of distortion that each classifier separates from clean images.
        weights: One row per classifier with one weight per statistic.
        biases: One bias per classifier, chosen so that the fraction `false_alarms` of the clean
            images is classified as distorted.
        false_alarms: That fraction, above 0 and below 1.
        others: What all other images get: exactly the `network`'s answers, or the `mean` of the
            network's and the corrected network's probabilities, see `fit_gate`.

    Example:
        >>> import torch, deepcorrect as dc
        >>> gate = dc.GateConfig(
        ...     kinds=("awgn",), weights=((1.0,) * 38,), biases=(300.0,), false_alarms=0.05
        ... )
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> adapted.set_gate(gate)
        >>> noise, flat = torch.rand(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)
        >>> dc.looks_distorted(adapted, torch.cat([noise, flat]))
        tensor([ True, False])
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kinds: tuple[str, ...] = Field(min_length=1, max_length=1000)
    weights: tuple[tuple[Value, ...], ...]
    biases: tuple[Value, ...]
    false_alarms: float = Field(gt=0, lt=1)
    others: Others = "network"

    @model_serializer(mode="wrap")
    def _as_stored(self, stored: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = stored(self)
        if self.others == "network":  # the form of files that are older than `others`
            found.pop("others", None)
        return found

    @model_validator(mode="after")
    def _one_each(self) -> GateConfig:
        lengths = {len(row) for row in self.weights}
        if not len(self.kinds) == len(self.weights) == len(self.biases) or len(lengths) != 1:
            raise ValueError("a gate needs a row of weights, all equally long, and a bias per kind")
        return self


def statistics(images: Tensor) -> Tensor:
    """Measures the fine detail of images.

    The statistics are computed on luminance and on channel differences, where natural images have
    little fine detail but sensor noise remains. At each of three scales, each half as large as the
    one before, neighbouring pixels are subtracted horizontally, vertically and in both directions,
    the last of which responds most to noise (Immerkaer 1996). The statistics are the logarithms of
    the mean square and of the mean magnitude of the differences. Blur removes the finest detail
    first, and noise adds to it. Comparing the mean square with the mean magnitude separates edges,
    which are few and high, from noise. The last statistic is the variance of the coarsest scale.

    Args:
        images: N x C x H x W, at least 8 pixels high and wide.

    Returns:
        N x 38 for colour images, N x 19 for grey ones.

    Raises:
        InputError: The images are smaller than 8 pixels.
    """
    if min(images.shape[-2:]) < LEAST_PIXELS:
        raise InputError(
            f"a gate reads images of at least {LEAST_PIXELS} x {LEAST_PIXELS} pixels, but these "
            f"have {images.shape[-2]} x {images.shape[-1]}: correct them without a gate"
        )
    if torch.is_autocast_enabled(images.device.type):
        with torch.autocast(images.device.type, enabled=False):
            return statistics(images)
    images = images.detach().float().contiguous()  # a decision has no gradient
    traced = torch.compiler.is_compiling()
    size: Callable[..., Tensor] = _square_sum if traced else torch.linalg.vector_norm
    planes = _luminance_and_differences(images)
    found = []
    for scale in range(SCALES):
        if scale:
            planes = _halved(planes)
        down = planes.diff(dim=2)
        for each in (planes.diff(dim=3), down, down.diff(dim=3)):
            # each in turn, so that ONNX Runtime measures one while it is in the cache
            found += [size(each, dim=(2, 3)), each.abs_().sum((2, 3))]
    views = planes.split([1, images.shape[1] - 1], 1) if images.shape[1] > 1 else [planes]
    for view in views:
        centred = view - view.mean((1, 2, 3), keepdim=True)
        found.append(size(centred, dim=(1, 2, 3))[:, None])
    sums = torch.cat(found, 1)
    known = type(images) is Tensor and not traced  # a traced constant must not outlive its trace
    find: Callable[..., tuple[Tensor, Tensor, Tensor]] = _known_to_means if known else _to_means
    powers, weights, added = find(*images.shape[1:], images.device)
    return F.linear(sums if traced else sums**powers, weights, added).log()


def statistic_names(channels: int) -> tuple[str, ...]:
    """What each of the `statistics` is, in their order.

    Args:
        channels: The number of the images' channels.

    Example:
        >>> from deepcorrect.correction._gate import statistic_names
        >>> names = statistic_names(channels=1)
        >>> len(names), names[0], names[-1]
        (19, 'luminance, scale 1, across, mean square', 'luminance, scale 3, variance')
    """
    views = ("luminance",) if channels == 1 else ("luminance", "colour")
    found: list[str] = []
    for view in views:
        found += [
            f"{view}, scale {scale + 1}, {direction}, {mean}"
            for scale in range(SCALES)
            for direction in ("across", "down", "both ways")
            for mean in ("mean square", "mean magnitude")
        ]
        found.append(f"{view}, scale {SCALES}, variance")
    return tuple(found)


def _luminance_and_differences(images: Tensor) -> Tensor:
    """The planes that are measured: the sum of the channels, and their differences."""
    if images.shape[1] == 1:
        return images
    if not torch.compiler.is_compiling():
        return torch.cat([images.sum(1, keepdim=True), images.diff(dim=1)], 1)
    channels = images.split(1, 1)  # what ONNX Runtime is faster at
    differences = [second - first for first, second in pairwise(channels)]
    return torch.cat([sum(channels[1:], channels[0]), *differences], 1)


def _halved(planes: Tensor) -> Tensor:
    """Sums of 2 x 2 pixels: `avg_pool2d` takes several times as long on large images."""
    height, width = (size // 2 * 2 for size in planes.shape[2:])
    rows = planes[:, :, 0:height:2] + planes[:, :, 1:height:2]
    return rows[..., 0:width:2] + rows[..., 1:width:2]


def _square_sum(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """A sum of squares, which ONNX Runtime computes faster than a norm."""
    return (values * values).sum(dim)


def _to_means(
    channels: int, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """What takes norms to sums of squares, and these sums to the means that `statistics` needs.

    At each scale and in each direction there are the norm and the sum of magnitudes of each plane;
    after them, the norm of each view's coarsest planes about their mean. In luminance and at
    coarser scales, they are measured on sums of channels and of pixels in the place of averages.

    Returns:
        The power of each, and the weights and the bias of a linear layer, whose outputs are the
        means in the order of `statistic_names`.
    """
    views = [range(1), range(1, channels)][: 1 + (channels > 1)]
    variances = 6 * SCALES * channels
    powers = ([2.0] * channels + [1.0] * channels) * (3 * SCALES) + [2.0] * len(views)
    rows: list[list[float]] = []
    for number, view in enumerate(views):
        for place in range(6 * SCALES + 1):
            scale, direction = min(place // 6, SCALES - 1), place // 2 % 3
            high, wide = height >> scale, width >> scale
            added = 4**scale * (1 if number else channels)
            row = [0.0] * len(powers)
            if place == 6 * SCALES:
                row[variances + number] = 1 / added**2 / (high * wide * len(view) - 1)
            else:
                pixels = (high * (wide - 1), (high - 1) * wide, (high - 1) * (wide - 1))[direction]
                for column in (place * channels + plane for plane in view):
                    row[column] = 1 / added ** powers[column] / (pixels * len(view))
            rows.append(row)
    bias = torch.full((len(rows),), FLAT, device=device)
    return torch.tensor(powers, device=device), torch.tensor(rows, device=device), bias


_known_to_means = lru_cache(64)(_to_means)


class Gate(nn.Module):
    """A module that decides for each image whether to correct it.

    Args:
        config: The gate's classifiers.

    Attributes:
        config: The configuration that the gate was made from.
    """

    def __init__(self, config: GateConfig) -> None:
        super().__init__()
        self.config = config
        self.classifiers = nn.Linear(len(config.weights[0]), len(config.weights))
        self._set_classifiers()

    def _set_classifiers(self) -> None:
        """Sets the weights and biases from the configuration, where these tensors are now."""
        own = self.classifiers
        for name, values in (("weight", self.config.weights), ("bias", self.config.biases)):
            before = getattr(own, name)
            value = torch.tensor(values, dtype=before.dtype, device=before.device)
            setattr(own, name, nn.Parameter(value, requires_grad=False))

    def _apply(self, fn: Any, recurse: bool = True) -> Gate:
        super()._apply(fn, recurse)
        self._set_classifiers()  # `to_empty` leaves tensors without their values
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Classifies images as distorted or not.

        Args:
            images: Images as the network reads them, N x C x H x W.

        Returns:
            Whether each image is distorted, (N,) bool.

        Raises:
            InputError: The gate was fitted to images with another number of channels.
        """
        return self.scores(images).amax(1) > 0

    def scores(self, images: Tensor) -> Tensor:
        """Computes the output of each classifier, which is above 0 for a distorted image.

        Args:
            images: Images as the network reads them, N x C x H x W.

        Returns:
            N x kinds.

        Raises:
            InputError: The gate was fitted to images with another number of channels.
        """
        if torch.is_autocast_enabled(images.device.type):
            with torch.autocast(images.device.type, enabled=False):
                return self.scores(images)
        found = statistics(images)
        weights, biases = self.classifiers.weight.float(), self.classifiers.bias.float()
        if found.shape[1] != weights.shape[1]:
            raise InputError(
                f"the gate reads {weights.shape[1]} statistics per image, but these images of "
                f"{images.shape[1]} channels have {found.shape[1]}: fit a gate to such images"
            )
        return F.linear(found, weights, biases)
