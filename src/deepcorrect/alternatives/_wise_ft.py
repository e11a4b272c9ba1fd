"""WiSE-FT: weights between the network's and a fine-tuned copy's (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from deepcorrect.networks import interpolate

SHARES = tuple(tenth / 10 for tenth in range(11))
"""The shares that are compared, from the network's own weights to the fine-tuned ones."""


def score_shares(
    start: Mapping[str, Tensor],
    tuned: nn.Module,
    score: Callable[[nn.Module], float],
    shares: Sequence[float] = SHARES,
) -> dict[float, float]:
    """How well the weights at several shares between a network and its copy do.

    Args:
        start: the state dict of the network.
        tuned: the copy, a module whose state dict has the same names. It is as before afterwards.
        score: computes the score of the module, such as its accuracy on validation images.
        shares: the shares to compare.

    Returns:
        The score by share, in the order of `shares`.

    Example:
        >>> import torch
        >>> from deepcorrect.alternatives import finetune, score_shares
        >>> network = torch.nn.Linear(1, 1)
        >>> found = score_shares(network.state_dict(), finetune(network), lambda model: 0.5, [0, 1])
        >>> found
        {0: 0.5, 1: 0.5}
    """
    end = {name: value.clone() for name, value in tuned.state_dict().items()}
    found: dict[float, float] = {}
    try:
        for share in shares:
            tuned.load_state_dict(interpolate(start, end, share))
            found[share] = score(tuned)
    finally:
        tuned.load_state_dict(end)
    return found
