"""`evaluate`: accuracy over distortions, computed or stored."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import deepcorrect as dc
from deepcorrect.cli import _tables
from deepcorrect.cli._options import (
    DEFAULT_DISTORTIONS,
    DataOptions,
    Distortions,
    Json,
    ModelOptions,
    Precise,
    Precision,
    Seed,
    open_images,
    with_labels,
)
from deepcorrect.cli._records import record_of
from deepcorrect.runtime import InputError

if TYPE_CHECKING:
    from torch import nn

    from deepcorrect.data import Batches, ImageSet
    from deepcorrect.distortions import stored
    from deepcorrect.evaluation import Reference

    Grids = dict[str, dc.Grid]  # the accuracies of each system, by its name

Target = Literal["labels", "prediction"]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="ADAPTER",
        help="An adapter for the network: its folder, hf:OWNER/NAME[@REVISION], or one that "
        "`deepcorrect list adapters` names. It is measured beside the untouched network. Repeat it "
        "as NAME=ADAPTER to compare several.",
    ),
]
Clean = Annotated[
    str | None,
    typer.Option(
        metavar="DATA", help="The undistorted images, where --data is a set of distorted copies."
    ),
]
ReferenceNetwork = Annotated[
    str | None,
    typer.Option(
        "--reference",
        help="The network to whose errors the mean corruption error is relative: alexnet, none, or "
        "a file that 'evaluate --json' wrote for another network. Default: alexnet for ImageNet-C, "
        "otherwise none.",
    ),
]
TargetOption = Annotated[
    Target | None,
    typer.Option(
        "--target",
        help="What counts as correct: the labels, or the untouched network's prediction for the "
        "clean image. Default: labels, or prediction where images have none.",
    ),
]


def command(
    model: ModelOptions,
    data: DataOptions,
    distortion: Distortions = None,
    adapter: Adapters = None,
    clean: Clean = None,
    target: TargetOption = None,
    reference: ReferenceNetwork = None,
    precision: Precise = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a network's accuracy, with or without an adapter, over distortions and levels.

    Distortions are computed, or read from distorted copies where --data is cifar_c:DIR or
    imagenet_c:DIR.
    """
    is_stored = _is_stored(data.data, clean, target)
    network = model.load()
    systems = _systems(network, named_adapters(adapter))
    if is_stored:
        copies = _copies(network, data.data, distortion)
        other = _reference(reference, imagenet=copies.imagenet)
        grids = _on_copies(network, systems, copies, clean, data, precision, seed)
    else:
        specs = distortion or DEFAULT_DISTORTIONS
        other = _reference(
            reference, imagenet=_is_imagenet(specs, network.preprocessing.input_size)
        )
        grids = _on_images(network, systems, specs, data, target, precision, seed)
    records = {
        name: record_of(network, systems[name], grid, trained=name != "baseline")
        for name, grid in grids.items()
    }
    has_errors = _add_corruption_errors(records, other, always=is_stored)
    _print(records, as_json=as_json, accuracies=not is_stored, errors=has_errors)


def _is_stored(data: str, clean: str | None, target: Target | None) -> bool:
    """Whether the data are distorted copies on disk.

    Raises:
        InputError: an option does not go with such data, or goes with no other.
    """
    from deepcorrect.distortions import stored

    if not stored.accepts(data):
        if clean:
            raise InputError(
                "--clean goes with distorted copies (--data cifar_c:DIR or imagenet_c:DIR), and "
                f"{data} is itself taken as clean: leave --clean out"
            )
        return False
    if target == "prediction":
        raise InputError(
            "--target prediction needs clean images, for which the network predicts a class, and "
            f"{data} holds distorted copies: give the clean images as --data, and --distortion"
        )
    return True


