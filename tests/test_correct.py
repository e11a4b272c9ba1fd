"""Correcting a network from images alone: what is chosen, held back, measured, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Batch, TinyCNN
from test_cli import command
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import deepcorrect as dc
from deepcorrect.data import hold_out
from deepcorrect.distortions import parse_all
from deepcorrect.evaluation import Comparison, compare
from deepcorrect.evaluation._results import Accuracy
from deepcorrect.experiments import Choices
from deepcorrect.experiments._choices import choose_settings, within_minutes
from deepcorrect.experiments._correct import FirstBatches, verdict
from deepcorrect.experiments._stages import fit_in_stages, stages
from deepcorrect.experiments._training_speed import reads_parts


def images_of(batches: Sequence[Any]) -> list[float]:
    return [float(image.sum()) for images, *_ in batches for image in images]


# --- images held back


@pytest.mark.parametrize("share", [0.01, 0.2, 0.99])
@pytest.mark.parametrize("kind", ["list", "loader"])
def test_every_image_is_on_one_side(kind: str, share: float) -> None:
    images, labels = torch.rand(23, 3, 4, 4), torch.arange(23)
    data: Any = DataLoader(TensorDataset(images, labels), 5, shuffle=True)
    if kind == "list":
        data = list(zip(images.split(5), labels.split(5), strict=True))
    some, held_back = (list(each) for each in hold_out(data, share, seed=1))
    both = sorted(images_of(some) + images_of(held_back))
    assert both == sorted(float(image.sum()) for image in images)
    assert len(images_of(held_back)) == min(22, max(1, round(share * 23)))
    again = [list(each) for each in hold_out(data, share, seed=1)]
    assert images_of(again[1]) == images_of(held_back)
    for part in (some, held_back):
        for batch, numbers in part:
            assert all(
                torch.equal(image, images[number])
                for image, number in zip(batch, numbers, strict=True)
            )


def test_only_the_images_to_train_on_are_shuffled() -> None:
    data = DataLoader(TensorDataset(torch.rand(40, 1), torch.arange(40)), 40, shuffle=True)
    some, held_back = hold_out(data, 0.5)
    orders = [[next(iter(each))[1].tolist() for _ in range(2)] for each in (some, held_back)]
    assert orders[0][0] != orders[0][1]
    assert orders[1][0] == orders[1][1] == sorted(orders[1][0])


def test_divided_images_are_read_as_the_loader_reads_them() -> None:
    """The workers' settings are all kept: without the time limit, one that hangs is waited for."""
    images = TensorDataset(torch.rand(8, 1), torch.arange(8))
    data = DataLoader(
        images, 4, num_workers=1, timeout=7, prefetch_factor=3, multiprocessing_context="fork"
    )
    for part in hold_out(data, 0.5):
        assert isinstance(part, DataLoader)
        assert (part.num_workers, part.timeout, part.prefetch_factor) == (1, 7, 3)
        assert part.multiprocessing_context is data.multiprocessing_context


class Endless:
    def __iter__(self) -> Iterator[Batch]:
        yield torch.rand(4, 3, 8, 8), torch.arange(4)


def test_images_that_cannot_be_divided_are_refused() -> None:
    chosen = WeightedRandomSampler([1.0] * 8, 8)
    sampled = DataLoader(TensorDataset(torch.rand(8, 1), torch.arange(8)), sampler=chosen)
    for data, message in (
        (Endless(), "a Endless cannot be divided: give validation="),
        (sampled, "a sampler of its own"),
        ([(torch.rand(1, 3, 8, 8), torch.zeros(1))], "1 image cannot be divided"),
    ):
        with pytest.raises(dc.InputError, match=message):
            hold_out(data, 0.2)  # pyright: ignore[reportArgumentType]


def test_first_batches_hold_a_number_of_images(batches: list[Batch]) -> None:
    assert [len(images) for images, _ in FirstBatches(batches, 6)] == [4, 2]
    assert [len(images) for images, _ in FirstBatches(batches, 99)] == [4, 4, 4]


