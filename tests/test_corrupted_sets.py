"""Reading CIFAR-C's and ImageNet-C's layouts as their authors publish them, and evaluating them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_pixels
from PIL import Image
from test_cli import command

from deepcorrect.data import Preprocessing, loader, open_dataset
from deepcorrect.distortions.stored._read import open_corrupted
from deepcorrect.evaluation._corruption_error import COMMON
from deepcorrect.evaluation._evaluate import evaluate_stored
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, files

COLOUR = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
LABELS = [3, 1, 4, 1]


def cifar_c(
    folder: Path, rows: dict[str, int], labels: list[int], shape: tuple[int, ...] = (8, 8, 3)
) -> Path:
    """A folder in CIFAR-C's layout: each array's number of rows, random pixels."""
    folder.mkdir()
    for seed, (name, count) in enumerate(rows.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
        np.save(folder / f"{name}.npy", pixels)
    np.save(folder / "labels.npy", np.array(labels))
    return folder


def imagenet_c(
    folder: Path, kinds: dict[str, str], classes: tuple[str, ...] = ("n1", "n2")
) -> Path:
    """A folder in ImageNet-C's layout, two images a class: levels, such as "12345", by kind."""
    for kind, levels in kinds.items():
        for level in levels:
            for place, name in enumerate(classes):
                path = folder / kind / level / name
                path.mkdir(parents=True)
                for number in range(2):
                    pixels = random_pixels(8, 8, seed=100 * int(level) + 10 * place + number)
                    Image.fromarray(pixels).save(path / f"{number}.JPEG")
    return folder


# --- CIFAR-C


def test_cifar_cs_rows_are_five_severities_one_after_the_other(tmp_path: Path) -> None:
    folder = cifar_c(tmp_path / "c", {"fog": 20, "gaussian_noise": 20}, LABELS * 5)
    found = open_corrupted(f"cifar_c:{folder}", COLOUR)
    assert list(found.parts) == ["gaussian_noise", "fog"], "the benchmark's order"
    pixels = np.load(folder / "fog.npy")
    for severity in (1, 2, 3, 4, 5):
        images = found.parts["fog"][severity]()
        assert images.labels == LABELS
        for index in range(4):
            sample = images[index]
            assert sample is not None
            row = torch.from_numpy(pixels[(severity - 1) * 4 + index])
            assert torch.equal(sample[0], row.permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("rows", "labels", "levels"),
    [
        (8, LABELS * 2, 2),
        (12, LABELS * 5, 3),
        (4, LABELS * 5, 1),
        (20, LABELS, 5),
        (4, LABELS, 1),
    ],
)
def test_fewer_levels_follow_from_rows_and_labels(
    rows: int, labels: list[int], levels: int, tmp_path: Path
) -> None:
    folder = cifar_c(tmp_path / "c", {"fog": rows}, labels)
    fog = open_corrupted(f"cifar_c:{folder}", COLOUR).parts["fog"]
    assert list(fog) == [float(level + 1) for level in range(levels)]
    assert fog[1.0]().labels == LABELS


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_grey_arrays(shape: tuple[int, ...], tmp_path: Path) -> None:
    folder = cifar_c(tmp_path / "c", {"fog": 20}, LABELS * 5, shape)
    sample = open_corrupted(f"cifar_c:{folder}", COLOUR).parts["fog"][1.0]()[0]
    assert sample is not None
    first = torch.from_numpy(np.load(folder / "fog.npy")[0]).view(8, 8) / 255
    assert torch.equal(sample[0], first.expand(3, 8, 8))


