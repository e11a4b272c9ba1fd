"""Answers that leave no probabilities are refused while a network is ranked, and named."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepcorrect.distortions import Cell
from deepcorrect.networks import without_meaning
from deepcorrect.runtime import InputError


@dataclass(frozen=True)
class Place:
    """Where a block of images is in its loader, counted from 0.

    Attributes:
        first: the number of its first image.
        batch: the number of its batch, of those that hold an image; None where several processes
            share them.
    """

    first: int = 0
    batch: int | None = 0

    def check(self, logits: Tensor, cell: Cell) -> None:
        """Refuses answers that leave no probabilities: one would spoil the priorities of all.

        Args:
            logits: of the block, N x classes.
            cell: how the images were distorted.

        Raises:
            InputError: one is NaN or infinite.
        """
        broken = without_meaning(logits)
        if bool(broken.any()):
            raise self.refusal(self.first + int(broken.int().argmax()), cell, "answer")

    def refusal(self, image: int, cell: Cell, what: str) -> InputError:
        """The error for a value that is NaN or infinite."""
        shown = f"under {cell.distortion.name} {cell.level:g}" if cell.distortion else "undistorted"
        batch = "" if self.batch is None else f"; in batch {self.batch}"
        return InputError(
            f"the network's {what} to image {image} (counted from 0{batch}), "
            f"{shown}, is NaN or infinite, so that no filter can be ranked by it: leave this image "
            "out, look at the network's weights, and compute in float32"
        )
