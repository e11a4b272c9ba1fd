"""Distorted copies: what is read is what was written, in every layout, stopped or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_pixels
from PIL import Image
from test_cli import Said, command
from torch import Tensor

import deepcorrect as dc
from deepcorrect.data import ImageSet, Preprocessing, open_dataset
from deepcorrect.distortions import Distortion
from deepcorrect.distortions.stored import (
    Format,
    Written,
    _layouts,
    _write,
    open_corrupted,
    write_distorted,
)
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, files, seeds_for

COLOUR = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
GREY = Preprocessing(28, (0.1307,), (0.3081,))
MakeFolder = Callable[[Mapping[str, int]], Path]
SPECS = ["gaussian_noise:1,3", "jpeg_compression:5", "awgn:20"]


def expected(image: Tensor, kind: str, level: float, number: int, seed: int = 0) -> Tensor:
    """One image in [0, 1] distorted alone, as 8-bit values, C x H x W."""
    seeds = seeds_for(seed, kind, level, first=number, count=1)
    distorted = Distortion(kind, parameters="cifar")(image[None], level, seeds)[0]
    return (distorted.clamp(0, 1) * 255).round().to(torch.uint8)


def values(path: Path) -> Tensor:
    pixels = torch.from_numpy(np.array(Image.open(path)))
    return pixels.permute(2, 0, 1) if pixels.dim() == 3 else pixels[None]


def stored(images: ImageSet) -> Tensor:
    """All images of a set as 8-bit values, N x C x H x W."""
    found = [images[index] for index in range(len(images))]
    return torch.stack([(each[0] * 255).round().to(torch.uint8) for each in found if each])


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """Two classes of colour images of three sizes, with names of all sorts."""
    shapes = {"b/x.png": (20, 24), "b/y [1].jpg": (9, 31), "a/z.bmp": (20, 24), "a/w.png": (40, 33)}
    for number, (name, (height, width)) in enumerate(shapes.items()):
        path = tmp_path / "sizes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_pixels(height, width, seed=number)).save(path)
    return tmp_path / "sizes"


# --- the three layouts


def test_folders_hold_every_image_at_its_own_size(sizes: Path, tmp_path: Path) -> None:
    write_distorted(f"folder:{sizes}", SPECS, tmp_path / "out", seed=3)
    source = open_dataset(f"folder:{sizes}", COLOUR)
    assert source.names == ["a/w.png", "a/z.bmp", "b/x.png", "b/y [1].jpg"]
    for kind, level in (("gaussian_noise", 1), ("gaussian_noise", 3), ("awgn", 20)):
        folder = tmp_path / "out" / kind / str(level)
        assert open_dataset(f"folder:{folder}", COLOUR).names == [
            *("a/w.png", "a/z.png", "b/x.png", "b/y [1].png")
        ]
        for number, name in enumerate(source.names):
            pixels = np.array(Image.open(sizes / name).convert("RGB"))
            image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
            found = values((folder / name).with_suffix(".png"))
            assert torch.equal(found, expected(image, kind, level, number, seed=3))


def test_arrays_are_cifar_cs(tmp_path: Path, sizes: Path) -> None:
    out = tmp_path / "out"
    specs = ["fog", "shot_noise"]
    write_distorted(f"folder:{sizes}", specs, out, "npy", input_size=16)
    assert sorted(path.name for path in out.iterdir()) == [
        *("distort.json", "fog.npy", "labels.npy", "shot_noise.npy")
    ]
    noise, labels = np.load(out / "shot_noise.npy"), np.load(out / "labels.npy")
    assert (noise.shape, noise.dtype) == ((5 * 4, 16, 16, 3), np.uint8)
    assert labels.tolist() == [0, 0, 1, 1] * 5
    source = open_dataset(f"folder:{sizes}", COLOUR)
    for place in range(20):
        sample = source[place % 4]
        assert sample is not None
        wanted = expected(sample[0], "shot_noise", place // 4 + 1, place % 4)
        assert torch.equal(torch.from_numpy(noise[place]).permute(2, 0, 1), wanted)


def test_parquet_is_hugging_faces(sizes: Path, tmp_path: Path) -> None:
    import datasets

    write_distorted(f"folder:{sizes}", SPECS, tmp_path / "out", "parquet")
    path = tmp_path / "out" / "gaussian_noise-3.parquet"
    table: Any = datasets.Dataset.from_parquet(str(path))
    assert isinstance(table.features["image"], datasets.Image)
    assert table.features["label"].names == ["a", "b"]
    write_distorted(f"folder:{sizes}", SPECS, tmp_path / "folders")
    names = ["a/w.png", "a/z.png", "b/x.png", "b/y [1].png"]
    for row, name in zip(table, names, strict=True):
        found = torch.from_numpy(np.array(row["image"])).permute(2, 0, 1)
        assert torch.equal(found, values(tmp_path / "folders" / "gaussian_noise" / "3" / name))


def test_all_layouts_read_back_alike(tmp_path: Path) -> None:
    for format in ("folder", "npy", "parquet"):
        out = tmp_path / format
        write_distorted("digits:test", ["snow:1,2", "awgn:30"], out, format, images=7)
    arrays = open_corrupted(f"cifar_c:{tmp_path / 'npy'}", GREY)
    folders = open_corrupted(f"imagenet_c:{tmp_path / 'folder'}", GREY)
    assert {name: list(each) for name, each in arrays.parts.items()} == {
        "snow": [1, 2],
        "awgn": [30],
    }
    for name, level in (("snow", 1), ("snow", 2), ("awgn", 30)):
        array, folder = arrays.parts[name][level](), folders.parts[name][level]()
        table = open_dataset(f"parquet:{tmp_path}/parquet/{name}-{level}.parquet", GREY)
        assert torch.equal(stored(array), stored(table))
        assert array.labels == table.labels
        order = np.argsort(table.labels, kind="stable")  # folders sort by class
        assert torch.equal(stored(folder), stored(table)[torch.from_numpy(order)])
        assert folder.labels == sorted(table.labels)
        assert folder.classes == tuple("0123456789"), "classes without an image keep their number"


def test_every_kind_can_be_written(tmp_path: Path, sizes: Path) -> None:
    specs = ["imagenet_c:1", "imagenet_c_extra:5", "camera", "gaussian_blur+awgn:1"]
    done = write_distorted(f"folder:{sizes}", specs, tmp_path / "out", "npy", input_size=16)
    assert len(done.distortions) == 15 + 4 + 6 + 1
    for kind in done.distortions:
        assert len(np.load(tmp_path / "out" / f"{kind.name}.npy")) == 4 * len(kind.levels)


def test_unlabelled_images_have_no_class_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = f"folder:{make_folder({'': 2})}"
    write_distorted(source, ["fog:1"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "fog" / "1").iterdir()) == [
        *("0.png", "1.png")
    ]
    write_distorted(source, ["fog:1"], tmp_path / "tables", "parquet")
    assert open_dataset(f"parquet:{tmp_path}/tables/fog-1.parquet", COLOUR).labels == [-1, -1]


def test_names_that_differ_by_extension_alone_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    for name in ("x.png", "x.bmp"):
        Image.new("RGB", (4, 4)).save(tmp_path / "in" / "a" / name)
    write_distorted(f"folder:{tmp_path / 'in'}", ["fog:1"], tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "fog" / "1" / "a").iterdir())
    assert names == ["x.bmp.png", "x.png.png"]


def test_class_folders_sort_as_the_labels(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])}
    )
    picture = Image.fromarray(random_pixels(8, 8))
    rows = [{"image": picture, "label": label} for label in (1, 0, 1)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    write_distorted(f"parquet:{tmp_path}/a.parquet", ["fog:1"], tmp_path / "out")
    read = open_dataset(f"folder:{tmp_path / 'out' / 'fog' / '1'}", COLOUR)
    assert sorted(read.names) == ["0/1.png", "1/0.png", "1/2.png"]
    assert read.labels == [0, 1, 1]


# --- independent of how it is computed


def test_neither_batch_size_nor_workers_change_a_pixel(sizes: Path, tmp_path: Path) -> None:
    found = []
    for name, size, workers in (("a", 1, 0), ("b", 3, 0), ("c", 32, 2)):
        write_distorted(f"folder:{sizes}", SPECS, tmp_path / name, batch_size=size, workers=workers)
        found.append(content(tmp_path / name))
    assert found[0] == found[1] == found[2]
    write_distorted(f"folder:{sizes}", SPECS, tmp_path / "d", seed=1)
    other = content(tmp_path / "d")
    name = "gaussian_noise/1/a/w.png"
    assert other[name] != found[0][name]


def test_a_large_image_alone_fills_a_block(
    sizes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distorted(f"folder:{sizes}", SPECS, tmp_path / "a")
    monkeypatch.setattr(_write, "BLOCK_VALUES", 100)
    write_distorted(f"folder:{sizes}", SPECS, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


# --- stopped, and given again


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("format", ["folder", "npy", "parquet"])
def test_a_stopped_writing_goes_on(
    format: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(out: Path) -> Written:
        return write_distorted("digits:test", SPECS, out, format, images=6, batch_size=2)

    whole, out = tmp_path / "whole", tmp_path / "out"
    write(whole)
    distorted, calls = _write._distorted, []

    def killed(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 8:  # in the second kind: the first has 3 batches at 2 levels
            (out / ".fog.npy.abc_1234.tmp").write_bytes(b"what a kill leaves behind")
            raise Killed
        return distorted(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_write, "_distorted", killed)
        with pytest.raises(Killed):
            write(out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".png", ".npy")}
    reader = {"npy": "cifar_c", "folder": "imagenet_c"}.get(format)
    if reader:
        with pytest.raises(InputError, match="is not complete: 'deepcorrect distort' was stopped"):
            open_corrupted(f"{reader}:{out}", GREY)
        assert before
    done = write(out)
    assert done.kept > 0
    assert done.written > 0
    assert content(out) == content(whole)
    kept = [path for path, time in before.items() if path.stat().st_mtime_ns == time]
    assert len([path for path in kept if path.name != "labels.npy"]) >= done.kept * bool(reader)
    again = write(out)
    assert (again.written, again.kept) == (0, done.written + done.kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was begun with seed 0, and now 1 is asked for"),
        ({"data": "digits:validation"}, "was begun with data 'digits:test'"),
        ({"format": "parquet"}, "was begun with format 'npy', and now 'parquet'"),
        ({"images": 3}, "was begun with images 2"),
        ({"input_size": 14}, "was begun with size None"),
        ({"distortions": ["awgn:10"]}, "was begun with distortions"),
    ],
)
def test_another_command_is_refused_the_folder(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    call = {"data": "digits:test", "distortions": ["awgn:20"], "format": "npy", "images": 2}
    write_distorted(out=tmp_path / "out", **call)
    before = content(tmp_path / "out")
    with pytest.raises(InputError) as refused:
        write_distorted(out=tmp_path / "out", **(call | change))
    assert message in str(refused.value)
    assert content(tmp_path / "out") == before


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files and no distort.json"):
        write_distorted("digits:test", ["awgn:20"], tmp_path, images=2)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_layouts.Array, "add", full)
    with pytest.raises(OSError, match="No space left"):
        write_distorted("digits:test", ["awgn:20"], tmp_path / "out", "npy", images=2)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["distort.json", "labels.npy"]


# --- bad images, bad input


@pytest.mark.parametrize("format", ["folder", "npy", "parquet"])
def test_bad_images_are_left_out_and_named(
    format: Format, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder({"a": 3, "b": 2})
    good = (folder / "a" / "1.png").read_bytes()
    (folder / "a" / "1.png").write_bytes(good[: len(good) // 2])
    said = command(
        *("distort", "--data", f"folder:{folder}", "--out", tmp_path / "out", "--json"),
        *("--distortion", "gaussian_noise:1,2", "--format", format),
    )
    assert said.status == 0
    assert (said.json["images"], said.json["bad_images"]) == (4, 1)
    assert "1 of 5 images of images could not be read and were left out: a/1.png" in said.err
    if format == "npy":
        assert np.load(tmp_path / "out" / "labels.npy").tolist() == [0, 0, 1, 1] * 2
        assert np.load(tmp_path / "out" / "gaussian_noise.npy").shape == (8, 20, 24, 3)
    if format == "folder":
        assert len(list((tmp_path / "out").rglob("*.png"))) == 8
    if format == "parquet":
        path = tmp_path / "out" / "gaussian_noise-2.parquet"
        assert open_dataset(f"parquet:{path}", COLOUR).labels == [0, 0, 1, 1]


def refused(*arguments: object) -> str:
    said: Said = command("distort", *arguments)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    return said.err


def test_what_cannot_be_written_is_said_in_one_line(sizes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["--data", f"folder:{sizes}", "--out", out, "--distortion"]
    message = refused(*call, "fog:1", "--format", "npy")
    assert "format npy needs images of one size: a/w.png has 33 x 40 pixels" in message
    assert "Give --input-size" in message
    assert "unknown distortion 'fogg', did you mean 'fog'" in refused(*call, "fogg")
    assert "level 6.0 of 'fog'" in refused(*call, "fog:6")
    assert "named twice" in refused(*call, "fog:1", "--distortion", "fog:2")
    assert "--resize needs --input-size" in refused(*call, "fog:1", "--resize", 20)
    assert not out.exists()
    out.write_text("a file")
    assert "is a file, and a folder is needed" in refused(*call, "fog:1")
    for path in sizes.rglob("*.*"):
        path.write_bytes(b"")
    call[3] = tmp_path / "other"
    assert "none of the 4 images of sizes could be read" in refused(*call, "fog:1")
    assert "Missing option '--distortion'" in command("distort", *call[:4]).err


# --- the commands, end to end


def test_digits_from_distort_to_evaluate(tmp_path: Path, digits_model: Classifier) -> None:
    """What was stored scores as the same noise added here and rounded."""
    out = tmp_path / "out"
    specs = ["--distortion", "gaussian_noise", "--distortion", "gaussian_blur_c:1,2,3,4,5"]
    said = command(
        *("distort", "--data", "digits:test", "--out", out, "--images", 60, "--seed", 2),
        *(*specs, "--format", "npy", "--json"),
    )
    assert said.status == 0
    assert said.json["distortions"]["gaussian_noise"] == [1, 2, 3, 4, 5]
    assert (said.json["images"], said.json["written_files"]) == (60, 2)
    call = ["evaluate", "--model", "digits_cnn", "--data", f"cifar_c:{out}", "--json"]
    clean = dc.evaluate(
        digits_model,
        dc.loader(dc.open_dataset("digits:test", digits_model.preprocessing).sample(60, 2)),
        ["gaussian_blur_c::quantize", "gaussian_noise::quantize"],
        seed=2,
    )
    found = command(*call)
    assert found.status == 0
    blur = found.json["distortions"]["gaussian_blur_c"]
    for name, curve in clean.curves.items():
        assert found.json["distortions"][name]["top1"] == pytest.approx(curve.top1)
        assert found.json["distortions"][name]["top5"] == pytest.approx(curve.top5)
        assert found.json["distortions"][name]["ece"] == pytest.approx(
            [cell.ece for cell in curve.cells]
        )
    assert (blur["clean_top1"], blur["clean_top5"]) == (None, None)
    assert blur["mean_top1"] == pytest.approx(sum(blur["top1"]) / 5)
    assert found.json["test_images"] == 60
    error = found.json["corruption_error"]
    noise = found.json["distortions"]["gaussian_noise"]
    assert error["mean"] == error["mce"] == pytest.approx(1 - sum(noise["top1"]) / 5)
    assert (error["reference"], error["relative_mce"], error["in_mce"]) == (None, None, 1)


def test_a_folder_of_many_sizes_from_distort_to_evaluate(sizes: Path, tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def network():\n"
        "    torch.manual_seed(7)\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 12), nn.Flatten())\n"
    )
    out = tmp_path / "out"
    said = command("distort", "--data", f"folder:{sizes}", "--out", out, "--distortion", "fog")
    assert said.status == 0
    assert said.out == f"{out}: 4 images, 20 files written, 0 were already there\n"
    flags = ["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--input-size", "12"]
    call = ["evaluate", "--model", f"python:{tmp_path / 'network.py'}:network", *flags]
    found = command(*call, "--data", f"imagenet_c:{out}", "--clean", f"folder:{sizes}")
    assert found.status == 0
    assert "mean corruption error (mCE), not normalised: " in found.out
    assert "1 of the 15 common corruptions are in the mCE, without gaussian_noise" in found.out
    over = command(*call, "--data", f"imagenet_c:{out}", "--reference", "alexnet", "--json").json
    fog = over["distortions"]["fog"]["top1"]
    assert over["corruption_error"]["mce"] == pytest.approx((5 - sum(fog)) / (5 * 0.819324))
    shutil.rmtree(out / "fog" / "2")
    four = command(*call, "--data", f"imagenet_c:{out}", "--reference", "alexnet")
    assert "where the CE is missing, alexnet was not measured at these levels" in four.out


def test_info_says_what_was_made(sizes: Path, tmp_path: Path) -> None:
    write_distorted(f"folder:{sizes}", ["fog:2", "awgn"], tmp_path / "out", seed=4)
    info = json.loads((tmp_path / "out" / "distort.json").read_text())
    assert info["finished"] is True
    assert (info["seed"], info["images"], info["channels"], info["size"]) == (4, 4, 3, None)
    assert info["distortions"]["fog"] == {"levels": [2.0], "parameters": "cifar"}
    assert info["distortions"]["awgn"]["levels"] == [5, 10, 15, 20, 25, 30]
    assert not list((tmp_path / "out").rglob(".*")), "nothing temporary is left"
    assert files.read_json(tmp_path / "out" / "distort.json")["schema"] == 2
