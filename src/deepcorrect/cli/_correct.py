"""`correct`: an adapter from a ranking."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deepcorrect import correction, ranking
from deepcorrect import data as data_room
from deepcorrect import distortions as distortion_room
from deepcorrect.cli._options import (
    Classes,
    Data,
    Device,
    Distortions,
    Images,
    InputSize,
    Json,
    Mean,
    Model,
    NoLabels,
    Out,
    Precise,
    Resize,
    Seed,
    Std,
    Weights,
    Workers,
    images_of,
    model_of,
)
from deepcorrect.correction import fit_gate
from deepcorrect.networks import costs
from deepcorrect.runtime import InputError, files
from deepcorrect.training import OBJECTIVES, TrainingConfig, fit

OBJECTIVE = {True: TrainingConfig().objective, False: {"features": 1.0, "logits": 1.0}}
"""With labels, and without."""


def correct(
    model: Model,
    data: Data,
    out: Out,
    ranking_folder: Annotated[Path, typer.Option("--ranking", help="What 'rank --out' wrote.")],
    weights: Weights = None,
    classes: Classes = None,
    input_size: InputSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    distortion: Distortions = None,
    validation: Annotated[
        str | None, typer.Option(help="DATA to choose the best epoch with; default: the last.")
    ] = None,
    no_labels: NoLabels = False,
    images: Images = None,
    beta: Annotated[
        float | None,
        typer.Option(help="Corrected share of each site's filters; default 0.5."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Instead of --beta: parameters=X or multiply_adds=X for all units together, X up "
            "to 1 being a share of the network's. The priorities say what each site gives."
        ),
    ] = None,
    unit: Annotated[str, typer.Option(help="See 'list units'.")] = "bottleneck",
    objective: Annotated[
        str | None,
        typer.Option(
            help="What training minimises, as NAME=WEIGHT,...; default labels=1,logits=1, or "
            "features=1,logits=1 without labels."
        ),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(
            help="Leave images that look undistorted to the untouched network; so large a share of "
            "undistorted ones may be corrected all the same, such as 0.05. Default: correct all."
        ),
    ] = None,
    gate_scale: Annotated[
        float,
        typer.Option(
            help="Fit the gate to images shrunk to as little as this share of their size, such as "
            "0.5, so that pictures of other sources do not pass for distorted."
        ),
    ] = 1.0,
    clean_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of each batch; with a gate 0.1 serves better.")
    ] = TrainingConfig().clean_share,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    learning_rate: Annotated[
        float, typer.Option(help="Its peak.")
    ] = TrainingConfig().learning_rate,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.")] = 128,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precise = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train an adapter for the first filters of a ranking.

    Without labels the untouched network teaches it. A stopped training goes on when the same
    command is given again.
    """
    files.check_folder(out)
    if gate is None and gate_scale != 1:
        raise InputError("--gate-scale says how a gate is fitted: give --gate, such as 0.05, too")
    network = model_of(model, weights, classes, input_size, resize, mean, std, device)
    source = images_of(network, data, images, seed, labels=False if no_labels else None)
    labels = source.labelled
    ranked = ranking.load_ranking(ranking_folder)
    pixels = network.preprocessing.input_size
    used = distortion_room.parse_all(distortion or ranked.distortions, pixels)
    adapted = correction.correct(network, ranked, beta, unit, seed, budget=_budget(budget))
    if gate is not None:
        shown = data_room.loader(source, batch_size, shuffle=True, workers=workers)
        fit_gate(adapted, shown, used, gate, seed=seed, scale=gate_scale)
    held_out = None
    if validation:
        chosen = images_of(network, validation, None, seed, labels=labels)
        held_out = data_room.loader(chosen, 128, workers=workers)
    checkpoint = out.parent / f"{out.name}.checkpoint.pt"
    history = fit(
        adapted,
        data_room.loader(source, batch_size, shuffle=True, workers=workers),
        used,
        validation=held_out,
        seed=seed,
        checkpoint=checkpoint,
        epochs=epochs,
        clean_share=clean_share,
        learning_rate=learning_rate,
        batch_size=batch_size,
        precision=precision,
        objective=_weights(objective) if objective else OBJECTIVE[labels],
    )
    source.warn_of_bad()
    best = history.epochs[history.best]
    cost, bare = (costs(system, network.preprocessing) for system in (adapted, network))
    notes = {
        "model": model,
        "data": data,
        "distortions": [asdict(distortion) for distortion in used],
        "images_seen": history.images_seen,
        "training_seconds": round(history.seconds, 2),
        "epochs": len(history.epochs),
        "labels": labels,
        "validation_mean_top1": best.score,
        "cost": {
            "multiply_adds": cost.multiply_adds - bare.multiply_adds,
            "base_multiply_adds": bare.multiply_adds,
            "base_parameters": bare.parameters,
        },
    }
    adapted.save_pretrained(out, notes)
    checkpoint.unlink(missing_ok=True)
    if as_json:
        trained = {"adapter": str(out), "trainable_parameters": cost.trainable_parameters}
        print(json.dumps(trained | notes))
    else:
        print(f"adapter: {out} ({cost.trainable_parameters:,} parameters)")


def _budget(budget: str | None) -> dict[str, float] | None:
    """The budget that `parameters=0.2` says."""
    if budget is None:
        return None
    kind, _, number = budget.partition("=")
    try:
        return {kind.strip(): float(number)}
    except ValueError:
        raise InputError(
            f"--budget {budget!r} is not accepted: give parameters=X or multiply_adds=X"
        ) from None


def _weights(text: str) -> dict[str, float]:
    """Objectives and their weights from `NAME=WEIGHT,...`."""
    try:
        pairs = [part.partition("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError:
        raise InputError(
            f"--objective {text!r} is not accepted: give NAME=WEIGHT,NAME=WEIGHT,... of "
            f"{', '.join(OBJECTIVES)}"
        ) from None
