"""A gate, which decides from an image alone whether it is distorted.

A correction helps distorted images and costs some accuracy on clean ones. A gate sends only images
whose fine detail looks distorted to the corrected network; all others get the baseline's answer.
The paper's units have no gate.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from deepcorrect.runtime import InputError

SCALES = 3
LEAST_PIXELS = 8
FLAT = 1e-5
"""Added to means, so that the logarithm exists for flat images."""


Value = Annotated[float, Field(ge=-1e12, le=1e12)]
"""A weight or a bias; sums of larger ones might not be finite."""


class GateConfig(BaseModel):
    """The configuration of a gate: linear classifiers of image statistics, one per distortion kind.

    An image is classified as distorted if the largest output exceeds 0.

    Attributes:
        kinds: The kind of distortion that each classifier separates from clean images.
        weights: One row per classifier with one weight per statistic.
        biases: One bias per classifier, chosen so that the fraction `false_alarms` of the clean
            images is classified as distorted.
        false_alarms: That fraction, above 0 and below 1.

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
    planes, views = _luminance_and_differences(images.float())
    sums, pixels = [], []
    for scale in range(SCALES):
        if scale:
            planes = _halved(planes)
        across = planes[..., 1:] - planes[..., :-1]
        down = planes[:, :, 1:] - planes[:, :, :-1]
        for each in (across, down, down[..., 1:] - down[..., :-1]):
            flat = each.flatten(2)
            # faster than one `vector_norm`, in PyTorch and in ONNX Runtime
            sums += [(flat * flat).sum(2), flat.abs().sum(2)]
            pixels += [flat.shape[2]] * 2
    means = torch.cat(sums, 1).unflatten(1, (len(sums), -1))  # N x statistics x planes
    means = means / torch.tensor(pixels, dtype=means.dtype, device=means.device)[:, None]
    found = []
    for mean, plane in zip(means.split(views, 2), planes.split(views, 1), strict=True):
        found += [mean.mean(2), plane.flatten(1).var(1, keepdim=True)]
    return (torch.cat(found, 1) + FLAT).log()


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


def _luminance_and_differences(images: Tensor) -> tuple[Tensor, list[int]]:
    """The planes that are measured, and how many belong to each view: luminance, differences."""
    channels = images.split(1, 1)
    if len(channels) == 1:
        return images, [1]
    luminance = sum(channels[1:], channels[0]) / len(channels)
    differences = [first - second for first, second in pairwise(channels)]
    return torch.cat([luminance, *differences], 1), [1, len(differences)]


def _halved(planes: Tensor) -> Tensor:
    """Averages of 2 x 2 pixels: `avg_pool2d`, which takes several times as long on large images."""
    height, width = (size // 2 * 2 for size in planes.shape[2:])
    rows = planes[:, :, 0:height:2] + planes[:, :, 1:height:2]
    return (rows[..., 0:width:2] + rows[..., 1:width:2]) / 4


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
        with torch.autocast(images.device.type, enabled=False):
            found = statistics(images)
            weights, biases = self.classifiers.weight.float(), self.classifiers.bias.float()
            if found.shape[1] != weights.shape[1]:
                raise InputError(
                    f"the gate reads {weights.shape[1]} statistics per image, but these images of "
                    f"{images.shape[1]} channels have {found.shape[1]}: fit a gate to such images"
                )
            return F.linear(found, weights, biases)
