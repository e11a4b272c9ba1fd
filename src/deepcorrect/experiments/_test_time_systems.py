"""The systems of a recipe that are not trained, but do something at test time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from deepcorrect import alternatives
from deepcorrect.data import Batches
from deepcorrect.experiments._sections import TestTimeSection
from deepcorrect.networks import Classifier


class NormAdaptationSystem(TestTimeSection):
    """Batch norms that follow the test batch (Nado et al. 2020).

    Attributes:
        prior: as how many images the trained statistics count (Schneider et al. 2020); 0 without
            `images`, and as many as `images` with it.
        images: how many test images share their statistics at most; null for a whole batch.
    """

    needs: ClassVar[str] = "batches of one distortion"

    method: Literal["norm_adaptation"]
    prior: float = Field(default=0.0, ge=0)
    images: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _own_prior(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("images"), int):
            return {"prior": values["images"], **values}
        return values

    def build(self, model: Classifier, clean: Batches) -> nn.Module:
        """A copy of the network."""
        del clean
        return alternatives.norm_adaptation(model, self.prior, self.images)


class TentSystem(TestTimeSection):
    """TENT (Wang et al. 2021): batch norms are trained to lower the test batches' entropy.

    Attributes:
        learning_rate: of one step for each test batch.
        momentum: of SGD; null takes Adam.
    """

    needs: ClassVar[str] = "batches of one distortion"

    method: Literal["tent"]
    learning_rate: float = Field(default=1e-3, gt=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)

    def build(self, model: Classifier, clean: Batches) -> nn.Module:
        """A copy of the network."""
        del clean
        return alternatives.tent(model, self.learning_rate, self.momentum)


class EataSystem(TestTimeSection):
    """EATA (Niu et al. 2022): as TENT, on images that are sure and not redundant.

    Clean validation images say which weights are held.

    Attributes:
        learning_rate: of one step of SGD for each test batch.
        sure: the largest entropy that is learnt from, as a share of the largest possible.
        redundant: the cosine with the mean answer so far from which on an image is left out.
        holding: how strongly weights that matter for clean images are held.
    """

    needs: ClassVar[str] = "batches of one distortion"

    method: Literal["eata"]
    learning_rate: float = Field(default=5e-2, gt=0)
    sure: float = Field(default=0.4, gt=0, le=1)
    redundant: float = Field(default=0.4, gt=0, le=1)
    holding: float = Field(default=1.0, ge=0)

    def build(self, model: Classifier, clean: Batches) -> nn.Module:
        """A copy of the network."""
        return alternatives.eata(
            model, clean, self.learning_rate, self.sure, self.redundant, self.holding
        )


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

    def build(self, model: Classifier, clean: Batches) -> nn.Module:
        """The network behind a restoration."""
        del clean
        return alternatives.restoration(model, self.smoothing, self.patch, self.balance)
