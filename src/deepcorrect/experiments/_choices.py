"""What `correct` chooses for a network and its images, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deepcorrect.correction import WEIGHTS, Budget, Others, UnitChoice, read_budget
from deepcorrect.deployment import WITHIN_LATENCY
from deepcorrect.experiments._stages import stages
from deepcorrect.runtime import InputError
from deepcorrect.training import TrainingConfig, changed

Gating = float | Literal["none"] | None
"""The share of clean images that a gate may send to the corrected network; `none` for no gate."""

SMALL_INPUT = 64
"""The largest side of an input, in pixels, that counts as small."""
BATCH_SIZE = 32
"""The largest number of images per step: with few images seen, more steps reach further."""
IMAGES_SEEN = 30_000
"""How many images training sees, repeats counted, if no number of epochs is given."""
MOST_EPOCHS = 30
RANKED = 250
"""How many images of small inputs filters are ranked on."""
RANKED_LARGE = 32
"""How many images of larger inputs: ranking one takes as long as training on hundreds."""
CROP = 4 / 7
"""The share of each side of a random part of an image: 128 of 224 pixels."""
LEAST_FOR_CROPS = 160
"""The smallest input, in pixels, that is trained on parts first."""
PARAMETERS = 0.5
"""The largest size of an adapter that consists of weights, as a fraction of the network's."""
LEAST_FOR_A_GATE = 40


@dataclass(frozen=True)
class Choices:
    """Everything that a correction is made with.

    Attributes:
        unit: The kind of correction at each site, as in `dc.correct`.
        beta: The share of each site's filters that are corrected.
        budget: The largest accepted cost, in place of `beta`.
        sites: The sites.
        ranked: The number of images that filters are ranked on.
        gate: The share of clean images that the gate may send to the corrected network; None for
            no gate.
        gate_scale: The smallest scale of the images that the gate is fitted to.
        others: Whose answers images get that look clean, see `fit_gate`; None without a gate.
        training: The settings of the training.
        reasons: Why each of them was chosen, by name; values that were given have none.
    """

    unit: UnitChoice
    beta: float | Mapping[str, float] | None
    budget: Budget | Mapping[str, Any] | None
    sites: tuple[str, ...]
    ranked: int
    gate: float | None
    gate_scale: float
    others: Others | None
    training: TrainingConfig
    reasons: dict[str, str] = field(default_factory=dict)

    def explained(self) -> list[tuple[str, str, str]]:
        """Each choice with its value and its reason, as texts."""
        training = self.training
        objective = ", ".join(f"{name}={weight:g}" for name, weight in training.objective.items())
        crop = training.augmentation.crop
        values = {
            "sites": f"{len(self.sites)}: {', '.join(self.sites)}",
            "unit": str(self.unit),
            "beta": "-" if self.beta is None else str(self.beta),
            "budget": "-" if self.budget is None else str(self.budget),
            "ranked": f"{self.ranked} images",
            "gate": "none" if self.gate is None else f"{self.gate:g}",
            "gate_scale": f"{self.gate_scale:g}",
            "others": self.others or "-",
            "epochs": str(training.epochs),
            "batch_size": f"at most {training.batch_size}",
            "optimizer": training.optimizer,
            "learning_rate": f"{training.learning_rate:g}",
            "clean_share": f"{training.clean_share:g}",
            "levels": training.levels,
            "objective": objective,
            "crop": "-" if crop == 1 else f"{crop:.3g} of each side, and whole images at last",
        }
        return [
            (name, value, self.reasons.get(name, "given"))
            for name, value in values.items()
            if value != "-"
        ]