def named_adapters(given: list[str] | None) -> dict[str, str]:
    """Adapters by name, from repeated `--adapter NAME=SOURCE`; a single one needs no name.

    Raises:
        InputError: one of several has no name, or two have the same.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, source = text.partition("=")
        if not equals or "/" in name or Path(text).exists():
            name, source = "", text
        if name in found or (not name and len(given or ()) > 1):
            raise InputError(
                f"--adapter {text!r}: of several adapters each needs a name of its own, NAME=FOLDER"
            )
        found[name] = source
    return found


def _systems(network: dc.Classifier, sources: Mapping[str, str]) -> dict[str, nn.Module]:
    """The bare network, and the network with each adapter."""
    if not sources:
        return {"baseline": network}
    if "" in sources:
        return {"baseline": network, "deepcorrect": dc.load_adapter(network, sources[""])}
    if "baseline" in sources:
        raise InputError(
            "--adapter baseline=...: this is the name of the untouched network; give another one"
        )
    loaded = dc.load_adapters(network, sources)
    return {"baseline": network, **{name: loaded[name] for name in loaded}}


def _on_images(
    network: dc.Classifier,
    systems: Mapping[str, nn.Module],
    distortions: Sequence[str],
    data: DataOptions,
    target: Target | None,
    precision: Precision,
    seed: int,
) -> Grids:
    """Each system's accuracy on clean images and on distorted ones that are computed from them."""
    images = data.open(network, seed, labels=None if target is None else target == "labels")
    grids: Grids = {}
    for name, system in systems.items():
        loader, task = data.loader(images), f"evaluating {name}"
        grids[name] = dc.evaluate(system, loader, distortions, seed, precision, task, target=target)
    images.warn_of_bad()
    return grids


def _copies(
    network: dc.Classifier, data: str, distortions: Sequence[str] | None
) -> stored.CorruptedSet:
    """The distorted copies, all of them or those of some distortions."""
    from deepcorrect.distortions import stored

    copies = stored.open_corrupted(data, network.preprocessing)
    return copies.only(distortions) if distortions else copies


def _on_copies(
    network: dc.Classifier,
    systems: Mapping[str, nn.Module],
    copies: stored.CorruptedSet,
    clean: str | None,
    data: DataOptions,
    precision: Precision,
    seed: int,
) -> Grids:
    """Each system's accuracy on distorted copies, which are opened one level at a time."""
    from deepcorrect.evaluation import evaluate_stored

    opened: list[ImageSet] = []

    def batches(open_part: stored.Open) -> Batches:
        for before in opened:
            before.warn_of_bad()
        part = with_labels(network, open_part(), data.class_order)
        opened[:] = [part.sample(data.images, seed)]
        return data.loader(opened[0])

    parts = {
        name: {level: functools.partial(batches, part) for level, part in by_level.items()}
        for name, by_level in copies.parts.items()
    }
    loader = undistorted = None
    if clean:
        undistorted = open_images(
            network, clean, data.images, seed, labels=True, order=data.class_order
        )
        copies.check_clean(undistorted)
        loader = data.loader(undistorted)
    grids: Grids = {}
    for name, system in systems.items():
        grids[name] = evaluate_stored(system, parts, loader, precision)
        for images in (*opened, *([undistorted] if undistorted else [])):
            images.warn_of_bad()
        opened.clear()
    return grids


def _is_imagenet(specs: Sequence[str], pixels: int) -> bool:
    """Whether all corruptions among the distortions have ImageNet-C's severities at this size."""
    from deepcorrect.distortions import ungrouped
    from deepcorrect.evaluation import COMMON, EXTRA

    corruptions = [each for each in ungrouped(specs) if each.name in (*COMMON, *EXTRA)]
    return bool(corruptions) and all(
        each.parameters_at(pixels) == "imagenet" for each in corruptions
    )


def _reference(name: str | None, *, imagenet: bool) -> Reference | None:
    """The named reference; AlexNet for ImageNet's severities if none is named."""
    from deepcorrect.evaluation import ALEXNET_REFERENCE, reference_for

    return reference_for(name, ALEXNET_REFERENCE if imagenet else None)


def _add_corruption_errors(
    records: Mapping[str, dict[str, Any]], reference: Reference | None, *, always: bool
) -> bool:
    """Adds the corruption errors where a corruption was measured, and says whether it did."""
    from deepcorrect.evaluation import COMMON, EXTRA, corruption_error

    measured = next(iter(records.values()))["distortions"]
    if not always and not any(name in (*COMMON, *EXTRA) for name in measured):
        return False
    for record in records.values():
        record["corruption_error"] = corruption_error(record["distortions"], reference)
    return True


def _print(
    records: Mapping[str, dict[str, Any]], *, as_json: bool, accuracies: bool, errors: bool
) -> None:
    if as_json:
        first = next(iter(records.values()))
        print(json.dumps(first if len(records) == 1 else {"systems": records}))
        return
    if accuracies:
        _tables.print_results({"systems": records})
    if errors:
        for name, record in records.items():
            if len(records) > 1:
                print(name)
            _tables.print_corruption_error(record["corruption_error"])
