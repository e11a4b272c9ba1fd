"""`predict`: labels for image files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from deepcorrect import correction
from deepcorrect import data as data_room
from deepcorrect.cli._options import (
    Adapter,
    BatchSize,
    Classes,
    Device,
    InputSize,
    Json,
    Mean,
    Model,
    Resize,
    Std,
    Weights,
    Workers,
    model_of,
)
from deepcorrect.models import output_classes
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, console, device_of, inference, progress, to_device

STANDARD_INPUT = Path("-")
Write = Callable[[dict[str, Any]], None]


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Image files, folders of them, or - for a list on standard input."),
    ],
    model: Model,
    weights: Weights = None,
    classes: Classes = None,
    input_size: InputSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    adapter: Adapter = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="With --adapter: the baseline's answers beside.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Labels an image.")] = 1,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="The list ends names with NUL (find -print0).")
    ] = False,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Labels for image files, most probable first, in the order of the files.

    Answers are written as they come, so any number of files takes the same memory.
    """
    if compare and adapter is None:
        raise InputError("--compare shows the network with and without an adapter: give --adapter")
    total = _check_paths(paths)
    network = model_of(model, weights, classes, input_size, resize, mean, std, device)
    _check_names(network)
    systems: dict[str, nn.Module] = {}
    if compare or adapter is None:
        systems["baseline"] = network
    if adapter is not None:
        systems["corrected"] = correction.load_adapter(network, adapter)
    batches = data_room.named_batches(
        _files(paths, b"\0" if null else b"\n"), network.preprocessing, batch_size, workers
    )
    count = _Count()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be Unicode
        sys.stdout.reconfigure(errors="surrogateescape")
    writing = _document() if as_json else contextlib.nullcontext(_print_line)
    with writing as write, _progress(total) as step:
        for batch in batches:
            for answer in _answers(systems, network.labels, batch, top):
                write(answer)
                count.add(answer)
            sys.stdout.flush()
            count.leave_out(batch)
            step(len(batch.names))
    count.report(compare)


def _check_paths(paths: Sequence[Path]) -> int:
    """The number of files, so that progress can say what is left; 0 for a list still to come.

    Raises:
        InputError: one is not there, or has no images.
    """
    total = 0
    for path in paths:
        if path == STANDARD_INPUT:
            continue
        inside = sum(1 for _ in data_room.images_in(path)) if path.is_dir() else 1
        if not path.exists():
            raise InputError(f"there is no file {path}")
        if not inside:
            raise InputError(f"{path} has no images")
        total += inside
    return 0 if STANDARD_INPUT in paths else total


def _check_names(network: Classifier) -> None:
    count = output_classes(network, network.preprocessing)
    if network.labels is not None and len(network.labels) != count:
        raise InputError(f"the network has {count} classes and {len(network.labels)} class names")


def _files(paths: Sequence[Path], end: bytes) -> Iterator[str]:
    """The files, those of folders and of a list on standard input among them."""
    for path in paths:
        for each in map(Path, _listed(end)) if path == STANDARD_INPUT else [path]:
            if each.is_dir():
                yield from map(str, data_room.images_in(each))
            else:
                yield str(each)


def _listed(end: bytes) -> Iterator[str]:
    """The names on standard input, as they come."""
    stream: Any = sys.stdin.buffer
    rest = b""
    while chunk := stream.read1(1 << 16):
        *names, rest = (rest + chunk).split(end)
        yield from (os.fsdecode(name) for name in map(_without_return, names) if name)
    if _without_return(rest):
        yield os.fsdecode(_without_return(rest))


def _without_return(name: bytes) -> bytes:
    return name.removesuffix(b"\r")


def _answers(
    systems: Mapping[str, nn.Module],
    labels: tuple[str, ...] | None,
    batch: data_room.NamedBatch,
    top: int,
) -> Iterator[dict[str, Any]]:
    """Each file's name, with one system's labels and probabilities or those of each."""
    if not batch.indices:
        return
    by_system = {name: _best(system, batch.images, labels, top) for name, system in systems.items()}
    for row, place in enumerate(batch.indices):
        said = {name: answers[row] for name, answers in by_system.items()}
        known = said if len(said) > 1 else next(iter(said.values()))
        yield {"file": batch.names[place], **known}


def _best(
    system: nn.Module, images: Tensor, labels: tuple[str, ...] | None, top: int
) -> list[dict[str, Any]]:
    with inference(system), torch.no_grad():
        shares = system(to_device(images, device_of(system))).softmax(1).cpu()
    best = shares.topk(min(top, shares.shape[1]), 1)
    return [
        {
            "labels": [labels[i] if labels else str(i) for i in indices],
            "probabilities": [round(value, 6) for value in values],
        }
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


# --- what is written


class _Count:
    """How many files were answered, answered otherwise and left out."""

    def __init__(self) -> None:
        self.good = self.bad = self.changed = 0
        self.first_bad: list[str] = []

    def add(self, answer: Mapping[str, Any]) -> None:
        self.good += 1
        if "corrected" in answer:
            self.changed += answer["baseline"]["labels"][0] != answer["corrected"]["labels"][0]

    def leave_out(self, batch: data_room.NamedBatch) -> None:
        for name in batch.bad:
            console().print(f"could not be read: {name}")
        self.bad += len(batch.bad)
        self.first_bad += batch.bad[: max(0, 3 - len(self.first_bad))]

    def report(self, compare: bool) -> None:
        """Says it at the end.

        Raises:
            InputError: there was no image.
        """
        if not self.good:
            raise InputError(
                f"none of the {self.bad} files is an image that can be read"
                if self.bad
                else "there are no names of files on standard input"
            )
        if compare:
            console().print(
                f"the corrected network's first answer is another one on {self.changed:,} of "
                f"{self.good:,} images"
            )
        if self.bad:
            more = ", ..." if self.bad > len(self.first_bad) else ""
            console().print(
                f"warning: {self.bad} of {self.good + self.bad} images could not be read and were "
                f"left out: {', '.join(self.first_bad)}{more}",
                style="yellow",
            )


@contextlib.contextmanager
def _document() -> Iterator[Write]:
    """Writes one JSON list, an answer at a time."""
    begun = False

    def write(answer: dict[str, Any]) -> None:
        nonlocal begun
        print(",\n" if begun else "[", json.dumps(answer), sep="", end="")
        begun = True

    try:
        yield write
    finally:  # whole too where the command is stopped
        if begun:
            print("]")


def _print_line(answer: dict[str, Any]) -> None:
    systems = {name: answer[name] for name in ("baseline", "corrected") if name in answer}
    parts = [answer["file"]]
    for name, said in systems.items() if systems else [("", answer)]:
        pairs = zip(said["labels"], said["probabilities"], strict=True)
        shown = [f"{label} {share:.4f}" for label, share in pairs]
        parts += [f"{name}: {'; '.join(shown)}"] if name else shown
    print("\t".join(parts))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[float], None]]:
    """On a terminal that the answers go to, they are the progress."""
    if sys.stdout.isatty():
        yield lambda _: None
    else:
        with progress("predicting", total) as step:
            yield step
