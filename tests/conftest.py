"""Shared fixtures: a small network with every awkward construct, images, loaders and folders."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported, and for the processes that tests start. One thread per process: the
# tensors here are tiny, a second thread saves nothing, and waiting for it on a busy machine was
# measured to make a forward pass 70 times slower.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# Each worker of pytest-xdist has a cache of its own.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="deepcorrect-tests-")

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor, nn

from deepcorrect.data import ImageSet, Preprocessing, open_dataset
from deepcorrect.models import load_model
from deepcorrect.networks import Classifier

atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
torch.set_num_threads(1)

SIZE = 16
CLASSES = 5
TRAIN, VALIDATION, TEST = 8, 4, 4  # digits per class
Batch = tuple[Tensor, Tensor]


class TinyCNN(nn.Module):
    """Batch norm, one in-place ReLU used three times, an in-place residual sum, grouped and
    depthwise convolutions, and functional operations between modules."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.out_norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.norm(self.stem(images)))
        identity = maps
        out = self.depthwise(self.relu(self.grouped(maps)))
        out += identity
        out = F.avg_pool2d(self.relu(out), 2)
        out = F.hardswish(self.out_norm(self.pointwise(out)), inplace=True)
        return self.head(out.mean((2, 3)))


TINY_SITES = ("stem", "grouped", "depthwise", "pointwise")


def tiny_cnn(seed: int = 0) -> TinyCNN:
    """A `TinyCNN` in inference mode, its batch norms' statistics and weights not the trivial ones,
    its answers different from image to image."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TinyCNN()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_var, module.weight):
                    assert tensor is not None
                    nn.init.uniform_(tensor, 0.5, 1.5)
                for tensor in (module.running_mean, module.bias):
                    assert tensor is not None
                    nn.init.normal_(tensor, 0, 0.3)
        nn.init.normal_(network.head.weight, 0, 2)
    return network.eval()


def cut(images: Tensor, labels: Tensor, size: int) -> list[Batch]:
    """Batches of `size`: the simplest loader with a length."""
    return list(zip(images.split(size), labels.split(size), strict=True))


def _edited(
    edit: Callable[[Tensor], Tensor], module: nn.Module, args: object, output: Tensor
) -> Tensor:
    return edit(output.clone())


def with_convolutions_by_hand(
    network: nn.Module, edits: Mapping[str, Callable[[Tensor], Tensor]], images: Tensor
) -> Tensor:
    """A full forward pass with plain hooks that change the named modules' outputs."""
    modules = dict(network.named_modules())
    handles = [
        modules[name].register_forward_hook(partial(_edited, edit)) for name, edit in edits.items()
    ]
    try:
        return network(images)
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(autouse=True, scope="session")
def _signals_are_heard() -> None:
    """Ctrl-C is heard where a suite in the background was told to ignore it; a stop test waits."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def any_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose images carry numbers that are easily counted, and are no pictures."""
    monkeypatch.setenv("DEEPCORRECT_CHECK_IMAGES", "0")


@pytest.fixture
def network() -> TinyCNN:
    return tiny_cnn()


@pytest.fixture
def tiny_preprocessing() -> Preprocessing:
    return Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture
def classifier(network: TinyCNN, tiny_preprocessing: Preprocessing) -> Classifier:
    return Classifier(network, tiny_preprocessing, "tiny").eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(CLASSES, (12,), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def batches(images: Tensor, labels: Tensor) -> list[Batch]:
    return cut(images, labels, 4)


@pytest.fixture(scope="session")
def digits_model() -> Classifier:
    """The shipped, trained digits network. Tests must not change it."""
    return load_model("digits_cnn")


@pytest.fixture(scope="session")
def digits_test(digits_model: Classifier) -> ImageSet:
    return open_dataset("digits:test", digits_model.preprocessing)


@pytest.fixture(scope="session")
def digits_batch(digits_test: ImageSet) -> Batch:
    """Forty-eight digits and their labels."""
    some = digits_test.sample(48, seed=3)
    samples = [sample for sample in (some[index] for index in range(len(some))) if sample]
    return torch.stack([image for image, _ in samples]), torch.tensor([k for _, k in samples])


def write_digits(images: ImageSet, folder: Path) -> None:
    """Folders of PNGs that the shipped network was not trained on: train, validation, test."""
    counts = dict.fromkeys(range(10), 0)
    groups = ["train"] * TRAIN + ["validation"] * VALIDATION + ["test"] * TEST
    for index in range(len(images)):
        sample = images[index]
        assert sample is not None
        pixels, label = sample
        if counts[label] < len(groups):
            place = folder / groups[counts[label]] / str(label)
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((pixels[0] * 255).round().byte().numpy())
            picture.save(place / f"{index}.png")
            counts[label] += 1


def tiny_recipe(folder: Path) -> dict[str, Any]:
    """The whole pipeline in about two seconds, on what `write_digits` wrote."""
    training = {"epochs": 2, "batch_size": 20, "precision": "float32"}
    return {
        "name": "tiny",
        "model": {"spec": "digits_cnn"},
        "data": {
            "train": f"folder:{folder / 'train'}",
            "validation": f"folder:{folder / 'validation'}",
            "test": f"folder:{folder / 'test'}",
            "train_images": 60,
            "batch_size": 20,
        },
        "distortions": {"gaussian_blur": {"levels": [1.5]}, "awgn": {"levels": [40, 80]}},
        "ranking": {"images": 12, "sites": ["features.0.0", "features.3.0"]},
        "ideal": {"images": 10, "betas": [0.5]},
        "selection": {"images": 18},
        "systems": {
            "finetuned": {"method": "finetune", "training": training},
            "deepcorrect": {
                "method": "deepcorrect",
                "beta": 0.25,
                "unit": {"kind": "bottleneck", "dilations": [1]},
                "gate": 0.1,
                "training": training,
            },
        },
    }


@pytest.fixture(scope="session")
def digits_folder(digits_test: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train, validation and test, one sub-folder per class, and `tiny.yaml`, a recipe.

    Tests must not change it.
    """
    folder = tmp_path_factory.mktemp("digits")
    write_digits(digits_test, folder)
    text = yaml.safe_dump(tiny_recipe(folder), sort_keys=False)
    (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def finished_run(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tiny.yaml`. Tests must not change it."""
    from deepcorrect.experiments import load_recipe, run  # not for processes that need no run

    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(load_recipe(digits_folder / "tiny.yaml"), folder) == folder / "results.json"
    return folder


def random_pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random 8-bit pixels, H x W x C, or H x W for one channel."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[Mapping[str, int]], Path]:
    """Makes a folder of PNGs: sub-folder (or '' for the folder itself) -> number of images."""

    def make(counts: Mapping[str, int]) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for group, count in counts.items():
            (folder / group).mkdir(exist_ok=True)
            for index in range(count):
                pixels = random_pixels(20, 24, seed=index)
                Image.fromarray(pixels).save(folder / group / f"{index}.png")
        return folder

    return make
