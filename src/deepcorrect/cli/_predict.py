"""`predict`: labels for image files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from deepcorrect import adapter as adapters
from deepcorrect import data as data_room
from deepcorrect.cli._options import (
    Adapter,
    BatchSize,
    Classes,
    Device,
    InputSize,
    Json,
    Mean,
    Model,
    Resize,
    Std,
    Weights,
    Workers,
    model_of,
)
from deepcorrect.computing import device_of, inference, placed
from deepcorrect.errors import InputError
from deepcorrect.models import output_classes


@dataclass(frozen=True)
class _Answer:
    file: str
    labels: list[str]
    probabilities: list[float]


def predict(
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    model: Model,
    weights: Weights = None,
    classes: Classes = None,
    input_size: InputSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    adapter: Adapter = None,
    top: Annotated[int, typer.Option(min=1, help="Labels an image.")] = 1,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Labels for image files, most probable first."""
    network = model_of(model, weights, classes, input_size, resize, mean, std, device)
    output_classes(network, network.preprocessing)
    source = data_room.open_files(_image_files(paths), network.preprocessing)
    system = adapters.load(network, adapter) if adapter else network
    answers = _answers(system, source, network.labels, top, batch_size, workers)
    source.warn_of_bad()
    if not answers:
        raise InputError(f"none of the {len(source)} files is an image that can be read")
    if as_json:
        print(json.dumps([answer.__dict__ for answer in answers]))
        return
    for answer in answers:
        pairs = zip(answer.labels, answer.probabilities, strict=True)
        print(answer.file + "\t" + "\t".join(f"{label} {share:.4f}" for label, share in pairs))


def _image_files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = list(data_room.images_in(path))
            if not inside:
                raise InputError(f"{path} has no images")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"there is no file {path}")
    return found


def _answers(
    system: nn.Module,
    source: data_room.ImageSet,
    names: tuple[str, ...] | None,
    top: int,
    batch_size: int,
    workers: int,
) -> list[_Answer]:
    shares: list[torch.Tensor] = []
    device = device_of(system)
    with inference(system), torch.no_grad():
        for images, _ in data_room.loader(source, batch_size, workers=workers):
            if len(images):
                shares.append(system(placed(images, device)).softmax(1).cpu())
    if not shares:
        return []
    bad = set(source.bad)
    good = [name for name in source.names if name not in bad]
    best = torch.cat(shares).topk(min(top, shares[0].shape[1]), 1)
    if names is not None and len(names) != shares[0].shape[1]:
        raise InputError(
            f"the network has {shares[0].shape[1]} classes and {len(names)} class names"
        )
    answers = []
    for file, values, indices in zip(good, best.values, best.indices, strict=True):
        labels = [names[i] if names else str(i) for i in indices.tolist()]
        answers.append(_Answer(file, labels, [round(v, 6) for v in values.tolist()]))
    return answers
