"""`predict`: labels for image files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import deepcorrect as dc
from deepcorrect import runtime
from deepcorrect.cli._options import AdaptedModelOptions, BatchOptions, BatchSize, Json
from deepcorrect.runtime import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepcorrect.data import NamedBatch

STANDARD_INPUT = Path("-")
Write = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class PredictBatches(BatchOptions):
    """How the files are read."""

    batch_size: BatchSize = 32


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES", help="Image files, folders of them, or - for a list on standard input."
        ),
    ],
    model: AdaptedModelOptions,
    batches: PredictBatches,
    compare: Annotated[
        bool, typer.Option("--compare", help="With --adapter: show the baseline's answers, too.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Number of labels per image.")] = 1,
    null: Annotated[
        bool,
        typer.Option("--null", "-0", help="Names in the list end with NUL (find -print0)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print labels for image files, most probable first, in the order of the files.

    Each answer is written when it is known, so memory does not grow with the number of files.
    """
    from deepcorrect.data import named_batches
    from deepcorrect.networks import as_logits

    if compare and model.adapter is None:
        raise InputError("--compare shows the network with and without an adapter: give --adapter")
    total = _check_paths(paths)
    network = model.load()
    _check_names(network)
    systems: dict[str, nn.Module] = {}
    if compare or model.adapter is None:
        systems["baseline"] = network
    if model.adapter is not None:
        systems["corrected"] = model.corrected(network)
    files = _files(paths, b"\0" if null else b"\n")
    count = _Count()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be Unicode
        sys.stdout.reconfigure(errors="surrogateescape")
    writing = _document() if as_json else contextlib.nullcontext(_print_line)
    with writing as write, _progress(total) as step:
        for batch in named_batches(
            files, network.preprocessing, batches.batch_size, batches.workers
        ):
            if not count.good and batch.indices:
                systems = {name: as_logits(each, batch.images) for name, each in systems.items()}
            for answer in _answers(systems, network.labels, batch, top):
                write(answer)
                count.add(answer)
            sys.stdout.flush()
            count.leave_out(batch)
            step(len(batch.names))
    count.report(compare)


def _check_paths(paths: Sequence[Path]) -> int:
    """The number of files, so that progress can say what is left; 0 if a list is still to come.

    Raises:
        InputError: a path does not exist, or a folder has no images.
    """
    from deepcorrect.data import images_in

    total = 0
    for path in paths:
        if path == STANDARD_INPUT:
            continue
        count = sum(1 for _ in images_in(path)) if path.is_dir() else 1
        if not path.exists():
            raise InputError(f"there is no file {path}")
        if not count:
            raise InputError(f"{path} has no images")
        total += count
    return 0 if STANDARD_INPUT in paths else total


def _check_names(network: dc.Classifier) -> None:
    from deepcorrect.models import output_classes

    count = output_classes(network, network.preprocessing)
    if network.labels is not None and len(network.labels) != count:
        raise InputError(f"the network has {count} classes and {len(network.labels)} class names")


def _files(paths: Sequence[Path], end: bytes) -> Iterator[str]:
    """All files, including those in folders and those in a list on standard input."""
    from deepcorrect.data import images_in

    for path in paths:
        for each in map(Path, _listed(end)) if path == STANDARD_INPUT else [path]:
            if each.is_dir():
                yield from map(str, images_in(each))
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
    batch: NamedBatch,
    top: int,
) -> Iterator[dict[str, Any]]:
    """Each file's name with labels and probabilities; of several systems, with those of each."""
    if not batch.indices:
        return
    by_system = {name: _best(system, batch.images, labels, top) for name, system in systems.items()}
    for row, place in enumerate(batch.indices):
        answers = {name: rows[row] for name, rows in by_system.items()}
        shown = answers if len(answers) > 1 else next(iter(answers.values()))
        yield {"file": batch.names[place], **shown}


def _best(
    system: nn.Module, images: Tensor, labels: tuple[str, ...] | None, top: int
) -> list[dict[str, Any]]:
    """For each image the `top` most probable labels and their probabilities."""
    import torch

    with runtime.inference(system), torch.no_grad():
        shares = system(runtime.to_device(images, runtime.device_of(system))).softmax(1).cpu()
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
    """How many files were answered, how many answers changed, and how many files were left out."""

    def __init__(self) -> None:
        self.good = self.bad = self.changed = 0
        self.first_bad: list[str] = []

    def add(self, answer: Mapping[str, Any]) -> None:
        self.good += 1
        if "corrected" in answer:
            self.changed += answer["baseline"]["labels"][0] != answer["corrected"]["labels"][0]

    def leave_out(self, batch: NamedBatch) -> None:
        from deepcorrect.data import open_image, why_unreadable, with_reason

        for name in batch.bad:
            reason = why_unreadable(lambda name=name: open_image(name))
            runtime.console().print(f"could not be read: {with_reason(name, reason)}")
        self.bad += len(batch.bad)
        self.first_bad += batch.bad[: max(0, 3 - len(self.first_bad))]

    def report(self, compare: bool) -> None:
        """Prints the counts that matter at the end.

        Raises:
            InputError: no image could be read.
        """
        if not self.good:
            raise InputError(
                f"none of the {self.bad} files is an image that can be read"
                if self.bad
                else "there are no names of files on standard input"
            )
        if compare:
            runtime.console().print(
                f"the corrected network's first answer differs on {self.changed:,} of "
                f"{self.good:,} images"
            )
        if self.bad:
            more = ", ..." if self.bad > len(self.first_bad) else ""
            runtime.console().print(
                f"warning: {self.bad} of {self.good + self.bad} images could not be read and were "
                f"left out: {', '.join(self.first_bad)}{more}",
                style="yellow",
            )


@contextlib.contextmanager
def _document() -> Iterator[Write]:
    """Writes one JSON list, one answer at a time."""
    begun = False

    def write(answer: dict[str, Any]) -> None:
        nonlocal begun
        print(",\n" if begun else "[", json.dumps(answer), sep="", end="")
        begun = True

    try:
        yield write
    finally:  # the list is closed even if the command is stopped
        if begun:
            print("]")


def _print_line(answer: dict[str, Any]) -> None:
    systems = {name: answer[name] for name in ("baseline", "corrected") if name in answer}
    parts = [answer["file"]]
    for name, known in systems.items() if systems else [("", answer)]:
        pairs = zip(known["labels"], known["probabilities"], strict=True)
        shown = [f"{label} {share:.4f}" for label, share in pairs]
        parts += [f"{name}: {'; '.join(shown)}"] if name else shown
    print("\t".join(parts))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[float], None]]:
    """Shows progress, unless the answers go to a terminal and show it themselves."""
    if sys.stdout.isatty():
        yield lambda _: None
    else:
        with runtime.progress("predicting", total) as step:
            yield step
