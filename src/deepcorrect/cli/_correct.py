"""`correct`: an adapter from a ranking."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

import deepcorrect as dc
from deepcorrect.cli import _catalogue
from deepcorrect.cli._groups import OptionGroup
from deepcorrect.cli._options import (
    DISTORTION_HELP,
    DataOptions,
    Json,
    ModelOptions,
    NoLabels,
    Out,
    Precise,
    Seed,
    open_images,
)
from deepcorrect.runtime import InputError, files

if TYPE_CHECKING:
    from deepcorrect.data import ImageSet

WITHOUT_LABELS = {"features": 1.0, "logits": 1.0}
"""What training minimises where images have no labels."""


@dataclass(frozen=True, kw_only=True)
class TrainingImages(DataOptions):
    """The images to train on."""

    batch_size: Annotated[int, typer.Option(min=2, help="Images per training step.")] = 128
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Images to choose the best epoch with. Default: the last is kept."
        ),
    ] = None
    no_labels: NoLabels = False


@dataclass(frozen=True, kw_only=True)
class UnitOptions(OptionGroup):
    """Which filters are corrected, and by what."""

    panel: ClassVar[str] = "Correction units"

    unit: Annotated[
        str | None,
        typer.Option(
            help="Kind of unit, see 'list units'. Default: bottleneck, and weights+dense "
            "within a latency."
        ),
    ] = None
    beta: Annotated[
        float | None,
        typer.Option(
            help="Share of each site's filters to correct. Default: 0.5 if there is no --budget."
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="COST=X",
            help="Instead of --beta: parameters=X or multiply_adds=X for all units together, where "
            "X up to 1 is a share of the network's own cost; or latency=X, the added time as a "
            "fraction of the network's, which is measured. The priorities decide how many "
            "filters of each site are corrected.",
        ),
    ] = None
    runtime: Annotated[
        str,
        typer.Option(
            help="Where the latency is measured: torch, onnx, or onnx-int8 (ONNX Runtime in eight "
            "bits)."
        ),
    ] = "torch"

    def check(self) -> None:
        """Refuses options that exclude each other, and a budget that is not accepted.

        Raises:
            InputError: both a share and a budget other than a latency are given, or a runtime
                without a latency.
        """
        costs = self._costs()
        if self.beta is not None and costs is not None and "latency" not in costs:
            raise InputError("--beta and --budget exclude each other: give one of them")
        if self.runtime != "torch" and "latency" not in (costs or {}):
            raise InputError("--runtime says where a latency is measured: give --budget latency=X")

    def attach(
        self, network: dc.Classifier, ranking: dc.Ranking, seed: int, kept: Path
    ) -> dc.AdaptedModel:
        """The network with untrained units behind the ranking's first filters.

        A choice by latency is kept in a file, so that the same command continues with it.
        """
        from deepcorrect.deployment import correct_within

        budget = self._costs()
        if budget is None:
            return dc.correct(network, ranking, self.beta, self.unit or "bottleneck", seed)
        return correct_within(network, ranking, budget, self.unit, seed, beta=self.beta, kept=kept)

    def _costs(self) -> dict[str, Any] | None:
        """The budget that a text such as `parameters=0.2` says."""
        if self.budget is None:
            return None
        kind, _, number = self.budget.partition("=")
        try:
            costs: dict[str, Any] = {kind.strip(): float(number)}
        except ValueError:
            raise InputError(
                f"--budget {self.budget!r} is not accepted: give parameters=X, multiply_adds=X or "
                "latency=X"
            ) from None
        return costs | ({"runtime": self.runtime} if "latency" in costs else {})


@dataclass(frozen=True, kw_only=True)
class GateOptions(OptionGroup):
    """Which images are corrected."""

    panel: ClassVar[str] = "Gate"

    gate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Pass images that look undistorted to the untouched network. At most this share "
            "of undistorted images, such as 0.05, is corrected nevertheless. Default: all images "
            "are corrected.",
        ),
    ] = None
    gate_scale: Annotated[
        float,
        typer.Option(
            help="Fit the gate to images shrunk to as little as this share of their size, such as "
            "0.5, so that images of other sources are not taken for distorted ones."
        ),
    ] = 1.0

    def check(self) -> None:
        """Refuses a scale without a gate.

        Raises:
            InputError: there is no gate to which the scale applies.
        """
        if self.gate is None and self.gate_scale != 1:
            raise InputError("--gate-scale says how a gate is fitted: give --gate, such as 0.05")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OptionGroup):
    """How the units are trained."""

    panel: ClassVar[str] = "Training"

    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 10
    learning_rate: Annotated[
        float, typer.Option(help="The highest learning rate of the schedule.")
    ] = _catalogue.default("learning_rate")
    clean_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of each batch that stays undistorted; with a gate 0.1 works better.",
        ),
    ] = _catalogue.default("clean_share")
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,...",
            help="What training minimises, see 'list objectives'. Default: labels=1,logits=1, or "
            "features=1,logits=1 without labels.",
        ),
    ] = None
    precision: Precise = "auto"

    def changes(self, batch_size: int, *, labels: bool) -> dict[str, Any]:
        """The settings of the training loop that these options change."""
        objective = _weights(self.objective) if self.objective else None
        if objective is None and not labels:
            objective = WITHOUT_LABELS
        return {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "clean_share": self.clean_share,
            "batch_size": batch_size,
            "precision": self.precision,
            **({"objective": objective} if objective else {}),
        }


def command(
    model: ModelOptions,
    data: TrainingImages,
    out: Out,
    ranking_folder: Annotated[
        Path, typer.Option("--ranking", help="The folder that 'rank --out' wrote.")
    ],
    units: UnitOptions,
    gate: GateOptions,
    training: TrainingOptions,
    distortion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:LEVEL,...]", help=f"{DISTORTION_HELP} Default: those of the ranking."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train an adapter for the first filters of a ranking.

    Without labels the untouched network is the teacher. If the training is stopped, the same
    command continues where it was.
    """
    from deepcorrect.distortions import parse_all

    files.check_folder(out)
    units.check()
    gate.check()
    network = model.load()
    images = data.open(network, seed, labels=False if data.no_labels else None)
    ranking = dc.load_ranking(ranking_folder)
    distortions = parse_all(distortion or ranking.distortions, network.preprocessing.input_size)
    kept = out.parent / f"{out.name}.latency.json"
    adapted = units.attach(network, ranking, seed, kept)
    if gate.gate is not None:
        shown = data.loader(images, shuffle=True)
        dc.fit_gate(adapted, shown, distortions, gate.gate, seed=seed, scale=gate.gate_scale)
    checkpoint = out.parent / f"{out.name}.checkpoint.pt"
    trained = _train(adapted, network, images, distortions, data, training, seed, checkpoint)
    images.warn_of_bad()
    notes = {
        "model": model.model,
        "data": data.data,
        "distortions": [asdict(each) for each in distortions],
        **trained,
        "cost": _added_cost(adapted, network, units.runtime),
    }
    adapted.save_pretrained(out, notes)
    for file in (checkpoint, kept):
        file.unlink(missing_ok=True)
    trainable = dc.costs(adapted, network.preprocessing).trainable_parameters
    if as_json:
        print(json.dumps({"adapter": str(out), "trainable_parameters": trainable} | notes))
    else:
        print(f"adapter: {out} ({trainable:,} parameters)")


