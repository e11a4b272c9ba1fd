"""What a training did, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    Attributes:
        number: its number, counted from 0.
        loss: the mean of the objective over the training images.
        score: what the epoch was judged by, from 0 to 1; None without validation images.
        seconds: the time that training and validation took.
    """

    number: int
    loss: float
    score: float | None
    seconds: float


@dataclass(frozen=True)
class History:
    """What a training did.

    Attributes:
        epochs: one entry per epoch.
        best: the number of the epoch whose model was kept.
        images_seen: the number of training images, repeats counted.

    Example:
        >>> from deepcorrect.training import Epoch, History
        >>> History((Epoch(0, 2.1, 0.4, 7.5), Epoch(1, 1.3, 0.6, 7.0)), best=1).seconds
        14.5
    """

    epochs: tuple[Epoch, ...] = ()
    best: int = 0
    images_seen: int = 0

    @property
    def seconds(self) -> float:
        """The time that training and validation took in all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)
