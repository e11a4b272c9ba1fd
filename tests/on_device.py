"""Every path of the package on tensors that are not on the CPU, compared with the CPU.

`test_devices.py` runs this file in a process of its own, since PyTorch must know a device before
the first backward pass. The device is pretended (see `pretended.py`), with float64 as CUDA has it
and without as MPS is; tests marked `cuda` run on a GPU where there is one.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, SIZE, Batch, cut, tiny_cnn
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect import alternatives, analysis, evaluation
from deepcorrect.correction._unit_config import KINDS as UNIT_KINDS
from deepcorrect.deployment import _latency
from deepcorrect.distortions import KINDS, Distortion, parse_all
from deepcorrect.networks import multiply_adds
from deepcorrect.ranking import METHODS
from deepcorrect.runtime import exact_float32
from deepcorrect.training import _fit

LEFT_OUT = {
    "bfloat16": "autocast is compiled code of each kind of device, which a pretended one lacks",
    "checkpoints of fit": "torch.save reads a device's memory, and a pretended one has none",
    "int8 and ONNX Runtime": "they run files, which are written from the CPU",
    "nearest neighbours, t-SNE, SVMs": "scikit-learn computes on the CPU with what was gathered",
}
"""What is not tried on a pretended device, and why. `benchmarks/gpu.py` tries the first on CUDA."""

CPU = torch.device("cpu")
SITES = {"stem": [0, 1, 2], "pointwise": [1, 3, 5]}
SPECS = ["gaussian_blur:1", "contrast:2"]
"""Distortions that draw no random numbers, of which a GPU has its own."""
WAITING = {
    "motion_blur": 1,
    "snow": 1,
    "frost": 1,
    "occlusion": 1,
    "rolling_mixture": 8,
    "glass_blur": 16,
    "jpeg_compression": 1,
    "spatter": 1,
}
"""The kinds for which a GPU is waited for, at most so often a batch: where a place or an angle is
drawn, once for all images; JPEG's codec and the drops' relief compute on the CPU; glass blur ends
when nothing moves any more."""


@dataclass(frozen=True)
class Place:
    """A device that is not the CPU, and what makes it wait if it is pretended."""

    device: torch.device
    waits: list[str] | None
    has_float64: bool = True

    @property
    def is_pretended(self) -> bool:
        return self.waits is not None

    def on_both(self, compute: Callable[[torch.device], Any]) -> tuple[Any, Any]:
        """What is computed on the device and on the CPU."""
        with exact_float32():
            return compute(self.device), compute(CPU)

    def count_waits(self, compute: Callable[[torch.device], Any]) -> Counter[str]:
        if self.waits is None:
            pytest.skip("only a pretended device counts when it is waited for")
        self.waits.clear()
        compute(self.device)
        return Counter(self.waits)


has_cuda = torch.cuda.is_available()
on_cuda = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not has_cuda, reason="needs a CUDA device")],
)


@pytest.fixture(params=["pretended", "pretended without float64", on_cuda])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each device. Its global generator is as before afterwards."""
    yield from _opened(request.param)


@pytest.fixture(params=["pretended", on_cuda])
def gpu(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each device that has float64, for claims in which it does not matter."""
    yield from _opened(request.param)


@pytest.fixture(params=["pretended without float64"])
def apple(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A device without float64, for claims that the others make of more cases."""
    yield from _opened(request.param)


def _opened(name: str) -> Iterator[Place]:
    if name == "cuda":
        device = torch.device("cuda", 0)
        before = torch.cuda.get_rng_state(device)
        yield Place(device, None)
        assert before.equal(torch.cuda.get_rng_state(device))
        return
    if has_cuda:
        pytest.skip("PyTorch would take the pretended device for its accelerator instead of CUDA")
    from pretended import DEVICE, MODULE, pretended_device

    with pretended_device(float64=name == "pretended", same_numbers=True) as watch:
        before = MODULE.state
        yield Place(DEVICE, watch.waits, watch.float64)
        assert before == MODULE.state


def network(device: torch.device) -> nn.Module:
    return tiny_cnn().to(device)


def classifier(device: torch.device) -> dc.Classifier:
    preprocessing = dc.Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    return dc.Classifier(tiny_cnn(), preprocessing, "tiny").eval().to(device)


def corrected(device: torch.device, unit: Any = "bottleneck") -> dc.AdaptedModel:
    return dc.correct(network(device), SITES, unit=unit)


def numbered(count: int, size: int) -> list[Batch]:
    images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(2))
    return cut(images, labels, size)


