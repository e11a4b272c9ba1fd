"""Training: what is moved, distorted and learnt; and that a killed run ends as one that was not."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, SIZE, Batch, cut, tiny_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from deepcorrect.alternatives import finetune
from deepcorrect.correction import AdaptedModel, correct, fit_gate
from deepcorrect.data import Preprocessing
from deepcorrect.distortions import Cell, Distortion, LevelledDistortion, distort_some
from deepcorrect.evaluation import evaluate
from deepcorrect.networks import Classifier
from deepcorrect.runtime import DeepCorrectError, InputError, files
from deepcorrect.training import PAPER, Augmentation, Muon, TrainingConfig, fit
from deepcorrect.training._augmentation import augment
from deepcorrect.training._settings import learning_rate, optimizer_for
from deepcorrect.training._short_gradients import short_gradients

GRID = ["gaussian_blur:1,2", "awgn:40"]
FAST: dict[str, Any] = {"precision": "float32", "channels_last": False}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- augmentation


def test_no_augmentation_is_the_identity() -> None:
    images = torch.rand(3, 3, 9, 7)
    assert torch.equal(augment(images, Augmentation(), seeded()), images)


def test_a_flip_mirrors_about_half_of_the_images_exactly() -> None:
    images = torch.rand(200, 1, 6, 5, generator=seeded())
    flipped = augment(images, Augmentation(flip=True), seeded(1))
    same = torch.isclose(flipped, images, atol=1e-5).flatten(1).all(1)
    mirrored = torch.isclose(flipped, images.flip(3), atol=1e-5).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 70 <= int(mirrored.sum()) <= 130


@settings(max_examples=10, deadline=None)
@given(st.integers(4, 12), st.integers(4, 12), st.integers(0, 100))
def test_a_shift_is_by_whole_pixels_and_brings_in_black(height: int, width: int, seed: int) -> None:
    images = torch.rand(8, 2, height, width, generator=seeded(seed)) + 0.1
    moved = augment(images, Augmentation(shift=0.25), seeded(seed))
    reach_y, reach_x = round(0.25 * height), round(0.25 * width)
    padded = F.pad(images, (reach_x, reach_x, reach_y, reach_y))
    for image, source in zip(moved, padded, strict=True):
        candidates = [
            source[:, top : top + height, left : left + width]
            for top in range(2 * reach_y + 1)
            for left in range(2 * reach_x + 1)
        ]
        assert any(torch.allclose(image, c, atol=1e-4) for c in candidates)


def test_shifts_differ_from_image_to_image_and_reach_their_limit() -> None:
    images = torch.zeros(300, 1, 20, 20)
    images[:, :, 10, 10] = 1
    moved = augment(images, Augmentation(shift=0.15), seeded())
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 20 - 10, places % 20 - 10
    for offsets in (rows, columns):
        assert set(offsets.tolist()) == set(range(-3, 4))


@pytest.mark.parametrize(("height", "width"), [(41, 41), (41, 61)])
def test_a_rotation_keeps_the_distance_from_the_centre_in_pixels(height: int, width: int) -> None:
    """A round spot off the centre stays round and as far away, also in oblong images."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    spot = torch.exp(-((y - middle_y) ** 2 + (x - middle_x - 12) ** 2) / (2 * 2.0**2))
    turned = augment(spot.expand(50, 1, -1, -1).clone(), Augmentation(rotation=60), seeded())[:, 0]
    weight = turned / turned.sum((1, 2), keepdim=True)
    mean_y, mean_x = (weight * (y - middle_y)).sum((1, 2)), (weight * (x - middle_x)).sum((1, 2))
    assert torch.allclose(torch.hypot(mean_y, mean_x), torch.full((50,), 12.0), atol=0.1)
    angles = torch.rad2deg(torch.atan2(mean_y, mean_x))
    assert 45 < float(angles.max()) <= 60.5
    assert -60.5 <= float(angles.min()) < -45
    assert torch.allclose(turned.sum((1, 2)), spot.sum(), rtol=1e-2)


