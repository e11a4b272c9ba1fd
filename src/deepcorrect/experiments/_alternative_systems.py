"""The trained systems of a recipe that correction is compared with, beside fine-tuning."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from deepcorrect import alternatives
from deepcorrect.experiments._sections import GateableSystem, Rank, TrainedSystem
from deepcorrect.networks import Classifier


class _WholeNetworkSystem(GateableSystem):
    """Trains every weight of a copy of the network."""

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """A copy of the network, which with a gate stands beside the network."""
        del rank, seed
        return self.behind_gate(model, alternatives.finetune(model))


class StabilitySystem(_WholeNetworkSystem):
    """Stability training of every weight (Zheng et al. 2016).

    The loss is computed on clean images, and draws the answer to the distorted copy to the clean
    one's. `training.objective` weighs both parts.
    """

    own: ClassVar[dict[str, Any]] = {"objective": {"clean_labels": 1.0, "stability": 1.0}}

    method: Literal["stability"]


class AugMixSystem(_WholeNetworkSystem):
    """AugMix fine-tuning of every weight, with answers that agree on AugMix views (Hendrycks et al.
    2020). With `training.clean_share: 1` it sees no distortion, as in the paper."""

    own: ClassVar[dict[str, Any]] = {"objective": {"labels": 1.0, "consistency": 12.0}}

    method: Literal["augmix"]


class WiseFtSystem(_WholeNetworkSystem):
    """WiSE-FT (Wortsman et al. 2022): weights between the network's and a fine-tuned copy's.

    Attributes:
        share: 0 for the network's weights, 1 for the fine-tuned ones; null takes the best of 0, 0.1
            up to 1 on up to 500 validation images.
    """

    own: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3}

    method: Literal["wise_ft"]
    share: float | None = Field(default=None, ge=0, le=1)


class ConvAdapterSystem(GateableSystem):
    """Conv-Adapter (Chen et al. 2024): small convolutions beside those of the frozen network.

    Attributes:
        place: `parallel` reads a convolution's input, `sequential` its output.
        reduction: how many times fewer hidden maps than input maps there are at least.
    """

    own: ClassVar[dict[str, Any]] = {"learning_rate": 1e-2}

    method: Literal["conv_adapter"]
    place: alternatives.Place = "parallel"
    reduction: int = Field(default=1, ge=1)

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """A frozen copy with adapters, which with a gate stands beside the network."""
        del rank
        adapted = alternatives.conv_adapter(model, self.place, self.reduction, seed)
        return self.behind_gate(model, adapted)


class FeatureCorrectionSystem(GateableSystem):
    """Correction of the maps after the first layers, as feature de-drifting (Wang et al. 2020).

    Attributes:
        site: the module whose maps are corrected; null takes the first convolution.
        parameters: how many are trained at most; a value up to 1 is a share of the network's.
        depth: the number of its 3 x 3 convolutions.
        images: how many of the training images it sees; null takes all.
    """

    own: ClassVar[dict[str, Any]] = {
        "learning_rate": 3e-3,
        "epochs": 20,
        "objective": {"activations": 1.0},
    }

    method: Literal["feature_correction"]
    site: str | None = None
    parameters: float = Field(default=0.25, gt=0)
    depth: int = Field(default=4, ge=2)
    images: int | None = Field(default=500, ge=2)

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """A frozen copy with corrected maps, which with a gate stands beside the network."""
        del rank
        adapted = alternatives.feature_correction(
            model, self.site, self.parameters, self.depth, seed
        )
        return self.behind_gate(model, adapted)


class LoraSystem(GateableSystem):
    """Low-rank adaptation of the convolutions, merged into their weights after training.

    Attributes:
        parameters: how many are trained at most; a value up to 1 is a share of the network's.
        alpha: the scale of what is added.
    """

    method: Literal["lora"]
    parameters: float = Field(default=0.25, gt=0)
    alpha: float = Field(default=1.0, gt=0)

    def build(self, model: Classifier, rank: Rank, seed: int) -> nn.Module:
        """A copy with low-rank parts, which with a gate stands beside the network."""
        del rank, seed
        return self.behind_gate(model, alternatives.lora(model, self.parameters, self.alpha))

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
