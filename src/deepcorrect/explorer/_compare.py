"""One picture, clean and distorted, as the baseline and the corrected network see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepcorrect.correction import AdaptedModel, gate_readings
from deepcorrect.explorer._setting import Setting
from deepcorrect.explorer._subject import Subject
from deepcorrect.runtime import InputError

TOP = 5


@dataclass(frozen=True)
class Answer:
    """A system's most probable classes for one picture.

    Attributes:
        classes: Their numbers, the most probable first.
        labels: Their names.
        probabilities: Their probabilities, 0 to 1.
    """

    classes: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What a gate says of a picture.

    Attributes:
        distorted: Whether it is sent to the corrected network.
        means: Whether any other picture gets the mean of both networks' answers.
        scores: The output of the classifier of each kind of distortion; above 0 is distorted.
        statistics: The statistics that the classifiers read, by name (see `gate_readings`).
    """

    distorted: bool
    means: bool
    scores: dict[str, float]
    statistics: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """One picture under one distortion.

    Attributes:
        clean, distorted: The pictures as the network reads them before normalisation, C x H x W.
        right: The class that counts as right, by number.
        before: The baseline's answer for the clean picture.
        answers: The answer for the distorted picture by system: `baseline`, and `corrected` with
            an adapter.
        verdict: What the gate says of the distorted picture; None without a gate.
        milliseconds: By system, the time for such a picture, gate included.
    """

    clean: Tensor
    distorted: Tensor
    right: int
    before: Answer
    answers: dict[str, Answer]
    verdict: Verdict | None
    milliseconds: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """One picture at every level of a distortion.

    Attributes:
        levels: The levels; the first one changes nothing.
        unit: What a level means.
        confidence: By system, the probability of the right class at each level.
        correct: By system, whether the right class is the most probable one.
    """

    levels: tuple[float, ...]
    unit: str
    confidence: dict[str, tuple[float, ...]]
    correct: dict[str, tuple[bool, ...]]

    def accuracy(self, system: str) -> float:
        """The share of the levels, the clean picture included, at which the answer is right."""
        return sum(self.correct[system]) / len(self.levels)


def compare(
    subject: Subject,
    adapter: str | None,
    picture: Tensor,
    setting: Setting,
    right: int | None = None,
) -> Comparison:
    """Compares the baseline with a corrected network on one picture.

    Args:
        subject: The network and its adapters.
        adapter: The adapter to compare with; None looks at the baseline alone.
        picture: C x H x W in [0, 1].
        setting: The distortion.
        right: The class that counts as right; None takes the baseline's answer for the clean
            picture.

    Raises:
        InputError: An argument is not accepted.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.explorer import Setting, compare, open_subject
        >>> subject = open_subject("digits", dc.load_model("digits_cnn"), {})
        >>> found = compare(subject, None, torch.rand(1, 28, 28), Setting(("awgn",), 20))
        >>> list(found.answers), len(found.before.labels), found.verdict
        (['baseline'], 5, None)
    """
    distorted = setting.show(picture[None])
    before = subject.probabilities(picture[None])[0]
    right = _class(before, right)
    answers = {
        system: answer_of(subject, subject.probabilities(distorted, its)[0])
        for system, its in subject.systems(adapter).items()
    }
    adapted = subject.adapted(adapter)
    with subject.asked():
        verdict = None if adapted is None else verdict_of(adapted, distorted)
    corrected = adapted is not None and (verdict is None or verdict.distorted)
    return Comparison(
        picture,
        distorted[0],
        right,
        answer_of(subject, before),
        answers,
        verdict,
        subject.milliseconds(distorted, adapter, corrected),
    )


def level_curve(
    subject: Subject,
    adapter: str | None,
    picture: Tensor,
    setting: Setting,
    right: int | None = None,
) -> Curve | None:
    """Asks both systems about one picture at every level of a distortion.

    Args:
        subject: The network and its adapters.
        adapter: The adapter to compare with; None looks at the baseline alone.
        picture: C x H x W in [0, 1].
        setting: The distortion; its own level is not used.
        right: The class that counts as right; None takes the baseline's answer for the clean
            picture.

    Returns:
        The curve; None without a kind of distortion.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.explorer import Setting, level_curve, open_subject
        >>> subject = open_subject("digits", dc.load_model("digits_cnn"), {})
        >>> curve = level_curve(subject, None, torch.rand(1, 28, 28), Setting(("awgn",)))
        >>> curve.levels, curve.correct["baseline"][0]
        ((0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0), True)
    """
    if setting.distortion is None:
        return None
    kind = setting.distortion.kind
    levels = (kind.weakest, *setting.levels(min(picture.shape[-2:])))
    shown = torch.cat([picture[None], *(setting.show(picture[None], each) for each in levels[1:])])
    found = {
        system: subject.probabilities(shown, its)
        for system, its in subject.systems(adapter).items()
    }
    right = _class(found["baseline"][0], right)
    return Curve(
        levels,
        kind.unit,
        {system: tuple(rows[:, right].tolist()) for system, rows in found.items()},
        {system: tuple((rows.argmax(1) == right).tolist()) for system, rows in found.items()},
    )


def verdict_of(adapted: AdaptedModel, image: Tensor) -> Verdict | None:
    """What the gate says of one image, 1 x C x H x W; None without a gate."""
    if adapted.gate is None:
        return None
    scores, statistics = gate_readings(adapted, image)
    kinds = adapted.gate.config.kinds
    return Verdict(
        bool((scores[0] > 0).any()),
        adapted.gate.config.others == "mean",
        dict(zip(kinds, scores[0].tolist(), strict=True)),
        {name: float(values[0]) for name, values in statistics.items()},
    )


def _class(before: Tensor, right: int | None) -> int:
    if right is None:
        return int(before.argmax())
    if not 0 <= right < len(before):
        raise InputError(f"class {right} is not one of the network's {len(before)} classes")
    return right


def answer_of(subject: Subject, probabilities: Tensor) -> Answer:
    """The most probable of the probabilities of all classes, (classes,)."""
    best = probabilities.topk(min(TOP, len(probabilities)))
    classes = tuple(best.indices.tolist())
    return Answer(classes, tuple(map(subject.label, classes)), tuple(best.values.tolist()))
