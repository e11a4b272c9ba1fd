"""The `deepcorrect` command: results on stdout, everything else on stderr."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import nn

import deepcorrect as dc
from deepcorrect import adapter as adapters
from deepcorrect import (
    corrupted_sets,
    distorted_sets,
    files,
    models,
    ranking,
    recipe,
    tables,
    units,
)
from deepcorrect import data as data_room
from deepcorrect import distortions as distortion_room
from deepcorrect.classifier import Classifier
from deepcorrect.computing import Precision, device_for, device_of, inference, placed
from deepcorrect.corruption_error import (
    ALEXNET_REFERENCE,
    COMMON,
    EXTRA,
    Reference,
    corruption_error,
    reference_for,
)
from deepcorrect.errors import DeepCorrectError, InputError
from deepcorrect.evaluation import StoredGrid, costs, evaluate, evaluate_stored, system_record
from deepcorrect.models import output_classes
from deepcorrect.progress import console, is_main_process
from deepcorrect.training import Training, fit

app = typer.Typer(
    name="deepcorrect",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a trained image classifier's accuracy on distorted images, its weights untouched.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
)

MODEL_HELP = "A built-in name, or python:FILE_OR_MODULE:CALLABLE."
DATA_HELP = "parquet:GLOB, folder:DIR or a built-in name."
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Weights = Annotated[
    str | None, typer.Option(help="The network's weights: safetensors, or a PyTorch state dict.")
]
Classes = Annotated[int | None, typer.Option(help="Classes of a built-in network.")]
InputSize = Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")]
Resize = Annotated[
    int | None, typer.Option(help="Shorter side before the central crop, in pixels.")
]
Mean = Annotated[str | None, typer.Option(help="Mean of images in [0, 1]: one number or R,G,B.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation, likewise.")]
Data = Annotated[str, typer.Option(help=DATA_HELP)]
Images = Annotated[
    int | None, typer.Option(min=1, help="Use so many random images of the data; default all.")
]
Distortions = Annotated[
    list[str] | None,
    typer.Option(help="NAME[:LEVEL,...[:clip,quantize]], repeatable; see 'list distortions'."),
]
Adapter = Annotated[Path | None, typer.Option(help="An adapter's folder, put onto the network.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes CUDA if it is there.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a batch.")]
Workers = Annotated[int, typer.Option(min=0, help="Decoding processes.")]
Out = Annotated[Path, typer.Option(help="Folder to write; made if absent.")]
Precise = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the convolutions.")
]

DEFAULT_DISTORTIONS = ("gaussian_blur", "awgn")


def main() -> None:
    """The console script. `--debug` is taken wherever it stands."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _debugging.set(len(arguments) < len(sys.argv) - 1)
    try:
        app(arguments)
    finally:  # several processes part in good order; ending with open connections aborts some
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


_debugging: ContextVar[bool] = ContextVar("_debugging", default=False)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Registers a command whose errors end in one clear line and a non-zero status."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()  # a full disk or a closed pipe shows here, not when Python ends
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if _debugging.get():
                traceback.print_exc()
            _drop_unwritable_output()
            if isinstance(error, BrokenPipeError):  # whoever read it has gone
                raise typer.Exit(1) from None
            message, status = _explain(error)
            console().print(message, style="red", markup=False)
            raise typer.Exit(status) from None

    app.command(name=function.__name__.rstrip("_"))(guarded)
    return guarded


