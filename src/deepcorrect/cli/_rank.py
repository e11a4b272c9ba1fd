"""`rank`: a ranking of the filters, or a comparison of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import deepcorrect as dc
from deepcorrect import runtime
from deepcorrect.cli import _catalogue, _tables
from deepcorrect.cli._options import (
    DATA_HELP,
    DEFAULT_DISTORTIONS,
    MODEL_HELP,
    NOT_GIVEN,
    AdaptedModelOptions,
    DataOptions,
    Distortions,
    Json,
    NoLabels,
    Precise,
    Precision,
    Seed,
    Sites,
    chosen_sites,
)
from deepcorrect.runtime import InputError, files

if TYPE_CHECKING:
    from torch import nn

    from deepcorrect.data import Batches, ImageSet
    from deepcorrect.ranking import Agreement, IdealCorrection

DEFAULT_METHOD: str = _catalogue.default("ranking_method")
Target = Literal["labels", "prediction", "kl"]
MethodOption = Annotated[
    str, typer.Option("--method", help="See 'list methods'; swap is the paper's.")
]
TargetOption = Annotated[
    Target | None,
    typer.Option(
        "--target",
        help="What the network's answers are measured against, see 'list targets'. Default: "
        "labels, or prediction where images have none.",
    ),
]
RankingFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder to write the ranking's files to.")
]
Compared = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare",
        metavar="A B",
        help="Compare the rankings in these two folders instead; with --model and --data, by ideal "
        "correction too.",
    ),
]
ComparedShare = Annotated[
    float,
    typer.Option(
        "--beta", help="With --compare: the overlap of this share of each site's filters is shown."
    ),
]


@dataclass(frozen=True, kw_only=True)
class RankedModel(AdaptedModelOptions):
    """The network; two rankings can be compared without it."""

    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP, show_default=False)] = (
        NOT_GIVEN
    )


@dataclass(frozen=True, kw_only=True)
class RankedData(DataOptions):
    """The images; two rankings can be compared without them."""

    data: Annotated[
        str, typer.Option(metavar="DATA", help=f"The images: {DATA_HELP}", show_default=False)
    ] = NOT_GIVEN
    images: Annotated[
        int | None, typer.Option(min=1, help="Use this many random images of the data.")
    ] = 500


def command(
    model: RankedModel,
    data: RankedData,
    distortion: Distortions = None,
    method: MethodOption = DEFAULT_METHOD,
    target: TargetOption = None,
    no_labels: NoLabels = False,
    sites: Sites = None,
    out: RankingFolder = None,
    compare: Compared = None,
    beta: ComparedShare = 0.5,
    precision: Precise = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Rank the network's filters by correction priority, or compare two rankings."""
    if out:
        runtime.from_main(lambda: files.check_folder(out))
    subject = None
    if model.model and data.data:
        labels = _reads_labels(target, no_labels)
        subject = _open(model, data, seed, labels)
    elif compare is None or model.model or data.data:
        raise InputError("give --model and --data, both; or --compare A B alone")
    if compare is not None:
        _compare(compare, beta, subject, precision, as_json)
    elif subject is not None:
        ranking = dc.rank(
            subject.network,
            subject.loader,
            distortion or DEFAULT_DISTORTIONS,
            method,
            chosen_sites(sites),
            seed,
            precision,
            target,
        )
        subject.images.warn_of_bad()
        if runtime.is_main_process():
            _write(ranking, out, as_json)


@dataclass(frozen=True)
class _Subject:
    """A network, with its adapter if there is one, and images for it."""

    network: nn.Module
    images: ImageSet
    loader: Batches


def _reads_labels(target: Target | None, no_labels: bool) -> bool | None:
    """Whether labels are read; None reads them if every image has one.

    Raises:
        InputError: the options contradict each other.
    """
    if no_labels and target == "labels":
        raise InputError("--target labels needs labels, and --no-labels reads none: drop one")
    return None if target is None and not no_labels else target == "labels"


def _open(model: RankedModel, data: RankedData, seed: int, labels: bool | None) -> _Subject:
    network = model.load()
    images = data.open(network, seed, labels=labels)
    return _Subject(model.corrected(network), images, data.loader(images))


def _write(ranking: dc.Ranking, out: Path | None, as_json: bool) -> None:
    """Prints the ranking and writes its files; where one of the two fails, the other is done."""
    try:
        _tables.print_ranking(ranking, as_json)
    finally:
        if out:
            from deepcorrect.experiments.report import write_ranking_figure

            ranking.save(out)
            picture = write_ranking_figure(ranking, out / "ranking.png")
            runtime.console().print(f"ranking: {out}\nheat maps: {picture}", markup=False)


def _compare(
    folders: tuple[Path, Path],
    beta: float,
    subject: _Subject | None,
    precision: Precision,
    as_json: bool,
) -> None:
    """Prints how far two rankings agree; with a subject, by ideal correction too."""
    from deepcorrect.ranking import compare

    first, second = (dc.load_ranking(folder) for folder in folders)
    agreement = compare(first, second, beta)
    areas = None
    if subject is not None:
        areas = _ideal_corrections(subject, (first, second), agreement, precision)
    _tables.print_comparison(folders, agreement, areas, as_json)


def _ideal_corrections(
    subject: _Subject,
    rankings: Sequence[dc.Ranking],
    agreement: Agreement,
    precision: Precision,
) -> tuple[IdealCorrection, IdealCorrection]:
    """Both rankings' ideal-correction curves on the same images and distortions."""
    first, second = (
        dc.ideal_correction(
            subject.network,
            subject.loader,
            ranking.only(list(agreement.overlap)),
            distortions=rankings[0].distortions,
            precision=precision,
        )
        for ranking in rankings
    )
    return first, second