# --- before and after


def test_the_interval_is_that_of_paired_differences(
    network: TinyCNN, batches: list[Batch], images: Tensor
) -> None:
    other = dc.correct(network, {"stem": [0, 1, 2]}, unit={"kind": "lite", "start": "he"})
    specs = ["gaussian_blur:1,2", "awgn:60"]
    found = compare(network, other, batches, specs, seed=5)
    assert found.before == dc.evaluate(network, batches, specs, seed=5)
    assert found.after == dc.evaluate(other, batches, specs, seed=5)
    assert found.gain == pytest.approx(found.after.mean_top1 - found.before.mean_top1)
    # each image alone, as a set of its own; its noise is that of its number in the whole set
    with torch.no_grad():
        clean = [
            (model(images).argmax(1) == torch.cat([labels for _, labels in batches])).double()
            for model in (network, other)
        ]
    difference = clean[1] - clean[0]
    expected = 1.96 * float(difference.std()) / len(difference) ** 0.5
    assert found.clean_interval == pytest.approx(expected)
    assert found.clean_gain == pytest.approx(float(difference.mean()))


def test_both_outputs_are_read_as_evaluate_reads_them(
    network: TinyCNN, batches: list[Batch]
) -> None:
    ends_in_softmax = torch.nn.Sequential(network, torch.nn.Softmax(1)).eval()
    found = compare(ends_in_softmax, ends_in_softmax, batches, "awgn:60")
    plain = dc.evaluate(network, batches, "awgn:60")
    for grid in (found.before, found.after):
        assert grid.clean is not None
        assert plain.clean is not None
        assert grid.clean.ece == pytest.approx(plain.clean.ece, abs=1e-5)


def changed(gain: float, interval: float, clean: float, clean_interval: float = 0) -> Comparison:
    before, after = (
        dc.Grid({}, 100, Accuracy(100, top1, 1, 0), "labels") for top1 in (0.5, 0.5 + clean)
    )
    return Comparison(before, after, gain, interval, clean_interval)


def test_the_verdict() -> None:
    assert verdict(changed(0.1, 0.05, 0)) == ""
    assert verdict(changed(0.1, 0.05, -0.004)) == ""
    assert "gains +5.0 points +- 5.0 on 100 images" in verdict(changed(0.05, 0.05, 0))
    assert "gains -1.0 points" in verdict(changed(-0.01, 0, 0))
    assert "clean images by -0.6 points" in verdict(changed(0.1, 0.05, -0.006))
    assert verdict(changed(0.1, 0.05, -0.006, clean_interval=0.01)) == ""


# --- choices


def test_choices_follow_the_images_and_the_input() -> None:
    few, many = (choose_settings(count, 32, training={}) for count in (400, 60_000))
    assert (few.training.epochs, many.training.epochs) == (30, 2)
    assert few.unit == many.unit == "weights"
    assert few.training.optimizer == many.training.optimizer == "muon"
    assert choose_settings(400, 224, training={}).training.optimizer == "adamw"
    assert choose_settings(400, 32, unit="dense", training={}).training.optimizer == "adamw"
    assert (
        few.training.learning_rate > choose_settings(400, 224, training={}).training.learning_rate
    )
    assert choose_settings(30, 32, training={}).gate is None
    alone = choose_settings(30, 32, training={}).training
    assert (alone.clean_share, alone.levels) == (0.5, "all")
    assert (few.training.clean_share, few.training.levels) == (0, "costly")
    large = choose_settings(400, 224, training={}).training
    assert (large.clean_share, large.levels) == (0.1, "costly")
    assert choose_settings(50, 224, training={}).gate == 0.04
    assert choose_settings(5000, 224, training={}).gate == 0.02


