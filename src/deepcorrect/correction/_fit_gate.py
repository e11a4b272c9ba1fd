"""Fitting a gate, which decides from an image alone whether it is distorted.

A correction helps distorted images and costs some accuracy on clean ones. A gate sends only images
whose fine detail looks distorted to the corrected network; all others get exactly the baseline's
answer, or the mean of both. The paper's units have no gate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.correction._gate import (
    LEAST_PIXELS,
    GateConfig,
    Others,
    statistic_names,
    statistics,
)
from deepcorrect.correction._gated_model import GatedModel
from deepcorrect.data import Batches, count_of
from deepcorrect.distortions import Distortion, distort_some, numbered_batches, parse_all
from deepcorrect.networks import (
    arguments_of,
    forward_hooks,
    input_images,
    input_size_of,
    logits_in,
    logits_of,
    read_outputs,
)
from deepcorrect.runtime import (
    InputError,
    check_seed,
    device_of,
    forked_random,
    inference,
    progress,
)

AT_ONE_SCALE = 8
"""Images that share one random scale."""


def fit_gate(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    false_alarms: float = 0.05,
    images: int = 2000,
    seed: int = 0,
    scale: float = 1.0,
    others: Others = "network",
) -> GateConfig:
    """Fits a gate to a corrected network by logistic regression on clean and distorted images.

    The gate does not depend on the units. If it is fitted before they are trained, `fit` selects
    the epoch by the gated network's accuracy on validation images. Training itself corrects every
    image.

    Args:
        adapted: The corrected network, or a `GatedCopy`. Any earlier gate is replaced.
        loader: Batches of clean images, N x C x H x W in [0, 1], and labels, which are ignored.
        distortions: Distortion specs, as in `fit`. Every image is used clean and once per kind.
        false_alarms: The fraction of clean images that may be corrected, above 0 and below 1. A
            smaller fraction keeps more of the clean accuracy, but leaves more slightly distorted
            images uncorrected.
        images: The largest number of images to use, taken from the start of the loader.
        seed: The seed of the distortions and the scales.
        scale: The smallest scale, above 0 and at most 1. Images are resized to random fractions of
            their size between this scale and 1. For their size, images from other sources have
            finer or coarser detail, which a gate fitted at one scale mistakes for noise or blur:
            0.5 prepares it for them. If all images come from one source, 1 detects slight
            distortions more often.
        others: Whose answers images get that the gate takes for clean. With `network`, exactly the
            network's, at no further cost; an image with a distortion that the gate has not seen
            may then stay uncorrected. With `mean`, the mean of both networks' probabilities, for
            images whose distortions nobody knows: it takes two networks' time for images that look
            clean. Both networks must return logits; in their place, these images get logarithms of
            probabilities.

    Returns:
        The fitted gate, which is also set on `adapted`.

    Raises:
        InputError: A distortion, `false_alarms`, `scale` or `others` is not accepted, there are too
            few images for `false_alarms`, or the network does not read images.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> batches = [(torch.full((8, 3, 16, 16), 0.5), torch.zeros(8)) for _ in range(2)]
        >>> gate = dc.fit_gate(adapted, batches, ["awgn:20"], false_alarms=0.25)
        >>> gate.kinds, gate.false_alarms, adapted.config.gate == gate
        (('awgn',), 0.25, True)
    """
    _check(false_alarms, scale, others)
    generator = torch.Generator().manual_seed(check_seed(seed))
    clean: list[Tensor] = []
    distorted: dict[str, list[Tensor]] = {}
    grid: tuple[Distortion, ...] = ()
    count = 0
    total = min(images, count_of(loader))
    # seeded, so that a shuffling loader yields the same images
    with forked_random(seed=seed), progress("fitting the gate", total) as advance:
        for batch, _, _ in numbered_batches(loader, "to fit a gate to"):
            some = batch[: images - count]
            if others == "mean" and not count:
                _check_logits(adapted, some)
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
            f"a gate with false_alarms of {false_alarms} needs at least {least} images, but there "
            f"are {count}: give more images or a larger fraction"
        )
    known = torch.cat(clean).double().numpy()
    # the threshold is set on held-out (odd) images, as the fit errs too rarely on its own images
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
        others=others,
    )
    adapted.set_gate(gate)
    return gate


def _check(false_alarms: float, scale: float, others: str) -> None:
    """Refuses settings that are not accepted."""
    if not 0 < false_alarms < 1:
        raise InputError(f"false_alarms is {false_alarms}: it must be above 0 and below 1")
    if not 0 < scale <= 1:
        raise InputError(f"scale is {scale}: it must be above 0 and at most 1")
    if others not in get_args(Others):
        raise InputError(f"others is {others!r}: it must be one of {', '.join(get_args(Others))}")


def _check_logits(adapted: GatedModel, images: Tensor) -> None:
    """Refuses a network whose answers have no mean, as the gated module returns no logits."""
    kind = read_outputs(adapted.network, images).kind
    if kind != "logits":
        raise InputError(
            f"others='mean' averages the answers of networks that return logits, N x classes, but "
            f"this one returns {kind}: choose others='network', or correct a network without its "
            "last activation"
        )
    inner: list[Any] = []
    keep = forward_hooks({"": adapted.gated_module}, lambda *call: inner.append(call[-1]))
    with torch.no_grad(), inference(adapted.network), keep:
        for some in (images, images[:1]):
            answer = logits_of(adapted.network, some.to(device_of(adapted)))
            if not torch.equal(logits_in(inner[-1]), logits_in(answer)):
                raise InputError(
                    "others='mean' averages the answers of the module that a gate reads, but the "
                    "network changes these afterwards: choose others='network'"
                )


def _at_scales(images: Tensor, smallest: float, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields the images in small groups, each at a random scale between `smallest` and 1."""
    if smallest == 1:
        yield images
        return
    for some in images.split(AT_ONE_SCALE):
        yield shrink(some, 1 - (1 - smallest) * float(torch.rand((), generator=generator)))