def _drop_unwritable_output() -> None:
    """Python would try again to write it at its end, and complain in lines of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        return (
            "stopped; what was finished is kept. Go on with the same command (run: with --resume)",
            130,
        )
    if isinstance(error, DeepCorrectError):
        return f"error: {error}", 1
    if files.disk_full(error):
        where = getattr(error, "filename", None)
        return (
            f"error: the disk is full{f' ({where})' if where else ''}. No file was left "
            "half-written: make room and give the same command again (run: with --resume)"
        ), 1
    if isinstance(error, OSError):
        return f"error: {error}", 1
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "error: out of memory: use a smaller batch size", 1
    return f"error: {type(error).__name__}: {error} (--debug shows where)", 1


def _print_version(wanted: bool) -> None:
    if wanted:
        print(dc.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


@_command
def run(
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file or a shipped name.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    device: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Measure, rank, correct, measure, report: one recipe, one folder."""
    from deepcorrect.pipeline import run as run_pipeline  # noqa: PLC0415  (matplotlib is slow)

    changes = list(overrides or [])
    changes += [f"device={device}"] if device is not None else []
    changes += [f"seed={seed}"] if seed is not None else []
    loaded = recipe.load_recipe(recipe_name, changes)
    folder = out or Path("runs") / loaded.name
    path = run_pipeline(loaded, folder, resume=resume)
    results = files.read_json(path)
    if as_json:
        print(json.dumps(results))
        return
    tables.print_results(results)
    print(f"results: {path}\nreport:  {folder / 'report.html'}")


@_command
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
    adapter: Adapter = None,
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
    images: Images = None,
    batch_size: BatchSize = 128,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precise = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Accuracy of a network, with or without an adapter, over distortions and levels.

    They are computed, or read where --data is cifar_c:DIR or imagenet_c:DIR.
    """
    network = _model(model, weights, classes, input_size, resize, mean, std, device)
    system = adapters.load(network, adapter) if adapter else network
    stored = corrupted_sets.accepts(data)
    if clean and not stored:
        raise InputError(
            "--clean goes with distorted copies (--data cifar_c:DIR or imagenet_c:DIR); "
            f"{data} is itself taken as clean"
        )
    if stored:
        copies = corrupted_sets.open_corrupted(data, network.preprocessing)
        copies = copies.only(distortion) if distortion else copies
        other = reference_for(reference, ALEXNET_REFERENCE if copies.imagenet else None)
        before = _labelled(network, clean, images, seed) if clean else None
        grid = _on_copies(
            network, system, copies, before, images, seed, batch_size, workers, precision
        )
    else:
        specs = distortion or DEFAULT_DISTORTIONS
        other = _computed_reference(reference, specs, network.preprocessing.input_size)
        source = _labelled(network, data, images, seed)
        loader = data_room.loader(source, batch_size, workers=workers)
        grid = evaluate(system, loader, specs, seed, precision)
        source.warn_of_bad()
    cost = costs(system, network.preprocessing)
    notes = system.config.notes if isinstance(system, adapters.AdaptedModel) else {}
    record = system_record(
        grid,
        cost,
        trained=adapter is not None,
        images_seen=notes.get("images_seen", 0),
        seconds=notes.get("training_seconds", 0),
    )
    benchmark = stored or any(name in (*COMMON, *EXTRA) for name in record["distortions"])
    if benchmark:
        record["corruption_error"] = corruption_error(record["distortions"], other)
    if as_json:
        print(json.dumps(record))
        return
    if not stored:
        tables.print_results({"systems": {"deepcorrect" if adapter else "baseline": record}})
    if benchmark:
        tables.print_corruption_error(record["corruption_error"])


def _on_copies(
    network: Classifier,
    system: nn.Module,
    copies: corrupted_sets.CorruptedSet,
    clean: data_room.ImageSet | None,
    count: int | None,
    seed: int,
    batch_size: int,
    workers: int,
    precision: Precision,
) -> StoredGrid:
    """Accuracy on distorted copies, opened one level at a time."""
    classes = output_classes(network, network.preprocessing)
    opened: list[data_room.ImageSet] = []

    def batches(open_part: corrupted_sets.Open) -> data_room.Batches:
        for before in opened:
            before.warn_of_bad()
        part = open_part()
        part.check_labels(classes)
        opened[:] = [part.sample(count, seed)]
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


@_command
def distort(
    data: Data,
    out: Out,
    distortion: Annotated[
        list[str], typer.Option(help="NAME[:LEVEL,...], repeatable; see 'list distortions'.")
    ],
    format: Annotated[
        distorted_sets.Format,
        typer.Option(help="folder: ImageNet-C's layout; npy: CIFAR-C's; parquet: Hugging Face's."),
    ] = "folder",
    input_size: Annotated[
        int | None,
        typer.Option(min=1, help="Resize and cut to this side first; default: sizes are kept."),
    ] = None,
    resize: Resize = None,
    images: Images = None,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write distorted copies of a set, once; 'evaluate' reads them as cifar_c: or imagenet_c:.

    A stopped writing goes on when the same command is given again.
    """
    done = distorted_sets.write_distorted(
        data,
        distortion,
        out,
        format,
        input_size=input_size,
        resize=resize,
        images=images,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        device=device_for(device),
    )
    done.images.warn_of_bad()
    good = len(done.images) - len(done.images.bad)
    if as_json:
        print(
            json.dumps(
                {
                    "out": str(out),
                    "format": format,
                    "images": good,
                    "bad_images": len(done.images.bad),
                    "written_files": done.written,
                    "kept_files": done.kept,
                    "distortions": {
                        each.name: list(each.levels or ()) for each in done.distortions
                    },
                }
            )
        )
        return
    print(f"{out}: {good:,} images, {done.written:,} files written, {done.kept:,} were there")