BATCHES = numbered(12, 4)


def near(given: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Whether tensors, numbers, and mappings or lists of them, are equal up to rounding."""
    if isinstance(expected, Tensor):
        assert given.shape == expected.shape
        given, expected = given.detach().cpu().double(), expected.detach().double()
        limit = tolerance * max(1.0, float(expected.abs().max()))
        assert float((given - expected).abs().max()) <= limit
    elif isinstance(expected, dict):
        assert given.keys() == expected.keys()
        near(list(given.values()), list(expected.values()), tolerance)
    elif isinstance(expected, list | tuple):
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            near(one, other, tolerance)
    elif isinstance(expected, float):
        assert given == pytest.approx(expected, rel=tolerance, abs=tolerance)
    else:
        assert given == expected


# --- distortions


@pytest.mark.parametrize("name", KINDS)
def test_a_distortion_is_that_of_a_cpu(place: Place, name: str) -> None:
    channels = 3 if place.has_float64 else 1
    images = torch.rand(5, channels, 24, 32, generator=torch.Generator().manual_seed(1))
    levels = torch.tensor([KINDS[name].small_levels[k] for k in (1, 0, 1, 1, 1)])
    shown = Distortion(name)(images.to(place.device), levels.to(place.device), torch.arange(5))
    assert shown.device == place.device
    expected = Distortion(name)(images, levels, torch.arange(5))
    if place.is_pretended or not KINDS[name].random:
        near(shown, expected, 1e-5)
    else:
        assert float(shown.mean()) == pytest.approx(float(expected.mean()), abs=0.15)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.random])
def test_random_kinds_draw_from_the_devices_own_generators(gpu: Place, name: str) -> None:
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1)).to(gpu.device)
    own: Any = nullcontext()
    if gpu.is_pretended:
        from pretended import pretended_device

        own = pretended_device()
    level, kind = KINDS[name].small_levels[1], Distortion(name)
    with own:
        together = kind(images, level, torch.arange(3))
        near(kind(images[1:], level, torch.arange(1, 3)), together[1:].cpu(), 1e-5)
    assert together.device == gpu.device


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_of_any_size_waits_as_often(gpu: Place, name: str) -> None:
    images = torch.rand(8, 3, 24, 24, generator=torch.Generator().manual_seed(1))

    def distort(device: torch.device) -> Tensor:
        return Distortion(name)(images.to(device), KINDS[name].small_levels[1], torch.arange(8))

    assert gpu.count_waits(distort).total() <= WAITING.get(name, 0)


# --- measuring


def test_accuracies_are_those_of_a_cpu(place: Place) -> None:
    near(*place.on_both(lambda device: dc.evaluate(network(device), BATCHES, SPECS).to_json()))


def test_agreement_is_that_of_a_cpu(gpu: Place) -> None:
    def measured(device: torch.device) -> Any:
        return dc.evaluate(classifier(device), BATCHES, SPECS, target="prediction").to_json()

    near(*gpu.on_both(measured))


def eata(model: nn.Module) -> nn.Module:
    return alternatives.eata(model, BATCHES)


@pytest.mark.parametrize("make", [alternatives.tent, alternatives.norm_adaptation, eata])
def test_systems_that_adapt_are_measured_alike(gpu: Place, make: Any) -> None:
    near(*gpu.on_both(lambda device: dc.evaluate(make(network(device)), BATCHES, SPECS).mean_top1))


def test_restored_images_are_those_of_a_cpu(place: Place) -> None:
    def measured(device: torch.device) -> list[Tensor]:
        restored = alternatives.restoration(nn.Flatten())
        found = []
        for name, level in (("awgn", 20.0), ("gaussian_blur", 1.0)):
            restored.start_level(Distortion(name), level)
            found.append(restored(BATCHES[0][0].to(device)))
        return found

    near(*place.on_both(measured))


def test_stored_sets_and_comparisons_are_alike(gpu: Place) -> None:
    def measured(device: torch.device) -> Any:
        stored = evaluation.evaluate_stored(network(device), {"fog": {1.0: lambda: BATCHES}})
        found = evaluation.compare(network(device), corrected(device), BATCHES, SPECS)
        return stored.mean_top1, found.gain, found.interval

    near(*gpu.on_both(measured))


def test_a_gpu_is_not_waited_for_at_each_level_or_batch(gpu: Place) -> None:
    def waits(batches: list[Batch], specs: list[str]) -> Counter[str]:
        return gpu.count_waits(lambda device: dc.evaluate(network(device), batches, specs))

    few = waits(numbered(2, 2), ["contrast:1"])
    assert waits(numbered(8, 2), ["contrast:1"]) == few
    more = waits(numbered(8, 2), ["contrast:1,2,3"])
    per_cell = 5  # what is counted of each cell is read once
    assert more.total() == few.total() + 2 * per_cell


def test_a_label_that_does_not_exist_is_refused(gpu: Place) -> None:
    images, labels = BATCHES[0]
    with pytest.raises(dc.InputError, match=f"label {CLASSES}"):
        dc.evaluate(network(gpu.device), [(images, labels * 0 + CLASSES)], SPECS)
    with pytest.raises(dc.InputError, match=f"label {CLASSES}"):
        dc.fit(corrected(gpu.device), [(images, labels * 0 + CLASSES)], SPECS, epochs=1)


def test_the_image_of_a_nan_is_named(gpu: Place) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = tiny_cnn()

        def forward(self, images: Tensor) -> Tensor:
            broken = images.amax((1, 2, 3)) < 0.5
            return self.inside(images).masked_fill(broken[:, None], float("nan"))

    model, batches = Broken().eval().to(gpu.device), copy.deepcopy(numbered(12, 4))
    batches[2][0][1] *= 0.4
    with pytest.raises(dc.InputError, match="image 9"):
        dc.evaluate(model, batches, ["contrast:1"])
    with pytest.raises(dc.InputError, match="image 9"):
        dc.rank(model, batches, ["contrast:1"], sites=["inside.stem"])


# --- ranking


@pytest.mark.parametrize("method", METHODS)
def test_priorities_are_those_of_a_cpu(gpu: Place, method: str) -> None:
    _priorities(gpu, method)


@pytest.mark.parametrize("method", ["swap_logprob", "conductance", "psnr"])
def test_priorities_need_no_float64(apple: Place, method: str) -> None:
    _priorities(apple, method)


def _priorities(place: Place, method: str) -> None:
    def ranked(device: torch.device) -> dict[str, Tensor]:
        sites = ["grouped", "pointwise"]
        return dict(dc.rank(network(device), BATCHES[:2], SPECS, method, sites).by_level)

    near(*place.on_both(ranked), 1e-3 if not place.is_pretended else 1e-5)


def test_ideal_corrections_are_those_of_a_cpu(place: Place) -> None:
    ranking = dc.rank(tiny_cnn(), BATCHES, SPECS[1:], "gradient", ["pointwise"])
    near(
        *place.on_both(
            lambda device: dc.ideal_correction(network(device), BATCHES, ranking, [0.5]).to_json()
        )
    )


def test_a_ranking_reads_the_gpu_once_per_pass_and_pair(gpu: Place) -> None:
    def waits(batches: list[Batch]) -> Counter[str]:
        return gpu.count_waits(lambda device: dc.rank(network(device), batches, ["contrast:1,2"]))

    blocks, pairs = 2, 4
    more = waits(numbered(6, 2))
    more.subtract(waits(numbered(2, 2)))
    passes = (
        blocks + 4 * pairs + blocks
    )  # clean ones, four steps of each path, gradients at the end
    labels = 2 * blocks
    assert more.total() <= passes + pairs + labels


# --- correcting


@pytest.mark.parametrize("kind", [*UNIT_KINDS, "weights", "weights+lite"])
def test_units_and_their_gradients_are_those_of_a_cpu(gpu: Place, kind: str) -> None:
    def trained(device: torch.device) -> list[Tensor]:
        model = corrected(device, kind)
        model.train()
        logits = model(BATCHES[0][0].to(device))
        logits.log_softmax(1)[:, 0].mean().backward()
        return [logits, *(p.grad for p in model.parameters() if p.grad is not None)]

    near(*gpu.on_both(trained), 1e-3)


@pytest.mark.parametrize("objective", ["labels", "features", "activations", "consistency"])
def test_training_is_that_of_a_cpu(gpu: Place, objective: str) -> None:
    def trained(device: torch.device) -> Any:
        model = corrected(device)
        done = dc.fit(
            model,
            BATCHES[:2],
            SPECS,
            epochs=1,
            objective={objective: 1.0},
            precision="float32",
            learning_rate=1e-4,
            validation=BATCHES[2:],
            augmentation={"flip": True, "rotation": 10, "zoom": 0.2},
        )
        return [epoch.loss for epoch in done.epochs], dict(model.state_dict())

    random_views = objective == "consistency" and not gpu.is_pretended  # AugMix on the device
    near(*gpu.on_both(trained), 0.3 if random_views else 1e-3)


def test_a_front_end_trains_alike(gpu: Place) -> None:
    def trained(device: torch.device) -> list[float]:
        model = alternatives.front_end(classifier(device), 5000)
        done = dc.fit(model, BATCHES, SPECS, objective={"images": 1.0}, epochs=1)
        return [epoch.loss for epoch in done.epochs]

    near(*gpu.on_both(trained), 1e-2)


def test_a_gpu_is_not_waited_for_at_each_step(gpu: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fit, "READ_AT_ONCE", 4)

    def waits(batches: list[Batch]) -> Counter[str]:
        def train(device: torch.device) -> None:
            dc.fit(corrected(device), batches, SPECS, epochs=1, precision="float32")

        return gpu.count_waits(train)

    one_step = waits(numbered(2, 2))
    assert waits(numbered(8, 2)) == one_step
    assert waits(numbered(10, 2)).total() == one_step.total() + 1


def test_a_loss_that_is_not_finite_ends_a_training_on_a_gpu(
    gpu: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fit, "READ_AT_ONCE", 4)
    model = corrected(gpu.device)
    with pytest.raises(dc.DeepCorrectError, match="the loss is (nan|inf) in epoch 1"):
        dc.fit(model, numbered(12, 2), SPECS, epochs=1, learning_rate=1e30, optimizer="sgd")


def test_random_numbers_of_a_network_are_a_function_of_the_seed(gpu: Place) -> None:
    """Dropout draws from the device's generator, which is seeded for each step, and restored."""
    seeds: list[Any] = []

    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = tiny_cnn()

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                module = torch.get_device_module(gpu.device)
                seeds.append(module.get_rng_state().tolist())
            return self.inside(images)

    for _ in range(2):
        torch.get_device_module(gpu.device).set_rng_state(
            torch.get_device_module(gpu.device).get_rng_state()
        )
        dc.fit(Drawing().to(gpu.device), BATCHES, SPECS, epochs=2, precision="float32")
    steps = [seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]]
    assert steps[0] == steps[1]
    assert len({str(each) for each in steps[0]}) >= 6  # each step has a seed of its own


