"""Distorted sets: written, read again, resumed, and their corruption errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from deepcorrect import files
from deepcorrect.classifier import Preprocessing
from deepcorrect.cli import app
from deepcorrect.corruption_error import (
    ALEXNET_REFERENCE,
    COMMON,
    Reference,
    corruption_error,
    reference_from,
)
from deepcorrect.data import ImageSet, open_data
from deepcorrect.distorted_sets import open_stored, write_set
from deepcorrect.distortions import parse_all, seeds_for
from deepcorrect.errors import InputError

RGB = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
KINDS = parse_all(["fog:1,3", "gaussian_blur:0.5,2"], 16)


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    """Two classes of three pictures, of sizes of their own."""
    rng = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / "pictures" / ("cat" if number < 3 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        size = (20 + 4 * (number % 2), 18, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"p{number}.png")
    return open_data(f"folder:{tmp_path / 'pictures'}", RGB)


def expected(images: ImageSet, kind: str, level: float, row: int) -> torch.Tensor:
    """8-bit pixels, C x H x W, of one image at the preprocessing's size."""
    distortion = next(each for each in KINDS if each.name == kind)
    item = images[row]
    assert item is not None
    seeds = seeds_for(3, "distort", kind, level, first=row, count=1)
    return (distortion(item[0][None], level, seeds)[0].clamp(0, 1) * 255).round()


@pytest.mark.parametrize(("layout", "spec"), [("folder", "imagenet_c"), ("npy", "cifar_c")])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_read_is_what_was_written(
    pictures: ImageSet, tmp_path: Path, layout: str, spec: str, batch_size: int
) -> None:
    write_set(pictures, KINDS, tmp_path / "out", layout, 3, batch_size)  # pyright: ignore
    cells = open_stored(f"{spec}:{tmp_path / 'out'}", RGB)
    assert {kind: list(levels) for kind, levels in cells.items()} == {
        "fog": [1.0, 3.0],
        "gaussian_blur": [0.5, 2.0],
    }
    for kind, by_level in cells.items():
        for level, images in by_level.items():
            assert images.labels == [0, 0, 0, 1, 1, 1]
            for row in range(6):
                item = images[row]
                assert item is not None
                assert torch.equal((item[0] * 255).round(), expected(pictures, kind, level, row))


def test_parquet_is_read_by_parquet(pictures: ImageSet, tmp_path: Path) -> None:
    write_set(pictures, KINDS, tmp_path / "out", "parquet", 3)
    images = open_data(f"parquet:{tmp_path / 'out' / 'fog-3.parquet'}", RGB)
    assert images.labels == [0, 0, 0, 1, 1, 1]
    assert images.classes == ("cat", "dog")
    item = images[4]
    assert item is not None
    assert torch.equal((item[0] * 255).round(), expected(pictures, "fog", 3.0, 4))


def test_images_can_keep_their_own_size(pictures: ImageSet, tmp_path: Path) -> None:
    write_set(pictures, KINDS[:1], tmp_path / "out", "folder", own_size=True)
    sizes = {Image.open(path).size for path in (tmp_path / "out").rglob("*.png")}
    assert sizes == {(18, 20), (18, 24)}
    with pytest.raises(InputError, match="images of one size"):
        write_set(pictures, KINDS[:1], tmp_path / "array", "npy", own_size=True)
    assert not list((tmp_path / "array").glob("*fog*"))


