"""The systems of a recipe: each is a section that checks its keys and builds the module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from torch import nn

from deepcorrect import alternatives, correction
from deepcorrect.correction import Runtime, check_unit, read_budget
from deepcorrect.deployment import WITHIN_LATENCY, correct_within
from deepcorrect.experiments._alternative_systems import (
    AugMixSystem,
    ConvAdapterSystem,
    FeatureCorrectionSystem,
    FrontEndSystem,
    LoraSystem,
    StabilitySystem,
    WiseFtSystem,
)
from deepcorrect.experiments._sections import GateableSystem, Rank, Section
from deepcorrect.experiments._test_time_systems import (
    EataSystem,
    NormAdaptationSystem,
    RestorationSystem,
    TentSystem,
)
from deepcorrect.networks import Classifier, parse_choice
from deepcorrect.ranking import METHODS

DEFAULT_BETA = 0.5
"""The corrected share of each site's filters if a recipe gives neither a beta nor a budget."""


class CorrectionSystem(GateableSystem):
    """Correction units behind each site's filters of highest priority.

    Attributes:
        beta: the share of each site's filters to correct, one for all sites or one per site; 0.5
            without a budget. Beside a latency, the share of filters with weights of their own.
        budget: limits all sites together instead: `{parameters: X}`, `{multiply_adds: X}`, or
            `{latency: X, runtime: RUNTIME}`, which is measured.
        unit: a kind of unit, `weights`, `weights+KIND`, or a mapping; see the section on units.
        ranking: a method; null takes the recipe's.
    """

    method: Literal["deepcorrect"]
    beta: float | dict[str, float] | None = None
    budget: dict[str, Any] | None = None
    unit: str | dict[str, Any] = "bottleneck"
    ranking: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        budget = values.get("budget")
        if isinstance(budget, Mapping) and "latency" in budget:
            return {"unit": WITHIN_LATENCY, **values}
        if values.get("beta") is None and budget is None:
            return {**values, "beta": DEFAULT_BETA}
        return values

    @field_validator("beta", mode="before")
    @classmethod
    def _shares(cls, value: Any) -> Any:
        if value is None:
            return None
        for share in value.values() if isinstance(value, dict) else [value]:
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise ValueError(
                    "a share of filters is above 0 and at most 1, one or one per site; for a "
                    "budget give budget: {parameters: X}, {multiply_adds: X} or {latency: X}"
                )
        return value

    @field_validator("budget")
    @classmethod
    def _accepted(cls, value: dict[str, Any] | None, info: ValidationInfo) -> Any:
        if value is not None:
            beta = info.data.get("beta")
            if read_budget(value).latency is None and beta is not None:
                raise ValueError("give beta or a budget, not both")
            if isinstance(beta, dict):
                raise ValueError("beside a latency, beta is one share for all sites")
        return value

    @field_validator("unit")
    @classmethod
    def _known(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        check_unit(value)
        return value

    @field_validator("ranking")
    @classmethod
    def _known_ranking(cls, value: str | None) -> str | None:
        return None if value is None else known_ranking(value)

    def build(
        self, model: Classifier, rank: Rank, seed: int, kept: Path | None = None
    ) -> nn.Module:
        """The network with its correction units, which start as the identity.

        A choice by latency is kept in the file `kept`, see `correct_within`.
        """
        ranking = rank(self.ranking)
        if self.budget is None:
            return correction.correct(model, ranking, self.beta, self.unit, seed)
        beta = self.beta if isinstance(self.beta, float) else None
        return correct_within(model, ranking, self.budget, self.unit, seed, beta=beta, kept=kept)

    @property
    def runtime(self) -> Runtime:
        """The runtime for which the correction is made."""
        return "torch" if self.budget is None else read_budget(self.budget).runtime


def known_choice(choice: str) -> str:
    """Raises ValueError unless this is a choice of sites by structure; a list names sites."""
    parse_choice(choice)
    return choice


Choice = Annotated[str, AfterValidator(known_choice)]


def known_ranking(name: str) -> str:
    """Raises ValueError unless there is such a ranking method."""
    if name not in METHODS:
        raise ValueError(f"not one of {', '.join(METHODS)}")
    return name


class FinetuneSystem(GateableSystem):
    """Fine-tuning of a copy of the network.

    Attributes:
        trains: `all` parameters, whole layers from the `first` or the `last` on, or the batch
            `norms`.
        parameters: how many the whole layers may have; a value up to 1 is a share. A `gate` leaves
            images that look undistorted to the network itself.
    """

    method: Literal["finetune"]
    trains: alternatives.Trains = "all"
    parameters: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _which(self) -> FinetuneSystem:
        if (self.parameters is None) != (self.trains in ("all", "norms")):
            raise ValueError("parameters goes with trains: first or last, and they need it")
        return self

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """A copy of the network, which with a gate stands beside the network."""
        del rank, seed
        return self.behind_gate(model, alternatives.finetune(model, self.trains, self.parameters))


System = Annotated[
    CorrectionSystem
    | FinetuneSystem
    | StabilitySystem
    | AugMixSystem
    | WiseFtSystem
    | ConvAdapterSystem
    | FeatureCorrectionSystem
    | LoraSystem
    | FrontEndSystem
    | NormAdaptationSystem
    | TentSystem
    | EataSystem
    | RestorationSystem,
    Field(discriminator="method"),
]

SECTIONS: dict[str, type[Section]] = {
    "deepcorrect": CorrectionSystem,
    "finetune": FinetuneSystem,
    "stability": StabilitySystem,
    "augmix": AugMixSystem,
    "wise_ft": WiseFtSystem,
    "conv_adapter": ConvAdapterSystem,
    "feature_correction": FeatureCorrectionSystem,
    "lora": LoraSystem,
    "front_end": FrontEndSystem,
    "norm_adaptation": NormAdaptationSystem,
    "tent": TentSystem,
    "eata": EataSystem,
    "restoration": RestorationSystem,
}
"""All systems, by the `method` in recipes."""


def summary(method: str) -> str:
    """What a method is, in one sentence.

    Example:
        >>> from deepcorrect.experiments import summary
        >>> summary("tent")
        "TENT (Wang et al. 2021): batch norms are trained to lower the test batches' entropy."
    """
    text = " ".join((SECTIONS[method].__doc__ or "").split())
    return re.split(r"\.\s+(?=[A-Z`])", text)[0].rstrip(".") + "."  # "et al. 2016" goes on
