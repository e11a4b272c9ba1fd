"""TENT: entropy minimisation at test time (Wang et al. 2021)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from deepcorrect.alternatives._norm_adaptation import replace_norms
from deepcorrect.distortions import Distortion
from deepcorrect.networks import Wrapper


class Tent(Wrapper):
    """A network that sharpens its answers while it is tested.

    Batch norms take the batch's statistics; after each batch their weights and biases make one
    step down the mean entropy of its answers. A batch is answered before its own step, as in the
    authors' code. Batches have to be of one distortion, in a row: `begin` starts anew.

    Args:
        network: whose batch norms are replaced and trained.
        learning_rate: of Adam.
    """

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        norms = replace_norms(network, 0.0)
        self._trained = [p for norm in norms for p in (norm.weight, norm.bias) if p is not None]
        self._start = [p.detach().clone() for p in self._trained]
        self._learning_rate = learning_rate
        self.start_level(None, 0.0)

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        """Forgets what was learnt from the batches so far."""
        del distortion, level
        with torch.no_grad():
            for parameter, value in zip(self._trained, self._start, strict=True):
                parameter.copy_(value)
        self._optimizer = torch.optim.Adam(self._trained, lr=self._learning_rate)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of images in [0, 1], N x C x H x W; then one step is made."""
        for parameter in self._trained:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            logits = self.network(images)
            answers = logits.float().log_softmax(1)
            entropy = -(answers.exp() * answers).sum(1).mean()
            self._optimizer.zero_grad()
            entropy.backward()
        self._optimizer.step()
        for parameter in self._trained:  # nothing here is trained beforehand
            parameter.requires_grad_(False)
        return logits.detach()


def tent(model: nn.Module, learning_rate: float = 1e-3) -> Tent:
    """A copy of the network that adapts its batch norms to what it is tested on.

    Args:
        model: the baseline.
        learning_rate: of Adam (the authors', on CIFAR: 1e-3).

    Raises:
        InputError: the network has no batch norm.
    """
    return Tent(copy.deepcopy(model), learning_rate)
