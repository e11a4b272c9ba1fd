"""`predict`: files, folders and lists; systems side by side; any number of files."""

from __future__ import annotations

import io
import json
import os
import sys
import tracemalloc
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_pixels
from PIL import Image
from test_cli import Said, command

import deepcorrect as dc
from deepcorrect import cli
from deepcorrect.data import Preprocessing, named_batches, open_dataset
from deepcorrect.networks import Classifier


@pytest.fixture(scope="module")
def digits(digits_folder: Path) -> Path:
    return digits_folder / "test"


@pytest.fixture(scope="module")
def adapter(digits_model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose unit changes answers: its last convolution is drawn."""
    images = open_dataset("digits:validation", digits_model.preprocessing).sample(8)
    ranking = dc.rank(digits_model, dc.loader(images), ["awgn:40"], "random", ["features.1.0"])
    adapted = dc.correct(digits_model, ranking, 0.5, {"kind": "bottleneck", "start": "he"})
    folder = tmp_path_factory.mktemp("adapters") / "he"
    adapted.save_pretrained(folder)
    return folder


def listed(monkeypatch: pytest.MonkeyPatch, content: bytes, *arguments: object) -> Said:
    """The command with a list on its standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return command("predict", "-", "--model", "digits_cnn", *arguments)


def test_a_list_on_standard_input_is_answered_in_its_order(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(digits.rglob("*.png"), key=lambda path: path.name[::-1])
    lines = "\n".join(map(str, files))
    for text in (lines, lines + "\n", lines.replace("\n", "\r\n") + "\r\n\r\n"):
        said = listed(monkeypatch, text.encode(), "--json", "--batch-size", 7, "--workers", 1)
        assert said.status == 0
        assert [answer["file"] for answer in said.json] == list(map(str, files))
    right = [
        answer["labels"] == [path.parent.name]
        for answer, path in zip(said.json, files, strict=True)
    ]
    assert sum(right) >= 0.9 * len(right)


def test_a_list_may_end_its_names_with_nul_and_name_folders(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "two\nlines \udcff.png"
    Image.fromarray(random_pixels(9, 9)).save(odd)
    names = [os.fsencode(odd), os.fsencode(digits / "3")]
    said = listed(monkeypatch, b"\0".join(names) + b"\0", "--null", "--json")
    assert said.status == 0
    files = [answer["file"] for answer in said.json]
    assert files == [str(odd), *map(str, sorted((digits / "3").iterdir()))]


def test_names_that_are_no_unicode_are_written_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "odd \udcff.png"
    Image.fromarray(random_pixels(9, 9)).save(odd)
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["deepcorrect", "predict", str(odd), "--model", "digits_cnn"])
    with redirect_stdout(out), pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert out.buffer.getvalue().startswith(os.fsencode(odd) + b"\t")  # type: ignore[attr-defined]


def test_a_list_beside_files(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = sorted((digits / "5").iterdir())[:3]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{two}\n".encode())))
    said = command("predict", one, "-", three, "--model", "digits_cnn")
    assert [line.split("\t")[0] for line in said.out.splitlines()] == [
        str(one),
        str(two),
        str(three),
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_named_each_and_leave_the_order(
    digits: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = sorted((digits / "2").iterdir())
    bad = [tmp_path / f"bad [{number}].png" for number in range(5)]
    for path in bad[:-1]:  # the last is not there
        path.write_text("no image")
    files = [bad[0], good[0], good[1], bad[1], bad[2], bad[3], good[2], bad[4]]
    said = listed(
        monkeypatch,
        "\n".join(map(str, files)).encode(),
        "--json",
        "--batch-size",
        2,
        "--workers",
        workers,
    )
    assert said.status == 0
    assert [answer["file"] for answer in said.json] == list(map(str, good[:3]))
    *lines, warning = said.err.splitlines()
    reasons = [""] * 4 + [" (no such file or directory)"]
    assert lines == [f"could not be read: {path}{r}" for path, r in zip(bad, reasons, strict=True)]
    assert warning.startswith("warning: 5 of 8 images could not be read and were left out: ")
    assert warning.endswith(f"{bad[2]}, ...")


def test_an_empty_list_and_a_list_of_nothing_good(monkeypatch: pytest.MonkeyPatch) -> None:
    said = listed(monkeypatch, b"\n", "--json")
    assert (said.status, said.out) == (1, "")
    assert said.err == "error: there are no names of files on standard input\n"
    said = listed(monkeypatch, b"nowhere.png\n", "--json")
    assert (said.status, said.out) == (1, "")
    assert said.err.splitlines()[-1] == "error: none of the 1 files is an image that can be read"


def test_compare_shows_both_systems(digits: Path, adapter: Path, digits_model: Classifier) -> None:
    call = ["predict", digits, "--model", "digits_cnn", "--top", 2]
    said = command(*call, "--adapter", adapter, "--compare", "--json")
    assert said.status == 0
    bare = command(*call, "--json").json
    corrected = command(*call, "--adapter", adapter, "--json").json
    for both, first, second in zip(said.json, bare, corrected, strict=True):
        assert set(both) == {"file", "baseline", "corrected"}
        assert {"file": both["file"], **both["baseline"]} == first
        assert {"file": both["file"], **both["corrected"]} == second
    other = sum(b["labels"][0] != c["labels"][0] for b, c in zip(bare, corrected, strict=True))
    assert other > 0
    assert f"differs on {other} of {len(bare)} images" in said.err
    text = command(*call, "--adapter", adapter, "--compare").out.splitlines()
    file, baseline, correction = text[0].split("\t")
    assert file == bare[0]["file"]
    for line, answer in ((baseline, bare[0]), (correction, corrected[0])):
        shown = [
            f"{label} {share:.4f}"
            for label, share in zip(answer["labels"], answer["probabilities"], strict=True)
        ]
        assert line.split(": ")[1] == "; ".join(shown)


def test_compare_needs_an_adapter(digits: Path) -> None:
    said = command("predict", digits, "--model", "digits_cnn", "--compare")
    assert (said.status, said.out) == (1, "")
    assert "give --adapter" in said.err


def test_a_stopped_command_leaves_a_whole_document(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepcorrect.cli import _predict

    answers, calls = _predict._answers, []

    def stopped(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(*arguments)

    monkeypatch.setattr(_predict, "_answers", stopped)
    said = command("predict", digits, "--model", "digits_cnn", "--batch-size", 4, "--json")
    assert said.status == 130
    assert len(json.loads(said.out)) == 8


def test_answers_come_before_the_list_ends(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((digits / "7").iterdir())[:3]
    written: list[str] = []

    class Pipe(io.BytesIO):
        """Gives a file's name at a time, and notes what was answered until then."""

        def read1(self, size: int | None = -1, /) -> bytes:
            written.append(sys.stdout.getvalue())  # type: ignore[attr-defined]
            return b"%s\n" % os.fsencode(files[len(written) - 1]) if len(written) <= 3 else b""

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe()))
    said = command("predict", "-", "--model", "digits_cnn", "--batch-size", 1)
    assert said.out.count("\n") == 3
    assert [text.count("\n") for text in written] == [0, 1, 2, 3]


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(random_pixels(16, 16)).save(path)
    fit = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)

    def peak(count: int) -> int:
        tracemalloc.start()
        paths = (f"{tmp_path}{'/' * 1000}one.png" for _ in range(count))
        seen = sum(len(batch.names) for batch in named_batches(paths, fit, 32))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen == count
        return found

    peak(32)
    assert peak(1600) - peak(400) < 250_000  # the names alone would be 1.2 MB


def test_named_batches_keep_files_apart(tmp_path: Path) -> None:
    fit = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
    paths = []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (8, 8), (number * 10,) * 3).save(paths[-1])
    Path(paths[2]).write_text("no")
    found = list(named_batches(paths, fit, 2, workers=1))
    assert [batch.names for batch in found] == [paths[:2], paths[2:4], paths[4:]]
    assert [batch.indices for batch in found] == [[0, 1], [1], [0]]
    assert [batch.bad for batch in found] == [[], [paths[2]], []]
    assert torch.equal(found[1].images[0], torch.full((3, 8, 8), 30 / 255))
