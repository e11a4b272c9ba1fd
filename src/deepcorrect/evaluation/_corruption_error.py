"""Corruption error: the error of a network on the fifteen common corruptions, as one figure.

D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcorrect.distortions import GROUPS
from deepcorrect.runtime import InputError, files

COMMON = GROUPS["imagenet_c"]
EXTRA = GROUPS["imagenet_c_extra"]
SEVERITIES = (1.0, 2.0, 3.0, 4.0, 5.0)

ALEXNET_CLEAN = 0.434846
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
"""AlexNet's published top-1 errors on ImageNet's validation images, and on ImageNet-C as means over
the five severities."""


@dataclass(frozen=True)
class Reference:
    """The network by whose errors those of others are divided.

    Attributes:
        name: `alexnet`, or the file that the errors were read from.
        errors: by corruption, its levels and its mean top-1 error over them.
        clean: its top-1 error on the undistorted images; None if it is not known.
    """

    name: str
    errors: Mapping[str, tuple[tuple[float, ...], float]]
    clean: float | None

    def error(self, corruption: str, levels: Iterable[float]) -> float | None:
        """Its mean error over `levels`; None if it was not measured at exactly these."""
        known, error = self.errors.get(corruption, ((), 0.0))
        return error if set(known) == set(levels) else None


ALEXNET_REFERENCE = Reference(
    "alexnet", {name: (SEVERITIES, error) for name, error in ALEXNET.items()}, ALEXNET_CLEAN
)


def reference_for(name: str | None, default: Reference | None = None) -> Reference | None:
    """The reference that the option `--reference` names.

    Args:
        name: `alexnet`, `none`, or a file that `evaluate --json` wrote; None takes `default`.
        default: the reference that suits the data.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if name is None:
        return default
    if name in ("alexnet", "none"):
        return ALEXNET_REFERENCE if name == "alexnet" else None
    if not Path(name).is_file():
        raise InputError(
            f"there is no file {name}. --reference takes alexnet, none, or a file with the output "
            "of 'deepcorrect evaluate --json' for another network"
        )
    record = files.read_json(Path(name))
    try:
        curves = record["distortions"]
        errors = {
            kind: (tuple(map(float, curve["levels"])), 1 - _mean(curve["top1"]))
            for kind, curve in curves.items()
        }
        clean = next(iter(curves.values()))["clean_top1"]
        return Reference(name, errors, None if clean is None else 1 - float(clean))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, ZeroDivisionError):
        raise InputError(
            f"{name} is not the output of 'deepcorrect evaluate --json': it has no accuracies by "
            "distortion and level"
        ) from None


def corruption_error(
    curves: Mapping[str, Mapping[str, Any]], reference: Reference | None
) -> dict[str, Any]:
    """The corruption errors of one system.

    With E_s the top-1 error at severity s, E the one on clean images, and R the same errors of the
    reference:

        CE_c          = sum_s E_{s,c} / sum_s R_{s,c}
        relative CE_c = sum_s (E_{s,c} - E) / sum_s (R_{s,c} - R)

    and mCE and relative mCE are their means over the common corruptions. Without a reference the
    sums are divided by the number of severities instead: CE_c is then the mean error.

    Args:
        curves: the `distortions` of a system's record: `levels`, `top1` and `clean_top1` (a
            number or None) of each kind, shares from 0 to 1.
        reference: the network to divide by; None divides by the number of severities.

    Returns:
        `mean`: the mean error over the common corruptions; `mce`, `relative_mce`; `in_mce`: the
        number of the fifteen that are in mCE, and `missing`: the names of the others; `reference`:
        its name; and `by_corruption`: for each kind its `group` (`common`, `extra` or `other`),
        `levels`, `errors`, their `mean`, `ce` and `relative_ce`. A value that is not defined is
        None: a relative error without clean images, an error relative to a reference that was not
        measured at the same levels, the mean of no value.

    Example:
        >>> from deepcorrect.evaluation import ALEXNET_REFERENCE, corruption_error
        >>> fog = {"levels": [1, 2, 3, 4, 5], "top1": [0.7, 0.6, 0.5, 0.4, 0.3], "clean_top1": 0.8}
        >>> found = corruption_error({"fog": fog}, ALEXNET_REFERENCE)
        >>> round(found["mce"], 3), found["in_mce"]  # 0.5 / 0.819324
        (0.61, 1)
    """
    by_corruption = {name: _one(name, curve, reference) for name, curve in curves.items()}
    common = {name: by_corruption[name] for name in COMMON if name in by_corruption}
    inside = [name for name, one in common.items() if one["ce"] is not None]
    return {
        "mean": _mean_of_known(one["mean"] for one in common.values()),
        "mce": _mean_of_known(one["ce"] for one in common.values()),
        "relative_mce": _mean_of_known(one["relative_ce"] for one in common.values()),
        "in_mce": len(inside),
        "missing": [name for name in COMMON if name not in inside],
        "reference": reference.name if reference else None,
        "by_corruption": by_corruption,
    }


def _one(name: str, curve: Mapping[str, Any], reference: Reference | None) -> dict[str, Any]:
    levels = [float(level) for level in curve["levels"]]
    errors = [1 - share for share in curve["top1"]]
    mean = _mean(errors)
    clean = None if curve["clean_top1"] is None else 1 - curve["clean_top1"]
    rise = None if clean is None else mean - clean
    ce, relative = mean, rise
    if reference is not None:  # means over the same severities are proportional to sums
        theirs = reference.error(name, levels)
        ce, relative = _ratio(mean, theirs), None
        if theirs is not None and reference.clean is not None:
            relative = _ratio(rise, theirs - reference.clean)
    group = "common" if name in COMMON else "extra" if name in EXTRA else "other"
    return {
        "group": group,
        "levels": levels,
        "errors": errors,
        "mean": mean,
        "ce": ce,
        "relative_ce": relative,
    }


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below is not None and below > 0 else None


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