@_command
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
    sites: Annotated[
        str | None, typer.Option(help="Dotted names between commas; default all convolutions.")
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
        network = _model(model, weights, classes, input_size, resize, mean, std, device)
        source = data_room.open_data(data, network.preprocessing)
        if target == "labels" or (target is None and source.labelled):
            source.check_labels(output_classes(network, network.preprocessing))
        source = source.sample(images, seed)
        loader = data_room.loader(source, batch_size, workers=workers)
        network = adapters.load(network, adapter) if adapter else network
    elif compare is None or (model, data) != (None, None):
        raise InputError("give --model and --data, both; or --compare A B alone")
    if compare is not None:
        first, second = (ranking.load_ranking(folder) for folder in compare)
        agreement = ranking.compare(first, second, beta)
        areas = _ideal_areas(network, loader, (first, second), list(agreement.overlap), precision)
        if is_main_process():
            tables.print_comparison(compare, agreement, areas, as_json)
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
        tables.print_ranking(result, as_json)
    finally:
        if out:
            from deepcorrect.report import write_ranking_figure  # noqa: PLC0415  (slow to import)

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


@_command
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
    images: Images = None,
    beta: Annotated[float, typer.Option(help="Corrected share of each site's filters.")] = 0.5,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Instead of --beta: parameters=X or multiply_adds=X for all units together, X up "
            "to 1 being a share of the network's. The priorities say what each site gives."
        ),
    ] = None,
    unit: Annotated[str, typer.Option(help="See 'list units'.")] = "bottleneck",
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = Training().learning_rate,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.")] = 128,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precise = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train an adapter for the first filters of a ranking. A stopped training goes on when the
    same command is given again."""
    files.check_folder(out)
    network = _model(model, weights, classes, input_size, resize, mean, std, device)
    source = _labelled(network, data, images, seed)
    ranked = ranking.load_ranking(ranking_folder)
    pixels = network.preprocessing.input_size
    used = distortion_room.parse_all(distortion or ranked.distortions, pixels)
    adapted = adapters.correct(network, ranked, _share(beta, budget), unit, seed)
    held_out = None
    if validation:
        held_out = data_room.loader(
            _labelled(network, validation, None, seed), 128, workers=workers
        )
    checkpoint = out.parent / f"{out.name}.checkpoint.pt"
    history = fit(
        adapted,
        data_room.loader(source, batch_size, shuffle=True, workers=workers),
        used,
        validation=held_out,
        seed=seed,
        checkpoint=checkpoint,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        precision=precision,
    )
    source.warn_of_bad()
    best = history.epochs[history.best]
    notes = {
        "distortions": [asdict(distortion) for distortion in used],
        "images_seen": history.images_seen,
        "training_seconds": round(history.seconds, 2),
        "epochs": len(history.epochs),
        "validation_mean_top1": best.score,
    }
    adapted.save(out, notes)
    checkpoint.unlink(missing_ok=True)
    cost = costs(adapted, network.preprocessing)
    if as_json:
        trained = {"adapter": str(out), "trainable_parameters": cost.trainable_parameters}
        print(json.dumps(trained | notes))
    else:
        print(f"adapter: {out} ({cost.trainable_parameters:,} parameters)")


@dataclass(frozen=True)
class _Answer:
    file: str
    labels: list[str]
    probabilities: list[float]


@_command
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
    network = _model(model, weights, classes, input_size, resize, mean, std, device)
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


@_command
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    as_json: Json = False,
) -> None:
    """Write a run's HTML report again."""
    from deepcorrect.report import write_report  # noqa: PLC0415  (matplotlib is slow)

    path = write_report(folder)
    print(json.dumps({"report": str(path)}) if as_json else f"report: {path}")


