"""Evaluation: accuracies against a direct count, and costs against their closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Batch, TinyCNN, cut
from torch import Tensor, nn

from deepcorrect.correction import UnitConfig, correct
from deepcorrect.data import Preprocessing
from deepcorrect.distortions import Distortion
from deepcorrect.evaluation import evaluate
from deepcorrect.evaluation._results import system_record
from deepcorrect.models import CifarAllCNN, CifarResNet20
from deepcorrect.networks import Classifier, costs
from deepcorrect.networks._cost import Costs
from deepcorrect.runtime import InputError, seeds_for


class Answers(nn.Module):
    """A network whose logits are the image itself: accuracy can be written down."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def one_image(*logits: float) -> Tensor:
    return torch.tensor(logits, dtype=torch.float32).view(1, 1, 1, -1)


def hits(logits: Tensor, labels: Tensor, best: int) -> float:
    """Share of labels among the `best` largest logits, by counting the larger ones."""
    own = logits.gather(1, labels[:, None])
    return float(((logits > own).sum(1) < best).double().mean())


# --- accuracy


@pytest.mark.usefixtures("any_values")
def test_top1_and_top5_by_hand() -> None:
    images = torch.cat([one_image(7, 6, 5, 4, 3, 2, 1)] * 7)
    labels = torch.arange(7)
    grid = evaluate(Answers(), cut(images, labels, 3), ["gaussian_blur:0"])
    assert (grid.images, grid.clean_top1, grid.clean_top5) == (7, 1 / 7, 5 / 7)
    curve = grid.curves["gaussian_blur"]
    assert (curve.top1, curve.top5) == ((1 / 7,), (5 / 7,))


@pytest.mark.usefixtures("any_values")
def test_with_fewer_than_five_classes_top5_is_all() -> None:
    images = torch.cat([one_image(3, 2, 1)] * 3)
    grid = evaluate(Answers(), [(images, torch.arange(3))], ["gaussian_blur:0"])
    assert (grid.clean_top1, grid.clean_top5) == (1 / 3, 1.0)


def test_accuracy_is_a_direct_count(digits_model: Classifier, digits_batch: Batch) -> None:
    images, labels = digits_batch
    grid = evaluate(
        digits_model, cut(images, labels, 20), ["gaussian_blur:1,1.5", "awgn:60:clip"], seed=4
    )
    noisy = Distortion("awgn", clip=True)(
        images, 60.0, seeds_for(4, "awgn", 60.0, first=0, count=len(images))
    )
    blur = Distortion("gaussian_blur")
    with torch.no_grad():
        clean = digits_model(images)
        blurred = [digits_model(blur(images, sigma)) for sigma in (1.0, 1.5)]
        noised = digits_model(noisy)
    assert grid.clean_top1 == pytest.approx(hits(clean, labels, 1))
    curve = grid.curves["gaussian_blur"]
    assert curve.top1 == pytest.approx([hits(logits, labels, 1) for logits in blurred])
    assert curve.top5 == pytest.approx([hits(logits, labels, 5) for logits in blurred])
    assert len({grid.clean_top1, *curve.top1}) == 3, "the levels must differ to say something"
    assert grid.curves["awgn"].top1 == pytest.approx([hits(noised, labels, 1)])


def test_the_mean_is_over_clean_and_every_level(
    digits_model: Classifier, digits_batch: Batch
) -> None:
    grid = evaluate(digits_model, [digits_batch], ["gaussian_blur:1,1.5,2", "awgn:50"])
    blur, noise = grid.curves["gaussian_blur"], grid.curves["awgn"]
    assert blur.mean_top1 == pytest.approx((grid.clean_top1 + sum(blur.top1)) / 4)
    assert noise.mean_top1 == pytest.approx((grid.clean_top1 + noise.top1[0]) / 2)
    assert grid.mean_top1 == pytest.approx((blur.mean_top1 + noise.mean_top1) / 2)


def test_without_levels_the_grid_of_the_input_size_is_taken(
    digits_model: Classifier, digits_batch: Batch
) -> None:
    images, labels = digits_batch
    grid = evaluate(digits_model, [(images[:2], labels[:2])], ["awgn"])
    assert grid.curves["awgn"].distortion.levels == (5, 10, 15, 20, 25, 30)


