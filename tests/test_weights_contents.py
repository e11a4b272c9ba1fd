"""Weights files by their content: other formats, and values that no trained network has."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_cli import command
from test_weights_files import digits, has_state, loaded, saved, state_of, under
from torch import Tensor, nn

from deepcorrect.models import DigitsCNN, load_model, load_weights
from deepcorrect.runtime import InputError, kind_of_content, kind_of_file

WEIGHT = "features.0.0.weight"
VARIANCE = "features.0.1.running_var"


def read(path: Path) -> DigitsCNN:
    network = digits(1)
    load_weights(network, path)
    return network


# --- what a file is


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path: Path) -> None:
    state = state_of()
    for name in ("a.pt", "weights", "B.SAFETENSORS", "c.bin"):
        save_file(state, tmp_path / name)
        assert has_state(read(tmp_path / name), state)
    for name in ("d.safetensors", "e.pth.tar", "f.ckpt"):
        assert has_state(read(saved(state, tmp_path / name)), state)
    torch.save(state, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    assert has_state(read(tmp_path / "old.safetensors"), state)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_checkpoint_in_several_files_is_read_by_its_index(tmp_path: Path, ending: str) -> None:
    state = state_of()
    names = list(state)
    files = [f"model-0000{number}-of-00002.{ending}" for number in (1, 2)]
    parts = [{n: state[n] for n in names[:7]}, {n: state[n] for n in names[7:]}]
    for file, part in zip(files, parts, strict=True):
        (save_file if ending == "safetensors" else torch.save)(part, tmp_path / file)
    places = {name: files[row >= 7] for row, name in enumerate(names)}
    index = tmp_path / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert has_state(read(index), state)
    with pytest.raises(InputError, match=r"one of several files .* give .*index\.json"):
        read(tmp_path / files[0])
    with pytest.raises(InputError, match=r"is a folder: give the file in it, such as .*index"):
        read(tmp_path)
    index.write_text(json.dumps({"weight_map": places | {"more": files[0]}}))
    with pytest.raises(InputError, match=r"says that more is in model-00001"):
        read(index)
    index.write_text(json.dumps({"weight_map": {WEIGHT: f"../{files[0]}"}}))
    with pytest.raises(InputError, match="not a file beside it"):
        read(index)
    index.write_text("{}")
    with pytest.raises(InputError, match="has no 'weight_map'"):
        read(index)


def test_numpy_arrays_are_read_without_unpickling(tmp_path: Path) -> None:
    state = state_of()
    arrays: Any = {name: tensor.numpy() for name, tensor in state.items()}
    np.savez(tmp_path / "w.npz", **arrays)
    assert has_state(read(tmp_path / "w.npz"), state)
    assert has_state(loaded(arrays, tmp_path), state)
    swapped = {n: np.asfortranarray(a.astype(a.dtype.newbyteorder(">"))) for n, a in arrays.items()}
    assert has_state(loaded({"model": swapped}, tmp_path), state)
    np.savez(tmp_path / "o.npz", **arrays, more=np.array([{}], object))
    with pytest.raises(InputError, match="is not a complete archive of NumPy arrays .Object"):
        read(tmp_path / "o.npz")
    with pytest.raises(InputError, match="is not read, because that would run code"):
        loaded({**arrays, "more": np.array([{}], object)}, tmp_path)


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(digits()), path)


def exported(path: Path) -> None:
    program = torch.export.export(digits().eval(), (torch.zeros(2, 1, 28, 28),))
    torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


def onnx(path: Path) -> None:
    command("export", "--model", "digits_cnn", "--out", path.with_suffix(".onnx"))
    path.with_suffix(".onnx").rename(path)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(saved(state_of(), path.with_name("in.pt")), "in.pt")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(saved(state_of(), path.with_name("in.pt")), "in.pt")


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(saved(state_of(), path.with_name("in.pt")).read_bytes()))


def cut(path: Path) -> None:
    content = saved(state_of(), path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content)


OTHERS: list[tuple[Callable[[Path], Any], str]] = [
    (text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    (text("\n<!DOCTYPE html><html>Sign in</html>"), "web page"),
    (text("<HTML><body>404"), "web page"),
    (text(""), "empty"),
    (text("\0" * 900), "filled with zeros"),
    (text("GGUF\3\0\0\0"), "GGUF"),
    (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "HDF5"),
    (lambda path: np.save(path.open("wb"), np.zeros(3)), "single NumPy array"),
    (scripted, "TorchScript"),
    (exported, "torch.export"),
    (onnx, "ONNX"),
    (tar, "tar archive"),
    (zipped, "zip archive"),
    (gzipped, "compressed"),
    (cut, "cut off or damaged"),
]


@pytest.mark.parametrize(("write", "said"), OTHERS)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_other_files_are_named_as_what_they_are(
    tmp_path: Path, write: Callable[[Path], Any], said: str, name: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=said):
        read(tmp_path / name)


def test_files_of_weights_are_of_no_other_kind(tmp_path: Path) -> None:
    for row, is_zip in enumerate((True, False)):
        path = tmp_path / f"{row}.pt"
        torch.save(state_of(), path, _use_new_zipfile_serialization=is_zip)
        assert kind_of_file(path) == ""
    save_file(state_of(), tmp_path / "w.safetensors")
    assert kind_of_file(tmp_path / "w.safetensors") == ""
    assert kind_of_content(pickle.dumps(3)) == ""
    assert kind_of_file(tmp_path / "nowhere") == ""


def test_paths_that_are_no_files_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of()
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(state, tmp_path / "w.pt")
    assert has_state(read(Path("~/w.pt")), state)
    (tmp_path / "link.pt").symlink_to(tmp_path / "w.pt")
    assert has_state(read(tmp_path / "link.pt"), state)
    (tmp_path / "lost.pt").symlink_to(tmp_path / "gone.pt")
    with pytest.raises(InputError, match=r"a link to .*gone.pt, which does not exist"):
        read(tmp_path / "lost.pt")
    for address in ("https://example.com/w.pt", "hf://owner/name/w.pt"):
        with pytest.raises(InputError, match="address and no file"):
            load_model("digits_cnn", address)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="may not be read"):
        read(tmp_path / "w.pt")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_file_with_a_changed_byte_is_damaged(tmp_path: Path, place: float) -> None:
    path = saved(state_of(), tmp_path / "w.pt")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:  # in the middle of a tensor
        parts = [i for i in archive.infolist() if "/data/" in i.filename and i.file_size > 256]
    part = parts[int(place * len(parts))]
    start = content.index(part.filename.encode(), part.header_offset) + part.file_size
    content[start] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged \(Bad CRC-32"):
        read(path)


def test_files_without_sums_are_read(tmp_path: Path) -> None:
    state = state_of()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(state, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert has_state(read(path), state)


# --- what lies beside the tensors


def test_numbers_among_the_tensors_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = state_of()
    beside = {"epoch": torch.tensor(3), "best": torch.tensor(0.9)}
    assert has_state(loaded(state | beside, tmp_path), state)
    assert "epoch, best are single numbers" in capsys.readouterr().err
    assert has_state(loaded(state | {"epoch": 3, "name": "a", "log": [1.0]}, tmp_path), state)
    with pytest.raises(InputError, match="means is not in the network"):
        loaded(state | {"means": torch.zeros(3)}, tmp_path)
    with pytest.raises(InputError, match="head.scale is not in the network"):
        loaded(state | {"head.scale": torch.tensor(2.0)}, tmp_path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: (state, 3),
        lambda state: [state],
        lambda state: {0: state, 1: 5},
        lambda state: {name.encode(): tensor for name, tensor in state.items()},
        lambda state: {"models": [state], "optimizers": [{"state": {}, "param_groups": []}]},
    ],
)
def test_lists_and_other_keys_lead_to_the_state(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    state = state_of()
    assert has_state(loaded(wrap(state), tmp_path), state)


def test_of_two_states_in_a_list_one_is_chosen(tmp_path: Path) -> None:
    first, second = state_of(5), state_of(6)
    with pytest.raises(InputError, match=r"2 times, as 0, 1"):
        loaded([first, second], tmp_path)
    assert has_state(loaded([first, second], tmp_path, state="1"), second)


def test_an_optimizer_is_no_network(tmp_path: Path) -> None:
    network = digits()
    network(torch.rand(2, 1, 28, 28)).sum().backward()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    optimizer.step()
    for value in (optimizer.state_dict(), {"optimizer": optimizer.state_dict(), "epoch": 3}):
        with pytest.raises(InputError, match="state of an optimizer alone"):
            loaded(value, tmp_path)


def test_averages_without_names_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = state_of()
    shadow = [tensor + 1 for tensor in state.values()]
    value = {"model": state, "ema": {"decay": 0.99, "shadow_params": shadow}}
    assert has_state(loaded(value, tmp_path), state)
    assert "ema.shadow_params holds averaged weights" in capsys.readouterr().err


# --- values


def changed(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    state = state_of()
    return state | {name: change(state[name].clone())}


def filled(value: float) -> Callable[[Tensor], Tensor]:
    def fill(tensor: Tensor) -> Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return fill


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (WEIGHT, filled(float("nan")), "has NaN"),
        (WEIGHT, filled(float("inf")), "has infinite values"),
        (VARIANCE, filled(float("nan")), "has NaN"),
        (VARIANCE, filled(float("inf")), "has infinite values"),
        (VARIANCE, filled(-0.1), "has negative values"),
        ("head.bias", lambda t: t.half().fill_(float("nan")), "has NaN"),
        ("head.bias", lambda t: t.fill_(float("nan")).to(torch.float8_e5m2), "has NaN"),
        ("head.bias", lambda t: (t * 100).to(torch.int8), "is int8"),
        ("head.bias", lambda t: t > 0, "is bool"),
        ("head.bias", lambda t: t.to(torch.complex64), "is complex64"),
        ("head.bias", lambda t: t.to("meta"), "no values"),
        ("head.weight", lambda t: t.to_sparse(), "dense and sparse"),
        ("head.weight", lambda t: t.t().contiguous(), "sides of these weights"),
    ],
)
def test_values_that_no_trained_network_has_are_refused(
    tmp_path: Path, name: str, change: Callable[[Tensor], Tensor], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        loaded(changed(name, change), tmp_path)


def test_quantised_states_are_refused(tmp_path: Path) -> None:
    packed = torch.ao.quantization.quantize_dynamic(digits(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(InputError, match="Quantised weights are not read"):
        loaded(packed.state_dict(), tmp_path)
    tensors = changed("head.weight", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8))
    with pytest.raises(InputError, match="Quantised weights are not read"):
        loaded(tensors, tmp_path)


def test_a_network_of_zeros_is_refused(tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state_of().items()}
    with pytest.raises(InputError, match="every weight is 0"):
        loaded(zeros | {VARIANCE: state_of()[VARIANCE]}, tmp_path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path: Path, kind: torch.dtype) -> None:
    state = state_of()
    narrow = {name: t.to(kind) if t.is_floating_point() else t for name, t in state.items()}
    assert has_state(loaded(narrow, tmp_path), {n: t.to(state[n].dtype) for n, t in narrow.items()})


def test_an_infinite_mask_is_a_buffer_and_accepted(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert has_state(loaded(under("module.", state), tmp_path, network), state)


def test_the_command_says_it_in_one_line(tmp_path: Path, digits_folder: Path) -> None:
    path = saved(changed(WEIGHT, filled(float("nan"))), tmp_path / "w.pt")
    picture = next((digits_folder / "test").rglob("*.png"))
    said = command("predict", picture, "--model", "digits_cnn", "--weights", path)
    assert said.status == 1
    assert "has NaN" in said.err
    shutil.copy(saved(state_of(), path), tmp_path / "good.pt")
    assert not command("predict", picture, "--model", "digits_cnn", "--weights", path).status