@_command
def list_(
    what: Annotated[
        Literal["models", "datasets", "distortions", "units", "methods", "targets", "recipes"],
        typer.Argument(help="What to list."),
    ],
    as_json: Json = False,
) -> None:
    """What can be named in commands and recipes."""
    entries: dict[str, str] = {
        "models": {name: entry.summary for name, entry in models.BUILT_IN.items()}
        | {"python:FILE_OR_MODULE:CALLABLE": "your own network"},
        "datasets": data_room.BUILT_IN
        | {
            "folder:DIR": "one sub-folder a class, or images alone",
            "parquet:GLOB": "Parquet in the Hugging Face image schema",
        }
        | corrupted_sets.SPECS,
        "distortions": {
            kind.name: f"{kind.summary} Level: {kind.unit}; {_grids(kind)}"
            for kind in distortion_room.KINDS.values()
        }
        | {group: "all of " + ", ".join(n) for group, n in distortion_room.GROUPS.items()}
        | {"A+B": "A, then B on its result; level k is the k-th of each one's grid"},
        "units": units.DESCRIPTIONS,
        "methods": {name: method.summary for name, method in ranking.METHODS.items()},
        "targets": ranking.TARGETS,
        "recipes": {name: recipe.load_summary(name) for name in recipe.shipped()},
    }[what]
    if as_json:
        print(json.dumps(entries))
        return
    width = max(len(name) for name in entries)
    for name, summary in entries.items():
        print(f"{name:{width}}  {summary}")


def _share(beta: float, budget: str | None) -> float | dict[str, Any]:
    """What `correct` takes as beta: a share, or a budget such as `parameters=0.2`."""
    if budget is None:
        return beta
    kind, _, number = budget.partition("=")
    try:
        return {"budget": {kind.strip(): float(number)}}
    except ValueError:
        raise InputError(
            f"--budget {budget!r} is not accepted: give parameters=X or multiply_adds=X"
        ) from None


def _grids(kind: distortion_room.Kind) -> str:
    small, large = (
        ", ".join(f"{level:g}" for level in levels)
        for levels in (kind.small_levels, kind.large_levels)
    )
    return small if small == large else f"small inputs {small}, large {large}"


def _model(
    spec: str,
    weights: str | None,
    classes: int | None,
    input_size: int | None,
    resize: int | None,
    mean: str | None,
    std: str | None,
    device: str,
) -> Classifier:
    place = device_for(device)
    model = models.resolve(
        spec,
        weights,
        classes=classes,
        input_size=input_size,
        resize=resize,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
    )
    return model.to(place)


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{flag} {text!r} is not a number, or three between commas") from None


def _labelled(network: Classifier, spec: str, count: int | None, seed: int) -> data_room.ImageSet:
    source = data_room.open_data(spec, network.preprocessing)
    source.check_labels(output_classes(network, network.preprocessing))
    return source.sample(count, seed)


def _image_files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = data_room.images_in(path)
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
