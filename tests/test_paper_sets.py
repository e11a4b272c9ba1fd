"""The paper's data sets: small copies in the layouts of the unpacked standard downloads."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deepcorrect.correction._unit_config import unit_config
from deepcorrect.data import ImageSet, Preprocessing, loader, open_dataset
from deepcorrect.experiments._recipe import load_recipe
from deepcorrect.experiments._run import run
from deepcorrect.experiments._systems import CorrectionSystem, FinetuneSystem
from deepcorrect.runtime import InputError

COLOUR = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
WORDNET = ("n01440764", "n01443537", "n02110185")  # tench, goldfish, Siberian husky
SHARED = os.environ.get("DEEPCORRECT_SHARED")


def write(paths: Iterable[Path], shade: int = 0) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(path, "JPEG", quality=100)


def all_images(images: ImageSet) -> tuple[Tensor, list[int]]:
    batches = list(loader(images, 16))
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]).tolist()


# --- ImageNet


def write_devkit(folder: Path, truth: list[int]) -> None:
    """The development kit's two files; its ids are not in the order of the WordNet ids."""
    from scipy.io import savemat

    rows = [  # ILSVRC2012_ID, WNID, words, num_children; 1001 is a group of classes
        (1, WORDNET[2], "Siberian husky", 0),
        (2, WORDNET[0], "tench, Tinca tinca", 0),
        (3, WORDNET[1], "goldfish, Carassius auratus", 0),
        (1001, "n02084071", "dog, domestic dog", 118),
    ]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array([tuple(row) for row in rows], dtype=kind)[:, None]
    place = folder / "ILSVRC2012_devkit_t12" / "data"
    place.mkdir(parents=True)
    savemat(place / "meta.mat", {"synsets": synsets})
    text = "".join(f"{number}\n" for number in truth)
    (place / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Four training images of each of three classes, five validation images in one folder."""
    for place, wordnet in enumerate(WORDNET):
        names = (f"{wordnet}_{number}.JPEG" for number in range(4))
        write((tmp_path / "train" / wordnet / name for name in names), 80 * place)
    names = (f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 6))
    write(tmp_path / "val" / name for name in names)
    write_devkit(tmp_path, [2, 1, 3, 1, 2])
    return tmp_path


def test_imagenets_training_images(imagenet: Path) -> None:
    images = open_dataset(f"imagenet:{imagenet}:train", COLOUR)
    assert images.labels == [0] * 4 + [1] * 4 + [2] * 4
    assert images.names[5] == "n01443537/n01443537_1.JPEG"
    assert images.classes is not None
    assert images.classes[0] == "n01440764 tench, Tinca tinca"
    found, labels = all_images(images)
    assert labels == images.labels
    assert found[:, 0, 0, 0].mul(255).sub(torch.tensor(labels) * 80).abs().max() < 3


@pytest.mark.parametrize("split", ["val", "validation"])
def test_imagenets_flat_validation_images_have_the_devkits_classes(
    imagenet: Path, split: str
) -> None:
    images = open_dataset(f"imagenet:{imagenet}:{split}", COLOUR)
    assert images.names[1] == "ILSVRC2012_val_00000002.JPEG"
    assert images.labels == [0, 2, 1, 2, 0]
    assert images.classes == open_dataset(f"imagenet:{imagenet}:train", COLOUR).classes
    (imagenet / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()  # the number in the name counts
    assert open_dataset(f"imagenet:{imagenet}:val", COLOUR).labels == [0, 1, 2, 0]
    write([imagenet / "val" / "ILSVRC2012_val_00000009.JPEG"])
    with pytest.raises(InputError, match="1 images of .* have no class .*00000009.JPEG"):
        open_dataset(f"imagenet:{imagenet}:val", COLOUR)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm's lists are not installed")
def test_imagenets_classes_find_a_networks(imagenet: Path) -> None:
    images = open_dataset(f"imagenet:{imagenet}:val", COLOUR)
    assert images.matched(1000).labels == [0, 250, 1, 250, 0]
    names = ("goldfish", "Siberian husky", "tench")
    assert images.matched(3, names).labels == [2, 1, 0, 1, 2]


def test_kaggles_layout_and_validation_images_in_class_folders(imagenet: Path) -> None:
    inside = imagenet / "ILSVRC" / "Data" / "CLS-LOC"
    inside.mkdir(parents=True)
    for part in ("train", "val"):
        (imagenet / part).rename(inside / part)
    (imagenet / "ILSVRC2012_devkit_t12").rename(imagenet / "elsewhere")
    with pytest.raises(InputError, match="put the development kit .*LOC_val_solution.csv into"):
        open_dataset(f"imagenet:{imagenet}:val", COLOUR)
    lines = [f"ILSVRC2012_val_{k:08},{WORDNET[k % 3]} 1 2 3 4 \n" for k in range(1, 6)]
    text = "ImageId,PredictionString\n" + "".join(lines)
    (imagenet / "LOC_val_solution.csv").write_text(text)
    images = open_dataset(f"imagenet:{imagenet}:val", COLOUR)
    assert images.labels == [1, 2, 0, 1, 2]
    assert images.classes == WORDNET
    assert len(open_dataset(f"imagenet:{imagenet}:train", COLOUR)) == 12
    for wordnet in WORDNET:
        write([inside / "val" / wordnet / "x.JPEG"])
    assert open_dataset(f"imagenet:{imagenet}:val", COLOUR).labels == [0, 1, 2]


def test_what_is_missing_of_imagenet_is_said(tmp_path: Path) -> None:
    for spec in ("imagenet:x", "imagenet:x:test", "imagenet::train"):
        with pytest.raises(InputError, match="is not imagenet:DIR:train or imagenet:DIR:val"):
            open_dataset(spec, COLOUR)
    with pytest.raises(InputError, match="there is no folder"):
        open_dataset(f"imagenet:{tmp_path}/x:val", COLOUR)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no folders of ImageNet's classes, such as n01440764"):
        open_dataset(f"imagenet:{tmp_path}:train", COLOUR)
    (tmp_path / "train" / "n01440764.tar").touch()
    with pytest.raises(InputError, match="holds archives such as n01440764.tar.*unpack each"):
        open_dataset(f"imagenet:{tmp_path}:train", COLOUR)
    write_devkit(tmp_path, [1])
    write([tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG"])
    meta = tmp_path / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    meta.write_bytes(b"no MATLAB file")
    with pytest.raises(InputError, match="does not hold ImageNet's development kit"):
        open_dataset(f"imagenet:{tmp_path}:val", COLOUR)


# --- Caltech


def write_caltech(folder: Path, counts: dict[str, int]) -> None:
    for group, count in counts.items():
        write(folder / group / f"image_{number:04}.jpg" for number in range(1, count + 1))


@pytest.mark.parametrize("below", ["", "caltech-101/", "caltech101/"])
def test_caltech_101_is_split_into_thirty_and_up_to_fifty(tmp_path: Path, below: str) -> None:
    folder = tmp_path / f"{below}101_ObjectCategories"
    counts = {"BACKGROUND_Google": 3, "Faces": 90, "accordion": 55, "inline_skate": 31}
    write_caltech(folder, counts)
    whole = open_dataset(f"caltech101:{tmp_path}", COLOUR)
    assert (len(whole), whole.classes) == (176, ("Faces", "accordion", "inline_skate"))
    assert open_dataset(f"caltech101:{folder}", COLOUR).names == whole.names
    parts = {
        (split, number): open_dataset(f"caltech101:{tmp_path}:{split}{number}", COLOUR)
        for split in ("train", "test")
        for number in ("", ":0", ":1")
    }
    for number in ("", ":0", ":1"):
        train, test = parts["train", number], parts["test", number]
        assert Counter(train.labels) == {0: 30, 1: 30, 2: 30}
        assert Counter(test.labels) == {0: 50, 1: 25, 2: 1}
        assert not set(train.names) & set(test.names)
        for part in (train, test):
            assert list(part.names) == sorted(part.names)
            assert [whole.labels[whole.names.index(name)] for name in part.names] == part.labels
    assert parts["train", ""].names == parts["train", ":0"].names
    assert parts["train", ":0"].names != parts["train", ":1"].names
    assert parts["test", ":1"].name == "caltech101:test:1"
    assert all_images(parts["test", ""])[1] == parts["test", ""].labels


def test_caltech_256_without_its_clutter_and_its_stray_files(tmp_path: Path) -> None:
    folder = tmp_path / "256_ObjectCategories"
    write_caltech(folder, {"001.ak47": 62, "056.dog": 130, "257.clutter": 4})
    write([folder / "056.dog" / "greg" / "vision309" / "x.jpg"])
    (folder / "198.spider").mkdir()
    (folder / "198.spider" / "RENAME2").write_text("a script")
    whole = open_dataset(f"caltech256:{tmp_path}", COLOUR)
    assert (len(whole), whole.classes) == (192, ("ak47", "dog", "spider"))
    train, test = (open_dataset(f"caltech256:{tmp_path}:{s}", COLOUR) for s in ("train", "test"))
    assert Counter(train.labels) == {0: 60, 1: 60}
    assert Counter(test.labels) == {0: 2, 1: 50}
    assert train.matched(2, ("dog", "AK-47")).labels == [1] * 60 + [0] * 60


def test_what_is_missing_of_caltech_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder .*/x"):
        open_dataset(f"caltech101:{tmp_path}/x:train", COLOUR)
    with pytest.raises(InputError, match="caltech101:DIR reads DIR/101_ObjectCategories/CLASS"):
        open_dataset(f"caltech101:{tmp_path}:train", COLOUR)
    (tmp_path / "caltech-101").mkdir()
    (tmp_path / "caltech-101" / "101_ObjectCategories.tar.gz").touch()
    with pytest.raises(InputError, match="101_ObjectCategories.tar.gz is not unpacked"):
        open_dataset(f"caltech101:{tmp_path}", COLOUR)


# --- SUN-397


@pytest.fixture
def sun(tmp_path: Path) -> Path:
    """Three classes, one of them nested two folders deep, and the lists of two partitions."""
    folder = tmp_path / "SUN397"
    classes = ("/a/abbey", "/a/apartment_building/outdoor", "/z/zoo")
    for place, name in enumerate(classes):
        write((folder / f".{name}" / f"sun_{k}.jpg" for k in range(6)), 80 * place)
    (folder / "ClassName.txt").write_text("".join(f"{name}\n" for name in classes))
    lists = tmp_path / "Partitions"
    lists.mkdir()
    for number in (1, 10):
        for kind, rows in (("Training", (0, number // 2)), ("Testing", (1, 2))):
            text = "".join(f"{name}/sun_{k}.jpg\r\n" for name in classes for k in rows)
            (lists / f"{kind}_{number:02}.txt").write_text(text)
    return tmp_path


def test_sun_397_and_its_partitions(sun: Path) -> None:
    whole = open_dataset(f"sun397:{sun}", COLOUR)
    assert len(whole) == 18
    assert whole.classes == ("abbey", "apartment_building/outdoor", "zoo")
    found, labels = all_images(whole)
    assert labels == [0] * 6 + [1] * 6 + [2] * 6
    assert found[:, 0, 0, 0].mul(255).sub(torch.tensor(labels) * 80).abs().max() < 3
    train = open_dataset(f"sun397:{sun}:train", COLOUR)
    assert (train.labels, train.name) == ([0, 0, 1, 1, 2, 2], "sun397:train:1")
    assert train.names[2] == "a/apartment_building/outdoor/sun_0.jpg"
    tenth = open_dataset(f"sun397:{sun}:train:10", COLOUR)
    assert tenth.names[1] == "a/abbey/sun_5.jpg"
    assert all_images(tenth)[1] == (tenth.labels)
    assert open_dataset(f"sun397:{sun}:test:10", COLOUR).names[0] == "a/abbey/sun_1.jpg"


def test_a_listed_image_that_is_not_there_is_bad(sun: Path) -> None:
    (sun / "SUN397" / "a" / "abbey" / "sun_1.jpg").unlink()
    images = open_dataset(f"sun397:{sun}:test", COLOUR)
    assert all_images(images)[1] == [0, 1, 1, 2, 2]
    assert images.bad == ["a/abbey/sun_1.jpg"]


def test_what_is_missing_of_sun_is_said(sun: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="partitions 1 to 10, but not 11"):
        open_dataset(f"sun397:{sun}:train:11", COLOUR)
    with pytest.raises(InputError, match="has no Training_02.txt: unpack SUN-397's Partitions.zip"):
        open_dataset(f"sun397:{sun}:train:2", COLOUR)
    (sun / "Partitions" / "Testing_01.txt").write_text("/b/bar/sun_1.jpg\n")
    with pytest.raises(InputError, match="names b/bar/sun_1.jpg, whose folder is not a class"):
        open_dataset(f"sun397:{sun}:test", COLOUR)
    (sun / "SUN397" / "ClassName.txt").unlink()
    with pytest.raises(InputError, match="has no SUN397/ClassName.txt"):
        open_dataset(f"sun397:{sun}", COLOUR)


# --- the shared Caltech-101


@pytest.mark.shared
@pytest.mark.skipif(not SHARED, reason="DEEPCORRECT_SHARED does not name the shared folder")
def test_the_real_caltech_101_reads_alike_as_parquet_and_as_it_unpacks(tmp_path: Path) -> None:
    fit = Preprocessing(64, (0.5,) * 3, (0.5,) * 3, 72)
    table = open_dataset(f"parquet:{SHARED}/data/caltech101/train.parquet", fit)
    assert (len(table), len(table.classes or ())) == (3030, 101)
    assert set(Counter(table.labels).values()) == {30}
    names = table.classes or ()
    rows = range(0, len(table), 90)
    for row in rows:
        place = tmp_path / "101_ObjectCategories" / names[table.labels[row]] / "image_0001.jpg"
        place.parent.mkdir(parents=True)
        with table._read(row) as image:
            image.save(place.with_suffix(".png"))
    folder = open_dataset(f"caltech101:{tmp_path}:train", fit).matched(101, names)
    by_label = {label: place for place, label in enumerate(folder.labels)}  # Faces before accordion
    for row in rows:
        first, second = folder[by_label[table.labels[row]]], table[row]
        assert first is not None
        assert second is not None
        assert torch.equal(first[0], second[0])


# --- the recipes


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_the_papers_alexnet_trains_as_many_parameters_as_the_paper_says(kind: str) -> None:
    """The published number is 2.81 million; baseline and training are those of the recipe."""
    paths = ["data.train=imagenet:x:train", "data.test=imagenet:x:val"]
    recipe = load_recipe(f"imagenet_alexnet_{kind}", paths)
    system = recipe.systems["deepcorrect"]
    assert isinstance(system, CorrectionSystem)
    assert isinstance(system.beta, dict)
    filters = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
    count = 0
    for place, (site, share) in enumerate(system.beta.items()):
        width, unit = round(share * filters[site]), unit_config(system.unit, place)
        count += width**2 * (2 + unit.kernel_size**2 * len(unit.dilations))
    assert count == 2_809_088
    assert system.training.learning_rate == 0.1
    tuned = recipe.systems["finetuned"]
    assert isinstance(tuned, FinetuneSystem)
    assert tuned.training.learning_rate == 1e-3
    assert (system.training.epochs, system.training.step_epochs) == (50, 15)
    assert recipe.ranking.images == 5000
    levels = {"blur": (1, 2, 3, 4, 5, 6), "noise": (10, 20, 40, 60, 80, 100)}[kind]
    assert [each.levels for each in recipe.distortion_list] == [levels]


@pytest.mark.parametrize("name", ["imagenet_alexnet_noise", "imagenet_resnet18_blur"])
def test_the_papers_recipes_run_on_a_small_imagenet(
    name: str, imagenet: Path, tmp_path: Path
) -> None:
    if "resnet" in name and find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    recipe = load_recipe(
        name,
        [
            *(f"data.train=imagenet:{imagenet}:train", f"data.test=imagenet:{imagenet}:val"),
            *("model.weights=random", "data.workers=0", "data.validation_images=4"),
            *("ranking.method=random", "ranking.images=2", "ideal.images=0", "selection.images=2"),
            *(["model.input_size=64"] if "resnet" in name else ["data.test_images=3"]),
            *("systems.deepcorrect.training.epochs=1", "systems.deepcorrect.training.batch_size=4"),
            "distortions." + ("awgn" if "noise" in name else "gaussian_blur") + ".levels=[3]",
        ],
    )
    corrected = {"deepcorrect": recipe.systems["deepcorrect"]}
    path = run(recipe.model_copy(update={"systems": corrected}), tmp_path / "run")
    record = json.loads(path.read_text())["systems"]["deepcorrect"]
    assert record["images_seen"] == 8
    assert record["test_images"] == (5 if "resnet" in name else 3)
    if "alexnet" in name:
        assert 2_809_088 < record["trainable_parameters"] < 2_830_000
