"""A gate: whether an image is distorted, told from the image alone, so that clean ones are left be.

A correction helps distorted images and costs clean ones a little. The base is untouched, so each
image can have the better of both: those whose fine detail looks distorted are corrected, the others
get exactly the baseline's answer. The paper's units have no gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from deepcorrect.networks import Wrapper
from deepcorrect.runtime import InputError, PerThread

if TYPE_CHECKING:  # adapter.py puts gates on
    pass

SCALES = 3
LEAST_PIXELS = 8
FLAT = 1e-5
"""Added to means, so that flat images have a logarithm."""


class GateConfig(BaseModel):
    """Linear classifiers of `statistics`, one a kind of distortion. An image is distorted where the
    largest of their products, each with its bias, exceeds 0.

    Attributes:
        kinds: what each tells from clean images.
        weights: of each, one a statistic.
        biases: of each; chosen so that `false_alarms` of the clean images are taken for distorted.
        false_alarms: that share.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kinds: tuple[str, ...] = Field(min_length=1)
    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]
    false_alarms: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _one_each(self) -> GateConfig:
        lengths = {len(row) for row in self.weights}
        if not len(self.kinds) == len(self.weights) == len(self.biases) or len(lengths) != 1:
            raise ValueError("a gate needs weights, equally many, and a bias for each kind")
        return self


def statistics(images: Tensor) -> Tensor:
    """How much fine detail images have: N x 38 for colour, N x 19 for grey, of N x C x H x W.

    Of brightness, and apart from it of the differences between neighbouring colours, which natural
    images have little fine detail in and a sensor's noise as much as anywhere. At each of three
    scales, halved from one to the next, neighbours are subtracted across, down and both, the last
    of which noise raises most (Immerkaer 1996); the logarithms of the mean square and of the mean
    size are what counts. Blur takes the finest detail first, noise adds to it, and edges, which are
    few and high, tell themselves from noise by the two means. Last the variance of the coarsest.

    Raises:
        InputError: the images are smaller than 8 pixels.
    """
    if min(images.shape[-2:]) < LEAST_PIXELS:
        raise InputError(
            f"a gate reads images of {LEAST_PIXELS} pixels or more, not of "
            f"{images.shape[-2]} x {images.shape[-1]}: correct these without a gate"
        )
    images = images.float()
    views = [images.mean(1, keepdim=True)]
    if images.shape[1] > 1:
        views.append(images[:, :-1] - images[:, 1:])
    found = []
    for finest in views:
        scales = [finest]
        while len(scales) < SCALES:
            scales.append(F.avg_pool2d(scales[-1], 2))
        for plane in scales:
            across, down = plane.diff(dim=3), plane.diff(dim=2)
            for each in (across, down, down.diff(dim=3)):
                found += [each.square().mean((1, 2, 3)), each.abs().mean((1, 2, 3))]
        found.append(scales[-1].var((1, 2, 3)))
    return (torch.stack(found, 1) + FLAT).log()


class Gate(nn.Module):
    """Says of each image whether it is to be corrected, and leaves the maps of the others be.

    Args:
        config: its classifiers.
    """

    def __init__(self, config: GateConfig) -> None:
        super().__init__()
        weights = torch.tensor(config.weights)
        self.classifiers = nn.Linear(weights.shape[1], len(weights)).requires_grad_(False)
        with torch.no_grad():
            self.classifiers.weight.copy_(weights)
            self.classifiers.bias.copy_(torch.tensor(config.biases))
        self._distorted: PerThread[Tensor] = PerThread()

    def forward(self, images: Tensor) -> Tensor:
        """N truth values of images as the network reads them, N x C x H x W.

        Raises:
            InputError: the gate was fitted to images of other channels.
        """
        with torch.autocast(images.device.type, enabled=False):
            found = statistics(images)
            weights, biases = self.classifiers.weight.float(), self.classifiers.bias.float()
            if found.shape[1] != weights.shape[1]:
                raise InputError(
                    f"the gate reads {weights.shape[1]} statistics of an image, and these of "
                    f"{images.shape[1]} channels have {found.shape[1]}: fit one to such images"
                )
            return F.linear(found, weights, biases).amax(1) > 0

    def read(self, images: Tensor) -> None:
        """Looks at a batch: `choose` goes by it until `forget`."""
        self._distorted.set(self(images))

    def forget(self) -> None:
        """Ends what `read` began."""
        self._distorted.clear()

    def choose(self, corrected: Tensor, maps: Tensor) -> Tensor:
        """The corrected maps of the images that looked distorted, the others' own, N x C x H x W.

        Raises:
            InputError: no images were read, or the maps are of another number of them.
        """
        distorted = self._distorted.get()
        if distorted is None:
            raise InputError(
                "the gate was shown no images: the module that should read them is never called "
                "as one in this network; correct it without a gate"
            )
        if distorted.shape[0] != maps.shape[0]:
            raise InputError(
                f"a gate read {distorted.shape[0]} images, a site gives maps of {maps.shape[0]}: "
                "this network cuts its images up, correct it without a gate"
            )
        return torch.where(distorted[:, None, None, None], corrected, maps)


class Gated(Wrapper):
    """A network some of whose sites ask a gate, which looks at the network's input first.

    Args:
        network: with the gate at its corrected sites.
        gate: theirs.
    """

    def __init__(self, network: nn.Module, gate: Gate) -> None:
        super().__init__()
        self.network = network
        self.gate = gate

    def __getattr__(self, name: str) -> Any:
        """The network's, where this has none: what is around it may look at its parts."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output for images as it reads them, N x C x H x W."""
        self.gate.read(input_images(args, kwargs))
        try:
            return self.network(*args, **kwargs)
        finally:
            self.gate.forget()


def input_images(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The images, N x C x H x W, among what a network is called with.

    Raises:
        InputError: there are none.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() == 4:
            return value
    raise InputError("a gate reads images N x C x H x W: the network was called with none")
