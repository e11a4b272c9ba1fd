"""The gate: which images are corrected; the others get the untouched network's answers, exactly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZE, Batch, TinyCNN, cut, tiny_cnn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, GateConfig
from deepcorrect.correction._checkpoint import read_config
from deepcorrect.correction._gate import Gate, statistics
from deepcorrect.data import Preprocessing
from deepcorrect.networks import Classifier, features
from deepcorrect.runtime import InputError
from deepcorrect.runtime._devices import Precision, autocast

FILTERS = {"stem": [1, 4, 6], "depthwise": [0, 7], "pointwise": [2, 3, 11]}
SOME = GateConfig(kinds=("awgn",), weights=((0.1,) * 38,), biases=(0.0,), false_alarms=0.05)
UNIT = {"kind": "bottleneck", "start": "he", "affine": True}
KINDS = ["gaussian_blur:1,2", "awgn:20,40"]


def soft_images(count: int, seed: int = 0) -> Tensor:
    """Images in [0, 1] with edges and little noise, N x 3 x SIZE x SIZE."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    grey = coarse.mean(1, keepdim=True)
    return nn.functional.interpolate(0.7 * grey + 0.3 * coarse, size=(SIZE, SIZE)).clamp(0, 1)


@pytest.fixture
def clean() -> Tensor:
    return soft_images(120)


@pytest.fixture
def loader(clean: Tensor) -> list[Batch]:
    return cut(clean, torch.full((120,), -1), 24)


@pytest.fixture
def adapted(classifier: Classifier, loader: list[Batch]) -> AdaptedModel:
    """A corrected network with a gate."""
    adapted = dc.correct(classifier, FILTERS, unit=UNIT)
    dc.fit_gate(adapted, loader, KINDS)
    return adapted


def answers(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def ungated(adapted: AdaptedModel, images: Tensor) -> Tensor:
    with adapted.ungated():
        return answers(adapted, images)


def half_distorted(clean: Tensor) -> tuple[Tensor, Tensor]:
    """Every second image blurred or noisy, in turns, and which those are."""
    images = clean.clone()
    images[1::4] = dc.Distortion("gaussian_blur")(clean[1::4], 2)
    images[3::4] = dc.Distortion("awgn")(clean[3::4], 40, torch.Generator().manual_seed(0))
    which = torch.arange(len(clean)) % 2 == 1
    return images, which


def defined_statistics(images: Tensor) -> np.ndarray:
    """The statistics by their definition, in double precision, image by image."""
    rows = []
    for image in images.double().numpy():
        views = [image.mean(0, keepdims=True)]
        if len(image) > 1:
            views.append(image[:-1] - image[1:])
        values: list[float] = []
        for view in views:
            plane = view
            for scale in range(3):
                if scale:
                    rows_, columns = (side // 2 * 2 for side in plane.shape[1:])
                    blocks = plane[:, :rows_, :columns].reshape(
                        len(plane), rows_ // 2, 2, columns // 2, 2
                    )
                    plane = blocks.mean((2, 4))
                for each in (
                    np.diff(plane, axis=2),
                    np.diff(plane, axis=1),
                    np.diff(np.diff(plane, axis=1), axis=2),
                ):
                    values += [(each**2).mean(), np.abs(each).mean()]
            values.append(plane.var(ddof=1))
        rows.append(np.log(np.array(values) + 1e-5))
    return np.array(rows)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1, 3, 32, 32), (5, 1, 13, 10), (3, 3, 8, 31), (2, 2, 17, 9), (2, 5, 11, 16)]
)
def test_statistics_are_logarithms_of_neighbours_differences(
    shape: tuple[int, ...], precision: torch.dtype
) -> None:
    images = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 4 - 2).to(precision)
    given = images.clone()
    expected = defined_statistics(images)
    assert expected.shape[1] == (19 if shape[1] == 1 else 38)
    for layout in (images, images.to(memory_format=torch.channels_last)):
        np.testing.assert_allclose(statistics(layout).numpy(), expected, rtol=0, atol=2e-6)
    each = torch.cat([statistics(image[None]) for image in images])
    np.testing.assert_allclose(each.numpy(), expected, rtol=0, atol=2e-6)
    assert torch.equal(images, given)


