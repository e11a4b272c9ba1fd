"""What a user can get wrong, through the command: one clear message, a status, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import COMMAND, Said, command, script, spawn
from test_pipeline import figures, leftovers
from torch import nn

import deepcorrect as dc
from deepcorrect.runtime import files

SMALL_DISK_KIB = 700  # the fine-tuned network's checkpoint alone is a megabyte


@pytest.fixture(scope="module")
def digits(digits_folder: Path) -> Path:
    return digits_folder


@pytest.fixture(scope="module")
def three(digits: Path) -> Path:
    """A PNG of a three, which the network knows well."""
    return min((digits / "test" / "3").iterdir())


@pytest.fixture(scope="module")
def ranking(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranking")
    said = command(
        *("rank", *on(digits / "test"), "--out", folder, "--distortion", "awgn:40"),
        *("--images", 8, "--sites", "features.0.0", "--method", "random"),
    )
    assert said.status == 0
    return folder


def on(folder: Path, model: str = "digits_cnn") -> list[str]:
    return ["--model", model, "--data", f"folder:{folder}"]


def assert_refused(said: Said, *messages: str) -> None:
    """One line on stderr that holds `messages`, status 1, nothing on stdout."""
    assert said.status == 1, said
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    for message in messages:
        assert message in lines[0]


# --- images


@pytest.mark.parametrize("name", ["evaluate", "rank", "correct", "predict"])
def test_an_empty_folder(name: str, tmp_path: Path, ranking: Path) -> None:
    (tmp_path / "empty" / "cats").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    arguments = {
        "evaluate": on(tmp_path / "empty"),
        "rank": on(tmp_path / "empty"),
        "correct": [
            *on(tmp_path / "empty"),
            *("--ranking", ranking, "--out", tmp_path / "adapter"),
        ],
        "predict": [tmp_path / "empty", "--model", "digits_cnn"],
    }[name]
    assert_refused(command(name, *arguments), "empty has no images")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("kind", ["cut", "text", "nothing"])
@pytest.mark.parametrize("name", ["evaluate", "rank", "correct", "predict"])
def test_one_bad_image_among_many_is_counted(
    name: str, kind: str, digits: Path, three: Path, ranking: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(digits / "validation", tmp_path / "images"))
    content = {"cut": three.read_bytes()[:90], "text": b"not an image", "nothing": b""}[kind]
    (folder / "3" / "bad [1].png").write_bytes(content)
    arguments: list[object] = {
        "evaluate": [*on(folder), "--distortion", "awgn:40"],
        "rank": [
            *on(folder),
            *("--distortion", "awgn:40", "--method", "random", "--sites", "features.0.0"),
        ],
        "correct": [
            *on(folder),
            *("--ranking", ranking, "--out", tmp_path / "adapter", "--epochs", 1),
            *("--gate", "none", "--keep", "--batch-size", 64),
        ],
        "predict": [folder, "--model", "digits_cnn"],
    }[name]
    said = command(name, *arguments, "--json")
    assert said.status == 0
    [warning] = [line for line in said.err.splitlines() if "warning" in line]
    assert "1 of 41 images" in warning
    assert "bad [1].png" in warning
    seen = {
        "evaluate": lambda: said.json["test_images"],
        "rank": lambda: said.json["images"],
        "correct": lambda: said.json["images_seen"] + said.json["measured"]["images"],
        "predict": lambda: len(said.json),
    }[name]
    assert seen() == 40


@pytest.mark.parametrize("name", ["evaluate", "rank", "correct"])
def test_bad_images_alone(name: str, tmp_path: Path, three: Path, ranking: Path) -> None:
    for label in ("0", "1"):
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / "images" / label / "bad.png").write_bytes(three.read_bytes()[:60])
    arguments = on(tmp_path / "images")
    if name == "correct":
        arguments += ["--ranking", str(ranking), "--out", str(tmp_path / "adapter")]
    read = 1 if name == "correct" else 2  # the other one is held back to measure on
    assert_refused(command(name, *arguments), f"none of the {read} images", "could be read")
    assert not (tmp_path / "adapter").exists()


def test_predict_on_bad_images_alone_names_them(tmp_path: Path, three: Path) -> None:
    (tmp_path / "cut.png").write_bytes(three.read_bytes()[:60])
    said = command("predict", tmp_path / "cut.png", "--model", "digits_cnn", "--json")
    assert (said.status, said.out) == (1, "")
    assert said.err.splitlines()[-1].startswith("error: none of the 1 files is an image")
    assert "Traceback" not in said.err


def test_a_file_that_does_not_exist() -> None:
    said = command("predict", "nowhere.png", "--model", "digits_cnn")
    assert_refused(said, "there is no file nowhere.png")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "I;16", "RGBA", "LA", "1"])
def test_images_of_every_mode_work(mode: str, three: Path, tmp_path: Path) -> None:
    grey = Image.open(three)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = grey.convert(mode)
    image.save(tmp_path / "three.tif")
    said = command("predict", tmp_path / "three.tif", "--model", "digits_cnn", "--json")
    assert (said.status, said.err) == (0, "")
    assert said.json[0]["labels"] == ["3"]
    assert said.json[0]["probabilities"][0] > 0.9


def test_an_image_of_one_pixel_works(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (200, 10, 10)).save(tmp_path / "one.png")
    said = command("predict", tmp_path / "one.png", "--model", "digits_cnn", "--json")
    assert (said.status, said.err) == (0, "")
    assert len(said.json) == 1


def test_a_label_outside_the_networks_classes(three: Path, tmp_path: Path, ranking: Path) -> None:
    for label in range(11):
        (tmp_path / "images" / f"{label:02}").mkdir(parents=True)
        shutil.copy(three, tmp_path / "images" / f"{label:02}" / "three.png")
    more = {"correct": ["--ranking", ranking, "--out", tmp_path / "adapter"]}
    for name in ("evaluate", "rank", "correct"):
        said = command(name, *on(tmp_path / "images"), *more.get(name, []))
        assert_refused(said, "has 11 classes", "the network has 10")
    assert not (tmp_path / "adapter").exists()


def test_a_single_image_to_train_on(digits: Path, ranking: Path, tmp_path: Path) -> None:
    call = ["correct", *on(digits / "train"), "--ranking", ranking, "--out", tmp_path / "adapter"]
    assert_refused(command(*call, "--images", 1), "1 image cannot be divided", "validation=")
    validation = ["--validation", f"folder:{digits / 'validation'}"]
    said = command(*call, "--images", 1, *validation, "--unit", "bottleneck")
    assert_refused(said, "each batch has one image", "at least two")
    assert list(tmp_path.iterdir()) == []


def test_images_without_labels(digits: Path) -> None:
    loose = digits / "test" / "3"
    said = command("evaluate", *on(loose), "--target", "labels")
    assert_refused(said, "images without labels", "one sub-folder per class")
    both = ("--train", f"folder:{digits / 'train'}", "--test", f"folder:{loose}")
    said = command("transfer", "--model", "digits_cnn", *both)
    assert_refused(said, "3 has images without labels", "one sub-folder per class")


# --- weights


class Exploit:
    """Unpickled by the usual means, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_weights_of_another_network(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "linear.pt"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    said = command("evaluate", *on(digits / "test"), "--weights", path)
    assert_refused(said, "weights of another network", "features.0.0.weight is missing")
    files.write_tensors(tmp_path / "linear.safetensors", nn.Linear(3, 2).state_dict())
    said = command("evaluate", *on(digits / "test"), "--weights", tmp_path / "linear.safetensors")
    assert_refused(said, "weights of another network")


@pytest.mark.parametrize("value", [[1, 2], {"weight": 3}, {"state_dict": {"weight": [1.0]}}, "w"])
def test_a_pickle_that_is_not_a_state_dict(digits: Path, tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "value.pt")
    said = command("evaluate", *on(digits / "test"), "--weights", tmp_path / "value.pt")
    assert_refused(said, "value.pt is not a state dict")
    with (tmp_path / "value.pkl").open("wb") as file:
        pickle.dump(value, file)
    said = command("evaluate", *on(digits / "test"), "--weights", tmp_path / "value.pkl")
    assert_refused(said, "value.pkl is not a PyTorch file")


@pytest.mark.parametrize("writer", ["torch", "torch_legacy", "pickle"])
def test_the_code_in_a_malicious_pickle_never_runs(
    digits: Path, tmp_path: Path, writer: str
) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    value = {"features.0.0.weight": Exploit(trace)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=writer == "torch")
    said = command("evaluate", *on(digits / "test"), "--weights", path)
    assert_refused(said, "evil.pt is not a PyTorch file of tensors that can be read safely")
    assert not trace.exists()
    if writer == "pickle":  # read in the usual way, it would have
        pickle.loads(path.read_bytes())
        assert trace.is_dir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.pt", "there is no file nowhere.pt"),
        ("nowhere.safetensors", "there is no file nowhere.safetensors"),
        (".", ". is a folder: give"),
    ],
)
def test_weights_that_are_no_file(digits: Path, name: str, message: str) -> None:
    said = command("evaluate", *on(digits / "test"), "--weights", name)
    assert_refused(said, message)


