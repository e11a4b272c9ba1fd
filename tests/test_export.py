"""Exporting: one file, any batch, normalisation inside, tried before it is kept."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZE, tiny_cnn
from test_cli import command
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, correct
from deepcorrect.data import Preprocessing
from deepcorrect.deployment import export, load_exported
from deepcorrect.deployment._export import DETAILS, Format, details
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError

FILTERS = {"stem": [1, 4, 6], "depthwise": [0, 7], "pointwise": [2, 3, 11]}
LABELS = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def adapted() -> AdaptedModel:
    preprocessing = Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), resize=20)
    model = Classifier(tiny_cnn(), preprocessing, "tiny", LABELS).eval()
    return correct(model, FILTERS, unit={"kind": "bottleneck", "start": "he"})


def run_onnx(path: Path, images: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path))
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.fixture(scope="module")
def onnx_file(adapted: AdaptedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    return export(adapted, tmp_path_factory.mktemp("onnx") / "new" / "tiny.onnx").path


@pytest.fixture(scope="module")
def torch_file(adapted: AdaptedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(adapted, tmp_path_factory.mktemp("torch") / "tiny.pt2").path


@pytest.mark.parametrize("count", [1, 2, 7])
def test_onnx_runtime_gives_the_corrected_networks_answers_on_any_batch(
    adapted: AdaptedModel, onnx_file: Path, count: int
) -> None:
    images = torch.rand(count, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = adapted(images)
        assert torch.allclose(run_onnx(onnx_file, images), expected, atol=1e-4)
        assert not torch.allclose(adapted.network(images), expected, atol=1e-2)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_modulated_unit_answers_on_any_batch(
    format: Format, depthwise: bool, tmp_path: Path
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    unit = {
        "kind": "bottleneck",
        "start": "he",
        "modulation": 2,
        "hidden_gains": depthwise,
        "depthwise": depthwise,
    }
    preprocessing = Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3)
    model = correct(Classifier(tiny_cnn(), preprocessing, "tiny"), FILTERS, unit=unit)
    for name in FILTERS:
        added = model.corrected_site(name).unit
        assert added is not None
        part = added.modulation
        assert part is not None
        nn.init.normal_(part.last.weight)
    path = export(model, tmp_path / ("a.onnx" if format == "onnx" else "a.pt2")).path
    images = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        given = run_onnx(path, images) if format == "onnx" else load_exported(path)(images)
        assert torch.allclose(given, model(images), atol=1e-4)


def test_the_onnx_file_says_what_it_takes(onnx_file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param
    assert not batch.dim_value
    held = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(held["labels"]) == list(LABELS)
    assert json.loads(held["mean"]) == [0.4, 0.5, 0.6]
    assert (held["input_size"], held["resize"], held["model"]) == (str(SIZE), "20", "tiny")
    assert "[0, 1]" in held["input"]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_torch_program_gives_the_same_and_is_read_back(
    adapted: AdaptedModel, torch_file: Path, count: int
) -> None:
    images = torch.rand(count, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.allclose(load_exported(torch_file)(images), adapted(images), atol=1e-4)
    extra = {DETAILS: ""}
    torch.export.load(io.BytesIO(torch_file.read_bytes()), extra_files=extra)  # pyright: ignore
    assert json.loads(extra[DETAILS])["labels"] == list(LABELS)


def test_a_network_can_be_exported_as_it_is_and_for_one_batch_size(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    done = export(adapted.network, tmp_path / "b.pt2", fused=False, batch_size=3)
    names = {name.rpartition(".")[2] for name in load_exported(done.path).state_dict()}
    assert "running_mean" in names
    assert (done.images, done.format, done.bytes) == (3, "torch", done.path.stat().st_size)
    assert done.largest_difference <= 1e-4
    with pytest.raises(Exception, match="(?i)batch|shape|size|guard"):
        load_exported(done.path)(torch.rand(2, 3, SIZE, SIZE))


def test_a_bare_network_brings_its_sample_images(tmp_path: Path, images: Tensor) -> None:
    with pytest.raises(InputError, match="give a batch"):
        export(tiny_cnn(), tmp_path / "a.pt2")
    done = export(tiny_cnn(), tmp_path / "a.pt2", images=images)
    with torch.no_grad():
        assert torch.allclose(load_exported(done.path)(images), tiny_cnn()(images), atol=1e-4)
    assert details(tiny_cnn())["input"] == "the input of the bare network"


# --- what cannot be exported


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return maps.mean((2, 3)) if maps.sum() > 0 else maps.amax((2, 3))


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)).reshape(2, 4)


@pytest.mark.parametrize("network", [Branching(), OneSize()])
def test_a_network_that_torch_export_refuses_ends_clearly_and_leaves_no_file(
    network: nn.Module, tmp_path: Path, images: Tensor
) -> None:
    with pytest.raises((InputError, RuntimeError)):
        export(network.eval(), tmp_path / "n.pt2", images=images[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_kept(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "deepcorrect.deployment._export.load_exported",
        lambda path: lambda images: adapted(images) + 1,
    )
    (tmp_path / "n.pt2").write_text("what was there before")
    with pytest.raises(InputError, match="the logits of the torch file differ"):
        export(adapted, tmp_path / "n.pt2")
    assert (tmp_path / "n.pt2").read_text() == "what was there before"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("n.tflite", {}, "name the file .onnx or .pt2"),
        ("n.onnx", {"format": "tflite"}, "format 'tflite' is not accepted"),
        (
            "n.pt2",
            {"batch_size": 3, "images": torch.rand(2, 3, SIZE, SIZE)},
            "3, but there are 2",
        ),
        ("file/n.pt2", {}, "is a file, and a folder is needed"),
    ],
)
def test_what_is_not_accepted(
    adapted: AdaptedModel, tmp_path: Path, name: str, given: dict[str, Any], message: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message):
        export(adapted, tmp_path / name, **given)


@pytest.mark.parametrize("library", ["onnxruntime", "onnxscript"])
def test_without_the_extra_onnx_says_which(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(dc.MissingExtraError, match=r"deepcorrect-torch\[onnx\]"):
        export(adapted, tmp_path / "n.onnx")


def test_reading_runs_no_code_from_the_file(torch_file: Path, tmp_path: Path) -> None:
    """A pickled constant that is no tensor is refused."""

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    held = io.BytesIO()
    torch.save(Bad(), held)
    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(torch_file) as source, zipfile.ZipFile(bad, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if "sample_inputs" in entry.filename:
                content = held.getvalue()
            target.writestr(entry.filename, content)
    with pytest.raises(InputError, match="read safely"):
        load_exported(bad)
    assert not (tmp_path / "ran").exists()
    for content in (b"", b"no zip"):
        bad.write_bytes(content)
        with pytest.raises(InputError, match="read safely"):
            load_exported(bad)
    with pytest.raises(InputError, match="no file"):
        load_exported(tmp_path / "absent.pt2")


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_command_writes_and_says_what_it_tried(tmp_path: Path, format: Format) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "digits"
    said = command("export", "--model", "digits_cnn", "--format", format, "--out", out, "--json")
    assert said.status == 0, said.err
    assert said.json["format"] == format
    assert said.json["bytes"] == out.stat().st_size
    assert said.json["images_compared"] >= 3
    assert said.json["largest_difference"] < 1e-4


def test_the_command_ends_in_one_line() -> None:
    said = command("export", "--model", "digits_cnn", "--out", "n.bin")
    assert said.status == 1
    assert said.err.strip().endswith("name the file .onnx or .pt2, or give a format")


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2"])
def test_a_file_names_no_path_of_the_machine(name: str, tmp_path: Path) -> None:
    preprocessing = Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3)
    model = correct(Classifier(tiny_cnn(), preprocessing, "tiny"), FILTERS, unit="weights")
    path = export(model, tmp_path / name).path
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            content = b"".join(parts.read(part) for part in parts.namelist())
    for place in (str(tmp_path), str(Path(torch.__file__).parent), str(Path(__file__).parent)):
        assert place.encode() not in content
