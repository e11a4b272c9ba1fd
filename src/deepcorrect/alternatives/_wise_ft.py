"""WiSE-FT: weights between the network's and a fine-tuned copy's (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from deepcorrect.runtime import InputError

SHARES = tuple(tenth / 10 for tenth in range(11))
"""The shares that are compared, from the network's own weights to the fine-tuned ones."""


def interpolate(
    start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """The tensors between those of a network and of its fine-tuned copy.

        theta = (1 - share) theta_start + share theta_tuned

    (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation 1, where the
    share is alpha). As in the authors' code, this holds for everything in the state dict, so for
    the means and variances of batch norms, too. The statistics are not computed again. Whole
    numbers, such as a batch norm's count of batches, are the fine-tuned copy's.

    Args:
        start: the state dict of the network.
        tuned: that of the copy, with the same names and shapes.
        share: from 0 (the network) to 1 (the copy).

    Raises:
        InputError: the share is outside this range, or the state dicts have other names.

    Example:
        >>> import torch
        >>> from deepcorrect.alternatives import interpolate
        >>> network, copy = {"weight": torch.tensor([1.0])}, {"weight": torch.tensor([3.0])}
        >>> interpolate(network, copy, 0.25)
        {'weight': tensor([1.5000])}
    """
    if not 0 <= share <= 1:
        raise InputError(f"share={share:g}: it is from 0 (the network) to 1 (the fine-tuned copy)")
    if start.keys() != tuned.keys():
        raise InputError("the state dicts are of other networks: give those of one and its copy")
    return {
        name: start[name].lerp(value, share) if value.is_floating_point() else value.clone()
        for name, value in tuned.items()
    }


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
