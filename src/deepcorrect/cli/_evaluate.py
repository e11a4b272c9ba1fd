"""`evaluate`: accuracy over distortions, computed or stored."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from torch import nn

from deepcorrect import correction
from deepcorrect import data as data_room
from deepcorrect import distortions as distortion_room
from deepcorrect.cli import _tables
from deepcorrect.cli._options import (
    DEFAULT_DISTORTIONS,
    Adapters,
    BatchSize,
    Classes,
    Data,
    Device,
    Distortions,
    Images,
    InputSize,
    Json,
    Mean,
    Model,
    Precise,
    Resize,
    Seed,
    Std,
    Target,
    Weights,
    Workers,
    images_of,
    labelled,
    model_of,
    named_adapters,
    with_labels,
)
from deepcorrect.correction import load_adapters
from deepcorrect.distortions import stored
from deepcorrect.evaluation import (
    ALEXNET_REFERENCE,
    COMMON,
    EXTRA,
    Grid,
    Reference,
    corruption_error,
    evaluate,
    evaluate_stored,
    reference_for,
    system_record,
)
from deepcorrect.networks import Classifier, costs
from deepcorrect.runtime import InputError, Precision


def evaluate_(
    model: Model,
    data: Data,
    weights: Weights = None,
    classes: Classes = None,
    input_size: InputSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    distortion: Distortions = None,
    adapter: Adapters = None,
    clean: Annotated[
        str | None,
        typer.Option(help="DATA of the undistorted images, where --data are distorted copies."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Whose errors the mean corruption error is relative to: alexnet, none, or a file "
            "of another network's 'evaluate --json'; default: alexnet on ImageNet-C, else none."
        ),
    ] = None,
    target: Target = None,
    images: Images = None,
    batch_size: BatchSize = 128,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precise = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Accuracy of a network, with or without an adapter, over distortions and levels.

    They are computed, or read where --data is cifar_c:DIR or imagenet_c:DIR. Adapters with names
    stand side by side with the bare network.
    """
    network = model_of(model, weights, classes, input_size, resize, mean, std, device)
    systems = _systems(network, named_adapters(adapter))
    is_stored = stored.accepts(data)
    if clean and not is_stored:
        raise InputError(
            "--clean goes with distorted copies (--data cifar_c:DIR or imagenet_c:DIR); "
            f"{data} is itself taken as clean"
        )
    if is_stored and target == "prediction":
        raise InputError(
            f"--target prediction goes with clean images, which the network is asked about; {data} "
            "holds distorted copies: give the clean images as --data, and --distortion"
        )
    if is_stored:
        copies = stored.open_corrupted(data, network.preprocessing)
        copies = copies.only(distortion) if distortion else copies
        other = reference_for(reference, ALEXNET_REFERENCE if copies.imagenet else None)
        before = labelled(network, clean, images, seed) if clean else None
        grids = {
            name: _on_copies(
                network, system, copies, before, images, seed, batch_size, workers, precision
            )
            for name, system in systems.items()
        }
    else:
        specs = distortion or DEFAULT_DISTORTIONS
        other = _computed_reference(reference, specs, network.preprocessing.input_size)
        labels = None if target is None else target == "labels"
        source = images_of(network, data, images, seed, labels=labels)
        loader = data_room.loader(source, batch_size, workers=workers)
        grids = {
            name: evaluate(
                system, loader, specs, seed, precision, f"evaluating {name}", target=target
            )
            for name, system in systems.items()
        }
        source.warn_of_bad()
    records = {
        name: _record(network, systems[name], grid, named=name != "baseline")
        for name, grid in grids.items()
    }
    first = next(iter(records.values()))
    benchmark = is_stored or any(name in (*COMMON, *EXTRA) for name in first["distortions"])
    if benchmark:
        for record in records.values():
            record["corruption_error"] = corruption_error(record["distortions"], other)
    if as_json:
        print(json.dumps(first if len(records) == 1 else {"systems": records}))
        return
    if not is_stored:
        _tables.print_results({"systems": records})
    if benchmark:
        for name, record in records.items():
            if len(records) > 1:
                print(name)
            _tables.print_corruption_error(record["corruption_error"])


def _systems(network: Classifier, sources: Mapping[str, str]) -> dict[str, nn.Module]:
    """The network, or with an adapter; with named ones it stands beside each of them."""
    if not sources:
        return {"baseline": network}
    if "" in sources:
        return {"deepcorrect": correction.load_adapter(network, sources[""])}
    if "baseline" in sources:
        raise InputError("--adapter baseline=...: the untouched network has that name")
    loaded = load_adapters(network, sources)
    return {"baseline": network, **{name: loaded[name] for name in loaded}}


def _record(network: Classifier, system: nn.Module, grid: Grid, *, named: bool) -> dict[str, Any]:
    notes = system.config.notes if isinstance(system, correction.AdaptedModel) else {}
    return system_record(
        grid,
        costs(system, network.preprocessing),
        trained=named,
        images_seen=notes.get("images_seen", 0),
        seconds=notes.get("training_seconds", 0),
    )


def _on_copies(
    network: Classifier,
    system: nn.Module,
    copies: stored.CorruptedSet,
    clean: data_room.ImageSet | None,
    count: int | None,
    seed: int,
    batch_size: int,
    workers: int,
    precision: Precision,
) -> Grid:
    """Accuracy on distorted copies, opened one level at a time."""
    opened: list[data_room.ImageSet] = []

    def batches(open_part: stored.Open) -> data_room.Batches:
        for before in opened:
            before.warn_of_bad()
        opened[:] = [with_labels(network, open_part()).sample(count, seed)]
        return data_room.loader(opened[0], batch_size, workers=workers)

    parts = {
        name: {level: functools.partial(batches, part) for level, part in by_level.items()}
        for name, by_level in copies.parts.items()
    }
    loader = None
    if clean is not None:
        copies.check_clean(clean)
        loader = data_room.loader(clean, batch_size, workers=workers)
    grid = evaluate_stored(system, parts, loader, precision)
    for before in (*opened, *([clean] if clean else [])):
        before.warn_of_bad()
    return grid


def _computed_reference(name: str | None, specs: Sequence[str], pixels: int) -> Reference | None:
    """AlexNet where ImageNet's severities are computed, unless another is named."""
    known = [each for each in distortion_room.ungrouped(specs) if each.name in (*COMMON, *EXTRA)]
    imagenet = bool(known) and all(each.parameters_at(pixels) == "imagenet" for each in known)
    return reference_for(name, ALEXNET_REFERENCE if imagenet else None)