def test_the_benchmarks_gaussian_blur_is_not_the_papers(tmp_path: Path) -> None:
    folder = cifar_c(tmp_path / "c", {"gaussian_blur": 20}, LABELS * 5)
    assert list(open_corrupted(f"cifar_c:{folder}", COLOUR).parts) == ["gaussian_blur_c"]
    other = imagenet_c(tmp_path / "i", {"extra/gaussian_blur": "12345"})
    assert list(open_corrupted(f"imagenet_c:{other}", COLOUR).parts) == ["gaussian_blur_c"]
    np.save(folder / "gaussian_blur_c.npy", np.load(folder / "gaussian_blur.npy"))
    with pytest.raises(InputError, match="are the same corruption: keep one"):
        open_corrupted(f"cifar_c:{folder}", COLOUR)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "labels.npy").unlink(), "there is no file .*labels.npy: cifar_c:DIR holds"),
        (lambda f: (f / "fog.npy").unlink(), "has no KIND.npy beside its labels.npy"),
        (
            lambda f: np.save(f / "fog.npy", np.zeros((7, 8, 8, 3), np.uint8)),
            "has 7 rows, but by lab",
        ),
        (lambda f: np.save(f / "fog.npy", np.zeros((24, 8, 8, 3), np.uint8)), "1 to 5 times 4"),
        (lambda f: np.save(f / "fog.npy", np.zeros((20, 8, 8, 3))), "images are uint8 of shape"),
        (lambda f: np.save(f / "fog.npy", np.zeros((20, 8, 8, 4), np.uint8)), "images are uint8"),
        (lambda f: np.save(f / "labels.npy", np.zeros((4, 2))), "one integer per row"),
        (lambda f: (f / "fog.npy").write_bytes(b"no"), "is not a complete NumPy array"),
        (
            lambda f: (f / "fog.npy").write_bytes((f / "fog.npy").read_bytes()[:-9]),
            "is not a complete NumPy array",
        ),
        (lambda f: (f / "fog.npy").rename(f / "fogg.npy"), "unknown corruption 'fogg', did you"),
    ],
)
def test_a_broken_cifar_c_is_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    folder = cifar_c(tmp_path / "c", {"fog": 20}, LABELS * 5)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        open_corrupted(f"cifar_c:{folder}", COLOUR)


def changed(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("fog.npy", b"|u1", b"|a1"),
        ("labels.npy", b"<i8", b"<a8"),
        ("fog.npy", b"'|u1'", b"'\\d1'"),
        ("fog.npy", b"(20, 8, 8, 3), }", b"(20if 8, 8, 3),}"),
        ("labels.npy", b"\x93NUMPY", b"\x93NUMP_"),
    ],
)
def test_a_header_that_numpy_would_only_warn_of_is_refused(
    name: str, old: bytes, new: bytes, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = cifar_c(tmp_path / "c", {"fog": 20}, LABELS * 5)
    changed(folder / name, old, new)
    with pytest.raises(InputError, match=f"{name} is not a complete NumPy array"):
        open_corrupted(f"cifar_c:{folder}", COLOUR)
    archive = tmp_path / "w.npz"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / name, "a.npy")
    with pytest.raises(InputError, match="is not a complete archive of NumPy arrays"):
        files.read_arrays(archive)
    assert not recwarn.list


def test_an_archive_named_as_an_array_is_refused_and_an_array_of_python_2_is_read(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = cifar_c(tmp_path / "c", {"fog": 20}, LABELS * 5)
    changed(folder / "fog.npy", b"(20, 8, 8, 3), }", b"(20L, 8, 8, 3),}")
    assert len(open_corrupted(f"cifar_c:{folder}", COLOUR).parts["fog"]) == 5
    with (folder / "labels.npy").open("wb") as file:
        np.savez(file, labels=np.array(LABELS))
    with pytest.raises(InputError, match=r"labels.npy is not a complete NumPy array"):
        open_corrupted(f"cifar_c:{folder}", COLOUR)
    assert not recwarn.list


# --- ImageNet-C


def test_imagenet_cs_folders_flat_and_as_its_archives_unpack(tmp_path: Path) -> None:
    kinds = {
        "noise/shot_noise": "12345",
        "weather/fog": "12345",
        "snow": "53",
        "extra/spatter": "1",
    }
    found = open_corrupted(f"imagenet_c:{imagenet_c(tmp_path / 'c', kinds)}", COLOUR)
    assert {name: list(levels) for name, levels in found.parts.items()} == {
        "shot_noise": [1, 2, 3, 4, 5],
        "snow": [3, 5],
        "fog": [1, 2, 3, 4, 5],
        "spatter": [1],
    }
    assert found.classes == ("n1", "n2")
    images = found.parts["fog"][4]()
    direct = open_dataset(f"folder:{tmp_path / 'c' / 'weather' / 'fog' / '4'}", COLOUR)
    assert images.labels == direct.labels == [0, 0, 1, 1]
    assert images.names == direct.names
    for index in range(4):
        ours, theirs = images[index], direct[index]
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("fogg/1/n1", "unknown corruption 'fogg', did you mean 'fog'"),
        ("fog/one/n1", "one is not a level: imagenet_c:DIR holds KIND/LEVEL/CLASS"),
        ("fog/6/n1", "level 6.0 of 'fog' is not a whole number"),
        ("fog/2", "2 has no class folders: imagenet_c:DIR holds KIND/LEVEL/CLASS"),
        ("fog/2/n3", r"2 has other class folders than the levels before it \(such as n"),
        ("snow", "snow has no folder of a level, such as snow/1"),
    ],
)
def test_a_broken_imagenet_c_is_refused(make: str, message: str, tmp_path: Path) -> None:
    folder = imagenet_c(tmp_path / "c", {"fog": "1"})
    (folder / make).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        open_corrupted(f"imagenet_c:{folder}", COLOUR)