def choose_settings(
    images: int,
    pixels: int,
    *,
    unit: UnitChoice | None = None,
    beta: float | Mapping[str, float] | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    sites: Mapping[str, bool] | None = None,
    sites_given: bool = False,
    ranked: int | None = None,
    comparable: bool = True,
    gate: Gating = None,
    gate_scale: float | None = None,
    others: Others | None = None,
    croppable: bool = True,
    training: Mapping[str, Any],
) -> Choices:
    """Chooses what was not given.

    Args:
        images: The number of training images.
        pixels: The side of the network's input.
        unit: As in `Choices`, as are the others; None leaves the choice to this function.
        beta: See `unit`.
        budget: See `unit`.
        sites: The sites, and whether the filters of each have weights that can be trained.
        sites_given: Whether somebody named these sites.
        ranked: The number of images of a ranking that was made before.
        comparable: Whether the ranking compares filters of different sites.
        gate: The share, or `none` for no gate.
        gate_scale: See `unit`.
        others: See `unit`.
        croppable: Whether the network answers parts of images, too.
        training: The settings of `TrainingConfig` that are given.

    Raises:
        InputError: A setting is not accepted, or the network does not read the parts asked for.
    """
    reasons: dict[str, str] = {}
    small = pixels <= SMALL_INPUT
    if unit is None:
        timed = budget is not None and read_budget(budget).latency is not None
        unit, reasons["unit"] = _unit(sites or {}, within_time=timed)
    if beta is None and budget is None:
        if unit == WEIGHTS and comparable:
            budget, reasons["budget"] = {"parameters": PARAMETERS}, "the highest gains per weight"
        else:
            beta, reasons["beta"] = 0.5, "half of each site's filters, those that rank highest"
    if not sites_given:
        reasons["sites"] = "every convolution and MLP whose maps affect the answer"
    if ranked is None:
        reasons["ranked"] = "rankings change little with more images"
    if gate_scale is None:
        why = "images as they are" if small else "images of other sources have other detail"
        gate_scale, reasons["gate_scale"] = 1.0 if small else 0.5, why
    share = None if gate == "none" else gate
    if gate is None:
        share, reasons["gate"] = _gate_share(images, small)
    clean = _answering_clean(others, share, reasons)
    settings = _training(images, small, unit, clean, training, reasons)
    if croppable and "augmentation" not in training and (crop := crop_of(training, pixels)) < 1:
        settings["augmentation"] = {"crop": crop, "flip": True}
        reasons["crop"] = "a part takes a third of the time, and a distortion is as strong in it"
    chosen = changed(TrainingConfig(), settings)
    if chosen.augmentation.crop < 1 and not croppable:
        raise InputError(
            f"the network does not answer parts of {chosen.augmentation.crop:g} of each side of an "
            "image as it answers whole ones: give a crop of 1, which keeps images whole"
        )
    return Choices(
        unit,
        beta,
        budget,
        tuple(sites or ()),
        min(RANKED if small else RANKED_LARGE, images) if ranked is None else ranked,
        share,
        gate_scale,
        clean,
        chosen,
        reasons,
    )


def crop_of(training: Mapping[str, Any], pixels: int) -> float:
    """The share of each side that random parts of the images have, as given or by the input size.

    1 keeps images whole.
    """
    if "augmentation" in training:
        return changed(TrainingConfig(), training).augmentation.crop
    return CROP if pixels >= LEAST_FOR_CROPS else 1.0


def _unit(sites: Mapping[str, bool], *, within_time: bool) -> tuple[UnitChoice, str]:
    """The unit at each site: weights of their own where the filters have weights."""
    if within_time:
        return WITHIN_LATENCY, "weights at no cost, and units as far as the time allows"
    why = "the ranked filters' own weights: nothing is added to the network's computation"
    if all(sites.values()):
        return WEIGHTS, why
    units = {site: WEIGHTS if weights else "bottleneck" for site, weights in sites.items()}
    return units, f"{why}; units where a site has no weights"