def test_statistics_of_flat_and_of_bright_images_are_exact_too() -> None:
    noise = torch.rand(3, 3, 24, 21, generator=torch.Generator().manual_seed(0)) - 0.5
    faint = torch.tensor([0.0, 1e-2, 1e-1])[:, None, None, None] * noise + 2
    np.testing.assert_allclose(statistics(faint), defined_statistics(faint), rtol=0, atol=3e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_exported_statistics_are_the_same_and_leave_later_ones_alone(
    channels: int, tmp_path: Path
) -> None:
    class Statistics(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return statistics(images)

    images = torch.rand(4, channels, 21, 18, generator=torch.Generator().manual_seed(0)) * 4 - 2
    expected = defined_statistics(images)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Statistics(), (images,), dynamic_shapes=shapes, strict=False)
    runs: list[Callable[[Tensor], Any]] = [program.module(), statistics]
    compiled: Any = torch.compile(statistics, backend="eager", fullgraph=True)
    runs += [compiled, statistics]
    onnxruntime = pytest.importorskip("onnxruntime")
    path = str(tmp_path / "statistics.onnx")
    torch.onnx.export(program, (images,), path, input_names=["images"], verbose=False)
    session = onnxruntime.InferenceSession(path)
    runs.append(lambda batch: session.run(None, {"images": batch.numpy()})[0])
    for run in runs:
        for count in (4, 1):
            found = np.asarray(run(images[:count]))
            np.testing.assert_allclose(found, expected[:count], rtol=0, atol=2e-6)


def test_scores_need_no_gradient_and_survive_inference_mode() -> None:
    gate, images = Gate(SOME), torch.rand(2, 3, 19, 23)
    with torch.inference_mode():
        expected = gate.scores(images).clone()
    found = gate.scores(images.clone().requires_grad_())
    assert not found.requires_grad
    assert torch.equal(found, expected)
    for precision in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", precision):
            assert torch.equal(gate.scores(images), expected)
            np.testing.assert_allclose(
                statistics(images), defined_statistics(images), rtol=0, atol=2e-6
            )


def test_a_gate_under_fake_tensors_leaves_later_images_alone() -> None:
    gate, images = Gate(SOME), torch.rand(2, 3, 20, 29)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert gate(fake.from_tensor(images)).shape == (2,)
    assert type(gate.scores(images)) is Tensor
    assert statistics(images[:0]).shape == (0, 38)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_clean_images_get_the_baselines_answers_and_distorted_ones_the_corrections(
    adapted: AdaptedModel,
    classifier: Classifier,
    clean: Tensor,
    layout: torch.memory_format,
    precision: Precision,
) -> None:
    images, distorted = half_distorted(clean)
    images = images.contiguous(memory_format=layout)
    with autocast(images.device, precision):
        given = answers(adapted, images)
        with adapted.disable_adapter():
            baseline = answers(adapted, images)
        corrected = ungated(adapted, images)
        alone = answers(classifier, images)
    untouched = (given == baseline).all(1)
    assert (untouched | (given == corrected).all(1)).all()  # one of the two, bit for bit
    assert not torch.allclose(baseline, corrected)
    assert (untouched == ~distorted).float().mean() > 0.95
    assert torch.equal(baseline, alone)


def test_it_says_which_images_it_corrects(adapted: AdaptedModel, clean: Tensor) -> None:
    images, _ = half_distorted(clean)
    with adapted.disable_adapter():
        baseline = answers(adapted, images)
    changed = (answers(adapted, images) != baseline).any(1)
    assert torch.equal(dc.looks_distorted(adapted, images), changed)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dc.looks_distorted(adapted, images), changed)
    adapted.set_gate(None)
    with pytest.raises(InputError, match="has no gate"):
        dc.looks_distorted(adapted, images)


