"""How fast a correction trains here, from a few batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect import correction
from deepcorrect.data import Batches, images_digest, read_batches
from deepcorrect.distortions import Distortion
from deepcorrect.experiments._choices import Choices
from deepcorrect.experiments._stages import stages
from deepcorrect.networks import fingerprint, logits_of
from deepcorrect.ranking import rank
from deepcorrect.runtime import digest_of, from_main, inference, measured_once, process_count
from deepcorrect.training import CHECKPOINTING, fit

TIMED = 3
"""The batches on which the speed of training is measured."""


class FirstBatches:
    """The first batches of a loader, as few as hold a number of images.

    Args:
        batches: The loader.
        images: The number of images.
    """

    def __init__(self, batches: Batches, images: int) -> None:
        self.batches, self.images = batches, images

    def __iter__(self) -> Iterator[Any]:
        left = self.images
        for images, labels in read_batches(self.batches):
            yield images[:left], labels[:left]
            left -= len(images)
            if left <= 0:
                return


def reads_parts(model: nn.Module, images: Tensor, crop: float) -> bool:
    """Whether a network answers parts of images with as many outputs as whole ones.

    Args:
        model: The network.
        images: Whole images, N x C x H x W, on the model's device.
        crop: The part's share of the height and of the width.
    """
    height, width = (max(1, round(crop * side)) for side in images.shape[2:])
    with inference(model), torch.no_grad():
        whole = logits_of(model, images[:1])
        try:
            part = logits_of(model, images[:1, :, :height, :width])
        except Exception:  # any error that a network of somebody else may raise says no
            return False
    return part.shape == whole.shape and bool(torch.isfinite(part).all())


def seconds_per_image(
    model: nn.Module,
    train: Batches,
    kinds: Sequence[Distortion],
    choices: Choices,
    seed: int,
    place: Path | None,
) -> tuple[float, float]:
    """The time that training takes per image, from a few batches and filters that are not ranked.

    It is kept in a file, so that a training that is continued has as many epochs as before. Rank
    zero measures it, and several processes are taken to be as many times as fast.

    Args:
        model: the network to correct.
        train: the training images.
        kinds: the distortions that are trained.
        choices: what is trained, and how.
        seed: the seed of everything random.
        place: the file that keeps the times; None keeps none.

    Returns:
        The time on parts of images, and on whole ones; the same where there are no parts.
    """
    beta = choices.beta or 0.5  # priorities by chance do not say what fits a budget
    short = choices.training.model_copy(update={"epochs": 1})
    inputs = {
        "network": fingerprint(model),
        "set of training images": from_main(lambda: images_digest(train)),
        "distortion": digest_of([asdict(kind) for kind in kinds]),
        "unit": str(choices.unit),
        "beta": str(beta),
        "training setting": short.model_dump(mode="json", exclude=CHECKPOINTING),
    }

    def measured() -> tuple[float, float]:
        batches: Any = list(islice(read_batches(train), TIMED))
        ranking = rank(model, FirstBatches(batches, 2), kinds, "random", choices.sites, seed)
        trial = correction.correct(model, ranking, beta, choices.unit, seed)
        task = "measuring the speed of training"
        ways = [short] if short.augmentation.crop == 1 else [short, *stages(short)]
        done = [fit(trial, batches, kinds, each, None, seed, task=task) for each in ways]
        part, whole = (each.seconds / each.images_seen for each in (done[0], done[-1]))
        return part, whole

    part, whole = measured_once(place, inputs, measured, tuple[float, float])
    return part / process_count(), whole / process_count()
