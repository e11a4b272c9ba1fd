"""Eight bits: what is rounded and how, what it costs in accuracy, and where that is kept."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZE, cut, tiny_cnn
from test_cli import command
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, correct
from deepcorrect.data import Preprocessing
from deepcorrect.deployment import Quantized, load_exported, quantize
from deepcorrect.distortions import CLEAN, Distortion, cells_of, distorted_batches, parse_all
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FILTERS = {"stem": [1, 4, 6], "depthwise": [0, 7], "pointwise": [2, 3, 11]}
DISTORTIONS = ["gaussian_blur:1,2", "awgn:20"]
Batch = tuple[Tensor, Tensor]


def some(count: int, seed: int, size: int = SIZE, classes: int = 5) -> list[Batch]:
    """Random images and labels, seven per batch."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, size, size, generator=generator)
    return cut(images, torch.randint(classes, (count,), generator=generator), 7)


@pytest.fixture(scope="module")
def adapted() -> AdaptedModel:
    preprocessing = Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    model = Classifier(tiny_cnn(), preprocessing, "tiny", tuple("abcde")).eval()
    return correct(model, FILTERS, unit={"kind": "bottleneck", "start": "he"})


@pytest.fixture(scope="module")
def done(adapted: AdaptedModel, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    out = tmp_path_factory.mktemp("int8") / "tiny.onnx"
    return quantize(adapted, out, some(24, 1), some(40, 2), DISTORTIONS, seed=3)


@pytest.fixture(scope="module")
def exact(adapted: AdaptedModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same network's file in float32."""
    return onnx.load(dc.export(adapted, tmp_path_factory.mktemp("float") / "tiny.onnx").path)


def initializers(model: Any) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}


# --- what is rounded


def test_weights_have_seven_bits_and_one_scale_per_filter(done: Quantized, exact: Any) -> None:
    """Each weight is the nearest multiple of its filter's scale, which is that of its largest."""
    weights = initializers(exact)
    held = initializers(onnx.load(done.path))
    kernels = [name for name in held if name.endswith("_quantized") and held[name].ndim == 4]
    assert len(kernels) == sum(node.op_type == "Conv" for node in exact.graph.node) > 4
    for name in kernels:
        base = name.removesuffix("_quantized")
        rounded, scale = held[name].astype(int), held[f"{base}_scale"]
        assert (held[f"{base}_zero_point"] == 0).all()
        assert scale.shape == (len(rounded),)
        assert abs(rounded).max() <= 64
        step = scale[:, None, None, None]
        assert (abs(rounded * step - weights[base]) <= step * 0.501).all()


def test_ranges_are_those_of_clean_and_of_distorted_images(done: Quantized) -> None:
    """The first layer's input: normalised images, whose lowest and highest value set the scale."""
    cells = [CLEAN, *cells_of(parse_all(DISTORTIONS, SIZE))]
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    shown = [(b.images - mean) / std for b in distorted_batches(some(24, 1), cells, seed=3)]
    low, high = min(float(x.min()) for x in shown), max(float(x.max()) for x in shown)
    model = onnx.load(done.path)
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    held = initializers(model)
    scale, zero = (float(held[name]) for name in first.input[1:])
    assert scale == pytest.approx((high - low) / 255, rel=1e-5)
    assert zero == round(-low / scale)
    assert held[first.input[2]].dtype == np.uint8


def test_the_runtime_runs_every_convolution_and_sum_in_integers(
    done: Quantized, exact: Any, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(done.path), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    there = Counter(node.op_type for node in exact.graph.node)
    assert there["Conv"] > len(FILTERS) * 3
    assert (kinds["Conv"], kinds["QLinearConv"]) == (0, there["Conv"])
    assert (kinds["Add"], kinds["QLinearAdd"]) == (0, there["Add"])


def test_logits_are_not_rounded(done: Quantized) -> None:
    model = onnx.load(done.path)
    makes = {output: node.op_type for node in model.graph.node for output in node.output}
    assert makes["logits"] == "Gemm"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_file_answers_nearly_as_the_network_on_any_batch(
    done: Quantized, adapted: AdaptedModel, count: int
) -> None:
    images = torch.rand(count, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = adapted(images)
    given = load_exported(done.path)(images)
    error = (given - expected).norm() / expected.norm()
    assert 0 < error < 0.1


# --- accuracy


def test_accuracies_are_those_of_the_files(done: Quantized, adapted: AdaptedModel) -> None:
    """Counted here image by image, with ONNX Runtime alone and with the network in PyTorch."""
    assert list(done.grids) == ["baseline", "baseline, int8", "deepcorrect", "deepcorrect, int8"]
    session = onnxruntime.InferenceSession(str(done.path))
    cells = [CLEAN, *cells_of(parse_all(DISTORTIONS, SIZE))]
    hits, exact = Counter[int](), Counter[int]()
    for batch in distorted_batches(some(40, 2), cells, seed=3):
        for image, label in zip(batch.images, batch.labels, strict=True):
            one = image[None].contiguous()
            given = session.run(None, {"images": one.numpy()})[0]
            hits[batch.row] += int(given.argmax() == int(label))
            with torch.no_grad():
                exact[batch.row] += int(adapted(one).argmax() == label)
    for name, counted in (("deepcorrect, int8", hits), ("deepcorrect", exact)):
        grid = done.grids[name]
        top1 = [grid.clean_top1, *grid.curves["gaussian_blur"].top1, *grid.curves["awgn"].top1]
        assert top1 == pytest.approx([counted[row] / 40 for row in range(4)])
    untouched = dc.evaluate(adapted.network, some(40, 2), DISTORTIONS, seed=3)
    assert done.grids["baseline"].curves["awgn"].top1 == untouched.curves["awgn"].top1


def test_the_losses_are_those_of_the_file_that_is_kept(done: Quantized) -> None:
    before, after = done.grids["deepcorrect"], done.grids["deepcorrect, int8"]
    assert done.clean_loss == before.clean_top1 - after.clean_top1
    losses = [
        np.mean(before.curves[kind].top1) - np.mean(after.curves[kind].top1)
        for kind in ("gaussian_blur", "awgn")
    ]
    assert done.distorted_loss == pytest.approx(max(losses))


def test_the_table_beside_the_file_belongs_to_it(done: Quantized) -> None:
    held = json.loads(done.table.read_text())
    assert done.table.name == "tiny.accuracy.json"
    assert held["sha256"] == hashlib.sha256(done.path.read_bytes()).hexdigest()
    assert (held["calibration_images"], held["calibrated_and_evaluated"]) == (24, 0)
    assert (held["evaluation_images"], held["target"], held["seed"]) == (40, "labels", 3)
    for name, grid in done.grids.items():
        assert held["systems"][name]["distortions"] == json.loads(json.dumps(grid.to_json()))
    sizes = {name: system["bytes"] for name, system in held["systems"].items()}
    assert sizes == done.file_bytes
    assert 0 < sizes["deepcorrect, int8"] < done.path.stat().st_size  # before the notes are added


def test_the_file_says_how_it_was_made_and_what_it_reads(done: Quantized) -> None:
    held = {entry.key: entry.value for entry in onnx.load(done.path).metadata_props}
    assert json.loads(held["labels"]) == list("abcde")
    assert json.loads(held["mean"]) == [0.4, 0.5, 0.6]
    made = json.loads(held["quantization"])
    assert made["weights"] == "int8, 7 bits used"
    assert [each["name"] for each in made["distortions"]] == ["gaussian_blur", "awgn"]
    assert made["top1"]["deepcorrect, int8"]["clean"] == done.grids["deepcorrect, int8"].clean_top1


def test_a_trained_network_keeps_its_accuracy(tmp_path: Path) -> None:
    model = dc.load_model("digits_cnn")
    digits = dc.open_dataset("digits:test", model.preprocessing)
    calibration, test = (
        dc.loader(digits.select(rows), 100) for rows in (range(64), range(64, 464))
    )
    given = quantize(model, tmp_path / "digits.onnx", calibration, test, ["gaussian_blur", "awgn"])
    assert list(given.grids) == ["baseline", "baseline, int8"]
    assert given.grids["baseline"].clean_top1 > 0.9
    assert given.clean_loss <= 0.01
    assert given.distorted_loss <= 0.015


def test_without_labels_accuracy_is_agreement_with_the_untouched_float_network(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    unlabelled = [(images, torch.full_like(labels, -1)) for images, labels in some(16, 5)]
    given = quantize(adapted, tmp_path / "a.onnx", some(8, 4), unlabelled, "awgn:10")
    assert given.grids["baseline"].clean_top1 == 1
    assert json.loads(given.table.read_text())["target"] == "prediction"


def test_a_bare_network_takes_its_sample_from_the_calibration_images(tmp_path: Path) -> None:
    network = tiny_cnn()
    given = quantize(network, tmp_path / "a.onnx", some(8, 4), some(10, 5), "awgn:10")
    assert load_exported(given.path)(torch.rand(3, 3, SIZE, SIZE)).shape == (3, 5)


def test_a_file_for_one_batch_size_is_calibrated_and_measured_in_such_batches(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    given = quantize(
        adapted.network, tmp_path / "a.onnx", some(9, 1), some(10, 2), "awgn:9", batch_size=4
    )
    session = onnxruntime.InferenceSession(str(given.path))
    assert session.get_inputs()[0].shape == [4, 3, SIZE, SIZE]
    assert given.grids["baseline, int8"].images == 10
    images = torch.rand(6, 3, SIZE, SIZE)
    whole = session.run(None, {"images": images[:4].numpy()})[0]
    assert torch.equal(load_exported(given.path)(images)[:4], torch.from_numpy(whole))
    assert load_exported(given.path)(images).shape == (6, 5)


def corrected_twice(network: nn.Module) -> tuple[Any, nn.Module]:
    """A corrected network, and the same again."""
    gated, free = (
        correct(network, FILTERS, unit={"kind": "bottleneck", "start": "he"}) for _ in range(2)
    )
    gated.load_state_dict(free.state_dict())
    return gated, free


def copied_and_changed(network: nn.Module) -> tuple[Any, nn.Module]:
    """A `GatedCopy`, and its copy, with weights of its own."""
    tuned = dc.finetune(network)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.2)
    return dc.GatedCopy(network, tuned), tuned


@pytest.mark.parametrize(("made", "batch_size"), [(corrected_twice, None), (copied_and_changed, 4)])
def test_behind_a_gate_each_image_passes_its_network_in_eight_bits(
    adapted: AdaptedModel, tmp_path: Path, made: Any, batch_size: int | None
) -> None:
    """A mixed batch has the rows of the two networks' own files."""
    gated, free = made(adapted.network)
    flat = torch.linspace(0, 1, SIZE).expand(16, 3, SIZE, SIZE) * torch.rand(16, 3, 1, 1)
    noisy = torch.rand(4, 3, SIZE, SIZE)
    dc.fit_gate(gated, [(flat, torch.zeros(16))], ["awgn:80"], 0.25)
    mixed = torch.stack([flat[0], noisy[0], noisy[1], flat[1], noisy[2], flat[2]])
    distorted = dc.looks_distorted(gated, mixed)
    assert 0 < int(distorted.sum()) < len(mixed)

    def files(model: nn.Module, name: str) -> Quantized:
        out = tmp_path / f"{name}.onnx"
        return quantize(model, out, some(12, 1), some(10, 2), ["awgn:20"], batch_size=batch_size)

    whole, corrected = files(gated, "gated"), files(free, "free")
    base = quantize(
        adapted.network,
        tmp_path / "base.onnx",
        some(12, 1),
        some(10, 2),
        "awgn:20",
        batch_size=batch_size,
    )
    given = load_exported(whole.path)(mixed)
    for rows, path in ((distorted, corrected.path), (~distorted, base.path)):
        assert torch.allclose(given[rows], load_exported(path)(mixed)[rows], atol=1e-4)
    held = onnx.load(whole.path)
    assert {"labels", "quantization"} <= {entry.key for entry in held.metadata_props}
    branches = [each for node in held.graph.node for each in node.attribute]
    networks = [each.g for each in branches if each.name == "then_branch"]
    kinds = [Counter(node.op_type for node in network.node) for network in networks]
    assert len(kinds) == 2
    assert all(kind["QuantizeLinear"] for kind in kinds)


def test_images_that_were_calibrated_on_are_counted_and_named(
    adapted: AdaptedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = some(24, 1)
    test = [*some(14, 2), *calibration[1:3]]
    given = quantize(adapted.network, tmp_path / "a.onnx", calibration, test, "awgn:10")
    assert given.calibrated_and_evaluated == 14
    assert "14 of the 28 images were calibrated on, too" in capsys.readouterr().err


def test_the_adapters_own_distortions_are_the_default(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    noted = [{"name": "awgn", "levels": [5, 40], "clip": True, "quantize": False}]
    adapted.save_pretrained(tmp_path / "adapter", {"distortions": noted})
    loaded = dc.load_adapter(adapted.network, tmp_path / "adapter")
    given = quantize(loaded, tmp_path / "a.onnx", some(8, 1), some(8, 2))
    for grid in given.grids.values():
        assert grid.curves["awgn"].distortion == Distortion("awgn", (5, 40), clip=True).for_size(16)


# --- what is not accepted, and what is left after a failure


def read_once(batches: list[Batch]) -> Iterator[Batch]:
    yield from batches


SAME = some(8, 1)


@pytest.mark.parametrize(
    ("name", "calibration", "evaluation", "distortions", "message"),
    [
        ("n.pt2", some(8, 1), some(8, 2), "awgn", "which is done in ONNX: name it .onnx"),
        ("n.onnx", SAME, SAME, "awgn", "are those to calibrate on"),
        ("n.onnx", some(7, 1), some(8, 2), "awgn:1", "only 7 different ones: give at least 8"),
        ("n.onnx", [SAME[0]] * 3, some(8, 2), "awgn:1", "only 7 different ones"),
        ("n.onnx", [], some(8, 2), "awgn:1", "there are no images to calibrate on"),
        ("n.onnx", some(8, 1), [], "awgn:1", "there are no images to evaluate on"),
        ("n.onnx", some(8, 1), some(8, 2), None, "the adapter does not say which distortions"),
        ("n.onnx", some(8, 1), some(8, 2), "awg", "awgn"),
        ("n.onnx", read_once(some(8, 1)), some(8, 2), "awgn", "can be read only once"),
        ("n.onnx", some(8, 1), read_once(some(8, 2)), "awgn", "can be read only once"),
        ("n.onnx", [(b[0] * 255, b[1]) for b in SAME], some(8, 2), "awgn", "0, 1"),
        ("file/n.onnx", some(8, 1), some(8, 2), "awgn", "is a file, and a folder is needed"),
    ],
)
def test_what_is_not_accepted_leaves_nothing(
    adapted: AdaptedModel,
    tmp_path: Path,
    name: str,
    calibration: Any,
    evaluation: Any,
    distortions: str | None,
    message: str,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message):
        quantize(adapted, tmp_path / name, calibration, evaluation, distortions)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_baseline_needs_distortions_by_name(adapted: AdaptedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing says which distortions"):
        quantize(adapted.network, tmp_path / "a.onnx", some(8, 1), some(8, 2))


def test_file_and_table_are_replaced_together_or_not_at_all(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.onnx", "a.accuracy.json"):
        (tmp_path / name).write_text("before")

    whole = Path.write_text

    def full(path: Path, text: str) -> int:
        if ".accuracy.json" in path.name:
            raise OSError("no space left")
        return whole(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        quantize(adapted.network, tmp_path / "a.onnx", some(8, 1), some(8, 2), "awgn:1")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.onnx": "before",
        "a.accuracy.json": "before",
    }


def test_a_large_loss_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The classes of this network differ by less than one step of 8 bits of its maps."""

    class Fine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1, bias=False)
            self.head = nn.Linear(SIZE * SIZE, 2)
            nn.init.constant_(self.conv.weight, 1 / 3)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            with torch.no_grad():
                self.head.weight[1, 0] = 1000.0
                self.head.bias[1] = -500.0

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.conv(images).flatten(1))

    def near_half(count: int, seed: int) -> list[Batch]:
        images = torch.cat([batch[0] for batch in some(count, seed)])
        images[:, :, 0, 0] = (0.5 + 1e-3 * torch.linspace(-1, 1, count))[:, None]
        images[:, :, 1, 0], images[:, :, 1, 1] = 0, 1
        labels = (images[:, 0, 0, 0] > 0.5).long()
        return cut(images, labels, 7)

    given = quantize(
        Fine().eval(), tmp_path / "a.onnx", near_half(14, 1), near_half(28, 2), "awgn:1"
    )
    assert given.grids["baseline"].clean_top1 == 1
    assert given.clean_loss > 0.2
    assert f"eight bits lose {100 * given.clean_loss:.1f} points" in capsys.readouterr().err


def test_files_that_are_no_exported_network(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match="not an ONNX file that ONNX Runtime can read"):
        load_exported(tmp_path / "a.onnx")
    value = onnx.helper.make_tensor_value_info
    x, y = (value(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "b.onnx"
    )
    with pytest.raises(InputError, match="the inputs and outputs x, y"):
        load_exported(tmp_path / "b.onnx")


# --- the command


def test_the_command_prints_the_table_and_keeps_it(tmp_path: Path) -> None:
    out = tmp_path / "digits.onnx"
    arguments = ["export", "--model", "digits_cnn", "--out", out, "--int8"]
    arguments += ["--calibration", "digits:test", "--calibration-images", 32, "--images", 50]
    arguments += ["--distortion", "gaussian_blur:1,2"]
    said = command(*arguments)
    assert said.status == 0, said.err
    assert "baseline, int8" in said.out
    assert "calibrated on 32 images and measured with 50 others of" in said.out
    held = json.loads((tmp_path / "digits.accuracy.json").read_text())
    assert (held["calibration_images"], held["calibrated_and_evaluated"]) == (32, 0)
    again = command(*arguments, "--json", "--data", "digits:train")
    assert again.status == 0, again.err
    assert again.json["evaluation_images"] == 50
    assert again.json["systems"]["baseline"]["distortions"]["gaussian_blur"]["levels"] == [1, 2]
    assert (again.json["file"], again.json["table"]) == (
        str(out),
        str(out.with_suffix(".accuracy.json")),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--int8"], "--int8 needs images to calibrate on: give --calibration DATA"),
        (["--int8", "--calibration", "digits:test", "--format", "torch"], "name the file .onnx"),
        (["--int8", "--calibration", "digits:test", "--no-fuse"], "leave --no-fuse out"),
        (["--calibration", "digits:test"], "--calibration goes with --int8"),
        (["--data", "digits:test"], "--data goes with --int8"),
        (["--distortion", "awgn"], "--distortion goes with --int8"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, given: list[str], message: str) -> None:
    said = command("export", "--model", "digits_cnn", "--out", tmp_path / "n.onnx", *given)
    assert said.status == 1
    assert message in " ".join(said.err.split())
    assert list(tmp_path.iterdir()) == []
