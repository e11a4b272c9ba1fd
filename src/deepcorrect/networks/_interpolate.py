"""Weights between those of a network and of a changed copy."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from deepcorrect.runtime import InputError


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
        >>> from deepcorrect.networks import interpolate
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