def test_a_gate_is_that_of_a_cpu(place: Place) -> None:
    def gated(device: torch.device) -> Any:
        model = corrected(device, "lite")
        dc.fit_gate(model, BATCHES, SPECS, false_alarms=0.3)
        raised = dc.raise_gate(model, BATCHES, SPECS)
        images = BATCHES[1][0]
        sent = dc.looks_distorted(model, images).tolist()
        return list(raised.biases), sent, model(images.to(device))

    near(*place.on_both(gated), 1e-2)


def test_a_gated_copy_is_that_of_a_cpu(gpu: Place) -> None:
    def gated(device: torch.device) -> Tensor:
        base = network(device)
        model = dc.GatedCopy(base, copy.deepcopy(base))
        dc.fit_gate(model, BATCHES, SPECS, false_alarms=0.3)
        dc.fit(model, BATCHES, SPECS, epochs=1, precision="float32", learning_rate=1e-4)
        images = BATCHES[0][0].to(device)
        return dc.fuse(model, images)(images)

    near(*gpu.on_both(gated), 1e-2)


@pytest.mark.parametrize("kind", ["bottleneck", "cifar", "inverted", "weights"])
def test_networks_are_fused_alike(gpu: Place, kind: str) -> None:
    _fused(gpu, kind)


def test_fusing_needs_no_float64(apple: Place) -> None:
    _fused(apple, "cifar")