@pytest.mark.parametrize("layout", ["folder", "npy", "parquet"])
def test_a_stopped_writing_goes_on(
    pictures: ImageSet, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(pictures, KINDS, tmp_path / "whole", layout)  # pyright: ignore
    partial, left = files.partial, 3 if layout == "folder" else 1

    def stopping(path: Path) -> object:
        nonlocal left
        if path.suffix != ".json" and path.name != "labels.npy":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return partial(path)

    monkeypatch.setattr(files, "partial", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_set(pictures, KINDS, tmp_path / "out", layout)  # pyright: ignore
    monkeypatch.undo()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    write_set(pictures, KINDS, tmp_path / "out", layout)  # pyright: ignore
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    names = [
        {p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("whole", "out")
    ]
    assert names[0] == names[1]
    if layout != "parquet":
        for path in names[0]:
            assert (tmp_path / "whole" / path).read_bytes() == (
                tmp_path / "out" / path
            ).read_bytes()


def test_a_folder_of_something_else_is_refused(pictures: ImageSet, tmp_path: Path) -> None:
    write_set(pictures, KINDS, tmp_path / "out", "folder")
    with pytest.raises(InputError, match="of something else"):
        write_set(pictures, KINDS, tmp_path / "out", "folder", seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(InputError, match="is not empty"):
        write_set(pictures, KINDS, tmp_path / "full", "folder")


def test_bad_images_are_left_out_or_refused(pictures: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat" / "p1.png").write_bytes(b"not an image")
    write_set(pictures, KINDS[:1], tmp_path / "out", "folder")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 10
    assert pictures.bad == ["cat/p1.png"]
    with pytest.raises(InputError, match="cannot be read"):
        write_set(pictures, KINDS[:1], tmp_path / "array", "npy")


# --- the official layouts


def official_arrays(folder: Path, count: int = 4) -> np.ndarray:
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (5 * count, 16, 16, 3), np.uint8)
    for name in ("fog", "gaussian_blur"):
        np.save(folder / f"{name}.npy", pixels)
    np.save(folder / "labels.npy", np.tile(np.arange(count), 5).astype(np.uint8))
    return pixels


def test_cifar_cs_arrays_are_five_severities(tmp_path: Path) -> None:
    pixels = official_arrays(tmp_path / "c")
    cells = open_stored(f"cifar_c:{tmp_path / 'c'}", RGB)
    assert list(cells) == ["fog", "gaussian_blur_c"]
    assert list(cells["fog"]) == [1, 2, 3, 4, 5]
    item = cells["fog"][4][2]
    assert item is not None
    image, label = item
    assert label == 2
    assert np.array_equal((image * 255).round().permute(1, 2, 0).numpy(), pixels[3 * 4 + 2])


@pytest.mark.parametrize("group", ["", "weather"])
def test_imagenet_cs_folders_are_read_with_and_without_their_groups(
    tmp_path: Path, group: str
) -> None:
    for severity in (1, 5):
        for name in ("n01", "n02"):
            folder = tmp_path / "c" / group / "fog" / str(severity) / name
            folder.mkdir(parents=True)
            Image.new("RGB", (20, 20), (severity, 0, 0)).save(folder / "a.png")
    cells = open_stored(f"imagenet_c:{tmp_path / 'c'}", RGB)
    assert list(cells["fog"]) == [1, 5]
    assert cells["fog"][5].classes == ("n01", "n02")


def test_broken_sets_say_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(InputError, match="there is no folder"):
        open_stored(f"cifar_c:{folder}", RGB)
    official_arrays(folder)
    np.save(folder / "fog.npy", np.zeros((7, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="has 7 images and labels.npy 20 labels"):
        open_stored(f"cifar_c:{folder}", RGB)
    np.save(folder / "fog.npy", np.zeros((20, 16, 16)))
    with pytest.raises(InputError, match="is not an array of images"):
        open_stored(f"cifar_c:{folder}", RGB)
    (folder / "fog.npy").write_bytes(b"half")
    with pytest.raises(InputError, match="not a whole NumPy array"):
        open_stored(f"cifar_c:{folder}", RGB)
    (folder / "fog.npy").rename(folder / "fogg.npy")
    with pytest.raises(InputError, match="unknown corruption 'fogg', did you mean 'fog'"):
        open_stored(f"cifar_c:{folder}", RGB)
    (folder / "labels.npy").unlink()
    with pytest.raises(InputError, match="there is no file"):
        open_stored(f"cifar_c:{folder}", RGB)
    with pytest.raises(InputError, match="holds no distorted images"):
        open_stored(f"imagenet_c:{folder}", RGB)
    (folder / "fog" / "high").mkdir(parents=True)
    with pytest.raises(InputError, match="is not a level"):
        open_stored(f"imagenet_c:{folder}", RGB)


# --- mean corruption error


def curve(top1: list[float], clean: float | None) -> dict[str, object]:
    return {"top1": top1, "clean_top1": clean}


def test_corruption_errors_are_ratios_of_sums() -> None:
    reference = Reference("other", 0.4, {"fog": 0.8, "contrast": 0.6, "saturate": 0.5})
    found = corruption_error(
        {
            "fog": curve([0.5, 0.3], 0.7),
            "contrast": curve([0.6, 0.6], 0.7),
            "saturate": curve([0.5, 0.5], 0.7),
            "awgn": curve([0.1], 0.7),
        },
        reference,
    )
    assert found is not None
    assert found["corruptions"] == 2
    assert found["mean"] == pytest.approx((0.6 + 0.4) / 2)
    assert found["mce"] == pytest.approx((0.6 / 0.8 + 0.4 / 0.6) / 2)
    assert found["relative_mce"] == pytest.approx((0.3 / 0.4 + 0.1 / 0.2) / 2)
    assert found["by_corruption"]["saturate"]["ce"] == pytest.approx(1.0)
    assert "awgn" not in found["by_corruption"]


def test_alexnet_itself_has_a_corruption_error_of_one() -> None:
    clean = ALEXNET_REFERENCE.clean
    assert clean is not None
    curves = {k: curve([1 - e], 1 - clean) for k, e in ALEXNET_REFERENCE.errors.items()}
    found = corruption_error(curves, ALEXNET_REFERENCE)
    assert found is not None
    assert found["corruptions"] == 15
    assert found["mce"] == pytest.approx(1)
    assert found["relative_mce"] == pytest.approx(1)
    assert len(COMMON) == 15


def test_without_clean_images_or_a_reference_nothing_is_made_up() -> None:
    found = corruption_error({"fog": curve([0.5], None)}, ALEXNET_REFERENCE)
    assert found is not None
    assert found["relative_mce"] is None
    bare = corruption_error({"fog": curve([0.5], 0.9)}, None)
    assert bare is not None
    assert (bare["mce"], bare["mean"]) == (None, 0.5)
    assert corruption_error({"awgn": curve([0.5], 0.9)}, None) is None
    with pytest.raises(InputError, match="evaluate --json"):
        reference_from({"nothing": 1}, "x.json")


# --- commands


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_set_is_written_and_evaluated_by_commands(tmp_path: Path) -> None:
    digits = ["--data", "digits:test", "--images", 20]
    kinds = ["--distortion", "contrast", "--distortion", "fog"]
    command("distort", *digits, *kinds, "--grey", "--layout", "npy", "--out", tmp_path / "c")
    network = ["--model", "digits_cnn", "--json"]
    stored = f"cifar_c:{tmp_path / 'c'}"
    first = json.loads(command("evaluate", *network, "--data", stored))
    assert first["distortions"]["contrast"]["clean_top1"] is None
    assert first["corruption_error"]["corruptions"] == 2
    assert first["corruption_error"]["mce"] is None
    reference = tmp_path / "first.json"
    reference.write_text(json.dumps(first))
    both = ["--data", stored, "--clean", "digits:test", "--reference", reference]
    second = json.loads(command("evaluate", *network, *both))
    assert second["corruption_error"]["mce"] == pytest.approx(1)
    assert second["distortions"]["fog"]["clean_top1"] > 0.9
    only = json.loads(command("evaluate", *network, "--data", stored, "--distortion", "fog"))
    assert list(only["distortions"]) == ["fog"]
    shown = command("evaluate", "--model", "digits_cnn", "--data", stored, "--reference", "alexnet")
    assert "2 of the 15 common corruptions" in shown


def test_corruptions_made_on_the_fly_have_corruption_errors_too() -> None:
    found = json.loads(
        command(
            *("evaluate", "--model", "digits_cnn", "--data", "digits:test", "--images", 10),
            *("--distortion", "imagenet_c:1", "--json"),
        )
    )
    assert found["corruption_error"]["corruptions"] == 15


def test_clean_goes_with_a_stored_set_alone() -> None:
    arguments = ["evaluate", "--model", "digits_cnn", "--data", "digits:test", "--clean", "digits"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "--clean goes with" in result.stderr
