"""`explore`: a page in the browser that shows what a correction does to one picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

import deepcorrect as dc
from deepcorrect import runtime
from deepcorrect.cli import _catalogue, _stopping
from deepcorrect.cli._groups import OptionGroup
from deepcorrect.cli._options import NOT_GIVEN, Json, Model, ModelOptions
from deepcorrect.runtime import DeepCorrectError, InputError

if TYPE_CHECKING:
    from deepcorrect.explorer import Copied, Offer

TRAINED = ("efficientnet_lite0", "digits_cnn")
"""The built-in networks that have trained weights; with them, their shipped adapters are shown."""
LARGEST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class ExploredModel(ModelOptions):
    """The network to explore."""

    model: Model = NOT_GIVEN
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER",
            help="Repeatable; an adapter for the network: a name from 'list adapters', its folder, "
            "hf:OWNER/NAME or hf:OWNER/NAME@REVISION.",
        ),
    ] = None
    ranking: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a ranking of the network's filters. Default: filters are ranked on "
            "the picture that is shown."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Shown(OptionGroup):
    """What else the page shows."""

    panel: ClassVar[str] = "Runs and images"

    run: Annotated[
        list[Path] | None,
        typer.Option(help="Repeatable; the folder of a run, or its results.json."),
    ] = None
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Repeatable; a folder of images, on which baseline and correction are compared."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Served(OptionGroup):
    """Where the page is."""

    panel: ClassVar[str] = "Page"

    host: Annotated[
        str,
        typer.Option(help="Address to listen at. Others reach 0.0.0.0; nobody is asked who it is."),
    ] = "127.0.0.1"
    port: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_PORT, help="Default: the first free one from 7860 on."),
    ] = None
    upload_megabytes: Annotated[
        int, typer.Option(min=1, max=1000, help="The largest picture that can be uploaded.")
    ] = 20


def command(
    network: ExploredModel,
    shown: Shown,
    served: Served,
    export_space: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a folder for a Hugging Face Space that shows the same, and start nothing.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a page in the browser: distort a picture, compare, look at filters, runs and folders.

    Without --model, it shows the built-in networks that are trained, with the adapters that the
    package ships for them. It makes no request to the outside, and shows nothing of this machine
    but what is named here.
    """
    if network.model == NOT_GIVEN:
        _refuse_options_of_a_network(network)
    if export_space is not None:
        folder = _write_space(network, shown, export_space)
        print(json.dumps({"space": str(folder)}) if as_json else f"Space: {folder}")
        return
    _stopping.say("stopped before the page was open")
    runtime.optional_import("gradio", "explore")
    from deepcorrect.experiments.report import read_results
    from deepcorrect.explorer import Exhibits, folder_names, serve, unused_name

    runs: dict[str, Path] = {}
    for path in shown.run or ():
        folder = path if path.is_dir() else path.parent
        runs[unused_name(folder.resolve().name or "run", runs)] = path
    exhibits = Exhibits(
        _offers(network),
        {name: read_results(path) for name, path in runs.items()},
        folder_names(shown.images or ()),
        read_results,
    )

    def started(url: str) -> None:
        _stopping.say("stopped; the page is closed")
        print(json.dumps({"url": url}) if as_json else f"explorer: {url}", flush=True)

    serve(
        exhibits,
        served.host,
        served.port,
        upload_megabytes=served.upload_megabytes,
        started=started,
    )


def _refuse_options_of_a_network(network: ExploredModel) -> None:
    given = {"--adapter": network.adapter, "--ranking": network.ranking}
    given |= {"--weights": network.weights, "--classes": network.classes}
    for flag, value in given.items():
        if value is not None:
            raise InputError(f"{flag} belongs to a network: give --model, too")


