"""A gate: whether an image is distorted, told from the image alone, so that clean ones are left be.

A correction helps distorted images and costs clean ones a little. The base is untouched, so each
image can have the better of both: those whose fine detail looks distorted are corrected, the others
get exactly the baseline's answer. The paper's units have no gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from deepcorrect.classifier import Wrapper, input_size_of
from deepcorrect.computing import device_of
from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion, distort_some, parse_all
from deepcorrect.errors import InputError

if TYPE_CHECKING:  # adapter.py puts gates on
    from deepcorrect.adapter import AdaptedModel

SCALES = 3
LEAST = 20
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
    """
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
        self._distorted: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """N truth values of images as the network reads them, N x C x H x W."""
        with torch.autocast(images.device.type, enabled=False):
            weights, biases = self.classifiers.weight.float(), self.classifiers.bias.float()
            return F.linear(statistics(images), weights, biases).amax(1) > 0

    def read(self, images: Tensor) -> None:
        """Looks at a batch: `choose` goes by it until `forget`."""
        self._distorted = self(images)

    def forget(self) -> None:
        """Ends what `read` began."""
        self._distorted = None

    def choose(self, corrected: Tensor, maps: Tensor) -> Tensor:
        """The corrected maps of the images that looked distorted, the others' own, N x C x H x W.

        Raises:
            InputError: the maps are not of as many images as were read.
        """
        distorted = self._distorted
        if distorted is None:
            return corrected
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

    def forward(self, images: Tensor) -> Any:
        """The network's output for images as it reads them, N x C x H x W."""
        self.gate.read(images)
        try:
            return self.network(images)
        finally:
            self.gate.forget()


def fit_gate(
    adapted: AdaptedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    false_alarms: float = 0.05,
    images: int = 2000,
    seed: int = 0,
) -> GateConfig:
    """Gives a correction a gate, by logistic regression on clean and distorted images.

    It does not depend on the units: fitted before they are trained, `fit` chooses the epoch by what
    the gated network does on validation images. Training itself corrects every image.

    Args:
        adapted: the corrected network; any gate of it is replaced.
        loader: batches of (clean images, anything); labels are not looked at.
        distortions: specs, as in `fit`; every image is seen clean and once in each kind.
        false_alarms: the share of clean images that may be corrected all the same, above 0, below
            1. Less leaves more of the clean accuracy, and more of slight distortions uncorrected.
        images: so many of the loader's first are used.
        seed: of the distortions.

    Returns:
        What was fitted; `adapted` has it.

    Raises:
        InputError: a distortion or the share is not accepted, or there are fewer than 20 images.
    """
    if not 0 < false_alarms < 1:
        raise InputError(f"false alarms of {false_alarms} are not a share above 0 and below 1")
    generator = torch.Generator().manual_seed(seed)
    clean: list[Tensor] = []
    distorted: dict[str, list[Tensor]] = {}
    count = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a loader that shuffles gives the same images
        for batch, _ in loader:
            some = batch[: images - count]
            clean.append(_statistics_inside(adapted, some))
            for kind in parse_all(distortions, input_size_of(adapted, some)):
                mixed = distort_some(some, [kind], 0.0, generator)
                found = _statistics_inside(adapted, mixed)
                distorted.setdefault(kind.name, []).append(found)
            count += len(some)
            if count == images:
                break
    if count < LEAST:
        raise InputError(f"a gate needs {LEAST} images at least to tell clean ones by, not {count}")
    known = torch.cat(clean).double().numpy()
    fitted = [_classifier(known, torch.cat(each).double().numpy()) for each in distorted.values()]
    weights, biases = np.stack([row for row, _ in fitted]), np.array([bias for _, bias in fitted])
    alarm = np.quantile((known @ weights.T + biases).max(1), 1 - false_alarms)
    gate = GateConfig(
        kinds=tuple(distorted),
        weights=tuple(map(tuple, weights.tolist())),
        biases=tuple((biases - alarm).tolist()),
        false_alarms=false_alarms,
    )
    adapted.set_gate(gate)
    return gate


def _classifier(clean: np.ndarray, distorted: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of a logistic regression that tells distorted statistics from clean ones."""
    both = np.concatenate([clean, distorted])
    mean, spread = both.mean(0), both.std(0).clip(1e-6)
    fitted = LogisticRegression(max_iter=1000)
    fitted.fit((both - mean) / spread, np.repeat([0, 1], [len(clean), len(distorted)]))
    weights = np.ravel(fitted.coef_) / spread
    return weights, float(np.ravel(fitted.intercept_)[0] - mean @ weights)


class _Read(Exception):  # noqa: N818
    """The network's input was seen: nothing else of it is needed."""


def _statistics_inside(adapted: AdaptedModel, images: Tensor) -> Tensor:
    """The statistics of images as the network inside reads them, on the CPU."""
    found: list[Tensor] = []

    def read(module: nn.Module, args: Any, kwargs: Any) -> None:
        del module
        found.append(statistics(input_images(args, kwargs)).cpu())
        raise _Read

    handle = adapted.gated_module.register_forward_pre_hook(read, with_kwargs=True)
    try:
        with torch.no_grad():
            adapted.network(images.to(device_of(adapted)))
    except _Read:
        pass
    finally:
        handle.remove()
    return found[0]


def input_images(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The images, N x C x H x W, among what a network is called with.

    Raises:
        InputError: there are none.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() == 4:
            return value
    raise InputError("a gate reads images N x C x H x W: the network was called with none")
