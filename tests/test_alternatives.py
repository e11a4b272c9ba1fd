"""The systems that correction is compared with: what each changes, against direct computations."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, Batch, TinyCNN, cut
from scipy.ndimage import correlate1d
from torch import Tensor, nn

from deepcorrect.alternatives import (
    finetune,
    front_end,
    lora,
    merge,
    norm_adaptation,
    restoration,
    tent,
)
from deepcorrect.data import Preprocessing
from deepcorrect.distortions import Distortion
from deepcorrect.evaluation import evaluate
from deepcorrect.networks import Classifier, costs, describe, find
from deepcorrect.runtime import InputError, MissingExtraError
from deepcorrect.training import fit
from deepcorrect.training._augmentation import augmix

FAST: dict[str, Any] = {"precision": "float32", "channels_last": False}


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- fine-tuning a part


def test_norms_are_batch_norms_weights_and_biases(classifier: Classifier) -> None:
    parts = ("norm.weight", "norm.bias", "out_norm.weight", "out_norm.bias")
    assert trainable(finetune(classifier, "norms")) == {f"network.{part}" for part in parts}


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_first_and_last_take_whole_layers_within_the_budget(
    classifier: Classifier, share: float
) -> None:
    total = sum(p.numel() for p in classifier.parameters())
    order = ["stem", "norm", "grouped", "depthwise", "pointwise", "out_norm", "head"]
    for trains, layers in (("first", order), ("last", order[::-1])):
        tuned = finetune(classifier, trains, share)  # pyright: ignore[reportArgumentType]
        names = {name.split(".")[1] for name in trainable(tuned)}
        chosen = layers[: len(names)]
        assert names == set(chosen)
        assert count(tuned) <= share * total
        if len(chosen) < len(layers):
            following = getattr(classifier.network, layers[len(chosen)])
            assert count(tuned) + sum(p.numel() for p in following.parameters()) > share * total


def test_a_budget_above_one_counts_parameters(classifier: Classifier) -> None:
    assert trainable(finetune(classifier, "last", 65)) == {
        "network.head.weight",
        "network.head.bias",
    }


@pytest.mark.parametrize(
    ("trains", "parameters", "message"),
    [
        ("first", None, "needs parameters"),
        ("all", 0.5, "takes no parameters"),
        ("first", 3, "less than the first layer"),
    ],
)
def test_a_budget_that_does_not_fit_is_refused(
    classifier: Classifier, trains: Any, parameters: float | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        finetune(classifier, trains, parameters)


# --- low-rank adaptation


def test_lora_starts_as_the_network_and_keeps_to_its_budget(
    classifier: Classifier, images: Tensor
) -> None:
    adapted = lora(classifier, 0.8)
    total = sum(p.numel() for p in classifier.parameters())
    assert 0 < count(adapted) <= 0.8 * total
    assert all("lora_" in name for name in trainable(adapted))
    assert torch.allclose(adapted(images), classifier(images), atol=1e-6)


def test_sites_of_an_adapted_network_are_the_networks_own(classifier: Classifier) -> None:
    adapted = lora(classifier, 0.8)
    channels = [
        {name: site.channels for name, site in describe(model, find(model)).items()}
        for model in (adapted, classifier)
    ]
    assert channels[0] == channels[1]


def test_merged_lora_answers_alike_and_costs_nothing(
    classifier: Classifier, batches: list[Batch], images: Tensor
) -> None:
    adapted = lora(classifier, 0.8)
    fit(adapted, batches, "awgn:20", epochs=1, learning_rate=1e-2, **FAST)
    before = adapted(images)
    assert not torch.allclose(before, classifier(images), atol=1e-3)
    merged = merge(adapted)
    assert torch.allclose(merged(images), before, atol=1e-4)
    sizes = classifier.preprocessing
    assert costs(merged, sizes).multiply_adds == costs(classifier, sizes).multiply_adds


def test_lora_needs_a_rank_and_plain_convolutions(classifier: Classifier) -> None:
    with pytest.raises(InputError, match="below rank 1"):
        lora(classifier, 0.01)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten())
    with pytest.raises(InputError, match="without groups"):
        lora(grouped)


# --- a front end


def test_a_front_end_starts_as_the_identity_and_is_as_wide_as_allowed(
    classifier: Classifier, images: Tensor
) -> None:
    limit = 3000
    whole = front_end(classifier, limit, depth=2)
    assert torch.equal(whole(images), classifier(images))
    assert all(name.startswith("front.") for name in trainable(whole))
    width = whole.front.width
    wider = 9 * (width + 1) * (12 + width + 1) + 4 * (width + 1) + 9 * (width + 1) * 12 + 12
    assert count(whole) <= limit < wider


def test_training_a_front_end_leaves_the_network(
    classifier: Classifier, batches: list[Batch], images: Tensor
) -> None:
    before = classifier(images)
    whole = front_end(classifier, 3000, depth=2)
    start = whole(images)
    fit(whole, batches, "awgn:20", epochs=1, **FAST)
    assert torch.equal(classifier(images), before)
    assert not torch.equal(whole(images), start)
    network = dict(whole.network.state_dict().items())
    assert all(torch.equal(v, network[k]) for k, v in classifier.state_dict().items())


def test_a_front_end_needs_even_images_and_room(network: TinyCNN, classifier: Classifier) -> None:
    with pytest.raises(InputError, match="Classifier"):
        front_end(network)
    odd = Classifier(network, Preprocessing(15, (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(InputError, match="even"):
        front_end(odd)
    with pytest.raises(InputError, match="too few"):
        front_end(classifier, 10)


# --- batch norms at test time


def by_hand(network: TinyCNN, images: Tensor, prior: float) -> Tensor:
    """The network's own forward pass in training mode, with momentum as the mixture's weight."""
    copied = copy.deepcopy(network)
    share = prior / (prior + len(images))
    with torch.no_grad():
        for norm in (copied.norm, copied.out_norm):
            norm.momentum = 1 - share
        maps = copied.relu(_normed(copied.norm, copied.stem(images)))
        out = copied.depthwise(copied.relu(copied.grouped(maps))) + maps
        out = F.avg_pool2d(copied.relu(out), 2)
        out = F.hardswish(_normed(copied.out_norm, copied.pointwise(out)))
        return copied.head(out.mean((2, 3)))


def _normed(norm: nn.BatchNorm2d, maps: Tensor) -> Tensor:
    values = maps.transpose(0, 1).flatten(1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    mean = torch.lerp(norm.running_mean, values.mean(1), norm.momentum)
    variance = torch.lerp(norm.running_var, values.var(1, correction=0), norm.momentum)
    shape = (1, -1, 1, 1)
    scaled = (maps - mean.view(shape)) / (variance.view(shape) + norm.eps).sqrt()
    return scaled * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize("prior", [0.0, 16.0])
def test_norm_adaptation_mixes_the_batchs_statistics(
    network: TinyCNN, images: Tensor, prior: float
) -> None:
    before = network(images)
    adapted = norm_adaptation(network, prior)
    assert torch.allclose(adapted(images), by_hand(network, images, prior), atol=1e-4)
    assert torch.equal(network(images), before)


@pytest.mark.parametrize(("group", "sizes"), [(5, (4, 4, 4)), (8, (6, 6)), (40, (12,))])
def test_norm_adaptation_of_few_images_is_that_of_each_group(
    network: TinyCNN, images: Tensor, group: int, sizes: tuple[int, ...]
) -> None:
    adapted = norm_adaptation(network, images=group)
    parts = [by_hand(network, some, float(group)) for some in images.split(sizes)]
    assert torch.allclose(adapted(images), torch.cat(parts), atol=1e-4)


def test_norm_adaptation_needs_batch_norms() -> None:
    with pytest.raises(InputError, match="no 2-D batch norm"):
        norm_adaptation(nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match="below 0"):
        norm_adaptation(nn.BatchNorm2d(3), -1)
    with pytest.raises(InputError, match="images=0 is below 1"):
        norm_adaptation(nn.BatchNorm2d(3), images=0)


def test_tent_answers_before_its_step_and_makes_the_entropy_fall(
    network: TinyCNN, images: Tensor
) -> None:
    def entropy(logits: Tensor) -> float:
        return float(torch.distributions.Categorical(logits=logits).entropy().mean())

    adapted = tent(network, 1e-2)
    with torch.no_grad():  # as the evaluation has it
        answers = [adapted(images) for _ in range(8)]
    assert torch.allclose(answers[0], by_hand(network, images, 0), atol=1e-4)
    assert entropy(answers[-1]) < entropy(answers[0])
    assert not trainable(adapted)
    adapted.start_level(None, 0)
    assert torch.allclose(adapted(images), answers[0], atol=1e-6)


def test_one_tent_step_is_adams_down_the_entropy(network: TinyCNN, images: Tensor) -> None:
    adapted = tent(network, 1e-2)
    adapted(images)
    own = copy.deepcopy(network).train()
    for norm in (own.norm, own.out_norm):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None
    trained = [p for norm in (own.norm, own.out_norm) for p in (norm.weight, norm.bias)]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    torch.distributions.Categorical(logits=own(images)).entropy().mean().backward()
    optimizer.step()
    assert torch.allclose(adapted(images), own(images), atol=1e-4)


def test_a_test_time_system_sees_each_level_by_itself(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    order: list[tuple[str, float]] = []

    class Watching(type(classifier)):
        def start_level(self, distortion: Distortion | None, level: float) -> None:
            order.append((distortion.name if distortion else "clean", level))

        def forward(self, images: Tensor) -> Tensor:
            order.append(("batch", len(images)))
            return super().forward(images)

    model = Watching(classifier.network, classifier.preprocessing)
    told = evaluate(model, cut(images, labels, 6), ["awgn:10,20"])
    batches = [("batch", 6)] * 2
    expected = [("clean", 0), *batches, ("awgn", 10), *batches, ("awgn", 20), *batches]
    assert order == expected
    assert told == evaluate(classifier, cut(images, labels, 6), ["awgn:10,20"])


# --- restoration


@pytest.fixture
def smooth() -> Tensor:
    """Images with edges and without noise."""
    rows = torch.linspace(0.2, 0.8, 32)[:, None].expand(32, 32)
    picture = torch.where(torch.arange(32)[None] < 16, rows, 1 - rows)
    return picture.expand(2, 3, 32, 32).clone()


def test_deblurring_inverts_the_blur_with_its_black_border(
    classifier: Classifier, smooth: Tensor
) -> None:
    blurred = Distortion("gaussian_blur")(smooth, 1.0, torch.Generator().manual_seed(0))
    weights = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    own = smooth.double().numpy()
    for axis in (2, 3):
        own = correlate1d(own, weights / weights.sum(), axis=axis, mode="constant")
    assert np.allclose(blurred.numpy(), own, atol=1e-6)
    system = restoration(classifier, balance=1e-8)
    system.start_level(Distortion("gaussian_blur"), 1.0)
    assert float((system.restored(blurred) - smooth).abs().max()) < 1e-3
    assert float((blurred - smooth).abs().max()) > 0.1


def test_denoising_takes_most_of_the_noise_away(classifier: Classifier, smooth: Tensor) -> None:
    noised = Distortion("awgn")(smooth, 20.0, torch.Generator().manual_seed(0))
    system = restoration(classifier)
    system.start_level(Distortion("awgn"), 20.0)
    left = (system.restored(noised) - smooth).square().mean()
    assert float(left) < 0.3 * float((noised - smooth).square().mean())


def test_clean_images_and_unknown_distortions(classifier: Classifier, smooth: Tensor) -> None:
    system = restoration(classifier)
    system.start_level(None, 0)
    assert system.restored(smooth) is smooth
    with pytest.raises(InputError, match="no restoration of 'fog'"):
        system.start_level(Distortion("fog"), 1)


# --- AugMix


def test_augmix_is_the_generators_and_stays_in_range(images: Tensor) -> None:
    first = augmix(images, torch.Generator().manual_seed(0))
    torch.rand(3)
    assert torch.equal(first, augmix(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, augmix(images, torch.Generator().manual_seed(1)))
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.allclose(first * 255, (first * 255).round(), atol=1e-3)


def test_a_missing_library_names_its_extra(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    monkeypatch.delitem(__import__("sys").modules, "torchvision.transforms.v2", raising=False)
    with pytest.raises(MissingExtraError, match=r"deepcorrect-torch\[torchvision\]"):
        augmix(images, torch.Generator())


def test_classes_are_unchanged(classifier: Classifier, images: Tensor) -> None:
    for model in (finetune(classifier), lora(classifier, 0.8), front_end(classifier, 3000)):
        assert model(images).shape == (len(images), CLASSES)
