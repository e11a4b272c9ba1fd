"""Validation: the score of each epoch, by which the best is chosen."""

from __future__ import annotations

from deepcorrect.data import Target, random_part
from deepcorrect.distortions import DistortedCache, cells_of
from deepcorrect.evaluation import evaluate
from deepcorrect.training._job import Job

SHOWN = 0.5
"""How many images a validation shows per image of an epoch, each counted in every cell."""
LEAST = 64
"""The number of validation images that are used even if `SHOWN` allows fewer."""
SCORES: dict[Target, str] = {"labels": "mean top-1", "prediction": "mean agreement"}


class Validation:
    """Scores the weights of each epoch on the same images, which are distorted only once.

    Args:
        job: the training, with validation images.
        images: the number of images of an epoch. It bounds the number of validation images, so that
            validation takes a small part of the time of training.
    """

    def __init__(self, job: Job, images: int) -> None:
        assert job.validation is not None
        most = int(SHOWN * images / (1 + len(cells_of(job.grid))))
        self.job = job
        self.batches = random_part(job.validation, max(LEAST, most), job.seed)
        self.cache = DistortedCache()
        self.target: Target | None = None

    def score(self) -> float:
        """The mean accuracy over clean images and all levels, or the mean agreement."""
        job = self.job
        grid = evaluate(
            job.model,
            self.batches,
            job.grid,
            job.seed,
            job.settings.precision,
            f"{job.task}, validation",
            target=self.target,
            reference=job.reference,
            cache=self.cache,
        )
        self.target = grid.target  # the first epoch settles it
        return grid.mean_top1

    def shown(self, score: float) -> str:
        """A score, as the progress says it."""
        return f", validation {SCORES[self.target or 'labels']} {score:.4f}"
