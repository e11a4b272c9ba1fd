"""Accuracy against training iterations, from a history; and against beta, from several results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepcorrect.runtime import InputError

NEAR = 0.01  # of the best accuracy: one point


@dataclass(frozen=True)
class LearningCurve:
    """A system's validation accuracy during training.

    Attributes:
        images: the number of training images by the end of each epoch, repeats counted.
        top1: the mean top-1 accuracy on the validation images then, over clean images and every
            level.
    """

    images: tuple[int, ...]
    top1: tuple[float, ...]

    @property
    def best(self) -> float:
        """The highest accuracy."""
        return max(self.top1)

    def images_to(self, top1: float) -> int | None:
        """Training images by the end of the first epoch with at least this accuracy; None if it was
        never reached."""
        epochs = zip(self.images, self.top1, strict=True)
        return next((seen for seen, value in epochs if value >= top1), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the number of images it took to come within a point of the best."""
        return {
            "images_seen": list(self.images),
            "top1": list(self.top1),
            "best_top1": self.best,
            "images_to_within_a_point": self.images_to(self.best - NEAR),
        }


def learning_curves(history: Mapping[str, Any]) -> dict[str, LearningCurve]:
    """The curves of a run's `history.json`, by system.

    All epochs see the same number of images. A system trained without validation has no curve.

    Example:
        >>> from deepcorrect.analysis import learning_curves
        >>> epochs = [{"number": 0, "score": 0.5}, {"number": 1, "score": 0.7}]
        >>> curve = learning_curves({"tuned": {"epochs": epochs, "images_seen": 200}})["tuned"]
        >>> curve.images, curve.best, curve.images_to(0.6)
        ((100, 200), 0.7, 200)
    """
    curves: dict[str, LearningCurve] = {}
    for name, entry in history.items():
        epochs = entry["epochs"]
        scored = [(epoch["number"], epoch["score"]) for epoch in epochs]
        scored = [(number, score) for number, score in scored if score is not None]
        if scored:
            each = entry["images_seen"] / len(epochs)
            images = tuple(round(each * (number + 1)) for number, _ in scored)
            curves[name] = LearningCurve(images, tuple(score for _, score in scored))
    return curves


@dataclass(frozen=True)
class BetaPoint:
    """Accuracies with one share of corrected filters under one distortion, as shares of the images.

    Attributes:
        beta: the share; 0 is the baseline.
        distortion: its name.
        mean_top1: over clean images and every level.
        clean_top1: on clean images.
        trainable_parameters: of the correction.
        added_multiply_adds: as a share of the baseline's.
    """

    beta: float
    distortion: str
    mean_top1: float
    clean_top1: float
    trainable_parameters: int
    added_multiply_adds: float


def beta_points(
    results: Mapping[float, Mapping[str, Any]], system: str | Mapping[float, str] = "deepcorrect"
) -> list[BetaPoint]:
    """Accuracy against beta, from the `results.json` of several runs or of one.

    Args:
        results: the content of `results.json` for each beta; the same for all if one run has a
            system for every beta.
        system: the name of the corrected system; or one name for every beta.

    Returns:
        One point for each beta, ascending, and distortion; the first points are the baseline of the
        first results.

    Raises:
        InputError: a result lacks the system, or was measured with other distortions or levels.
    """
    if not results:
        raise InputError("no results were given: give the content of results.json, by beta")
    first = results[min(results)]
    base = first["systems"]["baseline"]
    chosen: list[tuple[float, Mapping[str, Any]]] = [(0.0, base)]
    for beta in sorted(results):
        name = system if isinstance(system, str) else system[beta]
        systems = results[beta]["systems"]
        if name not in systems:
            raise InputError(
                f"the results of beta {beta:g} have no system {name!r}: they have "
                f"{', '.join(systems)}"
            )
        chosen.append((beta, systems[name]))
    points: list[BetaPoint] = []
    for beta, record in chosen:
        for distortion, curve in base["distortions"].items():
            own = record["distortions"].get(distortion)
            if own is None or own["levels"] != curve["levels"]:
                raise InputError(
                    f"the results of beta {beta:g} were not measured at the same levels of "
                    f"{distortion} as the baseline's: runs by beta differ in nothing else"
                )
            work = base["multiply_adds"]
            added = record["multiply_adds"] / work - 1 if work else 0.0
            points.append(
                BetaPoint(
                    beta,
                    distortion,
                    own["mean_top1"],
                    own["clean_top1"],
                    record["trainable_parameters"],
                    added,
                )
            )
    return points