def shrink(images: Tensor, scale: float) -> Tensor:
    """Resizes images in [0, 1] by a factor up to 1, but to no fewer pixels than a gate reads."""
    size = [min(side, max(LEAST_PIXELS, round(scale * side))) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def _classifier(clean: np.ndarray, distorted: np.ndarray) -> tuple[np.ndarray, float]:
    """Fits a logistic regression that separates distorted from clean statistics, each N x D.

    Returns:
        The weights, (D,), and the bias.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow to import

    both = np.concatenate([clean, distorted])
    mean, spread = both.mean(0), both.std(0).clip(1e-6)
    fitted = LogisticRegression(max_iter=1000)
    fitted.fit((both - mean) / spread, np.repeat([0, 1], [len(clean), len(distorted)]))
    weights = np.ravel(fitted.coef_) / spread
    return weights, float(np.ravel(fitted.intercept_)[0] - mean @ weights)


def looks_distorted(adapted: GatedModel, images: Tensor) -> Tensor:
    """Decides which images a corrected network's gate classifies as distorted and corrects.

    Args:
        adapted: The corrected network, or a `GatedCopy`.
        images: Images as the corrected network reads them, N x C x H x W.

    Returns:
        One truth value per image, (N,) bool on the CPU.

    Raises:
        InputError: The corrected network has no gate, or the gate was fitted to images with
            another number of channels.

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
        raise InputError("this network has no gate and corrects all images: see fit_gate")
    with torch.no_grad():
        return adapted.gate(images_read(adapted, images)).cpu()


def gate_readings(adapted: GatedModel, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What a gate decides by: its classifiers' outputs, and the statistics that they read.

    Args:
        adapted: The corrected network, or a `GatedCopy`.
        images: Images as the corrected network reads them, N x C x H x W.

    Returns:
        The output of each kind's classifier, N x kinds, above 0 for a distorted image; and the
        statistics by name, (N,) each: logarithms of means over the differences between
        neighbouring pixels. All are on the CPU.

    Raises:
        InputError: As `looks_distorted`.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.correction import gate_readings
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> smooth = torch.linspace(0, 1, 16).expand(16, 3, 16, 16) * torch.rand(16, 3, 1, 1)
        >>> _ = dc.fit_gate(adapted, [(smooth, torch.zeros(16))], ["awgn:80"], false_alarms=0.25)
        >>> scores, statistics = gate_readings(adapted, torch.rand(2, 3, 16, 16))
        >>> scores.shape, len(statistics)
        (torch.Size([2, 1]), 38)
    """
    if adapted.gate is None:
        raise InputError("this network has no gate and corrects all images: see fit_gate")
    with torch.no_grad():
        read = images_read(adapted, images)
        scores, found = adapted.gate.scores(read).cpu(), statistics(read).cpu()
    names = statistic_names(read.shape[1])
    return scores, dict(zip(names, found.unbind(1), strict=True))


def _statistics_read(adapted: GatedModel, images: Tensor) -> Tensor:
    """The statistics of images as the network inside reads them, N x 38 or N x 19, on the CPU.

    Raises:
        InputError: The network reads no images, or some images contain NaN or infinite values.
    """
    found = statistics(images_read(adapted, images)).cpu()
    if not found.isfinite().all():
        raise InputError("a gate cannot be fitted to images with NaN or infinite values")
    return found


def images_read(adapted: GatedModel, images: Tensor) -> Tensor:
    """The images as the gated module of the network reads them, N x C x H x W.

    Raises:
        InputError: The module is never called with images.
    """
    with inference(adapted.network):
        arguments = arguments_of(
            adapted.network, adapted.gated_module, images.to(device_of(adapted))
        )
    if arguments is None:
        raise InputError(
            "the network never calls the module whose input the gate should read: "
            "a gate cannot be fitted to this network"
        )
    return input_images(*arguments)
