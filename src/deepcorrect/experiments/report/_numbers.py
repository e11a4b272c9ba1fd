"""The figures in words: the accuracy table, the headline, and how names and numbers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deepcorrect.distortions import kind_of
from deepcorrect.runtime import InputError

DISTORTION_NAMES = {"gaussian_blur": "Gaussian blur", "awgn": "Gaussian noise"}
SYSTEM_NAMES = {
    "baseline": "Baseline",
    "finetuned": "Fine-tuned",
    "finetuned_gated": "Fine-tuned, gated",
    "deepcorrect": "DeepCorrect",
}
NOTHING = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"
NAMED_IN_HEADLINE = 3  # with more distortions than this, the headline states their mean


@dataclass(frozen=True)
class AccuracyRow:
    """One system under one distortion. Accuracies are shares of the test images, 0 to 1.

    Attributes:
        distortion: its name in `results.json`.
        system: its name in `results.json`.
        clean: the top-1 accuracy on the undistorted images.
        levels: the levels of the distortion.
        top1: the top-1 accuracy at each level.
        mean: the paper's average, over the clean images and every level.
        images: the number of test images; 0 if it is not known.
    """

    distortion: str
    system: str
    clean: float
    levels: tuple[float, ...]
    top1: tuple[float, ...]
    mean: float
    images: int = 0


def accuracy_table(results: dict[str, Any]) -> list[AccuracyRow]:
    """One row per distortion and system, in the order of `results.json`.

    Example:
        >>> from deepcorrect.experiments.report import accuracy_table
        >>> curve = {"levels": [5], "top1": [0.6], "clean_top1": 0.9, "mean_top1": 0.75}
        >>> [row] = accuracy_table({"systems": {"baseline": {"distortions": {"awgn": curve}}}})
        >>> row.system, row.distortion, row.mean
        ('baseline', 'awgn', 0.75)
    """
    return [
        AccuracyRow(
            distortion,
            system,
            curve["clean_top1"],
            tuple(curve["levels"]),
            tuple(curve["top1"]),
            curve["mean_top1"],
            record.get("test_images", 0),
        )
        for distortion in distortions_of(results)
        for system, record in results["systems"].items()
        if (curve := record["distortions"].get(distortion)) is not None
    ]


def distortions_of(results: dict[str, Any]) -> list[str]:
    """The distortions that any system was measured under."""
    systems = results["systems"].values()
    return list(dict.fromkeys(name for record in systems for name in record["distortions"]))


def headline(results: dict[str, Any], subject: str | None) -> list[str]:
    """The result in sentences, whichever system is ahead.

    Args:
        results: the content of `results.json`.
        subject: the system that the sentences are about; None for a run of the baseline alone.

    Example:
        >>> from deepcorrect.experiments.report import headline
        >>> curve = {"levels": [5], "top1": [0.6], "clean_top1": 0.9, "mean_top1": 0.75}
        >>> results = {"systems": {"baseline": {"distortions": {"awgn": curve}}}}
        >>> [sentence] = headline(results, None)
        >>> sentence.startswith("The baseline's mean top-1 accuracy is 75.0")
        True
    """
    rows = {(row.system, row.distortion): row for row in accuracy_table(results)}
    names = distortions_of(results)
    base = {name: rows["baseline", name] for name in names if ("baseline", name) in rows}
    if subject is None:
        costs = [f"{percent(row.mean)} {under(name)}" for name, row in base.items()]
        clean = percent(next(iter(base.values())).clean) if base else NOTHING
        return [f"The baseline's mean top-1 accuracy is {joined(costs)}; on clean images {clean}."]
    own = {name: rows[subject, name] for name in base if (subject, name) in rows}
    if not own:
        return [f"{system_name(subject)} and the baseline share no distortion to compare under."]
    sentences = [_change(subject, own, base)]
    for other in results["systems"]:
        theirs = {name: rows[other, name] for name in own if (other, name) in rows}
        if other not in ("baseline", subject) and theirs:
            sentences.append(_comparison(other, theirs, subject, own))
    return [*sentences, _cost(results["systems"], subject)]


def _change(subject: str, own: dict[str, AccuracyRow], base: dict[str, AccuracyRow]) -> str:
    if len(own) <= NAMED_IN_HEADLINE:
        parts = [
            f"from {percent(base[name].mean)} to {percent(row.mean)} "
            f"({_with_margin(row.mean, base[name].mean, row.images)}) {under(name)}"
            for name, row in own.items()
        ]
    else:
        before = mean(base[name].mean for name in own)
        after = mean(row.mean for row in own.values())
        images = min(row.images for row in own.values())
        parts = [
            f"from {percent(before)} to {percent(after)} ({_with_margin(after, before, images)}) "
            f"over {len(own)} distortions"
        ]
    name, row = next(iter(own.items()))
    change = row.clean - base[name].clean
    moved = f"changes by {_with_margin(row.clean, base[name].clean, row.images)}"
    clean = moved if tenths(change) else "does not change"
    return (
        f"{system_name(subject)} takes mean top-1 accuracy {joined(parts)}; "
        f"accuracy on clean images {clean} ({percent(base[name].clean)} to {percent(row.clean)})."
    )


def _comparison(
    other: str, theirs: dict[str, AccuracyRow], subject: str, own: dict[str, AccuracyRow]
) -> str:
    """How far another system is ahead of the subject or behind it, by mean top-1 accuracy."""
    if len(theirs) > NAMED_IN_HEADLINE:
        leads = {name: row.mean - own[name].mean for name, row in theirs.items()}
        ahead = sum(tenths(lead) > 0 for lead in leads.values())
        first, second = (mean(rows[name].mean for name in leads) for rows in (theirs, own))
        images = min(row.images for row in theirs.values())
        return (
            f"{system_name(other)} is ahead of {system_name(subject)} under {ahead} of "
            f"{len(leads)} distortions, by {_with_margin(first, second, images)} on average."
        )
    parts = [_lead(row, own[name]) for name, row in theirs.items()]
    return f"Against {system_name(subject)}, {system_name(other)} is {joined(parts)}."


def _lead(theirs: AccuracyRow, own: AccuracyRow) -> str:
    """How far one system is ahead of another under a distortion, or behind it."""
    lead, where = theirs.mean - own.mean, under(theirs.distortion)
    if not tenths(lead):
        return f"level {where}"
    if abs(lead) <= margin(theirs.mean, own.mean, theirs.images):
        return f"level {where} ({_with_margin(theirs.mean, own.mean, theirs.images)})"
    return f"{points(abs(lead), signed=False)} {'ahead' if lead > 0 else 'behind'} {where}"


def margin(first: float, second: float, images: int) -> float:
    """What the difference of two accuracies on the same images must exceed to count as one.

    It is half the 95 % interval of the difference of two shares that were measured independently.
    Systems tend to fail on the same images, and a mean over levels varies less than one share, so
    that the true interval is narrower: what exceeds it is a difference.

    Args:
        first: an accuracy, 0 to 1, or a mean of several.
        second: another one.
        images: the number of images; if it is 0, nothing is known and the margin is 0.

    Example:
        >>> round(margin(0.9, 0.9, 1000), 4)
        0.0263
    """
    if not images:
        return 0.0
    return 1.96 * ((first * (1 - first) + second * (1 - second)) / images) ** 0.5


def _with_margin(first: float, second: float, images: int) -> str:
    """A difference: `+35.1 points`, or `+0.4 points, within the interval of ± 2.6`."""
    difference, largest = first - second, margin(first, second, images)
    if abs(difference) > largest or not images:
        return points(difference)
    return f"{points(difference)}, within the interval of ±{SPACE}{100 * largest:.1f}"


def _cost(systems: dict[str, Any], subject: str) -> str:
    own, base = systems[subject], systems["baseline"]
    share = ratio(own["trainable_parameters"], base["parameters"])
    change = own["multiply_adds"] / base["multiply_adds"] - 1 if base["multiply_adds"] else 0.0
    more = "more" if change > 0 else "fewer"
    work = f"{percent(abs(change))} {more}" if tenths(change) else "no more"
    known, without = own.get("relative_latency"), own.get("relative_ungated_latency")
    time = "" if known is None else f", and {known:.2f} times as long for one"
    time += "" if known is None or without is None else f", {without:.2f} without its gate"
    return (
        f"{system_name(subject)} trains {own['trainable_parameters']:,} parameters ({share} of the "
        f"network's {base['parameters']:,}) and takes {work} multiply-adds per image{time}."
    )


def latencies(record: dict[str, Any], *, is_baseline: bool) -> list[str]:
    """A system's latency for a distorted image, for a clean one, and for a distorted one without
    the gate; a dash if it is not known.

    The baseline's is in milliseconds: `2.31 ms`; that of others is a multiple of it: `1.24`.
    """
    if is_baseline:
        known = record.get("latency_ms")
        return [NOTHING if known is None else f"{known:.2f}{SPACE}ms", NOTHING, NOTHING]
    keys = ("relative_latency", "relative_clean_latency", "relative_ungated_latency")
    values = [record.get(key) for key in keys]
    return [NOTHING if value is None else f"{value:.2f}" for value in values]


def how_timed(systems: dict[str, Any]) -> str:
    """How latencies were measured: `in PyTorch with 1 thread, of fused networks`."""
    timed = {name: record for name, record in systems.items() if record.get("latency_ms")}
    threads = next((record["threads"] for record in timed.values() if record.get("threads")), 0)
    on = f" with {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    unfused = [system_name(name) for name, record in timed.items() if not record.get("fused")]
    fused = "fused" if len(unfused) < len(timed) else "unfused"
    but = f" ({joined(unfused)}: unfused)" if unfused and fused == "fused" else ""
    return f"in PyTorch{on}, of {fused} networks{but}"


def added_multiply_adds(record: dict[str, Any], base: dict[str, Any]) -> str:
    """The multiply-adds that a system adds to the baseline's: `+12.5 %`."""
    if not base["multiply_adds"]:
        return NOTHING
    change = record["multiply_adds"] / base["multiply_adds"] - 1
    return f"{_sign(change) if tenths(change) else ''}{percent(abs(change))}"