def test_a_zoom_scales_about_the_centre() -> None:
    y, x = torch.meshgrid(torch.arange(81), torch.arange(81), indexing="ij")
    spot = torch.exp(-((y - 40) ** 2 + (x - 60) ** 2) / (2 * 3.0**2))
    zoomed = augment(spot.expand(60, 1, -1, -1).clone(), Augmentation(zoom=0.25), seeded())[:, 0]
    weight = zoomed / zoomed.sum((1, 2), keepdim=True)
    factor = (weight * (x - 40)).sum((1, 2)) / 20
    assert 0.74 < float(factor.min()) < 0.8
    assert 1.2 < float(factor.max()) < 1.26
    assert torch.allclose((weight * (y - 40)).sum((1, 2)), torch.zeros(60), atol=0.05)


def test_augmentation_is_the_generators() -> None:
    how = Augmentation(rotation=20, shift=0.15, zoom=0.25, flip=True)
    images = torch.rand(4, 3, 16, 16)
    first, same, other = (augment(images, how, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.shape == images.shape


@settings(max_examples=10, deadline=None)
@given(st.integers(4, 12), st.integers(4, 12), st.floats(0.1, 0.99), st.integers(0, 100))
def test_a_crop_is_a_part_of_the_image(height: int, width: int, share: float, seed: int) -> None:
    images = torch.rand(6, 2, height, width, generator=seeded(seed))
    parts = augment(images, Augmentation(crop=share), seeded(seed))
    sides = (max(1, round(share * height)), max(1, round(share * width)))
    assert parts.shape == (6, 2, *sides)
    for image, part in zip(images, parts, strict=True):
        windows = image.unfold(1, sides[0], 1).unfold(2, sides[1], 1).flatten(1, 2)
        assert bool((windows == part[:, None]).flatten(2).all(2).all(0).any())


def test_crops_are_everywhere_and_the_same_in_several_processes() -> None:
    images = torch.arange(49.0).view(1, 1, 7, 7).expand(400, 1, 7, 7)
    how = Augmentation(crop=5 / 7, flip=True)
    parts = augment(images, how, seeded())
    corners = parts[:, 0].flatten(1).amin(1).round()
    assert sorted({int(each) for each in corners}) == [0, 1, 2, 7, 8, 9, 14, 15, 16]
    halves = [augment(images[:200], how, seeded(), (first, 400)) for first in (0, 200)]
    assert torch.equal(torch.cat(halves), parts)


# --- the mix of clean and distorted images


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 50))
def test_the_clean_share_is_exact_and_clean_means_untouched(
    count: int, share: float, seed: int
) -> None:
    images = torch.rand(count, 1, 6, 6, generator=seeded())
    grid = [LevelledDistortion("gaussian_blur", (1, 2)), LevelledDistortion("awgn", (30,))]
    mixed = distort_some(images, grid, share, seeded(seed))
    clean = (mixed == images).flatten(1).all(1)
    assert int(clean.sum()) == round(count * share)


def test_every_kind_and_level_is_drawn_alike() -> None:
    """A black image's noise tells its level; a white one's darkest pixel tells the blur's."""
    sigmas, levels = (0.5, 1.0, 2.0), (10.0, 40.0)
    grid = [LevelledDistortion("gaussian_blur", sigmas), LevelledDistortion("awgn", levels)]
    images = torch.full((1200, 1, 24, 24), 0.5)
    mixed = distort_some(images, grid, 0.0, seeded())
    counts = dict.fromkeys([*sigmas, *levels], 0)
    blurs = {s: Distortion("gaussian_blur")(images[:1], s)[0] for s in sigmas}
    for image in mixed:
        found = [s for s, blurred in blurs.items() if torch.allclose(image, blurred, atol=1e-5)]
        if not found:
            deviation = float((image - 0.5).std()) * 255
            found = [level for level in levels if abs(deviation / level - 1) < 0.2]
        assert len(found) == 1
        counts[found[0]] += 1
    for sigma in sigmas:
        assert counts[sigma] == pytest.approx(200, abs=55)
    for level in levels:
        assert counts[level] == pytest.approx(300, abs=65)


