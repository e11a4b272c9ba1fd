"""`transfer`: features of a network, corrected or not, on other classes."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from deepcorrect import correction
from deepcorrect import data as data_room
from deepcorrect.cli import _tables
from deepcorrect.cli._options import (
    DATA_HELP,
    DEFAULT_DISTORTIONS,
    Adapter,
    BatchSize,
    Classes,
    Device,
    Distortions,
    InputSize,
    Json,
    Mean,
    Model,
    Precise,
    Resize,
    Seed,
    Std,
    Weights,
    Workers,
    model_of,
)
from deepcorrect.evaluation import PENALTIES, FeatureTransfer, feature_transfer, system_record
from deepcorrect.networks import costs
from deepcorrect.runtime import InputError


def transfer(
    model: Model,
    train: Annotated[
        str, typer.Option(help=f"Undistorted images to train the SVM on. {DATA_HELP}")
    ],
    test: Annotated[str, typer.Option(help="Images of the same classes, which are distorted.")],
    weights: Weights = None,
    classes: Classes = None,
    input_size: InputSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    distortion: Distortions = None,
    adapter: Adapter = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Dotted name of the module whose output is the features; default: what the last "
            "linear layer reads.",
        ),
    ] = None,
    penalty: Annotated[
        list[float] | None,
        typer.Option(
            "--c",
            help="C of the SVM, repeatable: the best is chosen by cross-validation on the "
            f"training images; default {', '.join(f'{c:g}' for c in PENALTIES)}.",
        ),
    ] = None,
    train_images: Annotated[
        int | None, typer.Option(min=1, help="Use so many random training images; default all.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Use so many random test images; default all.")
    ] = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precise = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Accuracy of a linear SVM on a network's features: trained on undistorted images, tested on
    distorted ones.

    With --adapter, baseline and corrected side by side. Its classes need not be the network's.
    """
    network = model_of(model, weights, classes, input_size, resize, mean, std, device)
    first = _labelled(data_room.open_dataset(train, network.preprocessing))
    second = _labelled(data_room.open_dataset(test, network.preprocessing))
    second = _with_classes_of(first, second)
    first, second = first.sample(train_images, seed), second.sample(images, seed)
    systems: dict[str, Any] = {}
    for name in ("baseline", "deepcorrect") if adapter else ("baseline",):
        system = (
            correction.load_adapter(network, adapter)
            if adapter and name == "deepcorrect"
            else network
        )
        done = feature_transfer(
            system,
            data_room.loader(first, batch_size, workers=workers),
            data_room.loader(second, batch_size, workers=workers),
            distortion or DEFAULT_DISTORTIONS,
            features,
            seed,
            precision,
            penalty or PENALTIES,
            name,
        )
        notes = system.config.notes if isinstance(system, correction.AdaptedModel) else {}
        systems[name] = system_record(
            done.grid,
            costs(system, network.preprocessing),
            trained=name == "deepcorrect",
            images_seen=notes.get("images_seen", 0),
            seconds=notes.get("training_seconds", 0),
        ) | {"svm": _svm_record(done)}
    first.warn_of_bad()
    second.warn_of_bad()
    record = {
        "schema": 1,
        "model": network.name,
        "train": first.name,
        "test": second.name,
        "features": features or "penultimate",
        "seed": seed,
        "systems": systems,
    }
    if as_json:
        print(json.dumps(record))
    else:
        _tables.print_transfer(record)


def _svm_record(done: FeatureTransfer) -> dict[str, Any]:
    svm = done.svm
    return {
        "features": svm.weight.shape[1],
        "classes": int(svm.bias.isfinite().sum()),
        "train_images": svm.images,
        "c": svm.penalty,
        "validation": {f"{c:g}": score for c, score in svm.validation.items()},
    }


def _labelled(source: data_room.ImageSet) -> data_room.ImageSet:
    if not source.labelled:
        raise InputError(
            f"{source.name} has images without labels, and an SVM is trained and tested on "
            "labels: give a folder with one sub-folder per class, or a labelled Parquet file"
        )
    return source


def _with_classes_of(train: data_room.ImageSet, test: data_room.ImageSet) -> data_room.ImageSet:
    """The test images, if their classes are those of the training images."""
    if train.classes is None or test.classes is None or train.classes == test.classes:
        return test
    known = train.classes
    odd = [name for name in test.classes if name not in known]
    if odd:
        raise InputError(
            f"{test.name} has classes that {train.name} does not have, such as {odd[0]!r}: "
            "both need the same ones"
        )
    return test.relabelled([known.index(name) for name in test.classes], known)