def test_sites_without_weights_get_units() -> None:
    assert choose_settings(500, 32, sites={"a": True, "b": True}, training={}).unit == "weights"
    mixed = choose_settings(500, 32, sites={"a": True, "b": False}, training={})
    assert mixed.unit == {"a": "weights", "b": "bottleneck"}


def test_the_filters_are_those_of_a_budget_or_half_of_each_site() -> None:
    weights = choose_settings(500, 32, sites={"a": True}, training={})
    assert (weights.beta, weights.budget) == (None, {"parameters": 0.5})
    for about in ({"unit": "lite"}, {"comparable": False}, {"sites": {"a": False}}):
        units = choose_settings(500, 32, training={}, **{"sites": {"a": True}, **about})
        assert (units.beta, units.budget) == (0.5, None)


def test_what_is_given_is_taken_and_has_no_reason() -> None:
    given = choose_settings(
        *(500, 32),
        unit="lite",
        beta=0.1,
        gate="none",
        sites={"a": False},
        sites_given=True,
        training={"epochs": 7, "objective": {"labels": 1}, "batch_size": 9},
    )
    rows = {name: (value, reason) for name, value, reason in given.explained()}
    for name, value in {
        "unit": "lite", "beta": "0.1", "sites": "1: a", "epochs": "7", "objective": "labels=1"
    }.items():  # fmt: skip
        assert rows[name] == (value, "given")
    assert rows["gate"] == ("none", "given")
    assert rows["clean_share"][1] == "without a gate, half stays clean"
    assert given.training.batch_size == 9
    with pytest.raises(dc.InputError, match="unknown training setting 'epoch'"):
        choose_settings(500, 32, training={"epoch": 1})


def test_minutes_shorten_the_training() -> None:
    choices = choose_settings(1000, 32, training={"epochs": 10})
    assert within_minutes(choices, 1, 1000, (0.005, 0.005)) == choices  # 5 s an epoch
    shorter = within_minutes(choices, 1, 1000, (0.02, 0.02))
    assert shorter.training.epochs == 3
    assert shorter.reasons["epochs"] == "as many as fit into 1 minutes"
    with pytest.raises(dc.InputError, match=r"takes about 1\.7 minutes, and 1 are allowed"):
        within_minutes(choices, 1, 1000, (0.1, 0.1))


# --- parts of large images


CROPPED: dict[str, Any] = {"augmentation": {"crop": 0.5}}


def test_large_images_are_trained_as_parts_where_the_network_reads_them() -> None:
    large = choose_settings(3000, 224, croppable=True, training={}).training
    assert round(large.augmentation.crop * 224) == 128
    for pixels, croppable, training in (
        (224, False, {}),
        (96, True, {}),
        (224, True, {"augmentation": {"flip": True}}),
    ):
        choices = choose_settings(3000, pixels, croppable=croppable, training=training)
        assert choices.training.augmentation.crop == 1


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, [(1, 1)]), (2, [(1, 0.5), (1, 1)]), (10, [(8, 0.5), (2, 1)])]
)
def test_the_last_fifth_of_the_epochs_shows_whole_images(
    epochs: int, expected: list[tuple[int, float]]
) -> None:
    training = dc.TrainingConfig(epochs=epochs, **CROPPED, learning_rate=0.03)
    found = stages(training)
    assert [(each.epochs, each.augmentation.crop) for each in found] == expected
    assert stages(found[-1]) == (found[-1],)
    assert found[-1].learning_rate == pytest.approx(0.03 if epochs == 1 else 0.01)


def test_minutes_count_parts_and_whole_images() -> None:
    choices = choose_settings(1000, 224, training={"epochs": 10, **CROPPED})
    # 10 s for an epoch of parts, 40 s for one of whole images: 8 and 2 of them take 160 s
    assert within_minutes(choices, 160 / 60, 1000, (0.01, 0.04)) == choices
    # 3 and 1 take 70 s, 2 and 1 take 60 s
    assert within_minutes(choices, 1, 1000, (0.01, 0.04)).training.epochs == 3


