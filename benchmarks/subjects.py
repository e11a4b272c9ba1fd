"""What the benchmarks run on: trained networks and images of the shared folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from deepcorrect.data import ImageSet, loader, open_dataset
from deepcorrect.models import load_model
from deepcorrect.networks import Classifier
from deepcorrect.runtime import optional_import

SHARED = Path(os.environ.get("DEEPCORRECT_SHARED", "../shared"))
"""Trained networks and data sets; `DEEPCORRECT_SHARED` names the folder."""

RESULTS = Path(__file__).parent / "results"
"""Figures that are kept, a folder for each room of benchmarks."""

CIFAR = {"resnet20": "cifar_resnet20", "allcnn": "cifar_allcnn"}
DISTORTIONS = ("gaussian_blur", "awgn")


def cifar_network(name: str) -> Classifier:
    """ResNet-20 (`resnet20`) or the paper's CIFAR network (`allcnn`), trained on CIFAR-100."""
    return load_model(CIFAR[name], str(SHARED / "models" / f"cifar100_{name}.safetensors"))


def cifar_rows(network: Classifier, first: int, count: int) -> ImageSet:
    """CIFAR-100's 5,000 validation images: `count` of them from `first` on."""
    return _cifar_train(network).select(_validation_rows()[first : first + count])


def cifar_training(network: Classifier) -> ImageSet:
    """CIFAR-100's training images in their order, without the validation images."""
    every, rows = _cifar_train(network), set(_validation_rows())
    return every.select(row for row in range(len(every)) if row not in rows)


def cifar_drawn(network: Classifier, count: int, seed: int) -> ImageSet:
    """The first of CIFAR-100's training images in a random order, without the validation images."""
    every, rows = _cifar_train(network), set(_validation_rows())
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
    return every.select([row for row in order if row not in rows][:count])


def _cifar_train(network: Classifier) -> ImageSet:
    return open_dataset(f"parquet:{SHARED}/data/cifar100/train-*.parquet", network.preprocessing)


def _validation_rows() -> list[int]:
    rows = json.loads((SHARED / "models" / "cifar100_validation_rows.json").read_text())
    return rows["rows"] if isinstance(rows, dict) else rows


def batches(images: ImageSet) -> DataLoader[Any]:
    """In order, 50 a batch."""
    return loader(images, 50)


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0, trained on ImageNet. All kept figures are of images resized bilinearly,
    where its source says bicubically."""
    built = load_model("efficientnet_lite0")
    preprocessing = replace(built.preprocessing, interpolation="bilinear")
    return Classifier(built.network, preprocessing, built.name)


def timm_network(name: str) -> nn.Module:
    """A network's structure from timm, with random weights."""
    return optional_import("timm", "timm").create_model(name).eval()


def imagenet_val(network: Classifier, count: int) -> ImageSet:
    """The first `count` of 650 pictures of ImageNet's validation set."""
    images = open_dataset(f"parquet:{SHARED}/data/imagenet_val/*.parquet", network.preprocessing)
    return images.select(range(count))


def imagenet_sample(network: Classifier, count: int) -> ImageSet:
    """The first `count` images of the sample, one for every second class."""
    images = open_dataset(f"parquet:{SHARED}/data/imagenet_sample/*.parquet", network.preprocessing)
    return images.select(range(count))
