"""Muon: steps along the orthogonalised momentum of weights."""

from __future__ import annotations

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Those of a quintic polynomial that takes singular values close to 1 in few steps."""
NEWTON_SCHULZ_STEPS = 5
ROOT_MEAN_SQUARE = 0.2
"""That of a step, as a multiple of the learning rate: about that of an AdamW step."""


class Muon(torch.optim.AdamW):
    """Muon for weights, and AdamW for biases, scales and shifts.

    The momentum of the gradient of a layer's weights, as a matrix with one row per filter, is
    replaced by a matrix with nearly the same singular vectors, whose singular values are all close
    to 1. A step then changes all directions alike, where AdamW changes mostly the few that
    dominate the gradient (Jordan et al. 2024). It is scaled to the size of an AdamW step, so that
    one learning rate serves both (Liu et al. 2025, equation 4). `torch.optim.Muon` takes matrices
    alone, and computes in bfloat16, which is slow on processors without such instructions.

    It takes the arguments of AdamW. Parameters with more than one dimension are weights, with
    filters along the first.

    Example:
        >>> import torch
        >>> from deepcorrect.training import Muon
        >>> weights = torch.nn.Parameter(torch.zeros(4, 2, 3, 3))
        >>> optimizer = Muon([weights], lr=0.1)
        >>> weights.grad = torch.randn(4, 2, 3, 3)
        >>> optimizer.step()
        >>> bool(0.01 < weights.detach().square().mean().sqrt() < 0.03)
        True
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Makes one step. The gradients of the weights are spent by it."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None and weights.dim() > 1:
                    weights.mul_(1 - group["lr"] * group["weight_decay"])
                    weights.sub_(self._direction(weights, weights.grad), alpha=group["lr"])
                    weights.grad = None  # so that AdamW leaves these weights as they are
        super().step()

    def _direction(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """A step at a learning rate of 1."""
        state = self.state[weights]
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        matrix = orthogonalised(gradient.lerp(momentum, MOMENTUM).flatten(1))
        return matrix.mul_(ROOT_MEAN_SQUARE * max(matrix.shape) ** 0.5).view_as(weights)


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix with nearly the same singular vectors, and singular values from 0.7 to 1.2.

    Those below a hundredth of the Frobenius norm stay smaller.

    Args:
        matrix: Floats, rows x columns.

    Example:
        >>> import torch
        >>> from deepcorrect.training._muon import orthogonalised
        >>> values = torch.linalg.svdvals(orthogonalised(torch.randn(8, 20)))
        >>> bool(values.min() > 0.6), bool(values.max() < 1.25)
        (True, True)
    """
    a, b, c = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).float()
    x = x / torch.linalg.matrix_norm(x).clamp(min=1e-12)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)