def test_cut_weights(digits: Path, tmp_path: Path) -> None:
    state = dc.load_model("digits_cnn").network.state_dict()
    torch.save(state, tmp_path / "whole.pt")
    files.write_tensors(tmp_path / "whole.safetensors", state)
    for name in ("whole.pt", "whole.safetensors"):
        path = tmp_path / name.replace("whole", "cut")
        path.write_bytes((tmp_path / name).read_bytes()[:5000])
        said = command("evaluate", *on(digits / "test"), "--weights", path)
        assert_refused(said, str(path))


# --- sites, shares, adapters


def test_a_site_that_does_not_exist(digits: Path, tmp_path: Path) -> None:
    said = command("rank", *on(digits / "test"), "--sites", "features.9.0", "--images", 4)
    assert_refused(said, "unknown site 'features.9.0'", "did you mean", "features.3.0")
    said = command(
        *("run", digits / "tiny.yaml", "--out", tmp_path / "run", "ranking.sites=[feature.0.0]")
    )
    assert_refused(said, "unknown site 'feature.0.0'", "features.0.0")
    assert not (tmp_path / "run").exists()


def test_a_scale_for_no_gate(digits: Path, ranking: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    said = command(
        *("correct", *on(digits / "train"), "--ranking", ranking, "--out", out),
        *("--gate-scale", 0.5, "--gate", "none"),
    )
    assert_refused(said, "--gate-scale says how a gate is fitted", "--gate none has none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beta", ["0", "-0.5", "1.01", "nan", "inf"])
def test_a_beta_that_is_not_a_share(digits: Path, ranking: Path, tmp_path: Path, beta: str) -> None:
    out = tmp_path / "adapter"
    said = command(
        *("correct", *on(digits / "train"), "--ranking", ranking, "--out", out, "--beta", beta)
    )
    assert_refused(said, f"beta={float(beta)} is not a share", "above 0 and at most 1")
    assert list(tmp_path.iterdir()) == []
    override = f"systems.deepcorrect.beta={beta}"
    said = command("run", digits / "tiny.yaml", "--out", out, override)
    assert_refused(said, "'systems.deepcorrect.beta'", "above 0 and at most 1")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_ranking_and_no_unit(digits: Path, ranking: Path, tmp_path: Path) -> None:
    call = ["correct", *on(digits / "train"), "--out", tmp_path / "adapter"]
    assert_refused(command(*call, "--ranking", tmp_path), "holds no ranking", "levels.safe")
    said = command(*call, "--ranking", ranking, "--unit", "bottelneck")
    assert_refused(said, "unknown correction unit 'bottelneck', did you mean 'bottleneck'?")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_network(three: Path, tmp_path: Path) -> None:
    adapted = dc.correct(dc.load_model("digits_cnn"), {"features.0.0": [1, 2]})
    adapted.save_pretrained(tmp_path / "adapter")
    call = ["predict", three, "--adapter", tmp_path / "adapter", "--model"]
    assert command(*call, "digits_cnn").status == 0

    torch.save(dc.load_model("cifar_resnet20").network.state_dict(), tmp_path / "resnet.pt")
    said = command(*call, "cifar_resnet20", "--weights", tmp_path / "resnet.pt")
    assert_refused(said, "was trained for the network 'digits_cnn'", "no site 'features.0.0'")

    state = dc.load_model("digits_cnn").network.state_dict()
    state["head.bias"] = state["head.bias"] + 1e-6
    torch.save(state, tmp_path / "other.pt")
    said = command(*call, "digits_cnn", "--weights", tmp_path / "other.pt")
    assert_refused(said, "trained for 'digits_cnn' with other weights")

    said = command("predict", three, "--model", "digits_cnn", "--adapter", tmp_path)
    assert_refused(said, "holds no adapter: it has no adapter_config.json")

    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert_refused(command(*call, "digits_cnn"), "checksum differs")


@pytest.mark.parametrize("name", ["rank", "correct", "run"])
def test_a_folder_to_write_that_is_a_file(
    digits: Path, ranking: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "inside"
    arguments = {
        "rank": on(digits / "test"),
        "correct": [*on(digits / "train"), "--ranking", ranking],
        "run": [digits / "tiny.yaml"],
    }[name]
    said = command(name, *arguments, "--out", out)
    assert_refused(said, f"{tmp_path / 'file'} is a file, and a folder is needed")
    assert (tmp_path / "file").read_text() == "mine"


# --- a full disk


def run_tiny(digits: Path, folder: Path, *more: object) -> list[object]:
    return ["run", digits / "tiny.yaml", "--out", folder, "--resume", *more]


@pytest.fixture(scope="module")
def finished(finished_run: Path) -> Path:
    """A run that nothing stopped."""
    return finished_run


@pytest.mark.parametrize(
    "full_at",
    ["recipe.yaml", "ranking.safetensors", "finetuned.pt", "adapter_config.json", "report.html"],
)
def test_a_full_disk_loses_nothing_and_the_run_goes_on_after(
    digits: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_at: str,
) -> None:
    folder = tmp_path / "run"
    rename = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        said = command(*run_tiny(digits, folder))
    assert (said.status, said.out) == (1, "")
    assert "Traceback" not in said.err
    last = said.err.splitlines()[-1]
    assert last.startswith("error: the disk is full")
    assert full_at in last
    assert not list(folder.rglob(full_at))
    assert not leftovers(folder)
    assert command(*run_tiny(digits, folder)).status == 0
    assert figures(folder) == figures(finished)


REALLY_FULL = """
set -e
mount -t tmpfs -o size={size}k none "{disk}"
cd "{disk}"
status=0; {command} 2> "{out}/first" > "{out}/stdout" || status=$?
echo $status > "{out}/status"
find run -type f | sort > "{out}/left"
mount -o remount,size=32m none "{disk}"
{command} 2> "{out}/second" > /dev/null
cp -r run "{out}/run"
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this user may not mount a small disk of his own")
def test_a_disk_that_is_really_full(digits: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    text = REALLY_FULL.format(
        size=SMALL_DISK_KIB,
        disk=tmp_path / "disk",
        out=tmp_path,
        command=f"{COMMAND} run {digits / 'tiny.yaml'} --out run --resume",
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", text],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + (tmp_path / "first").read_text()
    assert (tmp_path / "status").read_text() == "1\n"
    said = (tmp_path / "first").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: the disk is full (run/checkpoints/finetuned.pt")
    left = (tmp_path / "left").read_text().splitlines()
    assert "run/ranking.json" in left
    assert not [name for name in left if "finetuned" in name]
    results = [
        {name: record["distortions"] for name, record in json.loads(text)["systems"].items()}
        for text in (
            (tmp_path / "run" / "results.json").read_text(),
            (finished / "results.json").read_text(),
        )
    ]
    assert results[0] == results[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_results_that_cannot_be_written_to_stdout() -> None:
    with Path("/dev/full").open("w") as full:
        said = script("list", "models", stdout=full)
    assert said.status == 1
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("error: the disk is full")


def test_a_reader_that_has_gone_is_no_error_worth_words() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        said = script("list", "models", stdout=pipe)
    assert (said.status, said.err) == (1, "")


# --- Ctrl-C


def interrupted(folder: Path, *arguments: object) -> Said:
    """Starts a run, and sends it what a terminal sends for Ctrl-C (to its workers too) once
    `finetuned.pt` is there."""
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job ignores it
    process = spawn(*arguments, "--json", start_new_session=True, preexec_fn=heard)
    checkpoint = folder / "checkpoints" / "finetuned.pt"
    deadline = time.monotonic() + 90
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert checkpoint.exists()
    return Said(process.returncode, out, err)


def assert_stopped(said: Said) -> None:
    assert (said.status, said.out) == (130, "")
    assert "Traceback" not in said.err
    assert said.err.splitlines()[-1].startswith("stopped; finished work is kept")


def test_ctrl_c_stops_in_one_line_and_the_run_goes_on_after(
    digits: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert_stopped(interrupted(folder, *run_tiny(digits, folder)))
    assert not leftovers(folder)
    assert command(*run_tiny(digits, folder)).status == 0
    assert figures(folder) == figures(finished)


def test_ctrl_c_with_worker_processes_is_one_line_too(digits: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    long = ["data.workers=1", "systems.finetuned.training.epochs=1000"]
    assert_stopped(interrupted(folder, *run_tiny(digits, folder, *long)))
    assert not leftovers(folder)