def test_a_crop_may_be_given_and_is_refused_where_it_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(dc.InputError, match="parts of 0.5 of each side.*a crop of 1"):
        choose_settings(3000, 224, croppable=False, training=CROPPED)
    said = command(
        *("correct", "--model", "digits_cnn", "--data", "digits:train", "--images", 60),
        *("--distortion", "awgn:80", "--crop", 0.5, "--epochs", 2, "--keep"),
        *("--out", tmp_path / "a"),
    )
    assert said.status == 0, said.err
    notes = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["notes"]
    assert notes["choices"]["crop"] == "0.5 of each side, and whole images at last"


class Silent(torch.nn.Module):
    """Answers small images with NaN."""

    def forward(self, images: Tensor) -> Tensor:
        answers = images.mean((2, 3))
        return answers if images.shape[-1] > 8 else answers / 0 - answers / 0


def test_parts_are_for_networks_that_read_them() -> None:
    pooled = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    fixed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 4))
    answers_of_each_place = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    images = torch.rand(2, 3, 12, 12)
    assert reads_parts(pooled, images, 0.5)
    for network in (fixed, answers_of_each_place, Silent()):
        assert not reads_parts(network, images, 0.5)


def test_parts_first_then_whole_images_and_resumed(
    network: TinyCNN, batches: list[Batch], tmp_path: Path
) -> None:
    kinds = parse_all("awgn:60", 12)
    training = dc.TrainingConfig(epochs=3, batch_size=4, objective={"logits": 1}, **CROPPED)
    shapes: list[Any] = []
    once = dc.correct(network, {"stem": [0, 1, 2]}, unit="weights")
    handle = network.register_forward_hook(lambda _, given, __: shapes.append(given[0].shape[-2:]))
    history = fit_in_stages(once, batches, kinds, training, 0, None)
    handle.remove()
    whole = batches[0][0].shape[-2:]
    half = tuple(round(side / 2) for side in whole)
    assert list(dict.fromkeys(map(tuple, shapes))) == [half, tuple(whole)]
    assert (len(history.epochs), history.images_seen) == (3, 3 * sum(len(x) for x, _ in batches))
    place = tmp_path / "training.pt"
    for _ in range(2):  # the second time from the checkpoints alone
        again = dc.correct(network, {"stem": [0, 1, 2]}, unit="weights")
        fit_in_stages(again, batches, kinds, training, 0, place)
        for name, tensor in once.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor)


# --- the whole


@pytest.fixture(scope="module")
def some_digits() -> Any:
    model = dc.load_model("digits_cnn")
    return dc.open_dataset("digits:train", model.preprocessing).sample(120, seed=3)


def test_a_network_is_corrected_from_images_alone(
    digits_model: dc.Classifier, some_digits: Any
) -> None:
    told: list[Choices] = []
    adapted = dc.correct(
        digits_model,
        dc.loader(some_digits, 24, shuffle=True),
        distortions=["awgn:80"],
        epochs=6,
        explain=told.append,
    )
    notes = adapted.config.notes
    assert told[0].gate == adapted.config.gate.false_alarms == 0.05  # pyright: ignore[reportOptionalMemberAccess]
    # 24 of 120 images are held back, and 10 of the others raise the gate
    assert notes["images_seen"] == 6 * 86
    assert notes["measured"]["images"] == 24
    assert notes["measured"]["gain"] > 0
    assert notes["cost"]["multiply_adds"] == 0
    assert set(adapted.weights) == {f"features/{number}/0" for number in range(4)}
    corrected = notes["measured"]["corrected"]["awgn"]
    assert corrected["mean_top1"] > notes["measured"]["baseline"]["awgn"]["mean_top1"]


