"""A gate: whether an image is distorted, told from the image alone, so that clean ones are left be.

A correction helps distorted images and costs clean ones a little. The base is untouched, so each
image can have the better of both: those whose fine detail looks distorted are corrected, the others
get exactly the baseline's answer. The paper's units have no gate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.correction._corrected_model import AdaptedModel
from deepcorrect.correction._gate import LEAST_PIXELS, GateConfig, statistics
from deepcorrect.data import Batches, count_of
from deepcorrect.distortions import Distortion, distort_some, parse_all
from deepcorrect.networks import arguments_of, input_images, input_size_of
from deepcorrect.runtime import InputError, device_of, inference, progress

AT_ONE_SCALE = 8


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

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> batches = [(torch.full((8, 3, 16, 16), 0.5), torch.zeros(8)) for _ in range(2)]
        >>> gate = dc.fit_gate(adapted, batches, ["awgn:20"], false_alarms=0.25)
        >>> gate.kinds, gate.false_alarms, adapted.config.gate == gate
        (('awgn',), 0.25, True)
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
                clean.append(_statistics_read(adapted, shown))
                for kind in grid:
                    mixed = distort_some(shown, [kind], 0.0, generator)
                    found = _statistics_read(adapted, mixed)
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
    # the threshold is set on held-out (odd) images: on those it was fitted to, it errs too rarely
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

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> smooth = torch.linspace(0, 1, 16).expand(16, 3, 16, 16) * torch.rand(16, 3, 1, 1)
        >>> _ = dc.fit_gate(adapted, [(smooth, torch.zeros(16))], ["awgn:80"], false_alarms=0.25)
        >>> dc.looks_distorted(adapted, torch.rand(2, 3, 16, 16))
        tensor([True, True])
    """
    if adapted.gate is None:
        raise InputError("this correction has no gate: it corrects all images (see fit_gate)")
    with torch.no_grad():
        return adapted.gate(_images_read(adapted, images)).cpu()


def _statistics_read(adapted: AdaptedModel, images: Tensor) -> Tensor:
    """The statistics of images as the network inside reads them, on the CPU.

    Raises:
        InputError: it reads none, or some hold what is no number.
    """
    found = statistics(_images_read(adapted, images)).cpu()
    if not found.isfinite().all():
        raise InputError("some of the images that a gate is to be fitted to hold no numbers (NaN)")
    return found


def _images_read(adapted: AdaptedModel, images: Tensor) -> Tensor:
    """Images as the gated module of the network reads them.

    Raises:
        InputError: it reads none.
    """
    with inference(adapted.network):
        given = arguments_of(adapted.network, adapted.gated_module, images.to(device_of(adapted)))
    if given is None:
        raise InputError(
            "the network's part that should read the images is never called as a module: "
            "a gate cannot be fitted to it"
        )
    return input_images(*given)