class Recorder(nn.Module):
    """Keeps the images it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return images.mean((2, 3)).repeat(1, 2)


def noise_seen(images: Tensor, size: int, spec: str, seed: int = 0) -> Tensor:
    recorder = Recorder()
    evaluate(recorder, cut(images, torch.zeros(len(images), dtype=torch.long), size), spec, seed)
    per_batch = 1 + len(spec.split(":")[1].split(","))
    shown = recorder.seen[-per_batch * -(-len(images) // size) :]  # after the check at the start
    return torch.cat(shown[per_batch - 1 :: per_batch])  # the last level of each batch


def test_noise_depends_on_seed_level_and_place_alone(images: Tensor) -> None:
    expected = Distortion("awgn")(
        images, 20.0, seeds_for(0, "awgn", 20.0, first=0, count=len(images))
    )
    assert torch.equal(noise_seen(images, 12, "awgn:20"), expected)
    assert torch.equal(noise_seen(images, 5, "awgn:20"), expected)
    assert torch.equal(noise_seen(images, 5, "awgn:10,20"), expected)
    assert not torch.equal(noise_seen(images, 12, "awgn:20", seed=1), expected)


def test_empty_batches_are_passed_over(classifier: Classifier, batches: list[Batch]) -> None:
    empty = (torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.long))
    mixed = evaluate(classifier, [empty, *batches, empty], ["awgn:20"])
    assert mixed == evaluate(classifier, batches, ["awgn:20"])
    with pytest.raises(InputError, match="no images to evaluate on"):
        evaluate(classifier, [empty], ["awgn"])


@pytest.mark.parametrize("label", [-2, 5])
def test_labels_outside_the_classes_are_refused(classifier: Classifier, label: int) -> None:
    batch = (torch.rand(2, 3, 16, 16), torch.tensor([0, label]))
    with pytest.raises(InputError, match=f"label {label}: the network has 5 classes"):
        evaluate(classifier, [batch], ["awgn"])


def without_labels(batches: list[Batch], missing: list[int]) -> list[Batch]:
    """The same batches; the images with these numbers have no label."""
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    labels = labels.clone()
    labels[missing] = -1
    return cut(images, labels, len(batches[0][0]))


@pytest.mark.parametrize("missing", ["some", "all"])
def test_where_an_image_of_the_first_batch_has_no_label_the_prediction_is_the_target(
    classifier: Classifier,
    batches: list[Batch],
    missing: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = sum(len(labels) for _, labels in batches)
    some = without_labels(batches, [1] if missing == "some" else list(range(count)))
    grid = evaluate(classifier, some, ["awgn:20"])
    notes = capsys.readouterr().err
    assert grid.target == "prediction"
    assert grid == evaluate(classifier, batches, ["awgn:20"], target="prediction")
    said = f"note: 1 of the first {len(batches[0][0])} images have no label"
    assert notes.count(said) == (missing == "some")
    assert bool(notes) == (missing == "some")


def test_an_image_without_a_label_after_a_labelled_batch_is_an_error(
    classifier: Classifier, batches: list[Batch]
) -> None:
    late = without_labels(batches, [len(batches[0][0])])
    with pytest.raises(InputError, match="an image without a label .* labels are needed"):
        evaluate(classifier, late, ["awgn:20"])
    with pytest.raises(InputError, match="an image without a label .* labels are needed"):
        evaluate(classifier, without_labels(batches, [0]), ["awgn:20"], target="labels")


def test_the_model_is_evaluated_in_inference_mode_and_left_as_it_was(
    classifier: Classifier, batches: list[Batch]
) -> None:
    expected = evaluate(classifier, batches, ["awgn:20"])
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    classifier.network.train()
    assert evaluate(classifier, batches, ["awgn:20"]) == expected
    assert classifier.network.training
    assert all(torch.equal(before[name], t) for name, t in classifier.state_dict().items())


def test_an_adapter_that_is_off_evaluates_as_the_baseline(
    classifier: Classifier, images: Tensor
) -> None:
    with torch.no_grad():
        loader = cut(images, classifier(images).argmax(1), 5)
    baseline = evaluate(classifier, loader, ["awgn:20"])
    assert baseline.clean_top1 == 1
    adapted = correct(classifier, {"stem": range(8)}, unit={"kind": "full", "start": "he"})
    with adapted.disable_adapter():
        assert evaluate(adapted, loader, ["awgn:20"]) == baseline


# --- costs


def test_costs_of_a_small_network_by_hand(network: TinyCNN) -> None:
    """Multiply-adds: pixels x filters x (inputs a group) x kernel area; outputs x inputs."""
    found = costs(network, Preprocessing(16, (0.5,) * 3, (0.5,) * 3))
    stem, grouped = 16 * 16 * 8 * 3 * 9, 16 * 16 * 8 * 4 * 9
    depthwise, pointwise, head = 16 * 16 * 8 * 9, 8 * 8 * 12 * 8, 12 * 5
    assert found.multiply_adds == stem + grouped + depthwise + pointwise + head
    whole = 8 * 27 + 2 * 8 + (8 * 36 + 8) + (8 * 9 + 8) + (12 * 8 + 12) + 2 * 12 + (12 * 5 + 5)
    assert (found.parameters, found.trainable_parameters) == (whole, whole)


def allcnn_multiply_adds() -> int:
    layers = [(32, 3, 96, 9), (32, 96, 96, 9), (16, 96, 96, 9), (16, 96, 192, 9)]
    layers += [(16, 192, 192, 9), (8, 192, 192, 9), (6, 192, 192, 9), (6, 192, 192, 1)]
    layers += [(6, 192, 100, 1)]
    return sum(size * size * i * o * area for size, i, o, area in layers)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (CifarAllCNN(), allcnn_multiply_adds()),
        # He et al. 2015: 3n = 9 blocks of two 3x3 convolutions, 40.8 million multiply-adds
        (
            CifarResNet20(),
            32 * 32 * 27 * 16
            + 6 * 32**2 * 9 * 16**2
            + 16**2 * 9 * (16 * 32 + 5 * 32**2)
            + 8**2 * 9 * (32 * 64 + 5 * 64**2)
            + 64 * 100,
        ),
    ],
)
def test_costs_of_the_built_in_networks(network: nn.Module, expected: int) -> None:
    assert costs(network, Preprocessing(32, (0.5,) * 3, (0.5,) * 3)).multiply_adds == expected


def test_costs_of_an_adapter(network: TinyCNN) -> None:
    known = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
    alone = costs(network, known)
    config = UnitConfig(width=3, dilations=(1,), separable=True)
    adapted = correct(network, {"pointwise": [0, 1]}, unit=config)
    found = costs(adapted, known)
    added = (2 * 3 + 2 * 3) + (2 * 3 * 9 + 2 * 3) + (3 * 2 + 2)
    assert found.trainable_parameters == added
    assert found.parameters == alone.parameters + added
    assert found.multiply_adds == alone.multiply_adds + 8 * 8 * (2 * 3 + 2 * 3 * 9 + 3 * 2)
    with adapted.disable_adapter():
        assert costs(adapted, known).multiply_adds == alone.multiply_adds


def test_costs_leave_the_model_alone(classifier: Classifier) -> None:
    classifier.network.train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    costs(classifier, classifier.preprocessing)
    assert classifier.network.training
    assert all(torch.equal(before[name], t) for name, t in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())


# --- as JSON


def test_a_systems_record_is_that_of_results_json(
    digits_model: Classifier, digits_batch: Batch
) -> None:
    grid = evaluate(digits_model, [digits_batch], ["gaussian_blur:1,1.5", "awgn:50:quantize"])
    cost = Costs(parameters=10, trainable_parameters=4, multiply_adds=99)
    record = system_record(grid, cost, trained=True, images_seen=7, seconds=1.234567)
    blur: dict[str, Any] = record["distortions"]["gaussian_blur"]
    assert blur["levels"] == [1, 1.5]
    assert blur["top1"] == list(grid.curves["gaussian_blur"].top1)
    assert blur["mean_top1"] == pytest.approx((blur["clean_top1"] + sum(blur["top1"])) / 3)
    assert record["distortions"]["awgn"]["quantize"] is True
    assert (record["trainable_parameters"], record["images_seen"]) == (4, 7)
    assert (record["parameters"], record["multiply_adds"], record["test_images"]) == (10, 99, 48)
    untrained = system_record(grid, cost, trained=False, images_seen=0, seconds=0)
    assert untrained["trainable_parameters"] == 0
