"""A gate inside one forward pass: the form of a corrected network that exports as one graph.

`AdaptedModel` runs one network or the other for each image. An exported graph would have to run
both. So in a fused network each corrected site chooses, by what the gate said of the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction import Gate
from deepcorrect.networks import Wrapper, input_images
from deepcorrect.runtime import InputError, PerThread


class Verdict:
    """What a gate says of the images that a thread runs now: which of them look distorted."""

    def __init__(self) -> None:
        self._distorted: PerThread[Tensor] = PerThread()

    def set(self, distorted: Tensor) -> None:
        """Sets it, (N,) bool, until `clear`."""
        self._distorted.set(distorted)

    def clear(self) -> None:
        """Ends what `set` began."""
        self._distorted.clear()

    def choose(self, corrected: Tensor, maps: Tensor) -> Tensor:
        """The corrected maps of the images that look distorted, the others' own, N x C x H x W.

        Raises:
            InputError: no images were seen, or the maps are of another number of them.
        """
        distorted = self._distorted.get()
        if distorted is None:
            raise InputError(
                "the gate was shown no images: the module that should read them is never called "
                "as one in this network; correct it without a gate"
            )
        if distorted.shape[0] != maps.shape[0]:
            raise InputError(
                f"a gate read {distorted.shape[0]} images, a site gives maps of {maps.shape[0]}: "
                "this network cuts its images up, correct it without a gate"
            )
        return torch.where(distorted[:, None, None, None], corrected, maps)


class GatedNetwork(Wrapper):
    """A network some of whose sites follow a gate, which looks at the network's input first.

    Args:
        network: with the verdict at its corrected sites.
        gate: sees the images.
        verdict: what the sites read.
    """

    def __init__(self, network: nn.Module, gate: Gate, verdict: Verdict) -> None:
        super().__init__()
        self.network, self.gate, self.verdict = network, gate, verdict

    def __getattr__(self, name: str) -> Any:
        """The network's, where this has none: code around it may look at its parts."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output for images as it reads them, N x C x H x W."""
        self.verdict.set(self.gate(input_images(args, kwargs)))
        try:
            return self.network(*args, **kwargs)
        finally:
            self.verdict.clear()