def test_the_mix_is_the_generators_and_leaves_the_images_alone() -> None:
    images = torch.rand(8, 1, 6, 6)
    before = images.clone()
    grid = [LevelledDistortion("awgn", (10, 30))]
    first, same, other = (distort_some(images, grid, 0.5, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


# --- settings


def test_the_papers_schedule_divides_by_ten_every_ten_epochs() -> None:
    rates = [learning_rate(PAPER, epoch * 7, 40 * 7, epoch) for epoch in range(40)]
    assert rates == pytest.approx([0.1] * 10 + [0.01] * 10 + [0.001] * 10 + [0.0001] * 10)


def test_one_cycle_rises_in_a_line_and_falls_as_a_cosine() -> None:
    training = TrainingConfig(learning_rate=0.4, warm_up=0.25)
    rates = [learning_rate(training, step, 1000, 0) for step in range(1000)]
    for step in (0, 100, 249):
        assert rates[step] == pytest.approx(0.4 * (step + 0.5) / 250)
    for step in (250, 500, 999):
        assert rates[step] == pytest.approx(0.4 * math.cos(math.pi / 2 * (step - 249.5) / 750) ** 2)
    assert max(rates) <= 0.4
    assert rates[-1] < 1e-5
    assert learning_rate(
        TrainingConfig(warm_up=0.0, learning_rate=1), 0, 10**6, 0
    ) == pytest.approx(1)


def test_the_papers_recipe_is_the_papers() -> None:
    assert (PAPER.epochs, PAPER.learning_rate, PAPER.momentum) == (40, 0.1, 0.9)
    assert (PAPER.optimizer, PAPER.schedule, PAPER.step_epochs) == ("sgd", "step", 10)
    assert (PAPER.l1, PAPER.clean_share, PAPER.objective) == (1e-5, 0.5, {"labels": 1.0})
    assert PAPER.augmentation == Augmentation(rotation=20, shift=0.15, zoom=0.25, flip=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "unknown training setting 'epoch', did you mean 'epochs'"),
        ({"epochs": 0}, "training epochs=0"),
        ({"learning_rate": -1}, "training learning_rate=-1"),
        ({"objective": {"labels": 0}}, "at least one objective needs a weight above 0"),
        ({"objective": {"label": 1}}, "'label' is not one of labels, logits"),
        ({"objective": {"logits": -1}}, "weight of 'logits' must be 0 or more"),
        ({"clean_share": 1.5}, "training clean_share=1.5"),
        ({"augmentation": {"rotate": 3}}, "training augmentation.rotate=3"),
    ],
)
def test_bad_settings_say_what_is_wrong(
    batches: list[Batch], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(tiny_cnn(), batches, GRID, **changes)


# --- training


@pytest.fixture
def lessons() -> list[Batch]:
    """Images whose class is which band of rows is bright: learnable in a few epochs."""
    images = torch.rand(48, 3, SIZE, SIZE, generator=seeded(3)) * 0.4
    labels = torch.arange(48) % CLASSES
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 3 * label : 3 * label + 3] += 0.5
    return cut(images, labels, 16)


def shuffled(lessons: list[Batch]) -> DataLoader[Any]:
    images, labels = (torch.cat(parts) for parts in zip(*lessons, strict=True))
    return DataLoader(TensorDataset(images, labels), 16, shuffle=True)


def adapted_classifier() -> AdaptedModel:
    known = Preprocessing(SIZE, (0.4,) * 3, (0.3,) * 3)
    model = Classifier(tiny_cnn(), known, "tiny").eval()
    sites = {"stem": range(0, 8, 2), "pointwise": range(6)}
    return correct(model, sites, unit={"kind": "bottleneck", "affine": True})


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "objective", [{"labels": 1.0}, {"logits": 1.0}, {"labels": 1, "logits": 1}]
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_training_lowers_the_loss_and_leaves_the_base_alone(
    lessons: list[Batch], objective: dict[str, float], optimizer: str
) -> None:
    adapted = adapted_classifier()
    base = weights_of(adapted.network)
    history = fit(
        adapted, lessons, GRID, epochs=8, learning_rate=0.01, optimizer=optimizer,
        objective=objective, **FAST,
    )  # fmt: skip
    losses = [epoch.loss for epoch in history.epochs]
    assert sum(losses[-2:]) < sum(losses[:2])
    assert (len(losses), history.images_seen, history.best) == (8, 8 * 48, 7)
    assert same(weights_of(adapted.network), base)
    assert not any(module.training for module in adapted.corrected.modules())


