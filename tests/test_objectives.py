"""Objectives: each against a direct computation, and what the training loop gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, Batch, tiny_cnn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepcorrect.alternatives import finetune, front_end, lora
from deepcorrect.correction import correct
from deepcorrect.distortions import distort_some, parse_all
from deepcorrect.networks import Classifier, find, tap
from deepcorrect.runtime import InputError, generator_for
from deepcorrect.training import _step as training_room
from deepcorrect.training import fit
from deepcorrect.training._objectives import (
    OBJECTIVES,
    Answers,
    compared_maps,
    inverse_variance,
    relative_error,
)
from deepcorrect.training._teacher import Teacher

FAST: dict[str, Any] = {"precision": "float32", "channels_last": False}


@pytest.fixture
def answers() -> Answers:
    draws = torch.Generator().manual_seed(3)

    def logits() -> Tensor:
        return torch.randn(6, CLASSES, generator=draws) * 2

    return Answers(
        labels=torch.randint(CLASSES, (6,), generator=draws),
        logits=logits(),
        teacher=logits(),
        map_errors={"a": torch.tensor(0.7), "b": torch.tensor(0.2)},
        images=torch.rand(6, 3, 4, 4, generator=draws),
        clean_images=torch.rand(6, 3, 4, 4, generator=draws),
        clean=logits(),
        views=(logits(), logits()),
    )


def divergence(truth: Tensor, answer: Tensor) -> float:
    p, q = truth.softmax(1), answer.softmax(1)
    return float((p * (p / q).log()).sum(1).mean())


def test_each_is_its_formula(answers: Answers) -> None:
    assert answers.teacher is not None
    assert answers.clean is not None
    picked = answers.logits.log_softmax(1).gather(1, answers.labels[:, None])
    clean = answers.clean.log_softmax(1).gather(1, answers.labels[:, None])
    shares = [each.softmax(1) for each in (answers.logits, *answers.views)]
    middle = sum(shares, torch.zeros(())) / 3
    spread = [(share * (share / middle).log()).sum(1).mean() for share in shares]
    assert answers.images is not None
    assert answers.clean_images is not None
    restored = (answers.images - answers.clean_images).square().mean()
    expected = {
        "images": float(restored / answers.clean_images.var()),
        "labels": -float(picked.mean()),
        "logits": divergence(answers.teacher, answers.logits),
        "activations": 0.45,
        "clean_labels": -float(clean.mean()),
        "stability": divergence(answers.clean, answers.logits),
        "consistency": float(sum(spread, torch.zeros(())) / 3),
    }
    for name, value in expected.items():
        assert float(OBJECTIVES[name].loss(answers)) == pytest.approx(value, rel=1e-4), name


def test_stability_draws_both_answers(answers: Answers) -> None:
    assert answers.clean is not None
    given = Answers(answers.labels, answers.logits.requires_grad_(), clean=answers.clean)
    assert given.clean is not None
    given.clean.requires_grad_()
    OBJECTIVES["stability"].loss(given).backward()
    assert given.clean.grad is not None
    assert float(given.clean.grad.abs().sum()) > 0


def test_each_says_what_it_is() -> None:
    for name, objective in OBJECTIVES.items():
        assert objective.summary.endswith("."), name
        assert objective.needs, name


class Seen(Exception):
    def __init__(self, answers: Answers) -> None:
        self.answers = answers


@pytest.fixture
def first_answers(monkeypatch: pytest.MonkeyPatch, batches: list[Batch]) -> Any:
    """What the loop gives the objectives at its first step."""

    def run(model: nn.Module, *names: str, **changes: Any) -> Answers:
        def stop(answers: Answers) -> Tensor:
            raise Seen(answers)

        replaced = {
            name: type(each)(stop, each.needs) if name in names else each
            for name, each in OBJECTIVES.items()
        }
        monkeypatch.setattr(training_room, "OBJECTIVES", replaced)
        with pytest.raises(Seen) as seen:
            fit(
                model,
                batches,
                "awgn:60",
                epochs=1,
                objective=dict.fromkeys(names, 1.0),
                **FAST,
                **changes,
            )
        return seen.value.answers

    return run


def test_maps_are_the_corrected_sites_and_the_clean_networks(
    first_answers: Any, batches: list[Batch]
) -> None:
    network = tiny_cnn()
    adapted = correct(network, {"stem": [0, 1], "pointwise": [3]}, unit={"start": "he"})
    answers = first_answers(adapted, "activations", clean_share=1.0)
    images = batches[0][0]
    with torch.no_grad(), tap(network) as clean, tap(adapted.train()) as corrected:
        network(images)
        adapted(images)
    assert set(answers.map_errors) == {"stem", "pointwise"}
    for site, error in ((site, each.detach()) for site, each in answers.map_errors.items()):
        difference = (corrected[site] - clean[site]).square().mean()
        assert float(error) == pytest.approx(float(difference / clean[site].var()), rel=1e-4)
        assert float(error) > 1e-3


def test_a_copy_is_compared_at_all_convolutions(first_answers: Any) -> None:
    network = tiny_cnn()
    answers = first_answers(finetune(network), "activations")
    assert set(answers.map_errors) == set(find(network))


def test_low_rank_parts_are_no_convolutions_of_their_own(first_answers: Any) -> None:
    network = tiny_cnn()
    answers = first_answers(lora(network, 0.8), "activations", clean_share=1.0)
    assert set(answers.map_errors) == set(find(network))


class Chain(nn.Module):
    """Two convolutions, whose outputs an activation may change in place or not."""

    def __init__(self, in_place: bool, reentrant: bool | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.last = nn.Linear(6, CLASSES)
        self.in_place, self.reentrant = in_place, reentrant

    def forward(self, images: Tensor) -> Tensor:
        def body(maps: Tensor) -> Tensor:
            maps = F.relu(self.first(maps), inplace=self.in_place)
            return F.relu(self.second(maps), inplace=self.in_place)

        reentrant = self.reentrant
        maps = body(images) if reentrant is None else checkpoint(body, images, use_reentrant=False)
        return self.last(maps.mean((2, 3)))


@pytest.mark.parametrize(("in_place", "reentrant"), [(True, None), (True, False), (False, False)])
def test_layers_that_change_maps_in_place_or_run_again_make_no_difference(
    in_place: bool, reentrant: bool | None, batches: list[Batch]
) -> None:
    """Maps are compared as a site returns them, and gradients are those of the whole objective."""
    found = []
    for network in (Chain(False), Chain(in_place, reentrant)):
        network.load_state_dict(found[0][0] if found else network.state_dict())
        begin = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        adapted = correct(network, {"first": [0, 2], "second": [1]}, unit="weights")
        changes: dict[str, Any] = {"epochs": 2, "objective": {"activations": 1.0, "logits": 1.0}}
        history = fit(adapted, batches, "awgn:60", **changes, **FAST)
        found.append((begin, adapted.state_dict(), [epoch.loss for epoch in history.epochs]))
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-5)
    for name, tensor in found[0][1].items():
        assert torch.allclose(found[1][1][name], tensor, atol=1e-5), name


def test_a_teacher_copies_only_maps_that_later_layers_change() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)
    ).eval()
    images = torch.rand(2, 3, 8, 8)
    teacher = Teacher(nn.Sequential(*network, nn.Flatten()), ["0", "2"], with_features=False)
    for _ in range(2):
        maps = teacher(images).maps
        first = network[0](images)
        assert torch.equal(maps["0"][0], first)
        assert torch.equal(maps["2"][0], network[2](first.relu()))
        assert float(maps["2"][1]) == pytest.approx(1 / float(maps["2"][0].var()), rel=1e-5)
    assert teacher.copied == {"2"}


def test_gradients_from_behind_and_from_the_error_are_added_for_the_compared_images() -> None:
    draws = torch.Generator().manual_seed(0)
    maps, clean = torch.randn(2, 6, 3, 4, 4, generator=draws, dtype=torch.float64)
    maps.requires_grad_()
    for count in (6, 4):
        for behind in (0.0, 1.0):
            share = (maps[:count] - clean[:count]).square().mean() / clean[:count].var()
            expected = 3 * share + behind * (maps.relu() ** 3).sum()
            own = maps.clone()  # as the next layer changes it in place
            taken, error = compared_maps(own, clean[:count], inverse_variance(clean[:count]))
            loss = 3 * error + behind * (taken.relu_() ** 3).sum()
            found, wanted = (torch.autograd.grad(each, maps)[0] for each in (loss, expected))
            assert torch.allclose(found, wanted)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_error_of_maps_and_its_gradient_are_those_of_their_formula(layout: Any) -> None:
    draws = torch.Generator().manual_seed(0)
    maps, clean = torch.randn(2, 8, 5, 7, 6, generator=draws, dtype=torch.float64)
    clean = clean / 2 + 4
    expected = ((maps - clean) ** 2).mean() / clean.var()
    slope = 2 * (maps - clean) / maps.numel() / clean.var()
    for dtype, close in ((torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.01)):
        values = maps.to(dtype, memory_format=layout).requires_grad_()
        error = relative_error(values, clean.to(dtype, memory_format=layout))
        assert error.dtype == torch.promote_types(dtype, torch.float32)
        assert float(error.detach()) == pytest.approx(float(expected), rel=close)
        (found,) = torch.autograd.grad(error, values)
        assert found.dtype == dtype
        assert torch.allclose(found.double(), slope, atol=close * float(slope.abs().max()))


def test_restored_images_are_the_front_ends(
    first_answers: Any, classifier: Classifier, batches: list[Batch]
) -> None:
    answers = first_answers(front_end(classifier, 3000), "images", clean_share=0.0)
    assert torch.equal(answers.clean_images, batches[0][0])
    assert torch.equal(classifier(answers.images), answers.logits)  # it starts as the identity
    assert not torch.allclose(answers.images, answers.clean_images)


def test_a_front_end_learns_to_mend_noise_and_blur_at_once(classifier: Classifier) -> None:
    """One asks for less fine detail, the other for more: it must tell them apart."""
    drawn = torch.Generator().manual_seed(0)
    sizes = {2: "bilinear", 4: "bilinear", 8: "nearest"}
    parts = [
        F.interpolate(torch.rand(32, 3, size, size, generator=drawn), size=16, mode=mode)
        for size, mode in sizes.items()
    ]
    clean = torch.stack(parts).mean(0)
    batches = [(clean, torch.full((32,), -1))]  # no label is needed
    kinds = ["awgn:30", "gaussian_blur:2"]
    changes = {"epochs": 80, "learning_rate": 1e-2, "objective": {"images": 1}, "clean_share": 0.0}
    whole = front_end(classifier, 10000)
    fit(whole, batches, kinds, **changes, **FAST)
    for kind in parse_all(kinds, 16):
        shown = distort_some(clean, [kind], 0.0, generator_for(1, "shown"))
        left = (whole.front(shown) - clean).square().mean() / (shown - clean).square().mean()
        assert left < 0.75, kind


def test_only_front_ends_mend_images(network: nn.Module, batches: list[Batch]) -> None:
    with pytest.raises(InputError, match="method 'front_end'"):
        fit(finetune(network), batches, "awgn:60", objective={"images": 1}, **FAST)


def test_constant_maps_say_nothing() -> None:
    """A convolution that is dead, or gives its bias alone, must not outweigh all others."""
    for dtype in (torch.float32, torch.bfloat16):
        maps = torch.randn(4, 2, 5, 7, dtype=dtype)
        for constant in (0.0, *torch.rand(20).tolist()):
            assert float(relative_error(maps, torch.full_like(maps, constant))) == 0


def test_clean_copies_and_views_run_in_the_same_pass(
    first_answers: Any, batches: list[Batch]
) -> None:
    tuned = finetune(tiny_cnn())
    sizes: list[int] = []
    tuned.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    answers = first_answers(tuned, "clean_labels", "stability", "consistency", clean_share=0.0)
    *before, last = sizes
    assert last == 4 * len(batches[0][0])
    assert max(before) < last  # small passes before the training
    assert answers.clean.shape == answers.logits.shape
    assert len(answers.views) == 2
    assert not torch.allclose(answers.clean, answers.logits)


def test_only_what_is_needed_is_computed(first_answers: Any) -> None:
    answers = first_answers(finetune(tiny_cnn()), "labels")
    assert (answers.teacher, answers.clean, answers.views) == (None, None, ())
    assert not answers.map_errors


def test_label_free_objectives_train_without_labels(batches: list[Batch]) -> None:
    unlabelled = [(images, torch.full((len(images),), -1)) for images, _ in batches]
    adapted = correct(tiny_cnn(), {"stem": list(range(8))})
    history = fit(
        adapted,
        unlabelled,
        "awgn:60",
        epochs=12,
        learning_rate=1e-2,
        objective={"logits": 1, "activations": 0.5},
        **FAST,
    )
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_consistency_of_equal_answers_is_zero() -> None:
    logits = torch.randn(4, CLASSES)
    answers = Answers(torch.zeros(4), logits, views=(logits, logits))
    assert float(OBJECTIVES["consistency"].loss(answers)) == pytest.approx(0, abs=1e-6)
