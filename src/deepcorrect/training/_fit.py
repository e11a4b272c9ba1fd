"""The one training loop. Systems differ only in parameters and objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepcorrect.data import Batches, count_of, no_images
from deepcorrect.distortions import Distortion
from deepcorrect.networks import frozen, trainable_parameters
from deepcorrect.runtime import (
    DeepCorrectError,
    InputError,
    check_seed,
    console,
    forked_random,
    generator_for,
    process_count,
    process_index,
    progress,
    seed_of,
    seed_random,
    together,
    total,
)
from deepcorrect.training._checkpoint import Begun, Best, Progress, resume, save, state_on_cpu
from deepcorrect.training._history import Epoch, History
from deepcorrect.training._job import Job, open_job
from deepcorrect.training._settings import TrainingConfig, changed, learning_rate
from deepcorrect.training._shared_batches import shares
from deepcorrect.training._short_gradients import short_gradients
from deepcorrect.training._step import train_step
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
    was killed and resumed ends like one that was not. No image is left out: a last batch of a
    single image is a step of its own, in which batch norms use the statistics that they have
    gathered.

    Args:
        model: an `AdaptedModel`, whose units are trained, or any module that takes images
            N x C x H x W in [0, 1] and returns logits N x classes. It is changed in place, and is
            in inference mode afterwards.
        loader: batches of (clean images, labels), with a length. It should shuffle. Batches of one
            image each are refused where batch norms are trained.
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
    others = (each for each in model.parameters() if id(each) not in trained)
    with together(), frozen(others), short_gradients(model):
        job = open_job(model, loader, distortions, settings, validation, seed, path, task)
        done = _train(job)
    model.load_state_dict(done.best.state)
    model.eval()
    return done.history


def _train(job: Job) -> Progress:
    """Trains all epochs that are left."""
    model, settings, task, seed = job.model, job.settings, job.task, job.seed
    done = resume(job)
    first = len(done.history.epochs)
    images = (settings.epochs - first) * count_of(job.loader)
    validation: Validation | None = None
    with forked_random(job.compared.device), progress(task, images) as advance:
        advance(done.begun.images)
        for epoch in range(first, settings.epochs):
            seed_random(generator_for(seed, "epoch", epoch).initial_seed())
            ended = _train_epoch(job, done, advance)
            _share_statistics(job)
            validating = time.monotonic()
            images_seen = done.history.images_seen + ended.images
            if job.validation is not None and validation is None:
                validation = Validation(job, images_seen // (epoch + 1))
            score = validation.score() if validation else None
            best = done.best
            if score is None or score > best.score:
                best = Best(epoch, -math.inf if score is None else score, state_on_cpu(model))
            loss, seconds = ended.loss / ended.images, time.monotonic() - validating
            entry = Epoch(epoch, loss, score, ended.seconds + seconds)
            history = History((*done.history.epochs, entry), best.epoch, images_seen)
            done = Progress(history, best)
            shown = "" if validation is None or score is None else validation.shown(score)
            console().print(
                f"{task}: epoch {epoch + 1} of {settings.epochs}, loss {loss:.4f}{shown}"
            )
            save(job, done)
    return done


def _train_epoch(job: Job, done: Progress, advance: Callable[[float], None]) -> Begun:
    """Trains on every batch of an epoch that is left, and returns what was done in all."""
    settings, epoch, begun = job.settings, len(done.history.epochs), done.begun
    processes = process_count()
    steps = math.ceil(job.batches / processes)
    started, due = time.monotonic() - begun.seconds, _Due(settings)
    losses = _Losses(job, epoch, begun.loss)
    job.model.train()
    for share in shares(job.loader, begun.batches):
        step = begun.batches // processes
        images = share.total
        if images:
            rate = learning_rate(settings, epoch * steps + step, settings.epochs * steps, epoch)
            for group in job.optimizer.param_groups:
                group["lr"] = rate
            own = seed_of(job.seed, "network", epoch, step, process_index())
            seed_random(own, job.compared.device)
            loss = train_step(job, share, generator_for(job.seed, "step", epoch, step, 0))
            losses.add(loss, images)
            advance(images)
        begun = replace(begun, batches=begun.batches + share.batches, images=begun.images + images)
        if images == 1 and begun.images == min(2, job.batches):
            _refuse_batches_of_one(job)
        if due.now():
            begun = replace(begun, loss=losses.read(), seconds=time.monotonic() - started)
            save(job, replace(done, begun=begun))
    if not begun.images:
        raise no_images(job.loader, "to train on")
    return replace(begun, loss=losses.read(), seconds=time.monotonic() - started)


def _refuse_batches_of_one(job: Job) -> None:
    """Refuses batches of one image each where batch norms are to gather statistics."""
    norms = (each for each in job.model.modules() if isinstance(each, _BatchNorm))
    if any(each.training for each in norms):
        raise InputError(
            "each batch has one image: the batch norms that are trained need at least two in one"
        )


READ_AT_ONCE = 32
"""How many steps a GPU makes before it is waited for, and their losses are read."""


class _Losses:
    """The sum of the loss over the images of an epoch.

    Args:
        job: the training.
        epoch: the number of the epoch, counted from 0.
        before: the sum over the images that were trained on before.
    """

    def __init__(self, job: Job, epoch: int, before: float) -> None:
        self.job, self.epoch, self.sum = job, epoch, before
        self._unread: list[tuple[Tensor, int]] = []

    def add(self, loss: Tensor, images: int) -> None:
        """Adds the mean loss over the images of a step."""
        self._unread.append((loss, images))
        if loss.device.type == "cpu" or len(self._unread) == READ_AT_ONCE:
            self.read()

    def read(self) -> float:
        """The sum so far.

        Raises:
            DeepCorrectError: a loss is not finite.
        """
        if self._unread:
            losses = torch.stack([loss for loss, _ in self._unread]).tolist()
            for loss, (_, images) in zip(losses, self._unread, strict=True):
                _check_finite(self.job, loss, self.epoch)
                self.sum += loss * images
            self._unread = []
        return self.sum


class _Due:
    """Says after each step of an epoch whether the checkpoint is to be written."""

    def __init__(self, settings: TrainingConfig) -> None:
        self.steps, self.seconds = settings.checkpoint_steps, 60 * settings.checkpoint_minutes
        self.count, self.since = 0, time.monotonic()

    def now(self) -> bool:
        """Counts a step."""
        self.count += 1
        waited = time.monotonic() - self.since
        if self.count != self.steps and not 0 < self.seconds <= waited:
            return False
        self.count, self.since = 0, time.monotonic()
        return True


def _check_finite(job: Job, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise DeepCorrectError(
            f"{job.task}: the loss is {loss} in epoch {epoch + 1}: "
            "lower the learning rate or use float32"
        )


def _share_statistics(job: Job) -> None:
    """Sets statistics that networks gather in training mode to their mean over all processes.

    Those of batch norms are the same in all (`SharedNorms`). Others are of each process's images,
    and without this, validation would choose another epoch in each.
    """
    processes = process_count()
    if processes == 1:
        return
    for module in job.model.modules():
        for buffer in module.buffers(recurse=False):
            if module.training and buffer.is_floating_point():
                buffer.copy_(total(buffer) / processes)