def _offers(network: ExploredModel) -> dict[str, Offer]:
    """The network that is named, and the built-in ones; or these alone."""
    from deepcorrect.correction import shipped_adapters
    from deepcorrect.explorer import Offer

    if network.model != NOT_GIVEN:
        model = network.load()
        adapters = {_name_of(spec): spec for spec in network.adapter or ()}
        if network.weights is None and network.classes is None:
            adapters |= _shipped_for(network.model)
        ranking = None if network.ranking is None else dc.load_ranking(network.ranking)
        return {_shown_model(network.model): Offer(_same(model), adapters, ranking)}
    found: dict[str, Offer] = {}
    device = runtime.device_for(network.device)
    for name in TRAINED:
        try:
            model = dc.load_model(name).to(device)
        except DeepCorrectError as error:
            runtime.console().print(f"{name} is left out: {error}", markup=False)
            continue
        shipped = [each for each in shipped_adapters() if each.startswith(f"{name}/")]
        found[name] = Offer(_same(model), {each: each for each in shipped})
    return found


def _same(model: dc.Classifier) -> Callable[[], dc.Classifier]:
    return lambda: model


def _shipped_for(name: str) -> dict[str, str]:
    """The adapters that the package ships for a network, under their own names."""
    names = _catalogue.entries("adapters")
    return {each: each for each in names if each.startswith(f"{name}/")}


def _name_of(spec: str) -> str:
    """What the page calls an adapter: the name of its folder, or the spec of a shared one."""
    path = Path(spec)
    return path.resolve().name if path.exists() else spec


def _shown_model(spec: str) -> str:
    """What the page calls a network: its spec without the folders of this machine."""
    kind, _, rest = spec.partition(":")
    if kind == "python":
        file, _, function = rest.rpartition(":")
        return f"python:{Path(file).name}:{function}"
    return f"hf:{Path(rest).resolve().name}" if kind == "hf" and Path(rest).exists() else spec


def _write_space(network: ExploredModel, shown: Shown, folder: Path) -> Path:
    """Writes the folder of a Space with the options that were given."""
    from deepcorrect.explorer import Copied, write_space

    options: list[str] = []
    copied: list[Copied] = []
    if network.model != NOT_GIVEN:
        kind, _, rest = network.model.partition(":")
        file, _, function = rest.rpartition(":")
        if kind == "python" and Path(file).is_file():
            copied.append(Copied("--model", Path(file), f"python:{{}}:{function}"))
        elif kind == "hf" and Path(rest).exists():
            raise InputError(f"{network.model} is on this machine: put it on the Hub for a Space")
        else:
            options += ["--model", network.model]
        options += _network_options(network)
    if network.weights is not None and network.weights != "random":
        copied.append(Copied("--weights", Path(network.weights)))
    for spec in network.adapter or ():
        if Path(spec).exists():
            copied.append(Copied("--adapter", Path(spec)))
        else:
            options += ["--adapter", spec]
    if network.ranking is not None:
        copied.append(Copied("--ranking", network.ranking))
    runs = (path.parent if path.is_file() else path for path in shown.run or ())
    copied += [Copied("--run", path) for path in runs]
    copied += [Copied("--images", path) for path in shown.images or ()]
    return write_space(folder, options, copied, dc.__version__, _extras_for(network.model))


def _network_options(network: ExploredModel) -> list[str]:
    """The options of the network that are not paths."""
    given: Mapping[str, object] = {
        "--weights": "random" if network.weights == "random" else None,
        "--state": network.state,
        "--classes": network.classes,
        "--input-size": network.input_size,
        "--resize": network.resize,
        "--mean": network.mean,
        "--std": network.std,
    }
    return [
        part for flag, value in given.items() if value is not None for part in (flag, str(value))
    ]


def _extras_for(spec: str) -> tuple[str, ...]:
    """The extras of the package that a network needs."""
    source = spec.partition(":")[0]
    if source in ("timm", "torchvision", "hf"):
        return (source,)
    return ("efficientnet",) if spec in (NOT_GIVEN, "efficientnet_lite0") else ()