def test_muon_steps_as_torch_does_for_matrices_and_as_adamw_for_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    start, vector = torch.randn(6, 18, generator=generator), torch.randn(6, generator=generator)
    ours = [nn.Parameter(start.clone().view(6, 2, 3, 3)), nn.Parameter(vector.clone())]
    theirs = [nn.Parameter(start.clone()), nn.Parameter(vector.clone())]
    chosen = {"optimizer": "muon", "learning_rate": 0.05, "weight_decay": 0.1}
    muon = optimizer_for(ours, TrainingConfig.model_validate(chosen))
    assert isinstance(muon, Muon)
    peers = [
        torch.optim.Muon(theirs[:1], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(theirs[1:], lr=0.05, weight_decay=0.0),
    ]
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            other.grad = torch.randn(other.shape, generator=generator)
            one.grad = other.grad.clone().view(one.shape)
        muon.step()
        for peer in peers:
            peer.step()
    torch.testing.assert_close(ours[0].flatten(1), theirs[0], rtol=0, atol=0.01)  # bfloat16 there
    torch.testing.assert_close(ours[1], theirs[1])
    assert (ours[0].flatten(1) - start).abs().mean() > 0.02


def test_muon_takes_layers_of_any_memory_layout_and_without_a_gradient() -> None:
    weights = nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    twin = nn.Parameter(weights.detach().contiguous())
    unused = nn.Parameter(torch.ones(2, 2))
    for one in (weights, twin):
        optimizer = Muon([one, unused], lr=0.1)
        one.grad = torch.arange(108.0).view(4, 3, 3, 3).sin()
        optimizer.step()
    torch.testing.assert_close(weights, twin)
    assert torch.equal(unused, torch.ones(2, 2))


def test_fine_tuning_trains_a_copy(lessons: list[Batch], classifier: Classifier) -> None:
    base = weights_of(classifier)
    tuned = finetune(classifier)
    history = fit(tuned, lessons, GRID, epochs=6, learning_rate=0.01, **FAST)
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert same(weights_of(classifier), base)
    changed = {k for k, tensor in tuned.state_dict().items() if not torch.equal(tensor, base[k])}
    assert changed == set(base), "every weight and statistic of the copy is trained"


def test_fine_tuning_a_frozen_network_trains_everything(classifier: Classifier) -> None:
    classifier.requires_grad_(False)
    assert not any(p.requires_grad for p in classifier.parameters())
    assert all(p.requires_grad for p in finetune(classifier).parameters())


def test_the_first_step_is_the_gradient_of_the_stated_objective(images: Tensor) -> None:
    """One SGD step on one clean batch, against the same step written out."""
    labels = torch.randint(CLASSES, (12,), generator=seeded(5))
    adapted = adapted_classifier()
    with torch.no_grad():  # away from the identity, or the divergence would be zero
        for parameter in adapted.units.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(6)) * 0.1)
    twin = copy.deepcopy(adapted)
    fit(
        adapted, [(images, labels)], GRID, epochs=1, clean_share=1.0, optimizer="sgd",
        learning_rate=0.1, schedule="step", momentum=0.0, weight_decay=0.01, l1=0.001,
        objective={"labels": 2.0, "logits": 0.5}, **FAST,
    )  # fmt: skip

    twin.train()
    logits = twin(images)
    with torch.no_grad():
        teacher = twin.network(images)
    divergence = teacher.softmax(1) * (teacher.log_softmax(1) - logits.log_softmax(1))
    loss = 2 * F.cross_entropy(logits, labels) + 0.5 * divergence.sum(1).mean()
    weights = {n: p for n, p in twin.units.named_parameters() if n.endswith(".weight")}
    convolutions = [p for p in weights.values() if p.dim() == 4]
    loss = loss + 0.001 * torch.stack([p.abs().sum() for p in convolutions]).sum()
    loss.backward()
    for (name, ours), theirs in zip(
        adapted.units.named_parameters(), twin.units.parameters(), strict=True
    ):
        assert theirs.grad is not None
        decay = 0.01 * theirs.detach() if theirs.dim() == 4 else 0
        expected = theirs.detach() - 0.1 * (theirs.grad + decay)
        assert torch.allclose(ours, expected, atol=1e-6), name


