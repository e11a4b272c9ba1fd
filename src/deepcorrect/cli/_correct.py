"""`correct`: an adapter for a network, from images alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

import deepcorrect as dc
from deepcorrect import runtime
from deepcorrect.cli import _catalogue, _tables
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
    Sites,
    chosen_sites,
    open_images,
)
from deepcorrect.runtime import DeepCorrectError, InputError, console, files

if TYPE_CHECKING:
    from deepcorrect.data import Batches
    from deepcorrect.experiments import Choices


@dataclass(frozen=True, kw_only=True)
class CorrectionImages(DataOptions):
    """The images to train on, and those to measure on."""

    batch_size: Annotated[int, typer.Option(min=2, help="Images per training step.")] = 32
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Images to measure the network and the corrected one on. Default: a fifth of the "
            "images, on which nothing is trained.",
        ),
    ] = None
    no_labels: NoLabels = False


@dataclass(frozen=True, kw_only=True)
class FilterOptions(OptionGroup):
    """Which filters are corrected, and by what."""

    panel: ClassVar[str] = "Filters and units"

    sites: Sites = None
    unit: Annotated[
        str | None,
        typer.Option(
            help="What corrects the filters: a kind of 'list units', or weights+KIND. Default: "
            "weights, which adds nothing to the network's computation, and weights+dense "
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
            help="Instead of --beta: parameters=X or multiply_adds=X for the whole adapter, where "
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
    ranking: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder that 'rank --out' wrote, instead of --sites. Default: the filters are "
            "ranked on some of the images.",
        ),
    ] = None

    def check(self) -> None:
        """Refuses options that exclude each other, and a budget that is not accepted.

        Raises:
            InputError: both a share and a budget other than a latency are given, or a runtime
                without a latency.
        """
        if self.sites and self.ranking:
            raise InputError(
                "--sites and --ranking exclude each other: a ranking has its own sites"
            )
        costs = self._costs()
        if self.beta is not None and costs is not None and "latency" not in costs:
            raise InputError("--beta and --budget exclude each other: give one of them")
        if self.runtime != "torch" and "latency" not in (costs or {}):
            raise InputError("--runtime says where a latency is measured: give --budget latency=X")

    def chosen(self) -> dict[str, Any]:
        """The arguments of `dc.correct` that these options are."""
        return {
            "sites": chosen_sites(self.sites),
            "unit": self.unit,
            "beta": self.beta,
            "budget": self._costs(),
            "ranking": None if self.ranking is None else dc.load_ranking(self.ranking),
        }

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
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Images that look undistorted get the untouched network's answers, but see "
            "--others. At most this share of undistorted images is corrected nevertheless; 'none' "
            "corrects all images. Default: 0.05, or 0.02 for inputs above 64 pixels.",
        ),
    ] = None
    gate_scale: Annotated[
        float | None,
        typer.Option(
            help="Fit the gate to images shrunk to as little as this share of their size, so that "
            "images of other sources are not taken for distorted ones. Default: 1, or 0.5 for "
            "inputs above 64 pixels."
        ),
    ] = None

    others: Annotated[
        Literal["network", "mean"] | None,
        typer.Option(
            help="Whose answers images get that look undistorted: the untouched network's, or the "
            "mean of both networks', for distortions that nobody knows, which takes both networks' "
            "time. Default: network.",
        ),
    ] = None

    def chosen(self) -> dict[str, Any]:
        """The arguments of `dc.correct` that these options are.

        Raises:
            InputError: the share is neither a number nor `none`, or a scale, or who answers other
                images, is given without a gate.
        """
        how = {"gate_scale": self.gate_scale, "others": self.others}
        for name, value in how.items():
            if self.gate == "none" and value is not None:
                option = name.replace("_", "-")
                raise InputError(f"--{option} says how a gate is fitted, and --gate none has none")
        if self.gate is None or self.gate == "none":
            return {"gate": self.gate, **how}
        try:
            return {"gate": float(self.gate), **how}
        except ValueError:
            raise InputError(f"--gate {self.gate!r} is not a share such as 0.05, or none") from None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OptionGroup):
    """How the correction is trained."""

    panel: ClassVar[str] = "Training"

    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Passes over the training images. Default: about 30,000 images are seen."
        ),
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Longest training time; fewer epochs if it requires this."),
    ] = None
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="How steps are made: muon, adamw or sgd. Default: muon for weights of inputs up "
            "to 64 pixels, else adamw."
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="The highest learning rate of the schedule. Default: by unit and input size."
        ),
    ] = None
    clean_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of each batch that stays undistorted. Default: 0 with a gate, 0.1 for "
            "inputs above 64 pixels, and 0.5 without a gate.",
        ),
    ] = None
    levels: Annotated[
        str | None,
        typer.Option(
            help="The levels that training shows: all, or costly, without those at which the "
            "network loses little. Default: costly with a gate, else all."
        ),
    ] = None
    crop: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1,
            help="Side of the random parts that all but the last fifth of the epochs show, as a "
            "share of the image's; 1 shows whole images alone. Default: by the input size.",
        ),
    ] = None
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,...",
            help="What training minimises, see 'list objectives'. Default: the untouched network's "
            "answers to the clean images, and its maps (logits=1,activations=16) or, for inputs "
            "above 64 pixels, its features (logits=1,features=2).",
        ),
    ] = None
    precision: Precise = "auto"

    def chosen(self) -> dict[str, Any]:
        """The arguments of `dc.correct` that these options are."""
        objective = _weights(self.objective) if self.objective else None
        given = {
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "clean_share": self.clean_share,
            "levels": self.levels,
            "augmentation": None if self.crop is None else {"crop": self.crop},
            "objective": objective,
        }
        settings = {name: value for name, value in given.items() if value is not None}
        return {"minutes": self.minutes, "precision": self.precision, **settings}


def command(
    model: ModelOptions,
    data: CorrectionImages,
    out: Out,
    filters: FilterOptions,
    gate: GateOptions,
    training: TrainingOptions,
    distortion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:LEVEL,...]",
            help=f"{DISTORTION_HELP} Default: those of the ranking, or gaussian_blur and awgn.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Write the adapter even if it gains nothing or harms clean images."
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what was chosen, and why, before training.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Correct a network from images alone: choose, rank, train, and measure before and after.

    Everything that is not given is chosen for the network and the images. The untouched network is
    the teacher, so that no labels are needed. If the training is stopped, the same command
    continues where it was.
    """
    runtime.from_main(lambda: files.check_folder(out))
    filters.check()
    chosen = {**filters.chosen(), **gate.chosen(), **training.chosen()}
    network = model.load()
    labels = False if data.no_labels else None
    images = data.open(network, seed, labels=labels)
    ranking = chosen["ranking"]
    checkpoint = out / "training.checkpoint.pt"
    adapted = dc.correct(
        network,
        data.loader(images, shuffle=True),
        seed=seed,
        batch_size=data.batch_size,
        distortions=distortion or (ranking and ranking.distortions),
        validation=_validation(network, data, images.labelled, seed),
        checkpoint=checkpoint,
        explain=_print_choices if explain else None,
        **chosen,
    )
    images.warn_of_bad()
    notes = {"model": model.model, "data": data.data}
    adapter = runtime.from_main(lambda: _write(adapted, out, notes, keep=keep))
    if adapter and runtime.is_main_process():
        for suffix in (".pt", ".parts.pt", ".minutes.json", ".latency.json"):
            checkpoint.with_suffix(suffix).unlink(missing_ok=True)
    _print(adapted.config, adapter, as_json=as_json)


