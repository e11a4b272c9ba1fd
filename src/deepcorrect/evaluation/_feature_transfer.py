"""A corrected network as a feature extractor: a linear SVM on its features (paper, section V).

The SVM is trained on undistorted images only and tested on distorted ones, so its accuracy under a
distortion depends on the features alone. Its classes are those of the images, not the network's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepcorrect.data import Batches, count_of
from deepcorrect.distortions import Distortion, shared_batches
from deepcorrect.evaluation._evaluate import evaluate
from deepcorrect.evaluation._results import Grid
from deepcorrect.networks import Wrapper, features, logits_of
from deepcorrect.runtime import (
    InputError,
    Precision,
    autocast,
    device_of,
    from_main,
    gathered_on_main,
    inference,
    process_count,
    progress,
    to_device,
    together,
)

PENALTIES = (0.1, 1.0, 10.0)
"""The values of C to choose from, for features whose mean squared norm is 1."""

FOLDS = 3


@dataclass(frozen=True)
class Svm:
    """A linear SVM, each class against the rest: scores are x W' + b.

    Attributes:
        weight, bias: classes x D and classes; a class without training images has a bias of
            minus infinity.
        penalty: C, the weight of errors against the margin.
        validation: mean accuracy over the folds for each C that was tried; empty for one C.
        images: number of training images.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    validation: dict[float, float]
    images: int


@dataclass(frozen=True)
class FeatureTransfer:
    """The accuracy of an SVM on a network's features (see `feature_transfer`).

    Attributes:
        grid: the SVM's accuracy on the test images by distortion and level.
        svm: the trained SVM.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> batches = [(torch.rand(12, 3, 8, 8), torch.arange(12) % 2)]
        >>> found = dc.feature_transfer(network, batches, batches, "awgn:20", penalties=[1.0])
        >>> tuple(found.svm.weight.shape)  # (classes, features)
        (2, 192)
    """

    grid: Grid
    svm: Svm

    @property
    def mean_top1(self) -> float:
        """The mean over the distortions of each one's mean over clean images and all levels."""
        return self.grid.mean_top1


class FeatureClassifier(Wrapper):
    """A network whose features are classified by an SVM instead of its own last layer.

    Args:
        network: an `AdaptedModel`, a `Classifier` or any module that takes images.
        svm: trained on its features.
        site: where the features are; see `networks.features`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, network: nn.Module, svm: Svm, site: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.site = site
        self.register_buffer("weight", svm.weight.to(device_of(network)))
        self.register_buffer("bias", svm.bias.to(device_of(network)))

    def forward(self, images: Tensor) -> Tensor:
        """The SVM's scores, N x classes."""
        with features(self.network, self.site) as read:
            self.network(images)
            found = read()
        with torch.autocast(found.device.type, enabled=False):
            return nn.functional.linear(found.float(), self.weight, self.bias)


def feature_transfer(
    model: nn.Module,
    train: Batches,
    test: Batches,
    distortions: Sequence[str | Distortion] | str,
    site: str | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    penalties: Sequence[float] = PENALTIES,
    task: str = "transfer",
) -> FeatureTransfer:
    """Trains a linear SVM on a network's features of clean images, and tests it on distorted ones.

    Of the training images, only the features are held in memory; the test images are streamed.

    Args:
        model: takes images in [0, 1]; corrected or not. Its own classes are not used.
        train: batches of (undistorted images, labels).
        test: batches of the same classes, in a fixed order.
        distortions: specs; without levels, the paper's grid for the input size.
        site: the module whose output is the features, N x D, or N x C x H x W, which is averaged
            over positions; None takes the input of the last linear layer.
        seed: of the noise, and of the folds.
        precision: of the network; features and SVM have at least float32.
        penalties: values of C; the best one is chosen by cross-validation on the features of the
            training images. A single value is used as it is.
        task: the name of this work in the progress line.

    Raises:
        InputError: there are no features, no labels, fewer than two classes, or no images.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> batches = [(torch.rand(12, 3, 8, 8), torch.arange(12) % 2)]
        >>> found = dc.feature_transfer(network, batches, batches, "awgn:20", penalties=[1.0])
        >>> list(found.grid.curves), found.grid.images
        (['awgn'], 12)
    """
    found, labels = collect(model, train, site, precision, f"{task}, features")
    svm = from_main(partial(train_svm, found, labels, penalties, seed, f"{task}, SVM"))
    del found
    classifier = FeatureClassifier(model, svm, site)
    grid = evaluate(
        classifier, test, distortions, seed, precision, f"{task}, test", target="labels"
    )
    return FeatureTransfer(grid, svm)


