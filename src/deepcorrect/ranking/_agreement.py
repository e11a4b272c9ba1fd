"""The agreement of two rankings of the same network's filters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepcorrect.ranking._ranking import Ranking, count_for
from deepcorrect.runtime import InputError


@dataclass(frozen=True)
class Agreement:
    """The agreement of two rankings.

    Attributes:
        beta: the share of a site's filters that `overlap` compares.
        spearman: by site, Spearman's rank correlation of the priorities, -1 to 1; NaN if all
            filters have the same priority in one of the rankings.
        overlap: by site, the share of the filters chosen at `beta` by the first ranking that the
            second chooses as well, 0 to 1; by chance it is `beta`.
    """

    beta: float
    spearman: dict[str, float]
    overlap: dict[str, float]

    @property
    def mean_spearman(self) -> float:
        """The mean over the sites where it is defined."""
        known = [value for value in self.spearman.values() if not math.isnan(value)]
        return sum(known) / len(known) if known else float("nan")

    @property
    def mean_overlap(self) -> float:
        """The mean over the sites."""
        return sum(self.overlap.values()) / len(self.overlap)


def compare(first: Ranking, second: Ranking, beta: float = 0.5) -> Agreement:
    """Compares the sites that both rankings have.

    Args:
        first, second: of the same network.
        beta: share of filters for the overlap, above 0 and up to 1.

    Raises:
        InputError: they share no site, a site has a different number of filters in each, or beta
            is not a share.

    Example:
        >>> import torch
        >>> from deepcorrect.distortions import parse_all
        >>> from deepcorrect.ranking import Ranking, compare
        >>> blur = parse_all("gaussian_blur:1", pixels=32)
        >>> first = Ranking({"conv": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}, "swap", blur, 1, 0.0)
        >>> second = Ranking({"conv": torch.tensor([[2.0, 1.0, 3.0, 4.0]])}, "swap", blur, 1, 0.0)
        >>> agreement = compare(first, second, beta=0.5)
        >>> round(agreement.mean_spearman, 3), agreement.mean_overlap
        (0.8, 1.0)
    """
    from scipy.stats import rankdata  # noqa: PLC0415  (slow to import)

    shared = [site for site in first.sites if site in second.by_level]
    if not shared:
        raise InputError(
            f"the rankings share no site: the first has {', '.join(first.sites[:4])}, the second "
            f"{', '.join(second.sites[:4])}"
        )
    spearman: dict[str, float] = {}
    overlap: dict[str, float] = {}
    for site in shared:
        one, other = first.priorities[site], second.priorities[site]
        if len(one) != len(other):
            raise InputError(
                f"site {site!r} has {len(one)} filters in one ranking and {len(other)} in the "
                "other: rank the same network"
            )
        constant = len(one) < 2 or bool((one == one[0]).all() or (other == other[0]).all())
        spearman[site] = (
            float("nan") if constant else float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
        )
        count = count_for(beta, len(one))
        same = set(first.order(site)[:count]) & set(second.order(site)[:count])
        overlap[site] = len(same) / count
    return Agreement(beta, spearman, overlap)
