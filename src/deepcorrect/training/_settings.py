"""How a system is trained: the settings, and the optimizer and learning rates that they define."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from deepcorrect.runtime import InputError, Precision, first_problem, unknown
from deepcorrect.training._augmentation import Augmentation
from deepcorrect.training._muon import Muon
from deepcorrect.training._objectives import OBJECTIVES


class TrainingConfig(BaseModel):
    """How a system is trained. `PAPER` has the paper's settings instead of these defaults.

    Attributes:
        epochs: the number of passes over the training images, at least 1.
        batch_size: images per step, at least 2. `fit` takes batches as the loader yields them, so
            this is for the code that makes the loader.
        optimizer: `sgd` (with Nesterov momentum), `adamw`, or `muon`, which takes orthogonalised
            steps for weights and those of AdamW for the rest, see `Muon`.
        learning_rate: the peak of the learning rate, above 0.
        schedule: `one_cycle` (a linear warm-up over the first `warm_up` of the steps, then a cosine
            to zero) or `step` (divided by 10 every `step_epochs`).
        warm_up: the share of the steps for the warm-up of `one_cycle`, 0 to 1, exclusive.
        step_epochs: the epochs per step of `step`, at least 1.
        momentum: the momentum of SGD, 0 to 1, exclusive.
        weight_decay: on weights, but not on biases and norms; 0 or more.
        l1: the factor of an L1 penalty on trained weights, which is added to the objective.
        clean_share: the share of each batch that stays undistorted, 0 to 1 (the paper: half).
        levels: which levels are shown, each as often as the others: `all`, or `costly`, those at
            which the untouched network loses at least a fifth of what it loses at the worst. That
            is measured before training: the mean drop of the probability of its answer to the clean
            image. Take it where a gate leaves slightly distorted images to the network.
        objective: the weight of each objective in `OBJECTIVES`, 0 or more. `labels` is the
            cross-entropy with the true class; `logits`, `features` and `activations` are distances
            from the untouched network on the clean image, which need no labels; the others belong
            to methods that correction is compared with.
        augmentation: how clean images are moved before they are distorted.
        precision: `float32`, `bfloat16`, which is two to three times as fast on devices that
            support it, or `auto`, which takes `bfloat16` on such devices.
        checkpoint_minutes: how often the checkpoint is written within an epoch, in minutes; 0
            writes it after epochs only. It changes no figure.
        checkpoint_steps: the same in steps; None follows `checkpoint_minutes` alone.
        channels_last: whether images are laid out in memory with their channels last, which is
            faster on nearly all devices.

    Raises:
        pydantic.ValidationError: a value is outside its range, or there is no such setting.

    Example:
        >>> import deepcorrect as dc
        >>> dc.TrainingConfig(epochs=3, objective={"logits": 1.0}).schedule
        'one_cycle'
        >>> dc.PAPER.model_copy(update={"learning_rate": 0.01}).epochs
        40
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=128, ge=2)
    optimizer: Literal["sgd", "adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    schedule: Literal["one_cycle", "step"] = "one_cycle"
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    step_epochs: int = Field(default=10, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    l1: float = Field(default=0.0, ge=0)
    clean_share: float = Field(default=0.5, ge=0, le=1)
    levels: Literal["all", "costly"] = "all"
    objective: dict[str, float] = Field(default={"labels": 1.0, "logits": 1.0})
    augmentation: Augmentation = Augmentation()
    precision: Precision = "auto"
    channels_last: bool = True
    checkpoint_minutes: float = Field(default=10, ge=0)
    checkpoint_steps: int | None = Field(default=None, ge=1)

    @field_validator("objective")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if name not in OBJECTIVES:
                raise ValueError(f"{name!r} is not one of {', '.join(OBJECTIVES)}")
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name!r} must be 0 or more")
        if not any(value.values()):
            raise ValueError("at least one objective needs a weight above 0")
        return value


CHECKPOINTING = {"checkpoint_minutes", "checkpoint_steps"}
"""The settings on which no figure depends."""

PAPER = TrainingConfig(
    epochs=40,
    optimizer="sgd",
    learning_rate=0.1,
    schedule="step",
    step_epochs=10,
    weight_decay=0.0,
    l1=1e-5,
    objective={"labels": 1.0},
    augmentation=Augmentation(rotation=20, shift=0.15, zoom=0.25, flip=True),
    precision="float32",
    channels_last=False,
)
"""The paper's settings for correction units on CIFAR-100.

Fine-tuning takes a learning rate of 0.01.
"""


def changed(training: TrainingConfig, changes: Mapping[str, Any]) -> TrainingConfig:
    """The settings with some values changed.

    Raises:
        InputError: there is no such setting, or it does not accept the value.
    """
    for name in changes:
        if name not in TrainingConfig.model_fields:
            raise unknown("training setting", name, TrainingConfig.model_fields)
    try:
        return TrainingConfig.model_validate({**training.model_dump(), **changes})
    except ValidationError as error:
        where, given, message = first_problem(error)
        raise InputError(f"training {where}={given!r}: {message}") from None


def learning_rate(training: TrainingConfig, step: int, steps: int, epoch: int) -> float:
    """The learning rate at a step.

    It is evaluated in the middle of each step, so that neither end of a cycle is zero.
    `torch.optim.lr_scheduler` has no such schedule: `OneCycleLR` uses one curve for both phases and
    starts at its lowest rate, and `SequentialLR` changes its curve at a whole step.

    Args:
        training: the settings.
        step: the number of the step over all epochs, counted from 0.
        steps: the number of steps in all epochs.
        epoch: the number of the epoch, counted from 0.
    """
    peak = training.learning_rate
    if training.schedule == "step":
        return peak / 10 ** (epoch // training.step_epochs)
    place = (step + 0.5) / steps
    if place < training.warm_up:
        return peak * place / training.warm_up
    return (
        peak * 0.5 * (1 + math.cos(math.pi * (place - training.warm_up) / (1 - training.warm_up)))
    )


def optimizer_for(
    parameters: Iterable[nn.Parameter], training: TrainingConfig
) -> torch.optim.Optimizer:
    """The optimizer of the settings, without weight decay on biases and norms."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer != "sgd":
        kind = Muon if training.optimizer == "muon" else torch.optim.AdamW
        return kind(groups, lr=training.learning_rate)
    return torch.optim.SGD(
        groups,
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
    )
