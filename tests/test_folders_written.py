"""Destinations are tried before anything is computed, locked, and cleaned of dead writes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import random_pixels
from PIL import Image
from test_cli import Said, command
from torch import nn

import deepcorrect as dc
from deepcorrect.data import Preprocessing
from deepcorrect.runtime import InputError, files

SOURCE = Path(__file__).parent.parent / "src"
UNWRITABLE = [Path("/proc/out"), Path("/dev/null/out"), Path("/sys/out"), Path("/dev/full")]
"""Folders in which nothing can be made, even by a superuser."""

WRITING = """
import sys, time
from pathlib import Path
from deepcorrect.runtime import files
with files.replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
LOCKING = """
import sys, time
from pathlib import Path
from deepcorrect.runtime import files
with files.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def started(script: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_temporary_files_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead, live = (started(WRITING, tmp_path / name) for name in ("dead.txt", "live.txt"))
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert len(list(tmp_path.iterdir())) == 2
        files.remove_temporary(tmp_path)
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".live.txt")
        assert left.read_text() == "half"
    finally:
        live.kill()
        live.wait()


def test_what_dead_processes_left_in_a_folder_goes_when_it_is_tried(tmp_path: Path) -> None:
    """Every command tries its destination; below it, others' files are nobody's business."""
    (tmp_path / "below").mkdir()
    left = [".a.json.abcdefg1.tmp", ".b.tmp", "below/.c.json.abcdefg1.tmp", "d.json.abcdefg1.tmp"]
    for name in left:
        (tmp_path / name).write_text("half")
    files.check_file(tmp_path / "a.json")
    assert [name for name in left if (tmp_path / name).exists()] == left[1:]
    assert not files.is_empty(tmp_path)


def test_what_only_looks_like_a_temporary_file_stays(tmp_path: Path) -> None:
    (tmp_path / ".folder.abcdefg1.tmp").mkdir()
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / ".link.abcdefg1.tmp").symlink_to(outside)
    os.mkfifo(inside / ".pipe.abcdefg1.tmp")
    files.remove_temporary(tmp_path)
    assert outside.read_text() == "mine"
    assert (tmp_path / ".folder.abcdefg1.tmp").is_dir()
    assert (inside / ".pipe.abcdefg1.tmp").exists()


def test_a_folder_has_one_process_and_a_dead_one_holds_no_lock(tmp_path: Path) -> None:
    process = started(LOCKING, tmp_path)
    try:
        with (
            pytest.raises(InputError, match="another process is working in"),
            files.locked(tmp_path),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    with files.locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_process_that_saves_an_adapter_waits_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    adapted = dc.correct(network, {"0": [1, 3]}, unit={"kind": "lite", "start": "he"})
    with ThreadPoolExecutor(1) as other:
        with files.locked(tmp_path):
            saving = other.submit(adapted.save_pretrained, tmp_path)
            with pytest.raises(TimeoutError):
                saving.result(timeout=0.3)
            assert list(tmp_path.iterdir()) == []
        assert saving.result(timeout=60) == tmp_path
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(dc.load_adapter(network, tmp_path)(images), adapted(images))
    monkeypatch.setattr("deepcorrect.correction._corrected_model.LONGEST_SAVE", 0.1)
    with (
        files.locked(tmp_path),
        pytest.raises(InputError, match="another process is working in"),
    ):
        adapted.save_pretrained(tmp_path)


def test_a_second_run_and_a_second_distort_in_a_folder_are_refused(
    digits_folder: Path, tmp_path: Path
) -> None:
    calls = [
        ["run", digits_folder / "tiny.yaml", "--out", tmp_path, "--resume"],
        [
            *("distort", "--data", f"folder:{digits_folder / 'test'}", "--distortion", "awgn:40"),
            *("--out", tmp_path, "--images", "2"),
        ],
    ]
    process = started(LOCKING, tmp_path)
    try:
        for call in calls:
            said = command(*call)
            assert said.status == 1
            assert "another process is working in" in said.err
            for path in tmp_path.iterdir():
                path.unlink()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("out", UNWRITABLE)
@pytest.mark.parametrize("what", ["run", "rank", "correct", "distort", "export", "int8"])
def test_a_destination_is_tried_before_anything_is_read(
    what: str, out: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **named: object) -> None:
        raise AssertionError("it was computed before it was known whether it can be kept")

    for name in ("load_model", "open_dataset"):
        monkeypatch.setattr(dc, name, never)
    data = ["--data", f"folder:{digits_folder / 'test'}"]
    model = ["--model", "digits_cnn"]
    call = {
        "run": ["run", digits_folder / "tiny.yaml", "--out", out],
        "rank": ["rank", *model, *data, "--out", out],
        "correct": ["correct", *model, *data, "--out", out],
        "distort": ["distort", *data, "--distortion", "awgn:40", "--out", out],
        "export": ["export", *model, "--out", out / "network.pt2"],
        "int8": ["export", *model, "--int8", "--calibration", data[1], "--out", out / "a.onnx"],
    }[what]
    said: Said = command(*call)
    assert (said.status, said.out) == (1, "")
    assert len(said.err.splitlines()) == 1
    assert str(out.parts[1]) in said.err


@pytest.mark.parametrize("out", ["/dev/null", "/dev/full", "."])
def test_an_export_writes_no_device_and_no_folder(out: str) -> None:
    said = command("export", "--model", "digits_cnn", "--out", out, "--format", "onnx")
    assert said.status == 1
    assert "a folder, a pipe or a device, and a file is needed there" in said.err


def test_a_program_on_a_full_disk_is_an_error_and_leaves_no_file(
    digits_model: dc.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.export's own writer aborts in C++ there; it writes to memory."""

    def full(self: Path, content: bytes) -> int:
        del content
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        dc.export(digits_model, tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


# --- pipes and devices among the images


def test_pipes_sockets_and_devices_among_images_are_not_opened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures" / "cat"
    folder.mkdir(parents=True)
    Image.fromarray(random_pixels(20, 24)).save(folder / "a.png")
    os.mkfifo(folder / "b.png")
    (folder / "c.png").symlink_to("/dev/zero")
    (folder / "d.png").symlink_to("nowhere.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "e.png"))
        started_at = time.monotonic()
        images = dc.open_dataset(
            f"folder:{folder.parent}", Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
        )
        batches = list(dc.loader(images, 4))
    assert time.monotonic() - started_at < 60
    assert list(images.names) == ["cat/a.png", "cat/d.png"]
    assert sum(len(labels) for _, labels in batches) == 1  # the link leads nowhere
    assert "is a pipe, a socket or a device, and is not opened" in capfd.readouterr().err


def test_predict_leaves_out_pipes_and_devices(tmp_path: Path) -> None:
    Image.fromarray(random_pixels(28, 28, 1)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png", "/dev/zero"]
    said = command("predict", *paths, "--model", "digits_cnn", "--json")
    assert len(said.out.splitlines()) == 1
    assert said.err.count("it is a folder, a pipe, a socket or a device") == 2