def test_a_teacher_needs_no_labels(lessons: list[Batch]) -> None:
    unlabelled = [(images, torch.full_like(labels, -1)) for images, labels in lessons]
    adapted = adapted_classifier()
    history = fit(adapted, unlabelled, GRID, epochs=6, objective={"logits": 1.0}, **FAST)
    assert history.epochs[-1].loss < history.epochs[0].loss
    with pytest.raises(InputError, match="label -1"):
        fit(adapted, unlabelled, GRID, epochs=1, objective={"labels": 1.0}, **FAST)


def test_the_papers_recipe_runs(lessons: list[Batch]) -> None:
    adapted = adapted_classifier()
    base = weights_of(adapted.network)
    history = fit(adapted, lessons, GRID, PAPER, epochs=2)
    assert all(math.isfinite(epoch.loss) for epoch in history.epochs)
    assert same(weights_of(adapted.network), base)


def test_bfloat16_and_channels_last_run_too(lessons: list[Batch]) -> None:
    history = fit(
        adapted_classifier(), lessons, GRID, epochs=2, precision="bfloat16", channels_last=True
    )
    assert all(math.isfinite(epoch.loss) for epoch in history.epochs)


def test_same_seed_same_weights_whatever_the_global_state(lessons: list[Batch]) -> None:
    ends = []
    for seed, disturbance in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(disturbance)
        adapted = adapted_classifier()
        before = torch.random.get_rng_state()
        fit(adapted, shuffled(lessons), GRID, epochs=2, seed=seed, **FAST)
        ends.append(weights_of(adapted))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_validation_keeps_the_best_epoch(lessons: list[Batch]) -> None:
    adapted = adapted_classifier()
    history = fit(
        adapted, shuffled(lessons), GRID, epochs=6, validation=lessons, learning_rate=0.05, **FAST
    )
    scores = [epoch.score for epoch in history.epochs]
    assert all(score is not None for score in scores)
    assert history.best == scores.index(max(s for s in scores if s is not None))
    assert evaluate(adapted, lessons, GRID).mean_top1 == pytest.approx(scores[history.best])