def test_a_folder_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no folder of a corruption"):
        open_corrupted(f"imagenet_c:{tmp_path}", COLOUR)
    for name in ("cifar_c", "imagenet_c"):
        with pytest.raises(InputError, match="there is no folder"):
            open_corrupted(f"{name}:{tmp_path / 'nowhere'}", COLOUR)


def test_kinds_and_levels_can_be_chosen(tmp_path: Path) -> None:
    found = open_corrupted(
        f"imagenet_c:{imagenet_c(tmp_path / 'c', {'fog': '123', 'snow': '12'})}", COLOUR
    )
    chosen = found.only(["fog:3,1"]).parts
    assert {name: list(levels) for name, levels in chosen.items()} == {"fog": [3, 1]}
    with pytest.raises(InputError, match="unknown distortion of c 'frost'"):
        found.only(["frost"])
    with pytest.raises(InputError, match="c has no level 4 of 'fog'; it has 1, 2, 3"):
        found.only(["fog:4"])


def test_other_commands_say_who_reads_such_a_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only 'deepcorrect evaluate --data' reads all of them"):
        open_dataset(f"imagenet_c:{tmp_path}", COLOUR)


# --- evaluating


def test_accuracy_of_each_level_is_a_direct_count(classifier: Classifier, tmp_path: Path) -> None:
    folder = imagenet_c(tmp_path / "c", {"fog": "12", "snow": "3"})
    found = open_corrupted(f"imagenet_c:{folder}", classifier.preprocessing)
    parts = {
        name: {level: (lambda part=part: loader(part(), 3)) for level, part in levels.items()}
        for name, levels in found.parts.items()
    }
    grid = evaluate_stored(classifier, parts)
    for name, levels in found.parts.items():
        for place, part in enumerate(levels.values()):
            images = part()
            samples = [images[index] for index in range(4)]
            batch = torch.stack([sample[0] for sample in samples if sample])
            with torch.no_grad():
                answers = classifier(batch).argmax(1)
            share = float((answers == torch.tensor(images.labels)).double().mean())
            assert grid.curves[name].top1[place] == pytest.approx(share)
    assert (grid.images, grid.clean) == (4, None)
    assert grid.to_json()["fog"]["levels"] == [1, 2]


@pytest.fixture
def digits_c(tmp_path: Path) -> Path:
    """The fifteen on a few digits, as ImageNet-C lays them out; not written by `distort`."""
    images = open_dataset("digits:test", Preprocessing(28, (0.1307,), (0.3081,))).sample(20)
    for place, name in enumerate(COMMON):
        for level in range(1, 6):
            for index in range(20):
                sample = images[index]
                assert sample is not None
                noise = torch.randn(28, 28, generator=torch.Generator().manual_seed(index))
                pixels = (sample[0][0] + noise * (0.05 * level + 0.02 * place)).clamp(0, 1) * 255
                path = tmp_path / "c" / name / str(level) / str(sample[1]) / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.byte().numpy()).save(path)
    for folder in (tmp_path / "c").glob("*/*"):
        for digit in range(10):
            (folder / str(digit)).mkdir(exist_ok=True)
    return tmp_path / "c"


