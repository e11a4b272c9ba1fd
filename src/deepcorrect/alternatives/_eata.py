"""EATA: entropy minimisation at test time on chosen images, without forgetting (Niu et al. 2022).

S. Niu and others, "Efficient Test-Time Model Adaptation without Forgetting", ICML 2022.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcorrect.alternatives._tent import Tent, entropies
from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion, numbered_batches
from deepcorrect.runtime import device_of

KEPT = 0.9
"""The weight of what was before in the moving average of the answers (equation 4)."""


class Eata(Tent):
    """A network that adapts as TENT does, but only to images that are sure and not redundant.

    An image is left out if the entropy of its answer is above `sure` times the largest possible, or
    if its answer points in the direction of the moving average of earlier answers, with a cosine of
    `redundant` or more (equations 3 to 5). The others weigh more, the surer they are. Weights that
    matter for clean images are held near their trained values (equations 8 and 9).

    Args:
        network: the network, whose batch norms are replaced and trained.
        clean: batches of (clean images N x C x H x W in [0, 1], labels), which are ignored.
        learning_rate: of one step of SGD for each batch, with a momentum of 0.9.
        sure: the share of the largest possible entropy.
        redundant: the cosine.
        holding: the weight of what holds the weights, beta in equation 8.
    """

    def __init__(
        self,
        network: nn.Module,
        clean: Batches,
        learning_rate: float,
        sure: float,
        redundant: float,
        holding: float,
    ) -> None:
        super().__init__(network, learning_rate, momentum=0.9)
        self._sure, self._redundant, self._holding = sure, redundant, holding
        self._importance = self._fisher(clean) if holding else []

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        """Goes back to the trained weights, and forgets the answers so far."""
        super().start_level(distortion, level)
        self._average: Tensor | None = None

    def _fisher(self, clean: Batches) -> list[Tensor]:
        """The mean squared gradient of each weight, over batches, for the network's own answers."""
        device, count = device_of(self), 0
        sums = [torch.zeros_like(each) for each in self._trained]
        for parameter in self._trained:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for batch in numbered_batches(clean, "to find which weights matter for clean images"):
                logits = self.network(batch.images.to(device)).float()
                loss = F.cross_entropy(logits, logits.argmax(1))
                parts = torch.autograd.grad(loss, self._trained)
                sums = [a + part.square() for a, part in zip(sums, parts, strict=True)]
                count += 1
        for parameter in self._trained:
            parameter.requires_grad_(False)
        return [total / count for total in sums]

    def _loss(self, logits: Tensor) -> Tensor | None:
        values, most = entropies(logits), self._sure * math.log(logits.shape[1])
        answers = logits.detach().softmax(1)
        chosen = values.detach() < most
        if self._average is not None:
            near = F.cosine_similarity(self._average[None], answers)
            chosen &= near.abs() < self._redundant
        if not chosen.any():
            return None
        mean = answers[chosen].mean(0)
        before = self._average
        self._average = mean if before is None else KEPT * before + (1 - KEPT) * mean
        values = values[chosen]
        loss = (values * (most - values.detach()).exp()).mean()
        for weight, part, start in zip(self._trained, self._importance, self._start, strict=False):
            loss = loss + self._holding * (part * (weight - start).square()).sum()
        return loss


def eata(
    model: nn.Module,
    clean: Batches,
    learning_rate: float = 5e-2,
    sure: float = 0.4,
    redundant: float = 0.4,
    holding: float = 1.0,
) -> Eata:
    """A copy of the network that adapts its batch norms to chosen images of the test batches.

    The learning rate is the best of three on ResNet-20 and CIFAR-100; the other defaults are the
    authors' for CIFAR-10. For ImageNet they take a learning rate of 2.5e-4,
    `redundant=0.05` and `holding=2000`, in batches of 64.

    Args:
        model: the baseline. It is not changed.
        clean: batches of (undistorted images N x C x H x W in [0, 1], labels), some hundred images
            in all. No label is read. They are read once, in the batches in which they come.
        learning_rate: of one step of SGD for each test batch.
        sure: the largest entropy of an answer that is learnt from, as a share of the largest
            possible (E_0 in equation 3).
        redundant: the cosine with the mean answer so far from which on an image is left out
            (epsilon in equation 5).
        holding: how strongly weights that matter for clean images are held; 0 does not (the
            authors' ETA).

    Raises:
        InputError: the network has no batch norm with statistics, or there is no image.

    Example:
        >>> import torch
        >>> from deepcorrect.alternatives import eata
        >>> network = torch.nn.Sequential(
        ...     torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10)
        ... )
        >>> clean = [(torch.rand(16, 3, 8, 8), torch.zeros(16))]
        >>> eata(network, clean)(torch.rand(16, 3, 8, 8)).shape
        torch.Size([16, 10])
    """
    return Eata(copy.deepcopy(model), clean, learning_rate, sure, redundant, holding)
