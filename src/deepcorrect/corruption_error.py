"""Mean corruption error: one number for a benchmark of corruptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepcorrect.distortions import GROUPS
from deepcorrect.errors import InputError

COMMON, EXTRA = GROUPS["imagenet_c"], GROUPS["imagenet_c_extra"]

ALEXNET_CLEAN = 0.434850
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
    "speckle_noise": 0.845388,
    "gaussian_blur_c": 0.787108,
    "spatter": 0.717512,
    "saturate": 0.658248,
}
"""AlexNet's top-1 error on ImageNet and ImageNet-C, means over the severities: the published
normalisation (Hendrycks and Dietterich 2019)."""


@dataclass(frozen=True)
class Reference:
    """A network whose errors others are divided by.

    Attributes:
        name: how tables call it.
        clean: its error on clean images; None where that is not known.
        errors: its mean error over severities, by corruption.
    """

    name: str
    clean: float | None
    errors: Mapping[str, float]


ALEXNET_REFERENCE = Reference("alexnet", ALEXNET_CLEAN, ALEXNET)


def reference_from(record: Mapping[str, Any], name: str) -> Reference:
    """The reference that a system's record (`evaluate --json`) makes.

    Raises:
        InputError: it is not such a record.
    """
    try:
        curves = record["distortions"]
        errors = {kind: 1 - _mean(curve["top1"]) for kind, curve in curves.items()}
        clean = next(curve["clean_top1"] for curve in curves.values())
    except (KeyError, TypeError, StopIteration, ZeroDivisionError):
        raise InputError(
            f"{name} is not what 'deepcorrect evaluate --json' prints: it has no accuracies by "
            "distortion"
        ) from None
    return Reference(name, None if clean is None else 1 - clean, errors)


def corruption_error(
    curves: Mapping[str, Mapping[str, Any]], reference: Reference | None
) -> dict[str, Any] | None:
    """Errors of a system on a benchmark's corruptions; None where it saw none of them.

    CE_c = sum_s E(s, c) / sum_s E_reference(s, c), and its relative kind subtracts each network's
    error on clean images from all of its errors; mCE is the mean over the common corruptions.
    Hendrycks and Dietterich 2019, section 4.2.

    Args:
        curves: the `distortions` of a system's record.
        reference: without one, errors are given and not divided.

    Returns:
        `mean` error over the common corruptions; `mce` and `relative_mce`, None where there is no
        reference (or no clean error, or a corruption that the reference has not seen, or one that
        does it no harm); `corruptions`, how many of the fifteen are in these; `reference`;
        `by_corruption`, for the four extra ones too: `error`, `ce`, `relative_ce`.
    """
    rows: dict[str, dict[str, float | None]] = {}
    for kind, curve in curves.items():
        if kind not in COMMON + EXTRA:
            continue
        error = 1 - _mean(curve["top1"])
        clean = None if curve["clean_top1"] is None else 1 - curve["clean_top1"]
        theirs = reference.errors.get(kind) if reference else None
        their_clean = reference.clean if reference else None
        relative = None
        if theirs is not None and clean is not None and their_clean is not None:
            relative = _ratio(error - clean, theirs - their_clean)
        ce = None if theirs is None else _ratio(error, theirs)
        rows[kind] = {"error": error, "ce": ce, "relative_ce": relative}
    if not rows:
        return None
    common = [row for kind, row in rows.items() if kind in COMMON]
    return {
        "mean": _mean_or_none([row["error"] for row in common]),
        "mce": _mean_or_none([row["ce"] for row in common]),
        "relative_mce": _mean_or_none([row["relative_ce"] for row in common]),
        "corruptions": len(common),
        "reference": reference.name if reference else None,
        "by_corruption": rows,
    }


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _mean_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known and len(known) == len(values) else None
