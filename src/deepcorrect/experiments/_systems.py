"""The systems of a recipe: each is a section that checks its keys and builds the module."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from torch import nn

from deepcorrect import alternatives, correction
from deepcorrect.correction import Runtime, check_unit, read_budget
from deepcorrect.deployment import WITHIN_LATENCY, correct_within
from deepcorrect.networks import Classifier, parse_choice
from deepcorrect.ranking import METHODS, Ranking
from deepcorrect.training import TrainingConfig, needs_of

Rank = Callable[[str | None], Ranking]
"""Returns the ranking of a method; None stands for the recipe's own method."""


DEFAULT_BETA = 0.5
"""The corrected share of each site's filters if a recipe gives neither a beta nor a budget."""


class Section(BaseModel):
    """A part of a recipe, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainedSystem(Section):
    """A system that is trained; the method may have an objective of its own."""

    objective: ClassVar[dict[str, float]] = {}
    """The method's default for `training.objective`; empty stands for the general default."""
    restores: ClassVar[bool] = False
    """Whether it restores images before the network reads them, as the objective `images` needs."""

    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _own_objective(cls, values: Any) -> Any:
        if cls.objective and isinstance(values, Mapping):
            given = values.get("training") or {}
            if isinstance(given, Mapping):
                return {**values, "training": {"objective": cls.objective, **given}}
        return values

    @model_validator(mode="after")
    def _restores_images(self) -> TrainedSystem:
        if "images" in needs_of(self.training.objective) and not self.restores:
            raise ValueError(
                "the objective 'images' is for the method front_end, the only one that "
                "restores images; use logits or activations"
            )
        return self

    @abstractmethod
    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """The module to train. The parameters that require gradients are trained."""

    def finished(self, model: nn.Module) -> nn.Module:
        """The trained module in the form in which it is used."""
        return model


class GateableSystem(TrainedSystem):
    """A system that leaves what it changes behind a gate, if `gate` is given.

    Attributes:
        gate: the share of clean images that a gate may let through; null has no gate.
        gate_scale: below 1, the gate is prepared for pictures from other sources than the training
            images (`fit_gate`'s `scale`).
    """

    gate: float | None = Field(default=None, gt=0, lt=1)
    gate_scale: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _scale_of_a_gate(self) -> GateableSystem:
        if self.gate is None and self.gate_scale != 1:
            raise ValueError("gate_scale says how a gate is fitted: give gate, too")
        return self


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
        tuned = alternatives.finetune(model, self.trains, self.parameters)
        return tuned if self.gate is None else correction.GatedCopy(model, tuned)


class _WholeNetworkSystem(TrainedSystem):
    """Trains every weight of a copy of the network."""

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """A copy of the network."""
        del rank, seed
        return alternatives.finetune(model)


class StabilitySystem(_WholeNetworkSystem):
    """Stability training of every weight (Zheng et al. 2016).

    The loss is computed on clean images, and draws the answer to the distorted copy to the clean
    one's. `training.objective` weighs both parts.
    """

    objective: ClassVar[dict[str, float]] = {"clean_labels": 1.0, "stability": 1.0}

    method: Literal["stability"]


class AugMixSystem(_WholeNetworkSystem):
    """AugMix fine-tuning of every weight, with answers that agree on AugMix views (Hendrycks et al.
    2020). With `training.clean_share: 1` it sees no distortion, as in the paper."""

    objective: ClassVar[dict[str, float]] = {"labels": 1.0, "consistency": 12.0}

    method: Literal["augmix"]


class LoraSystem(TrainedSystem):
    """Low-rank adaptation of the convolutions, merged into their weights after training.

    Attributes:
        parameters: how many are trained at most; a value up to 1 is a share of the network's.
        alpha: the scale of what is added.
    """

    method: Literal["lora"]
    parameters: float = Field(default=0.25, gt=0)
    alpha: float = Field(default=1.0, gt=0)

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """A copy of the network with low-rank parts."""
        del rank, seed
        return alternatives.lora(model, self.parameters, self.alpha)

    def finished(self, model: nn.Module) -> nn.Module:
        """The copy with its low-rank parts added to the weights."""
        return alternatives.merge(model)


class FrontEndSystem(TrainedSystem):
    """A learned residual network that restores the image for the frozen network.

    Attributes:
        parameters: how many it has at most; a value up to 1 is a share of the network's.
        depth: its number of 3 x 3 stages.
    """

    restores: ClassVar[bool] = True

    method: Literal["front_end"]
    parameters: float = Field(default=0.25, gt=0)
    depth: int = Field(default=4, ge=1)

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """The network behind a front end that starts as the identity."""
        del rank
        return alternatives.front_end(model, self.parameters, self.depth, seed)


class TestTimeSection(Section):
    """A system that is not trained beforehand, and needs something to be known at test time."""

    needs: ClassVar[str]
    """What must be known, for tables."""

    @abstractmethod
    def build(self, model: Classifier) -> nn.Module:
        """The module to measure."""


class NormAdaptationSystem(TestTimeSection):
    """Batch norms that follow the test batch (Nado et al. 2020).

    Attributes:
        prior: as how many images the trained statistics count (Schneider et al. 2020).
    """

    needs: ClassVar[str] = "batches of one distortion"

    method: Literal["norm_adaptation"]
    prior: float = Field(default=0.0, ge=0)

    def build(self, model: Classifier) -> nn.Module:
        """A copy of the network."""
        return alternatives.norm_adaptation(model, self.prior)


class TentSystem(TestTimeSection):
    """TENT (Wang et al. 2021): batch norms are trained to lower the test batches' entropy.

    Attributes:
        learning_rate: of one step for each test batch.
    """

    needs: ClassVar[str] = "batches of one distortion"

    method: Literal["tent"]
    learning_rate: float = Field(default=1e-3, gt=0)

    def build(self, model: Classifier) -> nn.Module:
        """A copy of the network."""
        return alternatives.tent(model, self.learning_rate)


class RestorationSystem(TestTimeSection):
    """Restoration of the image first, by non-local means or Wiener deconvolution; not blind.

    Attributes:
        smoothing: the parameter h of non-local means, in sigmas.
        patch: the side of its patches, in pixels.
        balance: the ratio of noise power to signal power that the deconvolution assumes.
    """

    needs: ClassVar[str] = "the true sigma or kernel"

    method: Literal["restoration"]
    smoothing: float = Field(default=0.8, gt=0)
    patch: int = Field(default=5, ge=1)
    balance: float = Field(default=1e-4, gt=0)

    def build(self, model: Classifier) -> nn.Module:
        """The network behind a restoration."""
        return alternatives.restoration(model, self.smoothing, self.patch, self.balance)


System = Annotated[
    CorrectionSystem
    | FinetuneSystem
    | StabilitySystem
    | AugMixSystem
    | LoraSystem
    | FrontEndSystem
    | NormAdaptationSystem
    | TentSystem
    | RestorationSystem,
    Field(discriminator="method"),
]

SECTIONS: dict[str, type[Section]] = {
    "deepcorrect": CorrectionSystem,
    "finetune": FinetuneSystem,
    "stability": StabilitySystem,
    "augmix": AugMixSystem,
    "lora": LoraSystem,
    "front_end": FrontEndSystem,
    "norm_adaptation": NormAdaptationSystem,
    "tent": TentSystem,
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