def _fused(place: Place, kind: str) -> None:
    def fused(device: torch.device) -> Tensor:
        unit = kind if kind == "weights" else {"kind": kind, "start": "he"}
        images = BATCHES[0][0]  # on the CPU: they are moved to where the network is
        return dc.fuse(corrected(device, unit), images)(images.to(device))

    near(*place.on_both(fused))


def test_files_are_written_from_the_cpu(gpu: Place, tmp_path: Path) -> None:
    model, images, path = corrected(gpu.device), BATCHES[0][0], tmp_path / "network.pt2"
    dc.export(model, path, images=images[:2].to(gpu.device), batch_size=2)
    near(dc.load_exported(path)(images[:2]), model(images[:2].to(gpu.device)).cpu())


def test_latency_is_measured_on_the_device(gpu: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_latency, "TURNS", (1, 1))
    assert dc.measure_latency(corrected(gpu.device), torch.rand(1, 3, SIZE, SIZE)).ratio > 0


def test_adapters_are_saved_and_loaded(gpu: Place, tmp_path: Path) -> None:
    corrected(gpu.device, "lite").save_pretrained(tmp_path / "adapter")
    models = [
        dc.load_adapter(network(device), tmp_path / "adapter") for device in (gpu.device, CPU)
    ]
    images = BATCHES[0][0]
    near(models[0](images.to(gpu.device)), models[1](images))