def test_batches_do_not_matter(adapted: AdaptedModel, clean: Tensor) -> None:
    images, _ = half_distorted(clean)
    alone = torch.cat([answers(adapted, image[None]) for image in images[:16]])
    torch.testing.assert_close(answers(adapted, images)[:16], alone)


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_so_many_unseen_clean_images_are_corrected_as_was_said(
    classifier: Classifier, share: float
) -> None:
    adapted = dc.correct(classifier, FILTERS, unit=UNIT)
    many, unseen = soft_images(1000), soft_images(1000, seed=1)
    config = dc.fit_gate(adapted, cut(many, torch.zeros(1000), 250), KINDS, share)
    assert config.false_alarms == share
    assert config.kinds == ("gaussian_blur", "awgn")
    with adapted.disable_adapter():
        baseline = answers(adapted, unseen)
    alarmed = (answers(adapted, unseen) != baseline).any(1).float().mean()
    assert abs(float(alarmed) - share) < 4 * (2 * share * (1 - share) / 1000) ** 0.5


def test_a_gate_shown_several_scales_lets_sharper_pictures_be(
    classifier: Classifier,
) -> None:
    adapted = dc.correct(classifier, FILTERS, unit=UNIT)
    loader = cut(soft_images(600), torch.zeros(600), 100)
    unseen = soft_images(400, seed=1)
    sharper = nn.functional.interpolate(unseen, scale_factor=0.75, mode="bicubic", antialias=True)
    alarms: dict[float, float] = {}
    for scale in (1.0, 0.5):
        dc.fit_gate(adapted, loader, KINDS, scale=scale)
        alarms[scale] = float(dc.looks_distorted(adapted, sharper).float().mean())
        images, which = half_distorted(unseen)
        assert (dc.looks_distorted(adapted, images) == which).float().mean() > 0.9
    assert alarms[0.5] < 0.1 < 0.9 < alarms[1.0]


@pytest.mark.parametrize("scale", [0, -0.5, 1.5])
def test_a_scale_that_is_none_is_refused(
    adapted: AdaptedModel, loader: list[Batch], scale: float
) -> None:
    with pytest.raises(InputError, match=r"scale is .* above 0 and at most 1"):
        dc.fit_gate(adapted, loader, KINDS, scale=scale)


class Normalising(nn.Module):
    """A wrapper of one's own, without tensors."""

    def __init__(self, inner: nn.Module, like: Classifier) -> None:
        super().__init__()
        self.inner = inner
        self.known = like.preprocessing

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(value).view(1, 3, 1, 1) for value in (self.known.mean, self.known.std)
        )
        return self.inner((images - mean) / std)


def test_however_the_network_is_wrapped_the_gate_reads_the_same(
    adapted: AdaptedModel,
    classifier: Classifier,
    loader: list[Batch],
    clean: Tensor,
    tmp_path: Path,
) -> None:
    images, _ = half_distorted(clean)
    wrapped = Normalising(tiny_cnn(), classifier)
    own = dc.correct(wrapped, {f"inner.{k}": v for k, v in FILTERS.items()}, unit=UNIT)
    assert dc.fit_gate(own, loader, KINDS) == adapted.config.gate
    assert own.gated_module is wrapped.inner
    own.save_pretrained(tmp_path / "own")
    expected = answers(own, images)
    on_bare = dc.load_adapter(Classifier(tiny_cnn(), classifier.preprocessing), tmp_path / "own")
    assert torch.equal(answers(on_bare, images), expected)
    adapted.save_pretrained(tmp_path / "a")
    for again in ("b", "c"):  # loaded into the wrapper, saved from it, and once more
        loaded = dc.load_adapter(Normalising(tiny_cnn(), classifier), tmp_path / "a")
        assert torch.equal(answers(loaded, images), answers(adapted, images))
        loaded.save_pretrained(tmp_path / again)
        loaded = dc.load_adapter(Normalising(tiny_cnn(), classifier), tmp_path / again)
        assert torch.equal(answers(loaded, images), answers(adapted, images))