def _print(config: dc.AdapterConfig, adapter: str | None, *, as_json: bool) -> None:
    """Prints what was measured.

    Raises:
        DeepCorrectError: the adapter was not written.
    """
    notes, parameters = config.notes, config.parameters
    if as_json:
        print(json.dumps({"adapter": adapter, "trainable_parameters": parameters, **notes}))
    else:
        _tables.print_correction(notes, parameters)
        if adapter:
            print(f"adapter: {adapter} ({parameters:,} parameters)")
    if not adapter:
        raise DeepCorrectError(
            f"{notes['verdict']}. No adapter was written: the same command with --keep writes it "
            "without training again"
        )


def _validation(
    network: dc.Classifier, data: CorrectionImages, labelled: bool, seed: int
) -> Batches | None:
    """The images to measure on, if some were named."""
    if data.validation is None:
        return None
    order = data.class_order
    return dc.loader(
        open_images(network, data.validation, None, seed, labels=labelled, order=order),
        workers=data.workers,
    )


def _write(adapted: dc.AdaptedModel, out: Path, notes: dict[str, Any], *, keep: bool) -> str | None:
    """Writes the adapter unless it is to be refused, and returns where it is."""
    if adapted.config.notes["verdict"] and not keep:
        return None
    return str(adapted.save_pretrained(out, notes))


def _print_choices(choices: Choices) -> None:
    """Prints what was chosen, and why, on standard error."""
    for name, value, reason in choices.explained():
        console().print(f"{name}: {value} ({reason})", markup=False, highlight=False)


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
