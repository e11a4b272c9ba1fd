"""Raising a gate's thresholds to where the correction helps.

A gate that is fitted to tell distorted images from clean ones also sends slightly distorted images
to the corrected network, which the untouched network often answers better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepcorrect.correction._fit_gate import images_read
from deepcorrect.correction._gate import GateConfig
from deepcorrect.correction._gated_model import GatedModel
from deepcorrect.data import Batches, count_of
from deepcorrect.distortions import (
    CLEAN,
    Distortion,
    cells_of,
    distorted_batches,
    numbered_batches,
    parse_all,
)
from deepcorrect.networks import as_logits, input_size_of, logits_of
from deepcorrect.runtime import InputError, device_of, inference, progress

PURPOSE = "to raise a gate with"


def raise_gate(
    adapted: GatedModel,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    seed: int = 0,
) -> GateConfig:
    """Raises the thresholds of a trained network's gate to where the correction helps.

    For each image, clean and at each level of all distortions, it compares the probability that the
    untouched and the corrected network give to the untouched network's answer to the clean image.
    The threshold of each kind of distortion then rises to where the images below it lose most by
    the correction. No labels are needed. Take images that the correction was not trained on.

    Args:
        adapted: The trained network, or a `GatedCopy`, with a gate.
        loader: Batches of (clean images N x C x H x W in [0, 1], labels), in a fixed order. Labels
            are ignored.
        distortions: Distortion specs, as in `fit`.
        seed: The seed of the noise.

    Returns:
        The gate with its new biases, which is also set on `adapted`.

    Raises:
        InputError: There is no gate, or a distortion or an image is not accepted.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        ... )
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> batches = [(torch.rand(8, 3, 16, 16), torch.zeros(8)) for _ in range(2)]
        >>> gate = dc.fit_gate(adapted, batches, ["awgn:20"], false_alarms=0.25)
        >>> dc.raise_gate(adapted, batches, ["awgn:20"]) == gate  # untrained units lose nothing
        True
    """
    gate = adapted.gate
    if gate is None:
        raise InputError("this network has no gate: fit one first, see fit_gate")
    device = device_of(adapted)
    first = next(numbered_batches(loader, PURPOSE)).images
    cells = [CLEAN, *cells_of(parse_all(distortions, input_size_of(adapted, first)))]
    scores: list[Tensor] = []
    gains: list[Tensor] = []
    clean = truth = torch.empty(0)
    network, corrected = (as_logits(each, first.to(device)) for each in (adapted.network, adapted))
    with (
        inference(adapted.network),
        inference(adapted),
        torch.no_grad(),
        progress("raising the gate", count_of(loader)) as advance,
    ):
        for batch in distorted_batches(loader, cells, seed=seed, device=device, purpose=PURPOSE):
            if batch.clean is not clean:
                clean = batch.clean
                truth = logits_of(network, clean).argmax(1, keepdim=True)
            before = logits_of(network, batch.images).softmax(1).gather(1, truth)
            with adapted.ungated():
                after = logits_of(corrected, batch.images).softmax(1).gather(1, truth)
            gains.append((after - before).flatten().cpu().double())
            scores.append(gate.scores(images_read(adapted, batch.images)).cpu())
            advance(len(batch.images) / len(cells))
    config = gate.config
    seen, gained = torch.cat(scores), torch.cat(gains)
    biases = tuple(bias - _threshold(seen, gained, kind) for kind, bias in enumerate(config.biases))
    raised = config.model_copy(update={"biases": biases})
    adapted.set_gate(raised)
    return raised


def _threshold(scores: Tensor, gains: Tensor, kind: int) -> float:
    """The score up to which images of a kind lose most by the correction; 0 if none do.

    Args:
        scores: N x kinds, of clean and distorted images.
        gains: What each image gains by the correction, (N,).
        kind: The column of the kind.
    """
    others = scores.clone()
    others[:, kind] = -torch.inf
    # images that another classifier sends are corrected whatever this threshold is
    sent = (scores[:, kind] > 0) & (others.amax(1) <= 0)
    own, order = scores[sent, kind].sort()
    gained = gains[sent][order].cumsum(0)
    if not len(gained) or gained.min() >= 0:
        return 0.0
    return float(own[gained.argmin()])
