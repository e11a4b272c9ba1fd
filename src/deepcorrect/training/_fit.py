"""The one training loop, on accelerate. Systems differ only in parameters and objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.data import Batches, check_labels, count_of, no_images, read_batches
from deepcorrect.distortions import Distortion, distort_some
from deepcorrect.networks import frozen, trainable_parameters
from deepcorrect.runtime import (
    DeepCorrectError,
    InputError,
    autocast,
    check_seed,
    console,
    generator_for,
    progress,
)
from deepcorrect.training._augmentation import augment
from deepcorrect.training._checkpoint import Best, resume, save, state_on_cpu
from deepcorrect.training._forward import answers_for
from deepcorrect.training._history import Epoch, History
from deepcorrect.training._job import Job, open_job
from deepcorrect.training._objectives import OBJECTIVES
from deepcorrect.training._settings import TrainingConfig, changed, learning_rate
from deepcorrect.training._validation import Validation


def fit(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    training: TrainingConfig | None = None,
    validation: Batches | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    task: str = "training",
    **changes: Any,
) -> History:
    """Trains all parameters of `model` that require gradients, on clean and distorted images.

    In each batch, `clean_share` of the images stay clean; every other image gets a random
    distortion at a random level. With validation images, the epoch with the best mean top-1
    accuracy (over clean images and all levels) is kept, otherwise the last one. Unless the
    validation images have labels (see `deepcorrect.data.target_for`), epochs are judged by the mean
    agreement with the untouched network's answers to the clean images. All epochs are judged on the
    same random part of the validation images: as many as are shown half as often, over clean images
    and all levels, as an epoch has images, but at least 64. Objectives that need labels refuse
    images without one. All randomness is a function of the seed and the step, so a training that
    was killed and resumed ends like one that was not.

    Args:
        model: an `AdaptedModel`, whose units are trained, or any module that takes images
            N x C x H x W in [0, 1] and returns logits N x classes. It is changed in place, and is
            in inference mode afterwards.
        loader: batches of (clean images, labels), with a length. It should shuffle.
        distortions: specs such as `awgn:10,20`; without levels, the paper's grid for the input
            size is used.
        training: the settings; None takes the defaults.
        validation: batches of (clean images, labels) in a fixed order.
        seed: the seed of everything random.
        checkpoint: a file that is written after each epoch. If it exists, training goes on from it.
        task: the description on the progress line.
        **changes: attributes of `TrainingConfig` to change, such as `epochs=5`.

    Returns:
        The loss and score of each epoch, and which epoch was kept.

    Raises:
        InputError: a setting, a label or the checkpoint does not fit, or nothing is trainable.
        DeepCorrectError: the loss is no longer finite.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...     torch.nn.Linear(4, 2),
        ... )
        >>> batches = [(torch.rand(8, 3, 16, 16), torch.arange(8) % 2)]
        >>> history = dc.fit(network, batches, ["awgn:20"], epochs=2, precision="float32")
        >>> len(history.epochs), history.images_seen
        (2, 16)
    """
    settings, seed = changed(training or TrainingConfig(), changes), check_seed(seed)
    path = Path(checkpoint) if checkpoint else None
    trained = {id(parameter) for parameter in trainable_parameters(model)}
    # a corrected network's own parameters stay as they are, and need no gradients meanwhile
    with frozen(p for p in model.parameters() if id(p) not in trained):
        job = open_job(model, loader, distortions, settings, validation, seed, path, task)
        history, best = _train(job)
    model.load_state_dict(best.state)
    model.eval()
    return history


def _train(job: Job) -> tuple[History, Best]:
    """Trains all epochs that are left."""
    model, settings, task, seed = job.model, job.settings, job.task, job.seed
    history, best = resume(job)
    first = len(history.epochs)
    total = (settings.epochs - first) * count_of(job.loader)
    validation: Validation | None = None
    with torch.random.fork_rng(devices=[]), progress(task, total) as advance:
        for epoch in range(first, settings.epochs):
            torch.manual_seed(generator_for(seed, "epoch", epoch).initial_seed())
            started = time.monotonic()
            loss, images_seen = _train_epoch(job, epoch, advance)
            _share_statistics(job)
            images_seen += history.images_seen
            if job.validation is not None and validation is None:
                validation = Validation(job, images_seen // (epoch + 1))
            score = validation.score() if validation else None
            if score is None or score > best.score:
                best = Best(epoch, -math.inf if score is None else score, state_on_cpu(model))
            entry = Epoch(epoch, loss, score, time.monotonic() - started)
            history = History((*history.epochs, entry), best.epoch, images_seen)
            if job.accelerator.is_main_process:
                shown = "" if validation is None or score is None else validation.shown(score)
                console().print(
                    f"{task}: epoch {epoch + 1} of {settings.epochs}, loss {loss:.4f}{shown}"
                )
                save(job, history, best)
    return history, best


def _train_epoch(job: Job, epoch: int, advance: Callable[[float], None]) -> tuple[float, int]:
    """Trains on every batch once.

    Returns:
        The mean loss, and how many images all processes saw.
    """
    job.model.train()
    total, images_seen, alone = 0.0, 0, False
    processes = job.accelerator.num_processes
    for step, (images, labels) in enumerate(read_batches(job.loader)):
        if len(images) < 2:  # batch norm needs more than one value
            alone = alone or len(images) == 1
            continue
        rate = learning_rate(
            job.settings, epoch * job.steps + step, job.settings.epochs * job.steps, epoch
        )
        for group in job.optimizer.param_groups:
            group["lr"] = rate
        process = job.accelerator.process_index
        loss = _train_batch(
            job, images, labels, generator_for(job.seed, "step", epoch, step, process)
        )
        if not math.isfinite(loss):
            raise DeepCorrectError(
                f"{job.task}: the loss is {loss} in epoch {epoch + 1}: "
                "lower the learning rate or use float32"
            )
        total += loss * len(images)
        images_seen += len(images)
        advance(len(images) * processes)
    if not images_seen:
        if alone:
            raise InputError("each batch has one image: training needs at least two in one")
        raise no_images(job.loader, "to train on")
    return total / images_seen, images_seen * processes


def _train_batch(job: Job, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
    """Makes one step of the optimizer and returns the objective, without the L1 penalty."""
    settings, device = job.settings, job.compared.device
    images = augment(images.cpu(), settings.augmentation, generator).to(device)
    labels = labels.to(device)
    mixed = distort_some(images, job.grid, settings.clean_share, generator)
    with autocast(device, settings.precision):
        answers = answers_for(job.compared, images, mixed, labels, generator)
    if "labels" in job.compared.needs:
        check_labels(labels, answers.logits.shape[1])
    loss = torch.zeros((), device=device)
    for name, weight in settings.objective.items():
        if weight > 0:
            loss = loss + weight * OBJECTIVES[name].loss(answers)
    measured = float(loss.detach())
    if settings.l1 > 0:
        weights = [p.abs().sum() for p in job.parameters if p.dim() > 1]
        loss = loss + settings.l1 * torch.stack(weights).sum()
    if not loss.requires_grad:
        raise InputError(
            "the objective has no gradient: the network computes its output without one, as under "
            "torch.no_grad() or after an argmax, or nothing that is trained affects it"
        )
    job.optimizer.zero_grad()
    job.accelerator.backward(loss)
    job.optimizer.step()
    return measured


def _share_statistics(job: Job) -> None:
    """Sets batch-norm statistics to their mean over all processes.

    Each process saw other images; without this, validation would choose another epoch in each.
    """
    if job.accelerator.num_processes == 1:
        return
    for module in job.model.modules():
        for buffer in module.buffers(recurse=False):
            if module.training and buffer.is_floating_point():
                mean: Any = job.accelerator.reduce(buffer, "mean")
                buffer.copy_(mean)
