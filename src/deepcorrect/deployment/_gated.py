"""A gate inside one forward pass, for corrected networks that are exported as one graph.

`AdaptedModel` sends each image to one of two branches, but an exported graph would have to run
both. In a fused network, each corrected site therefore selects corrected or original maps by the
gate's decision on the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction import Gate
from deepcorrect.networks import Wrapper, input_images
from deepcorrect.runtime import InputError, PerThread


class Verdict:
    """The decision of a gate on the current images of a thread: which of them are distorted."""

    def __init__(self) -> None:
        self._distorted: PerThread[Tensor] = PerThread()

    def set(self, distorted: Tensor) -> None:
        """Sets the decision, (N,) bool, until `clear`."""
        self._distorted.set(distorted)

    def clear(self) -> None:
        """Removes the decision."""
        self._distorted.clear()

    def choose(self, corrected: Tensor, maps: Tensor) -> Tensor:
        """Selects the corrected maps of distorted images and the original maps of the others.

        Args:
            corrected: N x C x H x W.
            maps: The original maps, N x C x H x W.

        Raises:
            InputError: There is no decision, or it is on another number of images.
        """
        distorted = self._distorted.get()
        if distorted is None:
            raise InputError(
                "the gate received no images: the network never calls the module whose input the "
                "gate should read; correct this network without a gate"
            )
        if distorted.shape[0] != maps.shape[0]:
            raise InputError(
                f"the gate read {distorted.shape[0]} images, but a site has maps of "
                f"{maps.shape[0]}: this network splits its images; correct it without a gate"
            )
        return torch.where(distorted[:, None, None, None], corrected, maps)


class GatedNetwork(Wrapper):
    """A network with a gate that reads the input before the corrected sites use its decision.

    Args:
        network: The network, whose corrected sites read `verdict`.
        gate: The gate.
        verdict: The decision of the gate.
    """

    def __init__(self, network: nn.Module, gate: Gate, verdict: Verdict) -> None:
        super().__init__()
        self.network, self.gate, self.verdict = network, gate, verdict

    def __getattr__(self, name: str) -> Any:
        """Returns the network's attribute if this module has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the network's output for images, N x C x H x W, as the network reads them."""
        self.verdict.set(self.gate(input_images(args, kwargs)))
        try:
            return self.network(*args, **kwargs)
        finally:
            self.verdict.clear()
