"""Which levels training shows: all, or those at which the network loses much."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import deepcorrect as dc
from deepcorrect.distortions import LevelledDistortion, distort_some, parse_all
from deepcorrect.runtime import InputError
from deepcorrect.training import _step
from deepcorrect.training._level_shares import shares_of_costly

CPU = torch.device("cpu")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Brightness(nn.Module):
    """Says how bright an image is: the logit of its first class is ten times the mean's rise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1) - 0.5
        return torch.stack([0.2 - self.weight * mean, self.weight * mean], 1)


def brightened(levels: tuple[float, ...] = (1, 2)) -> tuple[LevelledDistortion, ...]:
    return tuple(parse_all([f"brightness:{','.join(map(str, levels))}"], 224))


def test_levels_are_drawn_as_often_as_their_shares_say() -> None:
    images = torch.full((3000, 1, 2, 2), 0.5)
    grid = brightened((1, 2, 5))
    mixed = distort_some(images, grid, 0.0, seeded(), None, torch.tensor([0.6, 0.0, 0.4]))
    rises = (mixed - images).flatten(1).mean(1)
    known = [float((grid[0](images[:1], level) - images[:1]).mean()) for level in (1, 2, 5)]
    counts = [int((rises - rise).abs().lt(1e-5).sum()) for rise in known]
    assert sum(counts) == 3000
    assert counts[1] == 0
    assert counts[0] == pytest.approx(1800, abs=110)


def test_a_share_of_one_draws_one_level_of_one_kind() -> None:
    images = torch.rand(40, 1, 8, 8, generator=seeded())
    grid = parse_all(["gaussian_blur:1,2", "awgn:10", "gaussian_blur_c:1,2,3"], 32)
    for cell, (kind, level) in enumerate((each, at) for each in grid for at in each.levels):
        if kind.name == "awgn":
            continue
        shares = torch.zeros(6, dtype=torch.float64)
        shares[cell] = 1
        mixed = distort_some(images, grid, 0.0, seeded(), None, shares)
        torch.testing.assert_close(mixed, kind(images, level))


def test_levels_at_which_little_is_lost_have_no_share() -> None:
    """Against the probabilities, computed one image at a time."""
    network = Brightness()
    images = 0.3 + 0.2 * torch.rand(12, 1, 4, 4, generator=seeded())
    levels = (1, 2, 3, 4, 5)
    lost = []
    for level in levels:
        drops = []
        for image in images[:, None]:
            before = network(image).softmax(1)[0]
            after = network(brightened()[0](image, level)).softmax(1)[0]
            drops.append(float((before[before.argmax()] - after[before.argmax()]).detach()))
        lost.append(sum(drops))
    some = [each >= max(lost) / 5 for each in lost]
    assert 0 < sum(some) < 5
    batches = [(images, torch.zeros(12))]
    found = shares_of_costly(network, batches, brightened(levels), 0, CPU, "float32")
    assert found.tolist() == [each / sum(some) for each in some]


def test_where_nothing_is_lost_all_levels_have_the_same_share() -> None:
    layer = nn.Linear(16, 2)
    nn.init.zeros_(layer.weight)
    network = nn.Sequential(nn.Flatten(), layer)
    images = torch.rand(4, 1, 4, 4, generator=seeded())
    found = shares_of_costly(network, [(images, torch.zeros(4))], brightened(), 0, CPU, "float32")
    assert found.tolist() == [0.5, 0.5]


def test_training_on_costly_levels_shows_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gain in brightness moves this network's answers, and a blur of even images moves few."""
    shown: list[Any] = []

    def spy(images: Tensor, *args: Any) -> Tensor:
        shown.append(args[-1])
        return distort_some(images, *args)

    monkeypatch.setattr(_step, "distort_some", spy)
    images = torch.full((16, 1, 8, 8), 0.3)
    batches = DataLoader(TensorDataset(images, torch.zeros(len(images))), 8)
    kinds = ["gaussian_blur:1,2", "brightness:5"]
    network = Brightness()
    for levels in ("all", "costly"):
        dc.fit(network, batches, kinds, epochs=1, clean_share=0, levels=levels, learning_rate=1e-3)
    every, costly = shown[0], shown[-1]
    assert every is None
    assert costly.tolist() == [0, 0, 1]


def test_the_images_are_the_same_each_time_that_a_training_starts() -> None:
    """From a loader in random order, so that the levels are those of before a stop."""
    images = torch.rand(300, 1, 8, 8, generator=seeded())
    batches = DataLoader(TensorDataset(images, torch.zeros(len(images))), 8, shuffle=True)
    seen: list[Tensor] = []

    class Watched(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    found = []
    for start, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(start)
        shares_of_costly(Watched(), batches, parse_all("awgn:5", 32), seed, CPU, "float32")
        assert torch.initial_seed() == start
        found.append(torch.cat(seen))
        seen.clear()
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_an_unknown_choice_of_levels_is_refused() -> None:
    with pytest.raises(InputError, match="levels='hard'"):
        dc.fit(Brightness(), [(torch.rand(4, 1, 8, 8), torch.zeros(4))], "awgn:5", levels="hard")


def test_streams_are_not_read_whole_for_the_shares() -> None:
    read = 0

    class Stream:
        def __len__(self) -> int:
            return 1000

        def __iter__(self) -> Any:
            nonlocal read
            for _ in range(1000):
                read += 1
                yield torch.rand(50, 1, 8, 8), torch.zeros(50)

    shares_of_costly(Brightness(), Stream(), parse_all("awgn:5,60", 32), 0, CPU, "float32")
    assert read == 5
