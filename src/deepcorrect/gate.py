"""A gate: whether an image is distorted, told from the image alone, so that clean ones are left be.

A correction helps distorted images and costs clean ones a little. The base is untouched, so each
image can have the better of both: those whose fine detail looks distorted are corrected, the others
get exactly the baseline's answer. The paper's units have no gate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from deepcorrect.classifier import Wrapper, input_size_of
from deepcorrect.computing import PerThread, device_of
from deepcorrect.data import Batches, count_of
from deepcorrect.distortions import Distortion, distort_some, parse_all
from deepcorrect.errors import InputError
from deepcorrect.progress import progress

if TYPE_CHECKING:  # adapter.py puts gates on
    from deepcorrect.adapter import AdaptedModel

SCALES = 3
LEAST_PIXELS = 8
AT_ONE_SCALE = 8
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


def fit_gate(
    adapted: AdaptedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    false_alarms: float = 0.05,
    images: int = 2000,
    seed: int = 0,
    scale: float = 1.0,
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
        seed: of the distortions and the scales.
        scale: images are shown at random sizes from this share of their own up to all of it, above
            0, at most 1. Pictures of other sources have finer detail or less for their size, which
            a gate that knows one size alone takes for noise or blur: 0.5 prepares it for them.
            Where all images come from one source, 1 finds slight distortions more often.

    Returns:
        What was fitted; `adapted` has it.

    Raises:
        InputError: a distortion or the share is not accepted, there are too few images for it, or
            the network does not read images.
    """
    if not 0 < false_alarms < 1:
        raise InputError(f"false alarms of {false_alarms} are not a share above 0 and below 1")
    if not 0 < scale <= 1:
        raise InputError(f"a scale of {scale} is not a share above 0, at most 1")
    generator = torch.Generator().manual_seed(seed)
    clean: list[Tensor] = []
    distorted: dict[str, list[Tensor]] = {}
    grid: tuple[Distortion, ...] = ()
    count = 0
    total = min(images, count_of(loader))
    with torch.random.fork_rng(devices=[]), progress("fitting the gate", total) as advance:
        torch.manual_seed(seed)  # a loader that shuffles by torch's numbers gives the same images
        for batch, _ in loader:
            some = batch[: images - count]
            grid = grid or parse_all(distortions, input_size_of(adapted, some))
            for shown in _at_scales(some, scale, generator):
                clean.append(_statistics_inside(adapted, shown))
                for kind in grid:
                    mixed = distort_some(shown, [kind], 0.0, generator)
                    found = _statistics_inside(adapted, mixed)
                    distorted.setdefault(kind.name, []).append(found)
            count += len(some)
            advance(len(some))
            if count >= images:
                break
    least = math.ceil(2 / false_alarms)
    if count < least:
        raise InputError(
            f"a gate with a share of {false_alarms} needs {least} images at least, not {count}"
        )
    known = torch.cat(clean).double().numpy()
    # the odd ones say where the limit is: of those that a classifier has seen it knows too much
    fitted = [
        _classifier(known[::2], torch.cat(each).double().numpy()[::2])
        for each in distorted.values()
    ]
    weights, biases = np.stack([row for row, _ in fitted]), np.array([bias for _, bias in fitted])
    alarm = np.quantile((known[1::2] @ weights.T + biases).max(1), 1 - false_alarms)
    gate = GateConfig(
        kinds=tuple(distorted),
        weights=tuple(map(tuple, weights.tolist())),
        biases=tuple((biases - alarm).tolist()),
        false_alarms=false_alarms,
    )
    adapted.set_gate(gate)
    return gate


def _at_scales(images: Tensor, smallest: float, generator: torch.Generator) -> Iterator[Tensor]:
    """The images, a few at a time, these at one random share of their size, `smallest` to 1."""
    if smallest == 1:
        yield images
        return
    for some in images.split(AT_ONE_SCALE):
        yield shrunk(some, 1 - (1 - smallest) * float(torch.rand((), generator=generator)))


def shrunk(images: Tensor, share: float) -> Tensor:
    """Images in [0, 1] at a share of their size, but no smaller than a gate reads."""
    size = [min(side, max(LEAST_PIXELS, round(share * side))) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def _classifier(clean: np.ndarray, distorted: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of a logistic regression that tells distorted statistics from clean ones."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow to import

    both = np.concatenate([clean, distorted])
    mean, spread = both.mean(0), both.std(0).clip(1e-6)
    fitted = LogisticRegression(max_iter=1000)
    fitted.fit((both - mean) / spread, np.repeat([0, 1], [len(clean), len(distorted)]))
    weights = np.ravel(fitted.coef_) / spread
    return weights, float(np.ravel(fitted.intercept_)[0] - mean @ weights)


def looks_distorted(adapted: AdaptedModel, images: Tensor) -> Tensor:
    """Which images a correction's gate takes for distorted, so that they are corrected.

    Args:
        adapted: the corrected network.
        images: N x C x H x W, as the corrected network is given them.

    Returns:
        N truth values, on the CPU.

    Raises:
        InputError: the correction has no gate, or the gate reads images of other channels.
    """
    if adapted.gate is None:
        raise InputError("this correction has no gate: it corrects all images (see fit_gate)")
    with torch.no_grad():
        return adapted.gate(_images_inside(adapted, images)).cpu()


class _Read(Exception):  # noqa: N818
    """The network's input was seen: nothing else of it is needed."""


def _statistics_inside(adapted: AdaptedModel, images: Tensor) -> Tensor:
    """The statistics of images as the network inside reads them, on the CPU.

    Raises:
        InputError: it reads none, or some hold what is no number.
    """
    found = statistics(_images_inside(adapted, images)).cpu()
    if not found.isfinite().all():
        raise InputError("some of the images that a gate is to be fitted to hold no numbers (NaN)")
    return found


def _images_inside(adapted: AdaptedModel, images: Tensor) -> Tensor:
    """Images as the network inside reads them.

    Raises:
        InputError: it reads none.
    """
    found: list[Tensor] = []

    def read(module: nn.Module, args: Any, kwargs: Any) -> None:
        del module
        found.append(input_images(args, kwargs))
        raise _Read

    handle = adapted.gated_module.register_forward_pre_hook(read, with_kwargs=True)
    try:
        with torch.no_grad():
            adapted.network(images.to(device_of(adapted)))
    except _Read:
        pass
    finally:
        handle.remove()
    if not found:
        raise InputError(
            "the network's part that should read the images is never called as a module: "
            "a gate cannot be fitted to it"
        )
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
