"""`transfer`: features of a network, corrected or not, on other classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

import deepcorrect as dc
from deepcorrect.cli import _catalogue, _tables
from deepcorrect.cli._options import (
    DATA_HELP,
    DEFAULT_DISTORTIONS,
    AdaptedModelOptions,
    BatchOptions,
    BatchSize,
    Distortions,
    Features,
    Json,
    Precise,
    Seed,
)
from deepcorrect.cli._records import record_of
from deepcorrect.runtime import InputError

if TYPE_CHECKING:
    from deepcorrect.data import ImageSet

PENALTIES: list[float] = _catalogue.default("svm_penalties")


@dataclass(frozen=True, kw_only=True)
class TransferData(BatchOptions):
    """The images that the SVM is trained on and tested on."""

    train: Annotated[
        str,
        typer.Option(metavar="DATA", help=f"Undistorted images to train the SVM on: {DATA_HELP}"),
    ]
    test: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Undistorted images of the same classes to test it on; they are distorted here.",
        ),
    ]
    train_images: Annotated[
        int | None,
        typer.Option(min=1, help="Use this many random training images. Default: all."),
    ] = None
    images: Annotated[
        int | None, typer.Option(min=1, help="Use this many random test images. Default: all.")
    ] = None
    batch_size: BatchSize = 64

    def open_both(self, network: dc.Classifier, seed: int) -> tuple[ImageSet, ImageSet]:
        """The training images and the test images, with the same classes.

        Raises:
            InputError: images have no labels, or test images are of further classes.
        """
        train, test = (
            _labelled(dc.open_dataset(spec, network.preprocessing))
            for spec in (self.train, self.test)
        )
        test = _with_classes_of(train, test)
        return train.sample(self.train_images, seed), test.sample(self.images, seed)


def command(
    model: AdaptedModelOptions,
    data: TransferData,
    distortion: Distortions = None,
    features: Features = None,
    penalty: Annotated[
        list[float] | None,
        typer.Option(
            "--c",
            help="C of the SVM, repeatable: the best is chosen by cross-validation on the training "
            f"images. Default: {', '.join(f'{c:g}' for c in PENALTIES)}.",
        ),
    ] = None,
    precision: Precise = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a linear SVM on a network's features of undistorted images, and test it on distorted
    ones.

    Its classes need not be the network's. With --adapter, the untouched and the corrected network
    are compared.
    """
    network = model.load()
    train, test = data.open_both(network, seed)
    systems: dict[str, Any] = {"baseline": network}
    if model.adapter:
        systems["deepcorrect"] = model.corrected(network)
    records: dict[str, Any] = {}
    for name, system in systems.items():
        found = dc.feature_transfer(
            system,
            data.loader(train),
            data.loader(test),
            distortion or DEFAULT_DISTORTIONS,
            features,
            seed,
            precision,
            penalty or PENALTIES,
            name,
        )
        record = record_of(network, system, found.grid, trained=name == "deepcorrect")
        records[name] = record | {"svm": _svm_record(found)}
    train.warn_of_bad()
    test.warn_of_bad()
    result = {
        "schema": 1,
        "model": network.name,
        "train": train.name,
        "test": test.name,
        "features": features or "penultimate",
        "seed": seed,
        "systems": records,
    }
    if as_json:
        print(json.dumps(result))
    else:
        _tables.print_transfer(result)


def _svm_record(found: dc.FeatureTransfer) -> dict[str, Any]:
    svm = found.svm
    return {
        "features": svm.weight.shape[1],
        "classes": int(svm.bias.isfinite().sum()),
        "train_images": svm.images,
        "c": svm.penalty,
        "validation": {f"{c:g}": score for c, score in svm.validation.items()},
    }


def _labelled(source: ImageSet) -> ImageSet:
    if not source.labelled:
        raise InputError(
            f"{source.name} has images without labels, and an SVM is trained and tested on "
            "labels: give a folder with one sub-folder per class, or a labelled Parquet file"
        )
    return source


def _with_classes_of(train: ImageSet, test: ImageSet) -> ImageSet:
    """The test images with their labels numbered as those of the training images.

    Raises:
        InputError: a class of the test images is not among those of the training images.
    """
    if train.classes is None or test.classes is None or train.classes == test.classes:
        return test
    known = train.classes
    missing = [name for name in test.classes if name not in known]
    if missing:
        raise InputError(
            f"{test.name} has classes that {train.name} does not have, such as {missing[0]!r}: "
            "both need the same classes"
        )
    return test.relabelled([known.index(name) for name in test.classes], known)
