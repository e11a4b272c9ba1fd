"""How fast a correction trains here, from a few batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from deepcorrect import correction
from deepcorrect.data import Batches, images_digest, read_batches
from deepcorrect.distortions import Distortion
from deepcorrect.experiments._choices import Choices
from deepcorrect.networks import fingerprint
from deepcorrect.ranking import rank
from deepcorrect.runtime import digest_of, from_main, measured_once, process_count
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


def seconds_per_image(
    model: nn.Module,
    train: Batches,
    kinds: Sequence[Distortion],
    choices: Choices,
    seed: int,
    place: Path | None,
) -> float:
    """The time that training takes per image, from a few batches and filters that are not ranked.

    It is kept in a file, so that a training that is continued has as many epochs as before. Rank
    zero measures it, and several processes are taken to be as many times as fast.

    Args:
        model: the network to correct.
        train: the training images.
        kinds: the distortions that are trained.
        choices: what is trained, and how.
        seed: the seed of everything random.
        place: the file that keeps the time; None keeps none.
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

    def measured() -> float:
        batches: Any = list(islice(read_batches(train), TIMED))
        ranking = rank(model, FirstBatches(batches, 2), kinds, "random", choices.sites, seed)
        trial = correction.correct(model, ranking, beta, choices.unit, seed)
        task = "measuring the speed of training"
        history = fit(trial, batches, kinds, short, None, seed, task=task)
        return history.seconds / history.images_seen

    return measured_once(place, inputs, measured, float) / process_count()