def system_name(name: str) -> str:
    """The name of a system on the page."""
    return SYSTEM_NAMES.get(name, name)


def distortion_name(name: str) -> str:
    """The name of a distortion on the page."""
    return DISTORTION_NAMES.get(name, name.replace("_", " "))


def level_unit(distortion: str) -> str:
    """What a level of the distortion means."""
    try:
        return kind_of(distortion).unit
    except InputError:  # a results file of another version, or a kind that is not registered here
        return "level"


def under(distortion: str) -> str:
    """A distortion as a condition: `under Gaussian blur`."""
    return f"under {distortion_name(distortion)}"


def percent(share: float) -> str:
    """A share in percent: `81.2 %`."""
    return f"{100 * share:.1f}{SPACE}%"


def tenths(share: float) -> float:
    """A share as percent, rounded as it is shown."""
    return round(100 * share, 1)


def points(difference: float, *, signed: bool = True) -> str:
    """A difference of two shares in percentage points: `+35.1 points`."""
    sign = _sign(difference) if signed and tenths(difference) else ""
    return f"{sign}{abs(100 * difference):.1f}{SPACE}points"


def ratio(part: float, whole: float) -> str:
    """A part of a whole: `5.6 %`; a dash if the whole is 0."""
    return percent(part / whole) if whole else NOTHING


def compact(number: float) -> str:
    """A large number: `6.44 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{SPACE}{letter}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """A duration: `2 min 3 s`."""
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    parts = [(hours, "h"), (minutes, "min"), (rest if not hours else 0, "s")]
    return SPACE.join(f"{value}{SPACE}{unit}" for value, unit in parts if value)


def moment(text: str) -> str:
    """An ISO 8601 date in words: `4 March 2026, 05:06 UTC`; any other text stays as it is."""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {date.tzname()}" if date.tzinfo else ""
    return f"{date.day} {date:%B %Y, %H:%M}{zone}"


def joined(parts: Sequence[str]) -> str:
    """A list in words: `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def number_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, with runs of three and more shortened: `0, 2, 5-9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}{NOTHING}{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    taken = list(values)
    return sum(taken) / len(taken)


def _sign(value: float) -> str:
    return "\N{MINUS SIGN}" if value < 0 else "+"
