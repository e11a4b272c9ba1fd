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
    conv_adapter,
    eata,
    feature_correction,
    finetune,
    front_end,
    lora,
    merge,
    norm_adaptation,
    restoration,
    score_shares,
    tent,
)
from deepcorrect.correction import GatedCopy, fit_gate, looks_distorted
from deepcorrect.data import Preprocessing
from deepcorrect.distortions import Distortion
from deepcorrect.evaluation import evaluate
from deepcorrect.networks import Classifier, costs, describe, find, interpolate, tap
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


# --- weights between the network's and a fine-tuned copy's


def test_everything_is_interpolated_but_whole_numbers(
    network: TinyCNN, batches: list[Batch]
) -> None:
    tuned = finetune(network)
    fit(tuned, batches, "awgn:20", epochs=1, **FAST)
    start, end = network.state_dict(), tuned.state_dict()
    assert not torch.equal(start["norm.running_mean"], end["norm.running_mean"])
    for share in (0.0, 0.3, 1.0):
        for name, value in interpolate(start, end, share).items():
            if "num_batches" in name:
                assert torch.equal(value, end[name])
            else:
                assert torch.allclose(value, (1 - share) * start[name] + share * end[name])


def test_the_best_share_is_that_of_the_closed_form() -> None:
    """Of a line from 1 to 3 the point nearest to 1.8 is at 0.4."""
    start, tuned = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(start.weight, 1.0)
    nn.init.constant_(tuned.weight, 3.0)
    scores = score_shares(
        start.state_dict(), tuned, lambda m: -abs(float(m.get_parameter("weight").detach()) - 1.8)
    )
    assert max(scores, key=lambda share: scores[share]) == 0.4
    assert scores[0.0] == pytest.approx(-0.8)
    assert float(tuned.weight.detach()) == 3.0, "the copy is as it was"


def test_shares_outside_and_other_networks_are_refused(network: TinyCNN) -> None:
    state = network.state_dict()
    with pytest.raises(InputError, match=r"share=1\.5: it is from 0"):
        interpolate(state, state, 1.5)
    with pytest.raises(InputError, match="other networks"):
        interpolate(state, nn.Linear(2, 2).state_dict(), 0.5)


# --- adapters beside convolutions, and corrected maps