def test_the_same_seed_makes_the_same_correction(
    digits_model: dc.Classifier, some_digits: Any
) -> None:
    made: list[dc.AdaptedModel] = []
    for number in range(2):
        torch.manual_seed(number)
        loader = dc.loader(some_digits, 24, shuffle=True)
        about: dict[str, Any] = {"distortions": "awgn:80", "epochs": 1, "beta": 0.1}
        made.append(dc.correct(digits_model, loader, **about))
    first, second = ([each.filters for each in adapted.config.sites.values()] for adapted in made)
    assert first == second
    for name, value in made[0].state_dict().items():
        assert torch.equal(value, made[1].state_dict()[name]), name


def test_sites_may_be_chosen_by_structure(network: TinyCNN, batches: list[Batch]) -> None:
    about: dict[str, Any] = {"distortions": "awgn:20", "epochs": 1, "beta": 0.5}
    adapted = dc.correct(network, batches, sites="convolutions", **about)
    assert set(adapted.config.sites) == set(dc.rank(network, batches, "awgn:20").sites)
    alone = dc.correct(network, batches, sites=["stem"], **about)
    assert list(alone.config.sites) == ["stem"]


def test_batches_of_other_forms(network: TinyCNN, batches: list[Batch]) -> None:
    named: Any = [{"image": images, "label": labels} for images, labels in batches]
    adapted = dc.correct(network, named, distortions="awgn:20", epochs=1)
    assert adapted.config.notes["images_seen"] + adapted.config.notes["measured"]["images"] == 12


def corrected_within_half(network: TinyCNN, ranking: dc.Ranking) -> Any:
    half = dc.correct(network, ranking, unit="weights", budget={"parameters": 0.5})
    return half.config.sites


def test_images_to_measure_on_may_be_given(network: TinyCNN, batches: list[Batch]) -> None:
    ranking = dc.rank(network, batches, "awgn:20")
    adapted = dc.correct(
        network, batches, distortions="awgn:20", validation=batches[:1], ranking=ranking, epochs=1
    )
    notes = adapted.config.notes
    assert (notes["images_seen"], notes["measured"]["images"]) == (12, 4)
    assert adapted.config.sites == corrected_within_half(network, ranking)
    own = sum(each.numel() for each in adapted.trainable_parameters())
    assert own <= 0.5 * sum(each.numel() for each in network.parameters())
    assert notes["choices"]["gate"] == "none"


def test_a_ranking_or_filters_give_an_untrained_network(
    network: TinyCNN, batches: list[Batch], images: Tensor
) -> None:
    ranking = dc.rank(network, batches, "awgn:20")
    for source in (ranking, {"stem": [1, 2]}):
        adapted = dc.correct(network, source)
        assert torch.equal(adapted(images), network(images))
        assert set(adapted.units)
    with pytest.raises(dc.InputError, match="epochs goes with images"):
        dc.correct(network, ranking, epochs=2)


# --- the command


def test_the_command_writes_what_helps_and_refuses_what_does_not(tmp_path: Path) -> None:
    call = ["correct", "--model", "digits_cnn", "--data", "digits:train", "--images", 120]
    call += ["--batch-size", 24, "--out", tmp_path / "adapter", "--explain"]
    call += ["--epochs", 1, "--learning-rate", "1e-9", "--distortion", "awgn:2"]
    said = command(*call, "--optimizer", "lion")
    assert said.status == 1
    assert "training optimizer='lion'" in said.err
    assert "'sgd', 'adamw' or 'muon'" in said.err
    said = command(*call)
    assert said.status == 1
    assert "optimizer: muon (orthogonalised" in said.err
    assert "learning_rate: 1e-09 (given)" in said.err
    assert "gate: 0.05 (images that look undistorted" in said.err
    assert "which is not more than its interval" in said.err.splitlines()[-1]
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()
    said = command(*call, "--keep", "--json")
    assert said.status == 0, said.err
    assert "epoch 1 of 1" not in said.err  # it is not trained again
    assert said.json["verdict"]
    notes = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["notes"]
    assert notes["model"] == "digits_cnn"
    assert notes["verdict"] == said.json["verdict"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
