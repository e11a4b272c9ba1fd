"""`rank`: a ranking of the filters, or a comparison of two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from deepcorrect import correction, ranking
from deepcorrect import data as data_room
from deepcorrect.cli import _tables
from deepcorrect.cli._options import (
    DATA_HELP,
    DEFAULT_DISTORTIONS,
    MODEL_HELP,
    Adapter,
    BatchSize,
    Classes,
    Device,
    Distortions,
    Images,
    InputSize,
    Json,
    Mean,
    NoLabels,
    Precise,
    Resize,
    Seed,
    Std,
    Weights,
    Workers,
    images_of,
    model_of,
)
from deepcorrect.runtime import InputError, Precision, console, files, is_main_process


def rank(
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    weights: Weights = None,
    classes: Classes = None,
    input_size: InputSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    distortion: Distortions = None,
    adapter: Adapter = None,
    method: Annotated[
        str, typer.Option(help="See 'list methods'; swap is the paper's.")
    ] = ranking.DEFAULT_METHOD,
    target: Annotated[
        ranking.Target | None,
        typer.Option(
            help="What answers are measured against, see 'list targets'; default labels, or "
            "prediction where images have none."
        ),
    ] = None,
    no_labels: NoLabels = False,
    sites: Annotated[
        str | None,
        typer.Option(
            help="Dotted names between commas; default all convolutions and transformers' MLPs."
        ),
    ] = None,
    images: Images = 500,
    out: Annotated[Path | None, typer.Option(help="Folder for the ranking's files.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B",
            help="Compare two rankings' folders instead; with --model and --data, by ideal "
            "correction too.",
        ),
    ] = None,
    beta: Annotated[float, typer.Option(help="Share of filters whose overlap is compared.")] = 0.5,
    batch_size: BatchSize = 128,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precise = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """A ranking of the network's filters by correction priority, or a comparison of two.

    Started by `accelerate launch` or `torchrun -m deepcorrect rank ...`, several processes share
    the images.
    """
    if out:
        files.check_folder(out)
    network = loader = source = None
    if model is not None and data is not None:
        network = model_of(model, weights, classes, input_size, resize, mean, std, device)
        if no_labels and target == "labels":
            raise InputError("--target labels needs labels, and --no-labels takes none: drop one")
        labels = None if target is None and not no_labels else target == "labels"
        source = images_of(network, data, images, seed, labels=labels)
        loader = data_room.loader(source, batch_size, workers=workers)
        network = correction.load_adapter(network, adapter) if adapter else network
    elif compare is None or (model, data) != (None, None):
        raise InputError("give --model and --data, both; or --compare A B alone")
    if compare is not None:
        first, second = (ranking.load_ranking(folder) for folder in compare)
        agreement = ranking.compare(first, second, beta)
        areas = _ideal_areas(network, loader, (first, second), list(agreement.overlap), precision)
        if is_main_process():
            _tables.print_comparison(compare, agreement, areas, as_json)
        return
    if network is None or loader is None or source is None:
        raise InputError("give --model and --data")
    names = [name.strip() for name in sites.split(",")] if sites else None
    specs = distortion or DEFAULT_DISTORTIONS
    result = ranking.rank(network, loader, specs, method, names, seed, precision, target)
    source.warn_of_bad()
    if not is_main_process():
        return
    try:  # neither a full disk nor a closed stdout loses what was computed to the other
        _tables.print_ranking(result, as_json)
    finally:
        if out:
            from deepcorrect.experiments.report import write_ranking_figure  # noqa: PLC0415  (slow to import)

            result.save(out)
            picture = write_ranking_figure(result, out / "ranking.png")
            console().print(f"ranking: {out}\nheat maps: {picture}", markup=False)


def _ideal_areas(
    network: nn.Module | None,
    loader: Any,
    rankings: tuple[ranking.Ranking, ranking.Ranking],
    sites: list[str],
    precision: Precision,
) -> tuple[ranking.IdealCorrection, ranking.IdealCorrection] | None:
    """Both rankings' ideal-correction curves on the same images and distortions."""
    if network is None:
        return None
    first, second = (
        ranking.ideal_correction(
            network,
            loader,
            each.only(sites),
            distortions=rankings[0].distortions,
            precision=precision,
        )
        for each in rankings
    )
    return first, second