@pytest.mark.parametrize("place", ["parallel", "sequential"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_conv_adapter_adds_its_bottleneck_to_the_convolution(
    place: Any, groups: int, images: Tensor
) -> None:
    """Written out group by group."""
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)
    maps = images.repeat(1, 2, 1, 1)[:, :4]
    adapted = conv_adapter(nn.Sequential(conv), place, reduction=2, seed=1)
    before = conv(maps)
    assert torch.equal(adapted(maps), before), "it starts as the network"
    parts = dict(adapted.named_parameters())
    own = {name.split("part.")[1]: p for name, p in parts.items() if "part." in name}
    nn.init.normal_(own["pointwise.weight"])
    nn.init.normal_(own["scale"])
    read = maps if place == "parallel" else before
    stride = 2 if place == "parallel" else 1
    width = read.shape[1] // 2
    filters = own["depthwise.weight"]
    assert filters.shape == (width, 2, 3, 3)
    hidden = [
        F.conv2d(read[:, 2 * n : 2 * n + 2], filters[n : n + 1], stride=stride, padding=1)
        for n in range(width)
    ]
    mixed = torch.einsum(
        "oi,nihw->nohw", own["pointwise.weight"][..., 0, 0], torch.cat(hidden, 1).clamp(min=0)
    )
    expected = before + own["scale"] * mixed
    assert torch.allclose(adapted(maps), expected, atol=1e-5)
    assert torch.equal(conv(maps), before), "the network is as it was"


def test_adapters_are_all_that_training_changes(
    classifier: Classifier, batches: list[Batch], images: Tensor
) -> None:
    adapted = conv_adapter(classifier, reduction=2)
    convs = {"stem", "grouped", "depthwise"}  # not the 1 x 1 convolution
    assert {name.split(".")[2] for name in trainable(adapted)} == convs
    start = {name: value.clone() for name, value in adapted.state_dict().items()}
    training = {"objective": {"logits": 1.0, "activations": 1.0}, "learning_rate": 1e-2}
    fit(adapted, batches, "awgn:20", epochs=1, **training, **FAST)
    changed = {n for n, value in adapted.state_dict().items() if not torch.equal(value, start[n])}
    assert changed
    assert changed <= trainable(adapted)
    assert not torch.equal(adapted(images), classifier(images))


def test_corrected_maps_come_nearer_to_the_clean_ones(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    """The objective compares the maps of that site alone."""
    adapted = feature_correction(classifier, "norm", parameters=2000, depth=3, seed=1)
    assert count(adapted) <= 2000
    assert torch.equal(adapted(images), classifier(images))
    shown = Distortion("awgn")(images, 60.0, torch.Generator().manual_seed(5))

    def distance() -> float:
        with tap(classifier, ["norm"]) as clean, tap(adapted, ["norm"]) as maps, torch.no_grad():
            classifier(images)
            adapted(shown)
            return float((maps["norm"] - clean["norm"]).square().mean())

    before = distance()
    data, objective = cut(images, labels, 6), {"activations": 1.0}
    settings = {"clean_share": 0.0, "learning_rate": 3e-3, "objective": objective}
    fit(adapted, data, "awgn:60", epochs=25, **settings, **FAST)
    assert distance() < 0.8 * before
    assert all(".part." in name for name in trainable(adapted))


@pytest.mark.parametrize("place", ["conv_adapter", "feature_correction", "lora"])
def test_adapters_stand_behind_a_gate(
    classifier: Classifier, images: Tensor, batches: list[Batch], place: str
) -> None:
    makers = {
        "conv_adapter": lambda: conv_adapter(classifier),
        "feature_correction": lambda: feature_correction(classifier, parameters=2000),
        "lora": lambda: lora(classifier, 0.8),
    }
    gated = GatedCopy(classifier, makers[place]())
    training = {"objective": {"logits": 1.0, "activations": 1.0}, "learning_rate": 1e-2}
    fit(gated, batches, "awgn:20", epochs=1, **training, **FAST)
    assert torch.equal(gated(images), gated.tuned(images)), "without a gate all are changed"
    assert not torch.allclose(gated(images), classifier(images), atol=1e-4)
    found = fit_gate(gated, batches, "awgn:60", false_alarms=0.25)
    chosen = looks_distorted(gated, images)
    assert gated.gate is not None
    assert found == gated.gate.config
    expected = torch.where(chosen[:, None], gated.tuned(images), classifier(images))
    assert torch.allclose(gated(images), expected, atol=1e-5)


def test_what_cannot_be_adapted_is_refused(classifier: Classifier) -> None:
    with pytest.raises(InputError, match="reduction=0 is below 1"):
        conv_adapter(classifier, reduction=0)
    with pytest.raises(InputError, match="no convolution larger"):
        conv_adapter(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(InputError, match="depth=1 is below 2"):
        feature_correction(classifier, depth=1)
    with pytest.raises(InputError, match="too few for a residual"):
        feature_correction(classifier, parameters=10)
    with pytest.raises(InputError, match="unknown site 'nowhere'"):
        feature_correction(classifier, "nowhere")


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


class NormWithActivation(nn.BatchNorm2d):
    """As timm's batch norms, it has the activation inside."""

    def forward(self, input: Tensor) -> Tensor:
        mean, variance, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        normed = F.batch_norm(input, mean, variance, weight, bias, self.training, 0.1, self.eps)
        return F.relu6(normed)


def test_what_a_batch_norm_does_beside_normalising_stays(images: Tensor) -> None:
    """Without its activation the network would be another."""
    norm = NormWithActivation(3)
    nn.init.uniform_(norm.weight, 0.5, 2)
    network = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    expected = F.relu6(_normed_by_batch(norm, images)).mean((2, 3))
    assert torch.allclose(norm_adaptation(network)(images), expected, atol=1e-5)
    assert torch.allclose(tent(network, 1e-2)(images), expected, atol=1e-5)
    assert not torch.allclose(network.eval()(images), expected, atol=1e-2)


def _normed_by_batch(norm: nn.BatchNorm2d, maps: Tensor) -> Tensor:
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
    scaled = (maps - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + norm.eps).sqrt()
    return scaled * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def test_a_batch_norm_that_normalises_by_itself_is_refused(images: Tensor) -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return input - input.mean()

    with pytest.raises(InputError, match="class Own does not normalise"):
        norm_adaptation(nn.Sequential(Own(3)))(images)


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


def test_eata_learns_from_sure_images_unlike_those_before(
    network: TinyCNN, images: Tensor, labels: Tensor
) -> None:
    """The authors' loss, written out image by image."""
    clean = cut(images, labels, 6)
    adapted = eata(network, clean, 1e-2, sure=0.99, redundant=0.9, holding=50.0)
    own = copy.deepcopy(network).train()
    for norm in (own.norm, own.out_norm):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None
    trained = [p for norm in (own.norm, own.out_norm) for p in (norm.weight, norm.bias)]
    start = [p.detach().clone() for p in trained]
    fisher = [torch.zeros_like(p) for p in trained]
    for shown, _ in clean:
        logits = own(shown)
        loss = F.cross_entropy(logits, logits.argmax(1))
        gradients = torch.autograd.grad(loss, trained)
        fisher = [f + g**2 / len(clean) for f, g in zip(fisher, gradients, strict=True)]
    optimizer = torch.optim.SGD(trained, lr=1e-2, momentum=0.9)
    margin, average, counts = 0.99 * float(np.log(CLASSES)), None, []
    for step in range(3):
        shown = images + step * 0.3
        logits = own(shown)
        assert torch.allclose(adapted(shown), logits, atol=1e-4), step
        losses, kept = [], []
        each_entropy = torch.distributions.Categorical(logits=logits).entropy()
        for answer, entropy in zip(logits.detach().softmax(1), each_entropy, strict=True):
            alike = average is not None and float(F.cosine_similarity(answer, average, 0)) >= 0.9
            if float(entropy.detach()) < margin and not alike:
                losses.append(entropy / float(torch.exp(entropy.detach() - margin)))
                kept.append(answer)
        counts.append(len(kept))
        if kept:
            mean = torch.stack(kept).mean(0)
            average = mean if average is None else 0.9 * average + 0.1 * mean
            held = [
                (f * (p - s) ** 2).sum() for f, p, s in zip(fisher, trained, start, strict=True)
            ]
            optimizer.zero_grad()
            (torch.stack(losses).mean() + 50 * torch.stack(held).sum()).backward()
            optimizer.step()
    assert counts[0] > counts[1], "what is like the answers before is left out"
    assert not trainable(adapted)


def test_eata_makes_no_step_where_no_answer_is_sure(
    network: TinyCNN, images: Tensor, labels: Tensor
) -> None:
    adapted = eata(network, cut(images, labels, 6), 1.0, sure=1e-6)
    assert torch.equal(adapted(images), adapted(images))


def test_tent_takes_sgd_with_a_momentum(network: TinyCNN, images: Tensor) -> None:
    adapted = tent(network, 1e-2, momentum=0.9)
    adapted(images)
    own = copy.deepcopy(network).train()
    for norm in (own.norm, own.out_norm):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None
    trained = [p for norm in (own.norm, own.out_norm) for p in (norm.weight, norm.bias)]
    optimizer = torch.optim.SGD(trained, lr=1e-2, momentum=0.9)
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
