"""The sets of images that a run reads. Only `ideal`, `selection` and `choices` share images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deepcorrect.data import ImageSet, open_dataset
from deepcorrect.experiments._recipe import Recipe
from deepcorrect.experiments._sections import TrainedSystem
from deepcorrect.models import output_classes
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, files
from deepcorrect.training import needs_of

MOST_FOR_CHOICES = 500
"""The most images on which something is chosen after training, as in `correct`."""


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    Attributes:
        train: images that systems are trained on.
        ranking: validation images that filters are ranked on.
        ideal: other validation images, for ideal correction.
        selection: other validation images, on which the best epoch is chosen.
        choices: other validation images, for what is chosen after training: gates' thresholds, and
            the share of fine-tuned weights. EATA reads them, too.
        test: images that systems are measured on.
    """

    train: ImageSet
    ranking: ImageSet
    ideal: ImageSet
    selection: ImageSet
    choices: ImageSet
    test: ImageSet

    def warn_of_bad(self) -> None:
        """Names the images that could not be read, if there were any."""
        for images in (self.train, self.ranking, self.selection, self.choices, self.test):
            images.warn_of_bad()


def open_sets(recipe: Recipe, model: Classifier) -> RunData:
    """Opens the data of a recipe.

    Raises:
        InputError: the data cannot be opened, labels that the recipe needs are missing, or there
            are too few images.
    """
    data, preprocessing = recipe.data, model.preprocessing
    classes = output_classes(model, preprocessing)

    def opened(spec: str) -> ImageSet:
        images = open_dataset(spec, preprocessing)
        return images.matched(classes, model.labels, class_order=data.class_order)

    train, test = opened(data.train), opened(data.test)
    train, validation = _split(recipe, train, opened)
    train = train.sample(data.train_images, recipe.seed)
    test = test.sample(data.test_images, recipe.seed)
    _check_labels(recipe, train, validation, test, classes)
    count, ranked = len(validation), recipe.ranking.images
    if ranked >= count:
        raise InputError(
            f"key 'ranking.images': given {ranked}; validation has {count} images, and some "
            "must be left to choose the best epoch with"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.seed + 1)).tolist()
    rest = order[ranked:]
    return RunData(
        train,
        validation.select(sorted(order[:ranked])),
        validation.select(sorted(rest[: recipe.ideal.images])),
        validation.select(sorted(rest[: recipe.selection.images])),
        validation.select(sorted(rest[:MOST_FOR_CHOICES])),
        test,
    )


def _split(
    recipe: Recipe, train: ImageSet, opened: Callable[[str], ImageSet]
) -> tuple[ImageSet, ImageSet]:
    """Training and validation images: a validation set of its own, or rows of the training set
    that a file lists or that are drawn at random."""
    data = recipe.data
    if data.validation:
        return train, opened(data.validation)
    if data.validation_rows:
        rows = _rows(Path(data.validation_rows))
    else:
        drawing = torch.Generator().manual_seed(recipe.seed)
        order = torch.randperm(len(train), generator=drawing)
        rows = order[: data.validation_images].sort().values.tolist()
    held_out = set(rows)
    rest = train.select(row for row in range(len(train)) if row not in held_out)
    return rest, train.select(rows)


def _check_labels(
    recipe: Recipe, train: ImageSet, validation: ImageSet, test: ImageSet, classes: int
) -> None:
    """Checks labels that are present, and raises where labels that are needed are missing."""
    trained = [s for s in recipe.systems.values() if isinstance(s, TrainedSystem)]
    taught = any("labels" in needs_of(system.training.objective) for system in trained)
    for images, needed in (
        (train, taught),
        (validation, recipe.ranking.target == "labels"),
        (test, False),  # without labels the clean network's answers are the target
    ):
        if needed or images.labelled:
            images.check_labels(classes)


def _rows(path: Path) -> list[int]:
    value = files.read_json(path)
    rows = value.get("rows") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows or not all(isinstance(row, int) for row in rows):
        raise InputError(f"{path} does not hold row numbers: a list, or a mapping with 'rows'")
    return rows
