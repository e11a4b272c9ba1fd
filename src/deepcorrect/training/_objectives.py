"""What training minimises: functions of one batch's answers, each with its source.

A system is trained on a weighted sum of objectives (`TrainingConfig.objective`). Each objective
states what it needs of a batch, so that nothing else is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.runtime import process_count, total

Need = Literal["labels", "teacher", "features", "maps", "images", "clean", "views"]


@dataclass(frozen=True)
class Answers:
    """The networks' answers to one batch of N images, some of which are distorted.

    Attributes:
        labels: the true classes, of shape (N,).
        logits: the trained network's logits for the batch, N x classes.
        teacher: the untouched network's logits for the clean images, N x classes.
        features: the input of the trained network's last linear layer for the batch, N x D.
        teacher_features: the same of the untouched network for the clean images, N x D.
        map_errors: for each site, the mean squared difference of the trained network's maps for the
            batch from the untouched network's maps of the clean images, as a share of the variance
            of the latter (see `relative_error`); scalars.
        images: the batch as a front end restored it, in [0, 1], N x C x H x W.
        clean_images: the clean images, in [0, 1], N x C x H x W.
        clean: the trained network's logits for the clean images, N x classes.
        views: the trained network's logits for other views of the batch, each N x classes.
    """

    labels: Tensor
    logits: Tensor
    teacher: Tensor | None = None
    features: Tensor | None = None
    teacher_features: Tensor | None = None
    map_errors: Mapping[str, Tensor] | None = None
    images: Tensor | None = None
    clean_images: Tensor | None = None
    clean: Tensor | None = None
    views: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Objective:
    """A loss, and what it needs of a batch."""

    loss: Callable[[Answers], Tensor]
    needs: frozenset[Need]

    @property
    def summary(self) -> str:
        """The first paragraph of the loss's docstring."""
        return (self.loss.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


OBJECTIVES: dict[str, Objective] = {}
"""All objectives, by the name that recipes use."""


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

    It needs no labels (Hinton et al. 2015, at temperature 1).
    """
    assert answers.teacher is not None
    return _divergence(answers.teacher, answers.logits)


@_objective("teacher", "features")
def features(answers: Answers) -> Tensor:
    """Squared distance of the features from the untouched network's features of the clean image.

    The distance is a share of those features' variance. Features are the input of the last linear
    layer. No labels are needed, and the result serves any task that is built on the features.
    """
    assert answers.features is not None
    assert answers.teacher_features is not None
    return relative_error(answers.features.float(), answers.teacher_features.float())


@_objective("teacher", "maps")
def activations(answers: Answers) -> Tensor:
    """Squared distance of each site's maps from the untouched network's maps of the clean image.

    The distance is a share of those maps' variance, averaged over sites; a site with constant clean
    maps counts as 0. It needs no labels (FitNets, Romero et al. 2015).
    """
    assert answers.map_errors is not None
    return torch.stack(list(answers.map_errors.values())).mean()


@_objective("images")
def images(answers: Answers) -> Tensor:
    """Squared distance of the images that a front end restored from the clean images.

    The distance is a share of the clean images' variance. It needs no labels and is for front ends
    only.
    """
    assert answers.images is not None
    assert answers.clean_images is not None
    return relative_error(answers.images, answers.clean_images)


@_objective("labels", "clean")
def clean_labels(answers: Answers) -> Tensor:
    """Cross-entropy with the true class, on the clean images only.

    The first half of stability training's loss (Zheng et al. 2016, equation 2).
    """
    assert answers.clean is not None
    return F.cross_entropy(answers.clean, answers.labels)


@_objective("clean")
def stability(answers: Answers) -> Tensor:
    """Divergence of the answer to an image from the same network's answer to its clean copy.

    The second half of stability training's loss for classification: the cross-entropy between the
    two answers, minus the entropy of the clean answer (Zheng et al. 2016, equation 6).
    """
    assert answers.clean is not None
    return _divergence(answers.clean, answers.logits)


@_objective("views")
def consistency(answers: Answers) -> Tensor:
    """Jensen-Shannon divergence of the answers to an image and to two AugMix views of it.

    AugMix adds this loss to the cross-entropy with a weight of 12 (Hendrycks et al. 2020,
    section 3).
    """
    shares = [each.softmax(1) for each in (answers.logits, *answers.views)]
    mixture = torch.stack(shares).mean(0).clamp(1e-7, 1).log()
    return torch.stack([F.kl_div(mixture, share, reduction="batchmean") for share in shares]).mean()


def needs_of(weights: Mapping[str, float]) -> frozenset[Need]:
    """What a weighted sum of objectives needs of a batch.

    Objectives with weight 0 are left out, and need nothing.

    Example:
        >>> from deepcorrect.training import needs_of
        >>> sorted(needs_of({"labels": 1.0, "logits": 0.5, "features": 0.0}))
        ['labels', 'teacher']
    """
    return frozenset(
        need for name, weight in weights.items() if weight > 0 for need in OBJECTIVES[name].needs
    )


def _divergence(truth: Tensor, answer: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softmax(answer) from softmax(truth), mean over images."""
    return F.kl_div(
        F.log_softmax(answer, 1), F.log_softmax(truth, 1), reduction="batchmean", log_target=True
    )


def relative_error(values: Tensor, clean: Tensor) -> Tensor:
    """The mean squared error of `values` as a share of the variance of `clean`; 0 if `clean` is
    constant.

    Args:
        values: floats of any shape, with one image per row. They get gradients.
        clean: the same, without gradients.

    Example:
        >>> import torch
        >>> from deepcorrect.training._objectives import relative_error
        >>> clean = torch.randn(8, 4, 6, 6)
        >>> share = relative_error(clean + 2, clean)
        >>> torch.testing.assert_close(share, 4 / clean.var())
    """
    return compared_maps(values, clean, inverse_variance(clean))[1]


def compared_maps(maps: Tensor, clean: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A site's maps, for the layers behind the site, and their `relative_error`.

    The two gradients of the maps, from the layers behind and from the error, are added in one pass
    over them.

    Args:
        maps: the trained network's, of M images.
        clean: the untouched network's, of N images, without gradients. The first N of the M images
            are compared.
        weight: `inverse_variance(clean)`.

    Returns:
        The maps, in the same memory, and the error.
    """
    return _ComparedMaps.apply(maps, clean, weight)  # pyright: ignore[reportReturnType]


class _ComparedMaps(torch.autograd.Function):
    """The gradient that autograd would compute passes over the maps many times, in float32."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, clean: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        difference = maps[: len(clean)] - clean
        ctx.save_for_backward(difference, weight)
        ctx.set_materialize_grads(False)
        ctx.others = len(maps) - len(clean)
        # not a view for autograd, which would forbid later layers to change the maps in place
        return maps.detach(), _mean_square(difference) * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        behind, error = gradients
        if error is None:
            return behind, None, None
        difference, weight = ctx.saved_tensors
        factor = error * weight * (2 / difference.numel())
        if ctx.others:
            rest = difference.new_zeros(ctx.others, *difference.shape[1:])
            difference = torch.cat([difference, rest])
        if behind is None:
            return difference * factor, None, None
        if difference.device.type == "cpu":  # where `addcmul` takes five times as long in bfloat16
            return torch.add(behind, difference, alpha=float(factor)), None, None
        return torch.addcmul(behind, difference, factor.to(difference.dtype)), None, None


def inverse_variance(values: Tensor) -> Tensor:
    """One divided by the variance of all values, in at least float32; 0 if they are constant.

    Several processes take the variance of all their values.
    """
    if _widened_by_a_copy(values):
        channels = values.new_zeros(values.shape[1], dtype=torch.float32)
        means, variances = torch.batch_norm_update_stats(values, channels, channels.clone(), 0.0)
        variance, mean = variances.mean() + means.var(correction=0), means.mean()
        square = variance + mean.square()
    else:
        square = _mean_square(values)
        mean = values.mean(dtype=torch.promote_types(values.dtype, torch.float32))
        variance = square - mean**2
    count = values.numel()
    if process_count() > 1:
        moments = torch.stack([square, mean, torch.ones_like(mean)]) * count
        square, mean, number = total(moments, asked=False)
        square, mean, count = square / number, mean / number, int(number)
        variance = square - mean**2
    varies = variance > 1e-6 * square  # a smaller variance is a rounding error
    return torch.where(varies, (count - 1) / (count * variance), 0)


def _mean_square(values: Tensor) -> Tensor:
    """The mean square, in at least float32."""
    wide = torch.promote_types(values.dtype, torch.float32)
    if _widened_by_a_copy(values):
        # for each image, so that the errors of rounding these norms average out
        norms = torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim()))).to(wide)
    else:
        norms = torch.linalg.vector_norm(values, dtype=wide)
    return norms.square().sum() / values.numel()


def _widened_by_a_copy(values: Tensor) -> bool:
    """Whether a reduction to float32 copies all values to float32 first, as it does on a CPU.

    A reduction to bfloat16 accumulates in float32 as well and takes a quarter of the time.
    """
    return values.device.type == "cpu" and values.dtype == torch.bfloat16 and values.dim() > 1
