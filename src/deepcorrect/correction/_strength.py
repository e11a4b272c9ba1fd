"""How strong a trained correction is: between the network's weights and the trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from deepcorrect.correction._corrected_model import AdaptedModel
from deepcorrect.correction._gate import GateConfig
from deepcorrect.correction._gated_copy import GatedCopy
from deepcorrect.correction._gated_model import GatedModel
from deepcorrect.correction._raise_gate import gate_answers, raised, right_and_gain, rises
from deepcorrect.data import Batches
from deepcorrect.distortions import Distortion
from deepcorrect.networks import interpolate
from deepcorrect.runtime import InputError, Precision

STRENGTHS = (1.0, 0.7, 0.5, 0.3)
"""The strengths that are compared; the first is that of training."""


class Strength(BaseModel):
    """What was chosen for a trained network.

    Attributes:
        strength: Of its changes, from above 0 (none) up to 1 (as they were trained).
        gate: The gate with the thresholds that belong to it.
    """

    strength: float = Field(gt=0, le=1)
    gate: GateConfig


def choose_strength(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    precision: Precision = "float32",
) -> float:
    """Weakens a trained correction to where it helps most, and raises its gate accordingly.

    At strength a, the changes, scales and shifts of filters with weights of their own are those
    between none and the trained ones, at a share of a of the way (as Wortsman et al. 2022, WiSE-FT,
    equation 1, do with all weights). This costs nothing. A weaker correction gives away less where
    little is lost, and holds better for other images than those of the training. Units stay as they
    are. Of a `GatedCopy`, all weights and statistics are interpolated, unless it has more modules
    than the network.

    For each strength the gate's thresholds are raised as `raise_gate` raises them. The strength at
    which most images get the untouched network's answer to the clean image is kept; of several, the
    one that gives it most surely in all. No labels are needed.

    Args:
        adapted: The trained network, or a `GatedCopy`, with a gate. It is changed in place.
        loader: Images that the correction was not trained on, see `raise_gate`.
        distortions: Distortion specs, as in `fit`.
        seed: The seed of the noise.
        strengths: What to choose from, above 0 and up to 1. Where there are no weights to
            interpolate there is nothing to choose, and only the gate is raised.
        precision: `bfloat16` runs the networks faster and less exactly.

    Returns:
        The strength.

    Raises:
        InputError: There is no gate, or a strength, a distortion or an image is not accepted.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        ... )
        >>> adapted = dc.correct(network, {"0": [1, 5]}, unit="weights")
        >>> batches = [(torch.rand(8, 3, 16, 16), torch.zeros(8)) for _ in range(2)]
        >>> _ = dc.fit_gate(adapted, batches, ["awgn:20"], false_alarms=0.25)
        >>> dc.choose_strength(adapted, batches, ["awgn:20"])  # untrained: all are the same
        1.0
    """
    chosen = find_strength(adapted, loader, distortions, seed, strengths, precision)
    set_strength(adapted, chosen)
    return chosen.strength


def find_strength(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    precision: Precision = "float32",
) -> Strength:
    """Finds what `choose_strength` sets, and leaves the network as it is."""
    if not strengths or not all(0 < each <= 1 for each in strengths):
        raise InputError(f"strengths={strengths}: give numbers above 0 and up to 1")
    start, end = _ends(adapted)
    if start.keys() != end.keys() or all(start[name] is end[name] for name in end):
        start, strengths = end, [1.0]
    changes = [partial(_set, adapted, start, end, each) for each in strengths]
    try:
        found = gate_answers(adapted, loader, distortions, seed, changes, precision=precision)
    finally:
        adapted.load_state_dict(end)
    thresholds = [rises(each) for each in found]
    worth = [right_and_gain(*each) for each in zip(found, thresholds, strict=True)]
    best = max(range(len(strengths)), key=lambda number: worth[number])
    return Strength(strength=strengths[best], gate=raised(adapted, thresholds[best]))


def set_strength(adapted: GatedModel, chosen: Strength) -> None:
    """Weakens a trained network, of which the present strength is 1, and sets the gate."""
    if chosen.strength < 1:
        _set(adapted, *_ends(adapted), chosen.strength)
    adapted.set_gate(chosen.gate)


def _set(
    adapted: GatedModel, start: Mapping[str, Tensor], end: Mapping[str, Tensor], strength: float
) -> None:
    adapted.load_state_dict(interpolate(start, end, strength))


def _ends(adapted: GatedModel) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """The tensors at strength 0, which are those at 1 where nothing is weakened, and at 1."""
    end = {name: value.detach().clone() for name, value in adapted.state_dict().items()}
    if isinstance(adapted, AdaptedModel):
        return {name: _neutral(name, value) for name, value in end.items()}, end
    assert isinstance(adapted, GatedCopy)
    return adapted.network.state_dict(), end


def _neutral(name: str, value: Tensor) -> Tensor:
    """A tensor of filters' own weights that changes nothing; any other as it is."""
    if "/weights." not in name:
        return value
    return torch.ones_like(value) if name.endswith(".scale") else torch.zeros_like(value)
