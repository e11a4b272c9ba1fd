"""What the sections of a recipe's systems share: how they are trained, and behind which gate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from deepcorrect.correction import GatedCopy, Others
from deepcorrect.data import Batches
from deepcorrect.networks import Classifier
from deepcorrect.ranking import Ranking
from deepcorrect.training import TrainingConfig, needs_of

Rank = Callable[[str | None], Ranking]
"""Returns the ranking of a method; None stands for the recipe's own method."""


class Section(BaseModel):
    """A part of a recipe, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainedSystem(Section):
    """A system that is trained; the method may have settings of its own."""

    own: ClassVar[dict[str, Any]] = {}
    """The method's defaults for keys of `training`, in place of the general ones."""
    restores: ClassVar[bool] = False
    """Whether it restores images before the network reads them, as the objective `images` needs."""

    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _own_settings(cls, values: Any) -> Any:
        if cls.own and isinstance(values, Mapping):
            given = values.get("training") or {}
            if isinstance(given, Mapping):
                return {**values, "training": {**cls.own, **given}}
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
        others: whose answers images get that look clean: the `network`'s, or the `mean` of both
            networks' (`fit_gate`'s `others`).
        choose_strength: whether, after training, weights are weakened to where they help most and
            the gate's thresholds raised accordingly, on up to 500 validation images
            (`dc.choose_strength`).
    """

    gate: float | None = Field(default=None, gt=0, lt=1)
    gate_scale: float = Field(default=1.0, gt=0, le=1)
    others: Others = "network"
    choose_strength: bool = True

    @model_validator(mode="after")
    def _scale_of_a_gate(self) -> GateableSystem:
        if self.gate is None and self.gate_scale != 1:
            raise ValueError("gate_scale says how a gate is fitted: give gate, too")
        if self.gate is None and self.others != "network":
            raise ValueError("others says what a gate does with images that look clean: give gate")
        return self

    def behind_gate(self, model: Classifier, tuned: nn.Module) -> nn.Module:
        """A changed copy of the network, which with a gate stands beside the network."""
        return tuned if self.gate is None else GatedCopy(model, tuned)


class TestTimeSection(Section):
    """A system that is not trained beforehand, and needs something to be known at test time."""

    needs: ClassVar[str]
    """What must be known, for tables."""

    @abstractmethod
    def build(self, model: Classifier, clean: Batches) -> nn.Module:
        """The module to measure; `clean` are undistorted validation images."""