def test_validation_images_are_distorted_once_and_a_missing_label_is_noted_once(
    lessons: list[Batch], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = lessons[0]
    partly = [(images, labels.index_fill(0, torch.tensor([1]), -1)), *lessons[1:]]
    shown: list[float] = []
    show = Cell.show

    def counted(cell: Cell, *arguments: Any) -> Tensor:
        if cell.distortion is not None:
            shown.append(cell.level)
        return show(cell, *arguments)

    monkeypatch.setattr(Cell, "show", counted)
    history = fit(adapted_classifier(), lessons, GRID, epochs=3, validation=partly, **FAST)
    assert sorted(shown) == sorted([1, 2, 40] * len(lessons))
    said = capsys.readouterr().err
    assert said.count("images have no label") == 1
    assert said.count("validation mean agreement") == len(history.epochs) == 3


def test_validation_can_keep_an_epoch_before_the_last(lessons: list[Batch]) -> None:
    """The labels of the lessons are wrong, so training on them makes the network worse."""
    with torch.no_grad():
        model = adapted_classifier().network
        truth = [(images, model(images).argmax(1)) for images, _ in lessons]
    wrong = [(images, (labels + 1) % CLASSES) for images, labels in truth]
    adapted = adapted_classifier()
    history = fit(
        adapted, wrong, GRID, epochs=6, validation=truth, objective={"labels": 1.0},
        learning_rate=0.003, schedule="step", **FAST,
    )  # fmt: skip
    scores = [epoch.score or 0.0 for epoch in history.epochs]
    assert max(scores) > scores[-1]
    assert history.best < 5
    assert evaluate(adapted, truth, GRID).mean_top1 == pytest.approx(max(scores))


def test_validation_images_are_read_and_distorted_once(lessons: list[Batch]) -> None:
    class Counting(list[Batch]):
        passes = 0

        def __iter__(self) -> Iterator[Batch]:
            self.passes += 1
            return super().__iter__()

    counting = Counting(lessons)
    fit(adapted_classifier(), lessons, GRID, epochs=3, validation=counting, **FAST)
    assert counting.passes == 1


def test_validation_shows_at_most_half_as_many_images_as_an_epoch_trains_on(
    lessons: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the clean images and three levels, where that allows more than 64 images."""
    images, labels = (torch.cat(parts) for parts in zip(*lessons, strict=True))
    many = [(images.repeat(6, 1, 1, 1), labels.repeat(6))] * 2  # 576 images
    sizes: list[int] = []
    show = Cell.show

    def counted(cell: Cell, clean: Tensor, *arguments: Any) -> Tensor:
        sizes.append(len(clean) if cell.level == 2 else 0)
        return show(cell, clean, *arguments)

    monkeypatch.setattr(Cell, "show", counted)
    for train, validation, expected in ((many, many, 72), (lessons, many, 64), (many, lessons, 48)):
        sizes.clear()
        fit(adapted_classifier(), train, GRID, epochs=1, validation=validation, **FAST)
        assert sum(sizes) == expected


# --- resuming


class Killed(Exception):
    pass


class Dying:
    """A loader that is killed in the middle of an epoch."""

    def __init__(self, batches: Any, epoch: int) -> None:
        self.batches, self.epoch, self.passes = batches, epoch, 0
        self.dataset = getattr(batches, "dataset", batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        for number, batch in enumerate(self.batches):
            if self.passes > self.epoch and number == 1:
                raise Killed
            yield batch


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize(("finished", "steps"), [(0, None), (1, None), (3, 1), (0, 1)])
def test_a_killed_training_ends_as_one_that_was_not(
    tmp_path: Path, lessons: list[Batch], optimizer: str, finished: int, steps: int | None
) -> None:
    how: dict[str, Any] = {
        "epochs": 4, "optimizer": optimizer, "validation": lessons, "seed": 3,
        "augmentation": {"shift": 0.1, "flip": True}, **FAST,
    }  # fmt: skip
    whole = adapted_classifier()
    expected = fit(whole, shuffled(lessons), GRID, **how)

    file = tmp_path / "deep" / "checkpoint.pt"
    dying = Dying(shuffled(lessons), finished)
    with pytest.raises(Killed):
        fit(adapted_classifier(), dying, GRID, checkpoint=file, checkpoint_steps=steps, **how)
    assert file.exists() == (finished > 0 or steps is not None)
    if steps:
        assert files.read_checkpoint(file)["begun"]["batches"] == 1
    torch.manual_seed(99)
    resumed = adapted_classifier()
    history = fit(resumed, shuffled(lessons), GRID, checkpoint=file, **how)

    assert same(weights_of(resumed), weights_of(whole))
    assert [(e.number, e.loss, e.score) for e in history.epochs] == [
        (e.number, e.loss, e.score) for e in expected.epochs
    ]
    assert (history.best, history.images_seen) == (expected.best, expected.images_seen)
    assert list(file.parent.iterdir()) == [file]


def test_a_finished_training_is_not_trained_again(tmp_path: Path, lessons: list[Batch]) -> None:
    file = tmp_path / "checkpoint.pt"
    first, again = adapted_classifier(), adapted_classifier()
    fit(first, lessons, GRID, epochs=2, checkpoint=file, **FAST)
    history = fit(again, Dying(lessons, 0), GRID, epochs=2, checkpoint=file, **FAST)
    assert same(weights_of(first), weights_of(again))
    assert (len(history.epochs), history.images_seen) == (2, 96)


@pytest.mark.parametrize("wrapped", [True, False], ids=["classifier", "bare network"])
@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"learning_rate": 0.5},
        {"seed": 1},
        {"distortions": ["awgn:41"]},
        {"distortions": [*GRID[:1], "awgn:40:clip"]},
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, lessons: list[Batch], change: dict[str, Any], wrapped: bool
) -> None:
    def model() -> nn.Module:
        return adapted_classifier() if wrapped else tiny_cnn()

    file = tmp_path / "checkpoint.pt"
    settings_: dict[str, Any] = {"distortions": GRID, "epochs": 2, "seed": 0, **FAST}
    fit(model(), lessons, checkpoint=file, **settings_)
    fit(model(), lessons, checkpoint=file, **settings_)
    with pytest.raises(InputError, match="with another (training setting|seed|distortion)"):
        fit(model(), lessons, checkpoint=file, **{**settings_, **change})


@pytest.mark.parametrize(
    "changed",
    [
        "network",
        "correction",
        "gate",
        "set of training images",
        "set of validation images",
        "number of batches",
    ],
)
def test_a_checkpoint_of_other_inputs_is_refused(
    tmp_path: Path, lessons: list[Batch], changed: str
) -> None:
    def trained() -> None:
        fit(model, batches, GRID, validation=validation, checkpoint=file, epochs=1, **FAST)

    file = tmp_path / "checkpoint.pt"
    model, batches, validation = adapted_classifier(), lessons, lessons
    trained()
    black = [(torch.zeros_like(images), labels) for images, labels in lessons]
    known = Preprocessing(SIZE, (0.4,) * 3, (0.3,) * 3)
    if changed == "network":
        other = tiny_cnn()
        with torch.no_grad():
            next(other.parameters()).add_(1e-3)
        sites = {"stem": range(0, 8, 2), "pointwise": range(6)}
        unit = {"kind": "bottleneck", "affine": True}
        model = correct(Classifier(other, known, "tiny").eval(), sites, unit=unit)
    elif changed == "correction":
        network = Classifier(tiny_cnn(), known, "tiny").eval()
        model = correct(network, {"stem": range(1, 8, 2), "pointwise": range(6)})
    elif changed == "gate":
        fit_gate(model, lessons, GRID, false_alarms=0.2)
    elif changed == "set of training images":
        batches = black
    elif changed == "set of validation images":
        validation = black
    else:
        batches = lessons[:-1]
    with pytest.raises(InputError, match=f"checkpoint.pt was made with another .*{changed}"):
        trained()


@pytest.mark.parametrize("wrapped", [True, False], ids=["classifier", "bare network"])
@pytest.mark.parametrize("content", ["cut", "empty", "text", "a list", "another dict", "weights"])
def test_a_corrupt_checkpoint_is_refused(
    tmp_path: Path, lessons: list[Batch], content: str, wrapped: bool
) -> None:
    model = adapted_classifier() if wrapped else tiny_cnn()
    file = tmp_path / "checkpoint.pt"
    fit(model, lessons, GRID, epochs=1, checkpoint=file, **FAST)
    if content == "cut":
        file.write_bytes(file.read_bytes()[:-500])
    elif content == "empty":
        file.write_bytes(b"")
    elif content == "text":
        file.write_text("not a checkpoint")
    else:
        others = {"a list": [1, 2], "another dict": {"epoch": 3}, "weights": model.state_dict()}
        torch.save(others[content], file)
    with pytest.raises(InputError, match="checkpoint.pt is"):
        fit(model, lessons, GRID, epochs=1, checkpoint=file, **FAST)


# --- a last batch of one image


class Pooled(nn.Sequential):
    """A network with a batch norm that has one value per channel of each image."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Linear(4, CLASSES),
        )


def test_a_last_batch_of_one_image_is_trained_on_with_the_gathered_statistics() -> None:
    images, labels = torch.rand(9, 3, SIZE, SIZE, generator=seeded()), torch.arange(9) % CLASSES
    network, batches = Pooled(), cut(images, labels, 4)
    expected = copy.deepcopy(network)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for batch, classes in batches:
        for norm in (expected[1], expected[3]):
            norm.train(len(batch) > 1)
        optimizer.zero_grad()
        F.cross_entropy(expected(batch), classes).backward()
        optimizer.step()
    history = fit(
        network, batches, GRID, epochs=1, optimizer="sgd", schedule="step", momentum=0, **FAST,
        learning_rate=0.1, weight_decay=0, clean_share=1.0, objective={"labels": 1.0},
    )  # fmt: skip
    assert history.images_seen == 9
    for (name, value), wanted in zip(
        network.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        if "num_batches" not in name:
            assert torch.allclose(value, wanted, atol=1e-5), name


def test_batches_of_one_image_train_what_has_no_batch_norm() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14**2, CLASSES))
    images, labels = torch.rand(3, 3, SIZE, SIZE, generator=seeded()), torch.arange(3)
    assert fit(network, cut(images, labels, 1), GRID, epochs=1, **FAST).images_seen == 3
    with pytest.raises(InputError, match="each batch has one image: the batch norms"):
        fit(Pooled(), cut(images, labels, 1), GRID, epochs=1, **FAST)
    with pytest.raises(InputError, match="each batch has one image: the batch norms"):
        fit(Pooled(), cut(images[:1], labels[:1], 1), GRID, epochs=1, **FAST)