def collect(
    model: nn.Module,
    loader: Batches,
    site: str | None = None,
    precision: Precision = "float32",
    task: str = "features",
) -> tuple[Tensor, Tensor]:
    """The features, N x D in float32, and the labels, (N,), of all images of a loader.

    Several processes share the images, and rank zero alone has all features; others have none.

    Raises:
        InputError: the features cannot be read (see `networks.features`), or there is no image.
    """
    device = device_of(model)
    parts: dict[int, tuple[Tensor, Tensor]] = {}  # by the number of the batch's first image
    with (
        together(),
        inference(model),
        torch.no_grad(),
        autocast(device, precision),
        features(model, site) as read,
        progress(task, count_of(loader)) as step,
    ):
        for images, truth, first in shared_batches(loader, "to take features of"):
            logits_of(model, to_device(images, device))
            rows = read().float().cpu()
            if not bool(rows.isfinite().all()):
                raise InputError(
                    f"the features of images {first} to {first + len(images) - 1} have NaN or "
                    "infinite values: look at these images and at the network's weights"
                )
            parts[first] = rows, truth.cpu()
            step(len(images) * process_count())
        for each in gathered_on_main(parts):
            parts |= each
    if not parts:  # another process had all batches
        return torch.empty(0, 0), torch.empty(0, dtype=torch.long)
    found, labels = zip(*(parts[first] for first in sorted(parts)), strict=True)
    return torch.cat(found), torch.cat(labels)


def train_svm(
    found: Tensor,
    labels: Tensor,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
    task: str = "SVM",
) -> Svm:
    """A linear SVM (scikit-learn's `LinearSVC`, squared hinge) on features.

    The features are scaled by one number, so that C has the same meaning for every network; the SVM
    that is returned takes them unscaled.

    Args:
        found: N x D.
        labels: (N,), counted from 0.
        penalties: values of C; the one with the best mean accuracy over stratified folds is chosen,
            and of equally good ones the smallest. There are 3 folds, or as many as the smallest
            class has images.
        seed: of the folds.
        task: the name of this work in the progress line.

    Raises:
        InputError: a label is missing, or there are fewer than two classes.
    """
    if bool((labels < 0).any()):
        missing = int((labels < 0).sum())
        values = ", ".join(map(str, labels[labels < 0].unique().tolist()[:3]))
        raise InputError(
            f"{missing} of {len(labels)} training images have no label (label {values}): an SVM "
            "needs one for each"
        )
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    if len(classes) < 2:
        raise InputError("the training images are all of one class: an SVM needs at least two")
    if not penalties or min(penalties) <= 0:
        raise InputError(f"penalties {tuple(penalties)} are not accepted: give values of C above 0")
    scale = found.double().square().sum(1).mean().sqrt().clamp_min(1e-12)
    rows, truth = (found.double() / scale).numpy(), labels.numpy()
    tried = sorted(set(penalties))
    folds = min(FOLDS, int(counts.min()))
    validation: dict[float, float] = {}
    with progress(task, len(tried) * folds + 1 if len(tried) > 1 else 1, "fits") as step:
        if len(tried) > 1:
            if folds < 2:
                raise InputError(
                    "a class has a single training image, too few to choose C by "
                    "cross-validation: give more images, or one value of C"
                )
            validation = _validated(rows, truth, tried, folds, seed, step)
        best = max(tried, key=lambda c: validation.get(c, 0.0))  # the smallest of equally good ones
        machine = _fitted(rows, truth, best, seed)
        step(1)
    weight, bias = machine.coef_, machine.intercept_
    if len(classes) == 2:  # scikit-learn returns only the scores of the second class
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    size = int(classes.max()) + 1
    weights = torch.zeros(size, found.shape[1])
    biases = torch.full((size,), -math.inf)
    weights[torch.from_numpy(classes)] = torch.from_numpy(weight / scale.item()).float()
    biases[torch.from_numpy(classes)] = torch.from_numpy(bias).float()
    return Svm(weights, biases, best, validation, len(found))


def _validated(
    rows: np.ndarray, truth: np.ndarray, tried: Sequence[float], folds: int, seed: int, step: Any
) -> dict[float, float]:
    """Mean accuracy over stratified folds, by C."""
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415  (slow to import)

    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores: dict[float, list[float]] = {c: [] for c in tried}
    for kept, held in splits.split(rows, truth):
        for c in tried:
            machine = _fitted(rows[kept], truth[kept], c, seed)
            scores[c].append(float(machine.score(rows[held], truth[held])))
            step(1)
    return {c: sum(values) / len(values) for c, values in scores.items()}


def _fitted(rows: np.ndarray, truth: np.ndarray, c: float, seed: int) -> Any:
    import warnings  # noqa: PLC0415

    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  (slow to import)
    from sklearn.svm import LinearSVC  # noqa: PLC0415

    with warnings.catch_warnings():  # a C whose fit has not converged is judged by its accuracy
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(C=c, random_state=seed, max_iter=2000).fit(rows, truth)
