"""Exporting a network to one file that runs without DeepCorrect: ONNX or torch.export."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from deepcorrect.correction import AdaptedModel, GatedModel
from deepcorrect.deployment._fuse import check_logits, example_images, fuse, on_cpu
from deepcorrect.deployment._gated import RoutedNetwork, gated_parts
from deepcorrect.deployment._onnx_gate import IMAGES, LOGITS, compose_gated
from deepcorrect.deployment._onnx_network import OnnxNetwork, onnx_runtime, quiet
from deepcorrect.networks import (
    Classifier,
    Reading,
    Wrapper,
    logits_of,
    preprocessing_of,
    read_outputs,
    refuse_torchscript,
    unparallel,
)
from deepcorrect.runtime import InputError, files, inference

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "torch"]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "torch"}
DETAILS = "deepcorrect.json"
LARGEST_ONNX = 2_000_000_000
"""The largest size of the tensors of one ONNX file, in bytes (protobuf's limit is 2 GiB)."""


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: The path of the file.
        format: The format of the file, `onnx` or `torch`.
        bytes: The size of the file.
        images: The number of sample images whose logits were compared.
        largest_difference: The largest difference between the file's and the network's logits.
    """

    path: Path
    format: Format
    bytes: int
    images: int
    largest_difference: float


def export(
    model: nn.Module,
    out: str | Path,
    format: Format | None = None,
    images: Tensor | None = None,
    *,
    fused: bool = True,
    batch_size: int | None = None,
) -> Exported:
    """Exports a network, corrected or not, to one file, and checks the file's logits.

    The exported network reads images in [0, 1], N x C x H x W, normalises them itself and returns
    logits, N x classes; where a network returns probabilities, the file returns their logarithm
    (see `networks.read_outputs`). The file contains the labels and the preprocessing as JSON: in
    ONNX one metadata entry per key, in a torch program the extra file `deepcorrect.json`.

    Args:
        model: A network from `correct`, `load_adapter` or `load_model`, a `Classifier`, or a bare
            network. The exported form of a bare network reads the same input as the network.
        out: The file. It is written completely, or not at all if anything fails.
        format: `onnx`, or `torch` for a torch.export program. The default follows from the suffix
            of `out` (`.onnx` or `.pt2`).
        images: Sample inputs for tracing and checking, required only for a bare network.
        fused: Whether units and batch norms are folded first, see `fuse`. A corrected network is
            always fused.
        batch_size: The only batch size that the file accepts; None accepts any.

    Returns:
        The path, format and size of the file, and how exactly it reproduces the logits.

    Raises:
        InputError: The network cannot be exported, or the file's logits differ.
        MissingExtraError: The `onnx` extra is not installed.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> images = torch.rand(2, 3, 16, 16)
        >>> exported = dc.export(adapted, "network.pt2", images=images)
        >>> exported.format, exported.images, exported.largest_difference < 1e-4
        ('torch', 7, True)
    """
    out = Path(out)
    chosen = _format(out, format)
    files.check_file(out)
    if chosen == "onnx":
        onnx_runtime()
    if images is None:
        images = example_images(model, batch_size or 2)
    if batch_size is not None and len(images) != batch_size:
        raise InputError(f"batch_size is {batch_size}, but there are {len(images)} images")
    refuse_torchscript(model, "exported")
    model = unparallel(model)
    model, images = on_cpu(model), images.cpu()
    reading = _reading(model, images)
    with torch.no_grad(), inference(model):
        # Python code decides what runs in a corrected network, so that it is always fused
        ready = fuse(model, images) if fused or isinstance(model, GatedModel) else model
        ready = reading.of(ready)
        notes, dynamic = details(model), batch_size is None
        if chosen == "onnx":
            written, run_file = _onnx_file(ready, images, dynamic, notes), OnnxNetwork
        else:
            written, run_file = _torch_file(ready, images, dynamic, notes), load_exported
        samples = _samples(ready, images, dynamic)
        differences: list[float] = []

        def write_and_check(temporary: Path) -> None:
            temporary.write_bytes(written)
            run = run_file(temporary)
            for batch in samples:
                what = f"the {chosen} file"
                differences.append(check_logits(reading.of(model), batch, run(batch), what))

        files.write_with(out, write_and_check)
    return Exported(out, chosen, out.stat().st_size, sum(map(len, samples)), max(differences))


def _reading(model: nn.Module, images: Tensor) -> Reading:
    """How the network's output is read as logits; the maps of a network without a head are kept."""
    with torch.no_grad(), inference(model):
        output = logits_of(model, images)
    if isinstance(output, Tensor) and output.shape[2:].numel() > 1:
        return Reading(plain=True, kind="logits")
    return read_outputs(model, images)


def details(model: nn.Module) -> dict[str, Any]:
    """The information for users of the file: its input, its labels and its origin."""
    known: dict[str, Any] = {"input": "images in [0, 1], N x C x H x W", "output": "logits"}
    inside = model
    while isinstance(inside, Wrapper):
        if isinstance(inside, AdaptedModel):
            known["adapter"] = {"base": inside.config.base, "notes": inside.config.notes}
        if isinstance(inside, Classifier):
            known["model"] = inside.name
            known["labels"] = list(inside.labels) if inside.labels else None
        inside = inside.network
    preprocessing = preprocessing_of(model)
    if preprocessing is None:
        known["input"] = "the input of the bare network"
        return known
    return known | {
        "channels": preprocessing.channels,
        "input_size": preprocessing.input_size,
        "resize": preprocessing.resize or preprocessing.input_size,
        "interpolation": preprocessing.interpolation,
        "squash": preprocessing.squash,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "normalised": "inside",
    }


def load_exported(path: str | Path) -> nn.Module:
    """Loads a file that `export` or `quantize` wrote.

    Some tensors of a torch.export program are pickled; they are read with `weights_only=True`. An
    ONNX file, whose name must end in `.onnx`, is run by ONNX Runtime on the CPU.

    Args:
        path: The file.

    Returns:
        A module that maps images in [0, 1], N x C x H x W, to logits, N x classes.

    Raises:
        InputError: The file does not exist, is not such a file, or contains other objects than
            tensors.
        MissingExtraError: It is an ONNX file, and the `onnx` extra is not installed.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
        >>> images = torch.rand(2, 3, 16, 16)
        >>> _ = dc.export(network, "network.pt2", images=images)
        >>> torch.allclose(dc.load_exported("network.pt2")(images), network(images))
        True
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix == ".onnx":
        return OnnxNetwork(path)
    try:
        with _weights_only(), quiet(), path.open("rb") as file:
            return torch.export.load(file).module()  # pyright: ignore[reportArgumentType]
    except Exception as error:  # a broken file may raise anything
        raise InputError(
            f"{path} is not a torch.export program that can be read safely "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from None


def _format(out: Path, given: Format | None) -> Format:
    if given is None:
        if out.suffix not in SUFFIXES:
            raise InputError(
                f"{out} has an unknown suffix: name the file .onnx or .pt2, or give a format"
            )
        return SUFFIXES[out.suffix]
    if given not in SUFFIXES.values():
        raise InputError(f"format {given!r} is not accepted: give onnx or torch")
    return given


def _samples(model: nn.Module, images: Tensor, dynamic: bool) -> list[Tensor]:
    """Batches to compare a file on; for a network with a gate, also flat, noisy and mixed ones."""
    gated = gated_parts(model)
    if not dynamic and gated is None:
        return [images]
    known = preprocessing_of(model)
    lowest, highest = (0, 1) if known else (float(images.min()), float(images.max()))
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator).to(images) * (highest - lowest) + lowest
    flat = images.mean((2, 3), keepdim=True).expand_as(images)
    half = len(images) // 2
    if not dynamic:
        return [images, noise, flat, torch.cat([flat[:half], noise[half:]])]
    batches = [images, images[:1], torch.cat([images, images])]
    if gated is not None:
        batches += [noise[:1], flat[:1], torch.cat([flat, noise, images, flat])]
    return batches


def _program(model: nn.Module, images: Tensor, dynamic: bool) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    try:
        with quiet():
            program = torch.export.export(model, (images,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # user code may raise anything during the export
        advice = "; if it needs a fixed batch size, give batch_size" if dynamic else ""
        raise InputError(
            f"torch.export does not accept the network ({type(error).__name__}: "
            f"{_first_line(error)}){advice}"
        ) from error
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in graph.graph.nodes:  # the paths of this machine do not belong into a file
                node.meta.pop("stack_trace", None)
    return program


def onnx_model(model: nn.Module, images: Tensor, dynamic: bool) -> ModelProto:
    """Converts a network to ONNX, from `images` to `logits`.

    Args:
        model: A network without control flow; a gated one is converted in its `gated_parts`.
        images: Sample images, N x C x H x W.
        dynamic: Whether the result accepts any batch size, or only N.

    Raises:
        InputError: The network is too large, or has an operation that cannot be converted.
    """
    _require_fits(model)
    program = _program(model, images, dynamic)
    try:
        with quiet():
            onnx = torch.onnx.export(
                program,
                (images,),
                input_names=[IMAGES],
                output_names=[LOGITS],
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise InputError(
            f"the network has an operation that ONNX does not support ({_first_line(error)})"
        ) from error
    if onnx is None:
        raise InputError("torch.onnx returned no program")
    return onnx.model_proto


def _require_fits(*models: nn.Module) -> None:
    """Raises an InputError unless the tensors of these networks fit into one ONNX file."""
    tensors = [tensor for model in models for tensor in model.state_dict().values()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > LARGEST_ONNX:
        raise InputError(
            f"the networks of the file have {size / 1e9:.1f} GB of tensors, but one ONNX file "
            "holds at most 2: give format torch"
        )


def _onnx_file(model: nn.Module, images: Tensor, dynamic: bool, notes: dict[str, Any]) -> bytes:
    parts = gated_parts(model)
    if parts is None:
        whole = onnx_model(model, images, dynamic)
    else:
        models = (parts.gate, parts.base, parts.corrected)
        _require_fits(*models)
        whole = compose_gated(*(onnx_model(part, images, dynamic) for part in models))
    for key, value in notes.items():
        text = value if isinstance(value, str) else json.dumps(value)
        whole.metadata_props.add(key=key, value=text)
    return whole.SerializeToString()


def _torch_file(model: nn.Module, images: Tensor, dynamic: bool, notes: dict[str, Any]) -> bytes:
    parts = gated_parts(model)
    whole = model if parts is None else RoutedNetwork(parts, gathers=dynamic)
    if parts is not None:
        # torch.cond would otherwise test the batch size against those of earlier exports, and
        # torch.export would take these tests for conditions of the network
        torch.compiler.reset()
    file = io.BytesIO()
    with quiet():
        program = _program(whole, images, dynamic)
        torch.export.save(program, file, extra_files={DETAILS: json.dumps(notes)})
    return file.getvalue()


@contextmanager
def _weights_only() -> Iterator[None]:
    """Makes every torch.load read only tensors and plain containers while the block runs."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
