"""TENT: entropy minimisation at test time (Wang et al. 2021)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from deepcorrect.alternatives._norm_adaptation import replace_norms
from deepcorrect.distortions import Distortion
from deepcorrect.networks import Wrapper


class Tent(Wrapper):
    """A network that minimises the entropy of its own answers while it is tested.

    Batch norms use the statistics of each batch. After each batch, their weights and biases make
    one step that lowers the mean entropy of the answers; the batch itself is answered before that
    step, as in the authors' code. Successive batches must be of one distortion: `start_level` goes
    back to the trained weights.

    Args:
        network: the network, whose batch norms are replaced and trained.
        learning_rate: the learning rate of the optimizer.
        momentum: of SGD; None takes Adam.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float, momentum: float | None = None
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        norms = replace_norms(network, 0.0)
        self._trained = [p for norm in norms for p in (norm.weight, norm.bias) if p is not None]
        self._start = [p.detach().clone() for p in self._trained]
        self._learning_rate, self._momentum = learning_rate, momentum
        self.start_level(None, 0.0)

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        """Goes back to the trained weights, whatever the distortion."""
        del distortion, level
        with torch.no_grad():
            for parameter, value in zip(self._trained, self._start, strict=True):
                parameter.copy_(value)
        rate, momentum = self._learning_rate, self._momentum
        self._optimizer = (
            torch.optim.Adam(self._trained, lr=rate)
            if momentum is None
            else torch.optim.SGD(self._trained, lr=rate, momentum=momentum)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of images in [0, 1], N x C x H x W; afterwards one step is made."""
        for parameter in self._trained:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            logits = self.network(images)
            loss = self._loss(logits.float())
            if loss is not None:
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
        for parameter in self._trained:  # `fit` must find nothing to train here
            parameter.requires_grad_(False)
        return logits.detach()

    def _loss(self, logits: Tensor) -> Tensor | None:
        """What a step lowers; None makes no step."""
        return entropies(logits).mean()


def entropies(logits: Tensor) -> Tensor:
    """The entropy of each image's answer, (N,), in nats, from logits, N x classes."""
    answers = logits.log_softmax(1)
    return -(answers.exp() * answers).sum(1)


def tent(model: nn.Module, learning_rate: float = 1e-3, momentum: float | None = None) -> Tent:
    """A copy of the network that adapts its batch norms to the test batches.

    Args:
        model: the baseline. It is not changed.
        learning_rate: of one step for each batch; the authors use 1e-3 on CIFAR, with Adam, and
            2.5e-4 on ImageNet, with SGD and a momentum of 0.9.
        momentum: of SGD; None takes Adam.

    Raises:
        InputError: the network has no batch norm with statistics.

    Example:
        >>> import torch
        >>> from deepcorrect.alternatives import tent
        >>> network = torch.nn.Sequential(
        ...     torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10)
        ... )
        >>> tent(network)(torch.rand(16, 3, 8, 8)).shape
        torch.Size([16, 10])
    """
    return Tent(copy.deepcopy(model), learning_rate, momentum)
