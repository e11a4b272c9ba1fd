"""Which values of an exported graph hold one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from deepcorrect.networks.patching._nodes import call, with_last_uses

TOLERANCE = 1e-5
"""Rows that differ by at most this fraction of a value's largest element count as equal. The same
computation in another pass may add in another order."""


@dataclass(frozen=True)
class BatchFlow:
    """How the values of a graph depend on the images.

    Attributes:
        by_row: The nodes whose row i depends on image i and on no other image.
        across_rows: The nodes that have other rows than one per image. A node that is in neither
            set did not change with the probed images, so that nothing is known about it.
    """

    by_row: frozenset[Node]
    across_rows: frozenset[Node]


def probe(
    nodes: Sequence[Node], constants: Mapping[Node, Any], source: Node, images: Tensor
) -> BatchFlow:
    """Finds the values that hold one row per image by changing one image at a time.

    Row i must change with image i, and no other row may. A value of as many rows as there are
    images but with another meaning, such as tokens x images x channels, changes in other rows.

    Args:
        nodes: All nodes that depend on the images, in order.
        constants: The values of all nodes that do not, as far as they are read.
        source: The node of the images.
        images: A batch of at least two, N x C x H x W. The probe draws noise of its range.
    """
    places = (0, len(images) - 1)
    plain, *others = _noise_like(images, 1 + len(places))
    runs: list[dict[Node, Any]] = [{**constants, source: plain}]
    for place, other in zip(places, others, strict=True):
        batch = plain.clone()
        batch[place] = other[place]
        runs.append({**constants, source: batch})
    by_row, across_rows = {source}, set[Node]()
    with torch.no_grad():
        for node, finished in with_last_uses(nodes, lambda node: node.all_input_nodes, constants):
            for run in runs:
                run[node] = call(node, run.__getitem__)
            value, *after = (run[node] for run in runs)
            rows = [_changed_rows(value, changed, len(images)) for changed in after]
            if all(found == [place] for found, place in zip(rows, places, strict=True)):
                by_row.add(node)
            elif any(found not in ([], [place]) for found, place in zip(rows, places, strict=True)):
                across_rows.add(node)
            for last in finished:
                for run in runs:
                    del run[last]
    return BatchFlow(frozenset(by_row), frozenset(across_rows))


def _noise_like(images: Tensor, count: int) -> list[Tensor]:
    """Batches of noise, like `images` in shape, range, type and device."""
    low, high = float(images.min()), float(images.max())
    drawing = torch.Generator().manual_seed(0)
    drawn = [torch.rand(images.shape, generator=drawing) for _ in range(count)]
    return [(noise * ((high - low) or 1.0) + low).to(images) for noise in drawn]


def _changed_rows(before: Any, after: Any, rows: int) -> list[int] | None:
    """The rows in which two values differ, or None for values that do not have that many rows."""
    if not isinstance(before, Tensor) or before.dim() == 0 or len(before) != rows:
        return None
    if before.numel() == 0:
        return []
    different = before != after
    if before.is_floating_point():
        limit = TOLERANCE * float(before.abs().max())
        different &= ~((before - after).abs() <= limit)
    return different.reshape(rows, -1).any(1).nonzero().flatten().tolist()
