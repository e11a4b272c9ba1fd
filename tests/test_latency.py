"""Latency: what is timed, in which order, and what a budget of time chooses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepcorrect.networks import latencies


class Timed(nn.Module):
    """A network that advances a clock by a number of seconds, one after the other, when it runs."""

    def __init__(self, name: str, clock: Clock, seconds: list[float]) -> None:
        super().__init__()
        self.name, self.clock, self.left = name, clock, list(seconds)

    def forward(self, images: Tensor) -> Tensor:
        self.clock.now += self.left.pop(0)
        self.clock.ran.append(self.name)
        return images.flatten(1)


class Clock:
    """A clock that only `Timed` networks advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now


def test_latencies_are_medians_over_turns_of_the_second_run_of_each() -> None:
    clock = Clock()
    # each turn: a run that is not timed, and one that is
    first = Timed("first", clock, [9, 1, 9, 2, 9, 4])
    second = Timed("second", clock, [9, 3, 9, 4, 9, 40])
    reference, other = latencies([first, second], torch.rand(2, 3, 4, 4), turns=3, clock=clock)
    assert (reference.seconds, reference.ratio) == (2, 1)
    assert (other.seconds, other.ratio) == (4, 3)  # of 3, 2 and 10; the medians' ratio is 2
    assert clock.ran == ["first"] * 2 + ["second"] * 4 + ["first"] * 4 + ["second"] * 2