# --- what cannot be trained


def test_a_loss_that_is_not_finite_ends_the_training(lessons: list[Batch]) -> None:
    spoilt = [(images * float("nan"), labels) for images, labels in lessons]
    with pytest.raises(DeepCorrectError, match="the loss is nan in epoch 1: lower the learning"):
        fit(adapted_classifier(), spoilt, GRID, epochs=1, **FAST)


def test_a_model_without_trainable_parameters_is_refused(lessons: list[Batch]) -> None:
    with pytest.raises(InputError, match="nothing of this model is trainable"):
        fit(tiny_cnn().requires_grad_(False), lessons, GRID, epochs=1)


def test_a_loader_must_have_a_length_and_images(lessons: list[Batch]) -> None:
    class Endless:
        def __iter__(self) -> Iterator[Batch]:
            return iter(lessons)

    with pytest.raises(InputError, match="must have a length"):
        fit(adapted_classifier(), Endless(), GRID, epochs=1)
    with pytest.raises(InputError, match="can be read only once"):
        fit(adapted_classifier(), iter(lessons), GRID, epochs=1)
    with pytest.raises(InputError, match="no images to train on"):
        fit(adapted_classifier(), [], GRID, epochs=1)


def test_labels_outside_the_classes_are_refused(lessons: list[Batch]) -> None:
    outside = [(images, labels + 1) for images, labels in lessons]
    with pytest.raises(InputError, match=f"label {CLASSES}: the network has {CLASSES} classes"):
        fit(adapted_classifier(), outside, GRID, epochs=1)


