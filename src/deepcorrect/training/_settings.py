"""How a system is trained: the settings, and the optimizer and learning rates they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from deepcorrect.runtime import InputError, Precision, first_problem, unknown
from deepcorrect.training._augmentation import Augmentation
from deepcorrect.training._objectives import OBJECTIVES


class TrainingConfig(BaseModel):
    """How a system is trained. The defaults are the modern recipe; `PAPER` is the paper's.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step (used by whoever builds the loader).
        optimizer: `sgd` (Nesterov) or `adamw`.
        learning_rate: its peak.
        schedule: `one_cycle` (linear warm-up over the first `warm_up` of the steps, then a cosine
            to zero) or `step` (divided by 10 every `step_epochs`).
        warm_up: share of the steps.
        step_epochs: for `step`.
        momentum: of SGD.
        weight_decay: on weights, not on biases and norms.
        l1: L1 penalty on trained weights, added to the objective (the paper: 1e-5).
        clean_share: share of each batch left undistorted (the paper: half).
        objective: weights of the `OBJECTIVES`: `labels` (cross-entropy with the true class),
            `logits`, `features` and `activations` (the untouched network's on the clean image,
            which need no label), and those of other methods.
        augmentation: of the clean images, before they are distorted.
        precision: `bfloat16` doubles to triples speed where the device has it; `auto` looks.
        channels_last: memory layout of the images; faster nearly everywhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=128, ge=2)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    schedule: Literal["one_cycle", "step"] = "one_cycle"
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    step_epochs: int = Field(default=10, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    l1: float = Field(default=0.0, ge=0)
    clean_share: float = Field(default=0.5, ge=0, le=1)
    objective: dict[str, float] = Field(default={"labels": 1.0, "logits": 1.0})
    augmentation: Augmentation = Augmentation()
    precision: Precision = "auto"
    channels_last: bool = True

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
"""The paper's CIFAR-100 recipe for correction units; fine-tuning takes a learning rate of 0.01."""


def changed(training: TrainingConfig, changes: Mapping[str, Any]) -> TrainingConfig:
    """The settings with some of them changed.

    Raises:
        InputError: there is no such setting, or it cannot have that value.
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
    """The learning rate at `step` of `steps`, in `epoch`, all from 0."""
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
    """The optimizer; biases and norms have no weight decay."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.learning_rate)
    return torch.optim.SGD(
        groups,
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
    )