def test_evaluate_reports_mce_over_alexnet(digits_c: Path, tmp_path: Path) -> None:
    call = ["evaluate", "--model", "digits_cnn", "--data", f"imagenet_c:{digits_c}"]
    record = command(*call, "--clean", "digits:test", "--json").json
    error = record["corruption_error"]
    assert (error["reference"], error["in_mce"], error["missing"]) == ("alexnet", 15, [])
    assert list(error["by_corruption"]) == list(COMMON)
    snow = record["distortions"]["snow"]
    rise = snow["clean_top1"] - sum(snow["top1"]) / 5
    assert error["by_corruption"]["snow"]["relative_ce"] == pytest.approx(
        rise / (0.866816 - 0.434846)
    )
    assert snow["mean_top1"] == pytest.approx((snow["clean_top1"] + sum(snow["top1"])) / 6)
    said = command(*call, "--clean", "digits:test")
    assert f"mean corruption error (mCE), over AlexNet: {error['mce']:.3f}" in said.out
    assert "relative mean corruption error, over AlexNet" in said.out
    (tmp_path / "other.json").write_text(json.dumps(record))
    own = command(*call, "--reference", tmp_path / "other.json", "--json").json
    assert own["corruption_error"]["mce"] == pytest.approx(1)
    none = command(*call, "--reference", "none", "--images", 10, "--json").json
    assert none["corruption_error"]["mce"] == none["corruption_error"]["mean"]
    assert none["test_images"] == 10


def test_evaluate_gives_the_same_report_of_corruptions_it_computes(tmp_path: Path) -> None:
    call = ["evaluate", "--model", "digits_cnn", "--data", "digits:test", "--images", 4]
    record = command(*call, "--distortion", "imagenet_c", "--json").json
    error = record["corruption_error"]
    assert (error["in_mce"], error["reference"]) == (15, None), "small images have CIFAR's"
    fog = record["distortions"]["fog"]
    assert error["by_corruption"]["fog"]["relative_ce"] == pytest.approx(
        fog["clean_top1"] - sum(fog["top1"]) / 5
    )
    large = command(*call, "--distortion", "contrast::imagenet", "--json").json
    assert large["corruption_error"]["reference"] == "alexnet"
    said = command(*call, "--distortion", "contrast")
    assert "contrast (severity): top-1 accuracy" in said.out
    assert "mean corruption error (mCE), not normalised" in said.out
    assert "corruption_error" not in command(*call, "--distortion", "awgn:20", "--json").json


def test_what_does_not_fit_is_said_in_one_line(digits_c: Path, tmp_path: Path) -> None:
    call = ["evaluate", "--model", "digits_cnn", "--data"]
    two = imagenet_c(tmp_path / "two", {"fog": "1"})
    for arguments, message in (
        ((f"imagenet_c:{two}", "--clean", "digits:test"), "digits:test has 10 classes and two 2"),
        (("digits:test", "--clean", "digits:test"), "--clean goes with distorted copies"),
        ((f"imagenet_c:{digits_c}", "--reference", "no.json"), "there is no file no.json"),
        ((f"imagenet_c:{digits_c}", "--distortion", "awgn"), "unknown distortion of c 'awgn'"),
        ((f"cifar_c:{digits_c}",), "there is no file"),
        (("cifar_c:",), "unknown data 'cifar_c:'"),
    ):
        said = command(*call, *arguments)
        assert (said.status, said.out) == (1, "")
        assert message in said.err
        assert len(said.err.splitlines()) == 1


def test_stored_images_of_the_input_size_are_not_resized_again(tmp_path: Path) -> None:
    """The networks of ImageNet resize by more than they crop; ImageNet-C is cropped already."""
    cifar_c(tmp_path / "arrays", {"fog": 4}, LABELS)
    imagenet_c(tmp_path / "folders", {"fog": "1"})
    for spec in (f"cifar_c:{tmp_path / 'arrays'}", f"imagenet_c:{tmp_path / 'folders'}"):
        plain, larger = (
            next(iter(open_corrupted(spec, fit).parts["fog"].values()))().matched(9)
            for fit in (COLOUR, replace(COLOUR, resize=11))
        )
        for index in range(4):
            one, other = plain[index], larger[index]
            assert one is not None
            assert other is not None
            assert torch.equal(one[0], other[0])


def test_bad_images_of_a_level_are_counted(digits_c: Path) -> None:
    path = min((digits_c / "fog" / "2").rglob("*.png"))
    path.write_bytes(b"")
    call = ["evaluate", "--model", "digits_cnn", "--data", f"imagenet_c:{digits_c}"]
    said = command(*call, "--distortion", "fog", "--json")
    assert said.status == 0
    assert "1 of 20 images of c, fog 2 could not be read" in said.err
    assert said.json["test_images"] == 19
