"""What training minimises: functions of one batch's answers, each with its source.

A system is trained on a weighted sum of them (`Training.objective`); what a batch has to be run
through for the sum is said by their `needs`, so that nothing else is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Need = Literal["labels", "teacher", "features", "maps", "images", "clean", "views"]


@dataclass(frozen=True)
class Answers:
    """What is known of one batch of N images, some of them distorted.

    Attributes:
        labels: the true classes, N.
        logits: the trained network's for the batch, N x classes.
        teacher: the untouched network's logits for the clean images, N x classes.
        features, teacher_features: what the trained network's last linear layer read for the
            batch, and the untouched one's for the clean images, N x D.
        maps, teacher_maps: by site, the outputs of the trained network for the batch and of the
            untouched one for the clean images, N x C x H x W.
        images, clean_images: what a front end made of the batch, and the clean images, in [0, 1],
            N x C x H x W.
        clean: the trained network's logits for the clean images, N x classes.
        views: its logits for other views of the batch, each N x classes.
    """

    labels: Tensor
    logits: Tensor
    teacher: Tensor | None = None
    features: Tensor | None = None
    teacher_features: Tensor | None = None
    maps: Mapping[str, Tensor] | None = None
    teacher_maps: Mapping[str, Tensor] | None = None
    images: Tensor | None = None
    clean_images: Tensor | None = None
    clean: Tensor | None = None
    views: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Objective:
    """A number to make small, and what it needs of a batch."""

    loss: Callable[[Answers], Tensor]
    needs: frozenset[Need]

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return (self.loss.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


OBJECTIVES: dict[str, Objective] = {}
"""By the name that recipes use."""


def _objective(
    *needs: Need,
) -> Callable[[Callable[[Answers], Tensor]], Callable[[Answers], Tensor]]:
    def register(loss: Callable[[Answers], Tensor]) -> Callable[[Answers], Tensor]:
        OBJECTIVES[loss.__name__] = Objective(loss, frozenset(needs))
        return loss

    return register


@_objective("labels")
def labels(answers: Answers) -> Tensor:
    """Cross-entropy with the true class: the paper's objective (section IV)."""
    return F.cross_entropy(answers.logits, answers.labels)


@_objective("teacher")
def logits(answers: Answers) -> Tensor:
    """Kullback-Leibler divergence from the untouched network's answer to the clean image.

    Needs no label (Hinton et al. 2015, at temperature 1).
    """
    assert answers.teacher is not None
    return _divergence(answers.teacher, answers.logits)


@_objective("teacher", "features")
def features(answers: Answers) -> Tensor:
    """Squared distance of the features from the untouched network's features of the clean image.

    As a share of those features' variance. Features are what the last linear layer reads; no label
    is needed, and what is learnt serves whatever is built on them.
    """
    assert answers.features is not None
    assert answers.teacher_features is not None
    return _share(answers.features.float(), answers.teacher_features.float())


@_objective("teacher", "maps")
def activations(answers: Answers) -> Tensor:
    """Squared distance of each site's maps from the untouched network's maps of the clean image.

    As a share of those maps' variance, averaged over sites, where one with constant clean maps
    counts as 0. Needs no label (FitNets, Romero et al. 2015).
    """
    assert answers.maps is not None
    assert answers.teacher_maps is not None
    shares = [_share(answers.maps[site], clean) for site, clean in answers.teacher_maps.items()]
    return torch.stack(shares).mean()


@_objective("images")
def images(answers: Answers) -> Tensor:
    """Squared distance of the images that a front end mended from the clean ones.

    As a share of the clean images' variance. Needs no label; for front ends alone.
    """
    assert answers.images is not None
    assert answers.clean_images is not None
    return _share(answers.images, answers.clean_images)


@_objective("labels", "clean")
def clean_labels(answers: Answers) -> Tensor:
    """Cross-entropy with the true class, on the clean images alone.

    The first half of stability training's loss (Zheng et al. 2016, equation 2).
    """
    assert answers.clean is not None
    return F.cross_entropy(answers.clean, answers.labels)


@_objective("clean")
def stability(answers: Answers) -> Tensor:
    """Divergence of the answer to an image from the same network's answer to its clean copy.

    The second half of stability training's loss for classification: the cross-entropy between the
    two answers, less the entropy of the clean one (Zheng et al. 2016, equation 6).
    """
    assert answers.clean is not None
    return _divergence(answers.clean, answers.logits)


@_objective("views")
def consistency(answers: Answers) -> Tensor:
    """Jensen-Shannon divergence of the answers to an image and to two AugMix views of it.

    AugMix's loss beside the cross-entropy, to be weighted by 12 (Hendrycks et al. 2020,
    section 3).
    """
    shares = [each.softmax(1) for each in (answers.logits, *answers.views)]
    mixture = torch.stack(shares).mean(0).clamp(1e-7, 1).log()
    return torch.stack([F.kl_div(mixture, share, reduction="batchmean") for share in shares]).mean()


def needs_of(weights: Mapping[str, float]) -> frozenset[Need]:
    """What a weighted sum of objectives needs of a batch; those of weight 0 need nothing."""
    return frozenset(
        need for name, weight in weights.items() if weight > 0 for need in OBJECTIVES[name].needs
    )


def _divergence(truth: Tensor, answer: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softmax(answer) from softmax(truth), mean over images."""
    return F.kl_div(
        F.log_softmax(answer, 1), F.log_softmax(truth, 1), reduction="batchmean", log_target=True
    )


def _share(values: Tensor, clean: Tensor) -> Tensor:
    """The mean squared error of `values` as a share of the variance of `clean`; 0 where that is
    constant."""
    error, square = _mean_square(values - clean), _mean_square(clean)
    variance = square - clean.float().mean().square()
    varies = variance > 1e-6 * square  # less is rounding
    variance = torch.where(varies, variance * clean.numel() / (clean.numel() - 1), 1)
    return torch.where(varies, error, 0) / variance


def _mean_square(values: Tensor) -> Tensor:
    """In float32 at least, without a copy of the values in it."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return torch.linalg.vector_norm(values, dtype=wide).square() / values.numel()
