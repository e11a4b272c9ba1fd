"""Training in two stages where inputs are large: on random parts of the images, then on whole ones.

A part of four sevenths of each side takes a third of the time, and a distortion is as strong in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepcorrect.correction import AdaptedModel
from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion
from deepcorrect.training import History, TrainingConfig, changed, fit

WHOLE = 0.2
"""The share of the epochs that show whole images; at least one does."""
RATE = 1 / 3
"""The learning rate of whole images, as a fraction of that of parts."""


def stages(training: TrainingConfig) -> tuple[TrainingConfig, ...]:
    """The settings of each stage; one stage unless images are cropped.

    Args:
        training: The settings. `epochs` is the number of epochs of all stages together.
    """
    crop = training.augmentation.crop
    if crop == 1:
        return (training,)
    whole = max(1, round(WHOLE * training.epochs))
    uncropped = {"augmentation": training.augmentation.model_copy(update={"crop": 1.0})}
    if whole == training.epochs:
        return (changed(training, uncropped),)
    last = {"epochs": whole, "learning_rate": training.learning_rate * RATE, **uncropped}
    return changed(training, {"epochs": training.epochs - whole}), changed(training, last)


def fit_in_stages(
    adapted: AdaptedModel,
    train: Batches,
    kinds: Sequence[Distortion],
    training: TrainingConfig,
    seed: int,
    checkpoint: str | Path | None,
) -> History:
    """Trains a correction as `fit` does, in each of the `stages`.

    Args:
        adapted: The corrected network.
        train: The training images.
        kinds: The distortions.
        training: The settings of all stages together.
        seed: The seed of everything random.
        checkpoint: The file from which an interrupted training continues; that of parts of images
            stands beside it.
    """
    *first, last = stages(training)
    done = [
        fit(adapted, train, kinds, each, None, seed, parts_file(checkpoint), "training on parts")
        for each in first
    ]
    done.append(fit(adapted, train, kinds, last, None, seed, checkpoint))
    epochs = tuple(epoch for history in done for epoch in history.epochs)
    return History(epochs, len(epochs) - 1, sum(history.images_seen for history in done))


def parts_file(checkpoint: str | Path | None) -> Path | None:
    """The checkpoint of the training on parts of images."""
    return None if checkpoint is None else Path(checkpoint).with_suffix(".parts.pt")