def test_loaders_that_shuffle_give_the_same_gate(adapted: AdaptedModel, clean: Tensor) -> None:
    data = torch.utils.data.TensorDataset(clean, torch.zeros(120))
    shuffled = torch.utils.data.DataLoader(data, 24, shuffle=True)
    first, second = (dc.fit_gate(adapted, shuffled, KINDS, images=60) for _ in range(2))
    assert first == second


def test_training_corrects_every_image(adapted: AdaptedModel, clean: Tensor) -> None:
    adapted.train()
    with adapted.ungated():
        expected = answers(copy.deepcopy(adapted), clean)
    assert torch.equal(answers(adapted, clean), expected)
    adapted.eval()
    adapted.set_gate(None)
    assert torch.equal(answers(adapted, clean), ungated(adapted, clean))


@pytest.mark.parametrize("bare", [False, True])
def test_a_saved_gate_is_read_again(
    adapted: AdaptedModel,
    tiny_preprocessing: Preprocessing,
    clean: Tensor,
    tmp_path: Path,
    bare: bool,
) -> None:
    images, _ = half_distorted(clean)
    adapted.save_pretrained(tmp_path)
    assert "Gate" in (tmp_path / "README.md").read_text()
    assert read_config(tmp_path).gate == adapted.config.gate
    network = tiny_cnn()
    if bare:
        loaded = dc.load_adapter(network, tmp_path)
        classifier = Classifier(network, tiny_preprocessing)
        images_in = (images - classifier.mean) / classifier.std
        assert torch.equal(answers(loaded, images_in), answers(adapted, images))
    else:
        loaded = dc.load_adapter(Classifier(network, tiny_preprocessing), tmp_path)
        assert torch.equal(answers(loaded, images), answers(adapted, images))


def test_adapters_without_a_gate_are_read_as_before(
    classifier: Classifier, clean: Tensor, tmp_path: Path
) -> None:
    adapted = dc.correct(classifier, FILTERS, unit=UNIT)
    adapted.save_pretrained(tmp_path)
    held = json.loads((tmp_path / "adapter_config.json").read_text())
    assert "gate" not in held
    assert dc.load_adapter(classifier, tmp_path).gate is None


def test_copied_fused_and_compiled_it_answers_the_same(
    adapted: AdaptedModel, clean: Tensor
) -> None:
    images, _ = half_distorted(clean)
    expected = answers(adapted, images)
    torch.testing.assert_close(answers(copy.deepcopy(adapted), images), expected)
    fused = dc.fuse(adapted)
    torch.testing.assert_close(answers(fused, images), expected, atol=1e-4, rtol=1e-4)
    for model, backend in ((adapted, "aot_eager"), (fused, "eager")):
        compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
        torch.testing.assert_close(answers(compiled, images), expected, atol=1e-4, rtol=1e-4)