def test_unknown_distortions_are_refused(lessons: list[Batch]) -> None:
    with pytest.raises(InputError, match="unknown distortion 'awgm', did you mean 'awgn'"):
        fit(adapted_classifier(), lessons, ["awgm"], epochs=1)


def test_frozen_norms_pass_on_the_gradients_that_they_always_did() -> None:
    drawn = seeded()
    for affine in (True, False):
        norm = nn.BatchNorm2d(4, eps=1e-3, affine=affine).double().eval().requires_grad_(False)
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if values is not None:
                values.copy_(torch.rand(4, generator=drawn) + 0.1)
        images = torch.randn(3, 4, 5, 5, generator=drawn, dtype=torch.float64).requires_grad_()
        expected = norm(images)
        (wanted,) = torch.autograd.grad((expected**3).sum(), images)
        with short_gradients(nn.Sequential(norm)):
            answered = norm(images)
            (found,) = torch.autograd.grad((answered**3).sum(), images)
            assert "ConstantNorm" in type(answered.grad_fn).__name__
            assert "ConstantNorm" not in type(norm.train()(images).grad_fn).__name__
            if affine:
                trained = norm.eval().requires_grad_()(images)
                assert "ConstantNorm" not in type(trained.grad_fn).__name__
        assert torch.equal(answered, expected)
        assert torch.allclose(found, wanted)
        assert "forward" not in vars(norm)


def test_depthwise_convolutions_run_in_float32_on_a_cpu() -> None:
    """Of those with a stride, and the larger ones; others as they always did."""
    drawn = seeded()
    for kernel, stride, trained, wide in (
        (5, 1, True, True),
        (5, 1, False, False),
        (3, 1, True, False),
        (3, 2, True, True),
        (3, 2, False, True),
    ):
        conv = nn.Conv2d(4, 4, kernel, stride, groups=4, bias=False).requires_grad_(trained)
        plain = copy.deepcopy(conv)
        images = torch.randn(3, 4, 9, 9, generator=drawn).requires_grad_()
        tracked = [images, conv.weight] if trained else [images]
        with torch.autocast("cpu", torch.bfloat16):
            with short_gradients(nn.Sequential(conv)):
                found = conv(images)
            usual = plain(images)
        with torch.autocast("cpu", enabled=False):
            exact = plain(images)
        assert found.dtype == usual.dtype == torch.bfloat16
        assert torch.equal(found, exact.bfloat16() if wide else usual)
        for gradient, tensor in zip(
            torch.autograd.grad(found.float().sum(), tracked), tracked, strict=True
        ):
            assert gradient.shape == tensor.shape
        assert "forward" not in vars(conv)