def test_one_call_corrects_on_the_device_and_then_on_the_cpu(
    gpu: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_latency, "TURNS", (1, 1))

    for device in (gpu.device, CPU):
        model = dc.correct(
            classifier(device),
            numbered(40, 8),
            distortions=["contrast:2"],
            epochs=1,
            precision="float32",
        )
        assert all(bool(each.isfinite().all()) for each in model.state_dict().values())


# --- analyses


def test_analyses_are_those_of_a_cpu(place: Place) -> None:
    def found(device: torch.device) -> Any:
        model, some, grid = corrected(device), BATCHES[:2], parse_all(SPECS[1:], SIZE)
        quality = analysis.map_quality(model, some, grid).values["psnr"]["stem"]
        points = analysis.ideal_against_learned(model, some, grid)
        gathered, _ = analysis.gather({"one": network(device)}, BATCHES)
        return quality.nan_to_num(), str(points), gathered["one"]

    near(*place.on_both(found), 1e-3)


def test_features_are_transferred_alike(gpu: Place) -> None:
    def found(device: torch.device) -> float:
        labels = torch.arange(24) % 2
        batches = [(torch.cat([images for images, _ in numbered(24, 24)]), labels)]
        done = dc.feature_transfer(network(device), batches, batches, SPECS, penalties=[1.0])
        return done.grid.mean_top1

    near(*gpu.on_both(found), 0.05)


def test_costs_are_those_of_a_cpu(gpu: Place) -> None:
    near(*gpu.on_both(lambda device: multiply_adds(network(device), BATCHES[0][0][:1].to(device))))


def test_what_is_left_out_has_a_reason() -> None:
    assert all(len(reason) > 20 for reason in LEFT_OUT.values())