def test_exported_it_answers_the_same(adapted: AdaptedModel, clean: Tensor, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    images, _ = half_distorted(clean)
    expected = answers(adapted, images)
    dc.export(adapted, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    for count in (1, 7, 120):
        given = session.run(None, {"images": images[:count].numpy()})[0]
        np.testing.assert_allclose(given, expected[:count], atol=1e-4, rtol=1e-4)
    dc.export(adapted, tmp_path / "a.pt2")
    program = dc.load_exported(tmp_path / "a.pt2")
    torch.testing.assert_close(program(images), expected, atol=1e-4, rtol=1e-4)


def test_a_bare_network_is_fused_with_its_gate(adapted: AdaptedModel, clean: Tensor) -> None:
    images, _ = half_distorted(clean)
    bare = dc.correct(tiny_cnn(), FILTERS, unit=UNIT)
    bare.set_gate(adapted.config.gate)
    fused = dc.fuse(bare, images[:2])
    torch.testing.assert_close(answers(fused, images), answers(bare, images), atol=1e-4, rtol=1e-4)


def test_adapters_on_one_network_have_gates_of_their_own(
    adapted: AdaptedModel, clean: Tensor
) -> None:
    images, _ = half_distorted(clean)
    expected = answers(adapted, images)
    other = dc.correct(adapted.network, {"grouped": [2, 3]}, unit=UNIT)
    both = dc.AdapterSet({"gated": adapted, "all": other})
    with both.use("gated"):
        assert torch.equal(answers(both, images), expected)
    with both.use("all"):
        assert torch.equal(answers(both, images), answers(other, images))
    assert torch.equal(answers(adapted.network, images), answers(tiny(adapted), images))


def tiny(adapted: AdaptedModel) -> nn.Module:
    """The untouched network of `adapted`, built anew."""
    known = adapted.network
    assert isinstance(known, Classifier)
    return Classifier(tiny_cnn(), known.preprocessing).eval()


class KeywordNetwork(nn.Module):
    """Calls its network as Hugging Face's do, and looks at a part of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        assert isinstance(self.inner.head, nn.Linear)
        return self.inner(images=images)


def test_keywords_and_looks_at_parts_survive_fusing(
    adapted: AdaptedModel, classifier: Classifier, clean: Tensor
) -> None:
    images = (half_distorted(clean)[0] - classifier.mean) / classifier.std
    own = dc.correct(
        KeywordNetwork(tiny_cnn()), {f"inner.{k}": v for k, v in FILTERS.items()}, unit=UNIT
    )
    own.set_gate(adapted.config.gate)
    fused = dc.fuse(own, images[:2])
    torch.testing.assert_close(answers(fused, images), answers(own, images), atol=1e-4, rtol=1e-4)


def test_threads_do_not_mix_up_their_images(adapted: AdaptedModel, clean: Tensor) -> None:
    fused = dc.fuse(adapted)
    blurred = dc.Distortion("gaussian_blur")(clean, 2)
    expected = [answers(fused, images) for images in (clean, blurred)]

    def same(turn: int) -> bool:
        return torch.equal(answers(fused, (clean, blurred)[turn % 2]), expected[turn % 2])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, range(60)))


def test_the_fused_networks_tensors_are_stored_once(adapted: AdaptedModel, tmp_path: Path) -> None:
    save_file(dc.fuse(adapted).state_dict(), tmp_path / "fused.safetensors")


@pytest.mark.parametrize("share", [0, 1, -0.1, 2])
def test_a_share_that_is_none_is_refused(
    adapted: AdaptedModel, loader: list[Batch], share: float
) -> None:
    with pytest.raises(InputError, match="must be above 0 and below 1"):
        dc.fit_gate(adapted, loader, KINDS, share)


def test_too_few_images_are_refused(adapted: AdaptedModel, loader: list[Batch]) -> None:
    few: Sequence[Batch] = [(images[:3], labels[:3]) for images, labels in loader[:2]]
    with pytest.raises(InputError, match=r"0.05 needs at least 40 images, but there are 6"):
        dc.fit_gate(adapted, few, KINDS)


def test_a_network_that_cuts_its_images_up_is_refused_with_a_gate(clean: Tensor) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_cnn()

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images)[:1]  # one row for all images

    images, distorted = half_distorted(clean)
    adapted = dc.correct(Halves(), {"inner.stem": [1]}, unit=UNIT)
    dc.fit_gate(adapted, cut(clean, torch.zeros(120), 24), KINDS)
    assert distorted.any()
    answers(adapted, images)  # the gate stands at the network inside, which gives all rows

    class Fewer(TinyCNN):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:1]

    adapted = dc.correct(Fewer().eval(), {"stem": [1]}, unit=UNIT)
    dc.fit_gate(adapted, cut(clean, torch.zeros(120), 24), KINDS)
    with pytest.raises(InputError, match="one row of output per image"):
        answers(adapted, images)


@dataclass
class Found:
    """An output that torch knows nothing of."""

    logits: Tensor


@pytest.mark.parametrize(
    ("output", "refused"),
    [
        (lambda logits: {"logits": logits, "loss": None, "classes": 10, "name": "tiny"}, ""),
        (lambda logits: (logits, [logits * 2]), ""),
        (Found, "Found"),
        (lambda logits: [{"logits": each} for each in logits], "list"),
        (lambda logits: {"logits": logits, "mean": float(logits.mean())}, "float"),
    ],
)
def test_outputs_of_both_branches_are_merged_or_refused(
    output: Callable[[Tensor], Any], refused: str, clean: Tensor
) -> None:
    class Wrapped(TinyCNN):
        def forward(self, images: Tensor) -> Any:
            return output(super().forward(images))

    images, _ = half_distorted(clean)
    images = images[:11]
    adapted = dc.correct(Wrapped().eval(), FILTERS, unit=UNIT)
    dc.fit_gate(adapted, cut(clean, torch.zeros(120), 24), KINDS)
    if refused:
        with pytest.raises(InputError, match=f"cannot merge .*{refused}.* without a gate"):
            answers(adapted, images)
        return
    chosen = dc.looks_distorted(adapted, images)
    assert chosen.any()
    assert not chosen.all()
    compiled: Any = torch.compile(adapted, backend="eager")
    with torch.no_grad():
        with adapted.ungated():
            first = adapted(images)
        for found in (adapted(images), compiled(images)):
            pairs = zip(*map(tree_leaves, (found, first, adapted.network(images))), strict=True)
            for merged, corrected, original in pairs:
                if not isinstance(merged, Tensor):
                    assert merged == corrected == original
                    continue
                expected = torch.where(chosen[:, None], corrected, original)
                torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-4)


def test_features_of_a_gated_network_come_from_the_one_that_answered(
    adapted: AdaptedModel, classifier: Classifier, clean: Tensor
) -> None:
    images, _ = half_distorted(clean)
    chosen = dc.looks_distorted(adapted, images)
    for site in (None, "pointwise"):
        found = []
        with torch.no_grad():
            with features(adapted, site) as read:
                adapted(images)
                gated = read()
            with features(adapted, site) as read, adapted.ungated():
                adapted(images)
                found.append(read())
            with features(classifier, site) as read:
                classifier(images)
                found.append(read())
        expected = torch.where(chosen[:, None], *found)
        torch.testing.assert_close(gated, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_a_network_in_training_mode_answers_as_in_inference_mode(
    adapted: AdaptedModel, clean: Tensor
) -> None:
    images, _ = half_distorted(clean)
    expected = answers(adapted, images)
    adapted.network.train()
    assert torch.equal(answers(adapted, images), expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(4, 3, 7, 16), "at least 8 x 8 pixels, but these have 7 x 16"),
        (torch.rand(4, 1, 16, 16), r"reads 38 statistics.*of 1 channels have 19"),
    ],
)
def test_images_that_a_gate_cannot_read_are_refused(images: Tensor, message: str) -> None:
    gate = Gate(SOME)
    with pytest.raises(InputError, match=message):
        gate(images)


def test_pictures_without_numbers_are_refused(adapted: AdaptedModel, loader: list[Batch]) -> None:
    loader[0][0][0] = torch.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        dc.fit_gate(adapted, loader, KINDS)


def test_a_network_whose_reader_is_never_called_is_refused(loader: list[Batch]) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_cnn()

        def forward(self, images: Tensor) -> Tensor:
            return TinyCNN.forward(self.inner, images)

    around = dc.correct(Around(), {"inner.stem": [1]}, unit=UNIT)
    with pytest.raises(InputError, match="never calls the module"):
        dc.fit_gate(around, loader, KINDS)
    around.set_gate(SOME)
    with pytest.raises(InputError, match="received no images"):
        answers(around, loader[0][0])


def test_a_network_called_without_images_is_told_so(network: TinyCNN) -> None:
    adapted = dc.correct(network, FILTERS, unit=UNIT)
    adapted.set_gate(SOME)
    with pytest.raises(InputError, match="the network was called with none"):
        adapted(torch.rand(3, SIZE, SIZE))