def _gate_share(images: int, small: bool) -> tuple[float | None, str]:
    """The share of clean images that a gate may correct, and why."""
    if images < LEAST_FOR_A_GATE:
        return None, f"a gate cannot be fitted to fewer than {LEAST_FOR_A_GATE} images"
    usual, possible = (0.05 if small else 0.02), math.ceil(200 / images) / 100
    return max(usual, possible), "images that look undistorted need no correction"


def _answering_clean(
    given: Others | None, share: float | None, reasons: dict[str, str]
) -> Others | None:
    """Whose answers images get that a gate takes for clean; None without a gate."""
    if share is None:
        if given is not None:
            raise InputError("others says what a gate does with clean images: give a gate")
        return None
    if given is None:
        reasons["others"] = "exactly the network's answers, at no cost"
    return given or "network"


def _training(
    images: int,
    small: bool,
    unit: UnitChoice,
    clean: Others | None,
    given: Mapping[str, Any],
    reasons: dict[str, str],
) -> dict[str, Any]:
    """The settings of the training that are given, and the others.

    Args:
        images: The number of training images.
        small: Whether the input is.
        unit: The kind of correction.
        clean: Who answers the images that a gate takes for clean; None without a gate.
        given: The settings that are given.
        reasons: Gets the reasons of the others.
    """
    epochs = min(MOST_EPOCHS, max(2, round(IMAGES_SEEN / images)))
    rate = 0.003 if not small else 0.05 if unit == WEIGHTS else 0.01
    optimizer = "muon" if small and unit == WEIGHTS else "adamw"
    objective = {"logits": 1.0, "activations": 16.0} if small else {"logits": 1.0, "features": 2.0}
    usual: dict[str, tuple[Any, str]] = {
        "epochs": (epochs, f"about {IMAGES_SEEN:,} images are seen, repeats counted"),
        "optimizer": (optimizer, "orthogonalised steps bring small networks further"),
        "learning_rate": (rate, "smaller for large inputs and for units"),
        "batch_size": (BATCH_SIZE, "more steps for the images seen"),
        "clean_share": {
            "network": (0.0 if small else 0.1, "the gate keeps clean images"),
            "mean": (0.1, "the network answers clean images, too"),
            None: (0.5, "without a gate, half stays clean"),
        }[clean],
        "levels": {
            "network": ("costly", "the gate leaves the slightest to the network"),
            "mean": ("all", "both networks answer the slightest"),
            None: ("all", "without a gate, all count"),
        }[clean],
        "objective": (objective, "the untouched network on the clean image is the teacher"),
        "precision": ("auto", "bfloat16 where it is native"),
    }
    for name, (_, reason) in usual.items():
        if name not in given:
            reasons[name] = reason
    return {name: value for name, (value, _) in usual.items()} | dict(given)


def within_minutes(
    choices: Choices, minutes: float, images: int, seconds: tuple[float, float]
) -> Choices:
    """The choices with as many epochs as fit into a time.

    Args:
        choices: The choices so far.
        minutes: The longest accepted training time.
        images: The number of training images.
        seconds: The time that training takes per image: on parts of images, and on whole ones.

    Raises:
        InputError: Not even one epoch fits.
    """

    def needed(epochs: int) -> float:
        planned = stages(changed(choices.training, {"epochs": epochs}))
        part, whole = seconds
        times = (each.epochs * (whole if each.augmentation.crop == 1 else part) for each in planned)
        return sum(times) * images / 60

    fitting = [n for n in range(1, choices.training.epochs + 1) if needed(n) <= minutes]
    if not fitting:
        raise InputError(
            f"one pass over the {images:,} training images takes about {needed(1):.1f} minutes, "
            f"and {minutes:g} are allowed: allow more, or give fewer images"
        )
    if fitting[-1] == choices.training.epochs:
        return choices
    training = changed(choices.training, {"epochs": fitting[-1]})
    reasons = {**choices.reasons, "epochs": f"as many as fit into {minutes:g} minutes"}
    return Choices(**{**vars(choices), "training": training, "reasons": reasons})