def _train(
    adapted: dc.AdaptedModel,
    network: dc.Classifier,
    images: ImageSet,
    distortions: Sequence[dc.Distortion],
    data: TrainingImages,
    training: TrainingOptions,
    seed: int,
    checkpoint: Path,
) -> dict[str, Any]:
    """Trains the units, from the checkpoint on where there is one; what the adapter notes of it."""
    labels = images.labelled
    validation = None
    if data.validation:
        order = data.class_order
        held_out = open_images(network, data.validation, None, seed, labels=labels, order=order)
        validation = dc.loader(held_out, workers=data.workers)
    history = dc.fit(
        adapted,
        data.loader(images, shuffle=True),
        distortions,
        validation=validation,
        seed=seed,
        checkpoint=checkpoint,
        **training.changes(data.batch_size, labels=labels),
    )
    return {
        "images_seen": history.images_seen,
        "training_seconds": round(history.seconds, 2),
        "epochs": len(history.epochs),
        "labels": labels,
        "validation_mean_top1": history.epochs[history.best].score,
    }


def _added_cost(adapted: dc.AdaptedModel, network: dc.Classifier, runtime: Any) -> dict[str, Any]:
    """The multiply-adds and the time that the adapter adds, and the network's own cost."""
    from deepcorrect.deployment import latency_note

    cost, bare = (dc.costs(system, network.preprocessing) for system in (adapted, network))
    return {
        "multiply_adds": cost.multiply_adds - bare.multiply_adds,
        "base_multiply_adds": bare.multiply_adds,
        "base_parameters": bare.parameters,
        "latency": latency_note(adapted, runtime),
    }


def _weights(text: str) -> dict[str, float]:
    """Objectives and their weights from `NAME=WEIGHT,...`."""
    try:
        pairs = [part.partition("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError:
        raise InputError(
            f"--objective {text!r} is not accepted: give NAME=WEIGHT,NAME=WEIGHT,... of "
            f"{', '.join(_catalogue.entries('objectives'))}"
        ) from None
