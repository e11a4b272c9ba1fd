"""Quantising a network to eight bits for ONNX Runtime, and what that costs in accuracy."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction import AdaptedModel, GatedModel
from deepcorrect.data import Batches, check_repeatable, count_of
from deepcorrect.deployment._calibration import SETTINGS, quantize_file
from deepcorrect.deployment._export import export, onnx_model
from deepcorrect.deployment._fuse import example_images, fuse, on_cpu
from deepcorrect.deployment._gated import GatedParts, gated_parts
from deepcorrect.deployment._onnx_gate import compose_gated, compose_mean
from deepcorrect.deployment._onnx_network import OnnxNetwork, filled, onnx_runtime
from deepcorrect.distortions import (
    CLEAN,
    DistortedCache,
    Distortion,
    LevelledDistortion,
    cells_of,
    distorted_batches,
    numbered_batches,
    parse_all,
)
from deepcorrect.evaluation import Grid, evaluate
from deepcorrect.networks import preprocessing_of, unparallel
from deepcorrect.runtime import InputError, console, files, progress

SCHEMA = 1
FEWEST_IMAGES = 8
"""The smallest number of calibration images that is accepted."""
MOST_CLEAN_LOSS = 0.01
MOST_DISTORTED_LOSS = 0.015
"""Losses of accuracy above which a note is printed, as shares of the images."""
PURPOSE = "to calibrate on"


@dataclass(frozen=True)
class Quantized:
    """The result of a quantisation.

    Attributes:
        path: The path of the file.
        table: The path of the JSON file with the accuracies.
        calibration_images: The number of different images, each clean and at every level, from
            which the ranges of the activations were taken.
        calibrated_and_evaluated: The number of images that were used for both.
        grids: The accuracies by system: `baseline` and `baseline, int8`, and for a corrected
            network `deepcorrect` and `deepcorrect, int8`. The last is the file itself.
        file_bytes: The size of each system's ONNX file.
    """

    path: Path
    table: Path
    calibration_images: int
    calibrated_and_evaluated: int
    grids: Mapping[str, Grid]
    file_bytes: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size

    @property
    def clean_loss(self) -> float:
        """The accuracy on clean images that eight bits lose, as a share of the images."""
        before, after = list(self.grids.values())[-2:]
        return before.clean_top1 - after.clean_top1

    @property
    def distorted_loss(self) -> float:
        """The largest loss of a distortion's accuracy, averaged over its levels, as a share."""
        before, after = (_level_means(grid) for grid in list(self.grids.values())[-2:])
        return max(before[name] - after[name] for name in before)


def quantize(
    model: nn.Module,
    out: str | Path,
    calibration: Batches,
    evaluation: Batches,
    distortions: Sequence[str | Distortion] | str | None = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
) -> Quantized:
    """Exports a network, corrected or not, to ONNX in eight bits, and measures its accuracy.

    The fused network is quantised by `onnxruntime.quantization.quantize_static`: QDQ, weights of
    7 bits with one scale per filter, unsigned activations. The normalisation of the images, the
    logits and a gate stay in float32. The ranges of the activations are those on the calibration
    images, clean and at every level of every distortion.

    Top-1 and top-5 accuracy of the float32 and the int8 file, and those of the untouched network if
    `model` is a corrected one, are kept beside the file, in `NAME.accuracy.json`.

    Args:
        model: A network from `correct`, `load_adapter` or `load_model`, a `Classifier`, or a bare
            network, see `export`.
        out: The ONNX file. It and its table are written completely, or not at all.
        calibration: Batches of (images, labels) in a fixed order; labels are not read. About a
            hundred images are enough.
        evaluation: Batches of (images, labels) in a fixed order. They should be other images: how
            many are the same is counted, noted on stderr and kept in the table. Without labels,
            accuracy is agreement with the untouched float32 network on the clean image.
        distortions: Specs such as `gaussian_blur` or `awgn:10,20`, to calibrate and evaluate with.
            None takes those that the adapter was trained for, if its notes name them.
        batch_size: The only batch size that the file accepts; None accepts any.
        seed: The seed of the distortions' noise.

    Returns:
        The path and size of the file, and the accuracies.

    Raises:
        InputError: The network cannot be exported, `out` is not an ONNX file, there are too few
            calibration images, or the distortions are unknown.
        MissingExtraError: The `onnx` extra is not installed.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(8 * 14 * 14, 4),
        ... ).eval()
        >>> labels = torch.zeros(16, dtype=torch.long)
        >>> calibration, test = ([(torch.rand(16, 3, 16, 16), labels)] for _ in range(2))
        >>> done = dc.quantize(network, "network.onnx", calibration, test, "gaussian_blur:1,2")
        >>> done.table.name, done.calibration_images, list(done.grids)
        ('network.accuracy.json', 16, ['baseline', 'baseline, int8'])
        >>> dc.load_exported("network.onnx")(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 4])
    """
    out = Path(out)
    _check(out, calibration, evaluation)
    specs, model = _distortions(model, distortions), on_cpu(unparallel(model))
    calibrated = _calibrated(calibration)
    first = next(numbered_batches(calibration, PURPOSE)).images
    known = preprocessing_of(model)
    chosen = parse_all(specs, known.input_size if known else min(first.shape[-2:]))
    count = batch_size or 2
    sample = example_images(model, count) if known else filled(first[:count], count)
    with tempfile.TemporaryDirectory() as folder:
        written: dict[str, Path] = {}
        for name, system in _systems(model).items():
            written[name] = Path(folder) / f"{name}.onnx"
            export(system, written[name], images=sample, batch_size=batch_size)
            shown = _shown(f"calibration of {name}", calibration, chosen, seed)
            parts = gated_parts(fuse(system, sample))
            int8 = Path(folder) / f"{name}-int8.onnx"
            if parts is None:
                quantize_file(written[name], int8, shown)
            else:
                both = written[name], written["baseline, int8"]
                _quantize_gated(parts, *both, int8, shown, sample, batch_size is None)
            written[f"{name}, int8"] = int8
        evaluated = _Seen(evaluation)
        grids = _grids(written, evaluated, chosen, seed)
        result = Quantized(
            out,
            out.with_suffix(".accuracy.json"),
            calibration_images=len(calibrated),
            calibrated_and_evaluated=len(calibrated & evaluated.digests),
            grids=grids,
            file_bytes={name: path.stat().st_size for name, path in written.items()},
        )
        _write(result, written[list(written)[-1]], chosen, seed)
    _say_what_is_wrong(result)
    return result


def _check(out: Path, calibration: Batches, evaluation: Batches) -> None:
    """Checks what can be checked before any work.

    Raises:
        InputError: The file's name or the loaders are not accepted.
        MissingExtraError: The `onnx` extra is not installed.
    """
    if out.suffix != ".onnx":
        raise InputError(f"{out} would be in eight bits, which is done in ONNX: name it .onnx")
    files.check_file(out)
    onnx_runtime()
    for loader in (calibration, evaluation):
        check_repeatable(loader)
    if evaluation is calibration:
        raise InputError(
            "the images to evaluate on are those to calibrate on, on which accuracy is too high: "
            "give others"
        )
    next(numbered_batches(evaluation, "to evaluate on"))


def _distortions(
    model: nn.Module, given: Sequence[str | Distortion] | str | None
) -> Sequence[str | Distortion] | str:
    """The given distortions, or those in the notes of the model's adapter.

    Raises:
        InputError: There are none.
    """
    if given is not None:
        return given
    noted = model.config.notes.get("distortions") if isinstance(model, AdaptedModel) else None
    if not noted:
        what = "the adapter does not say" if isinstance(model, AdaptedModel) else "nothing says"
        raise InputError(
            f"{what} which distortions the network will meet: name the distortions to calibrate "
            "and evaluate with, such as gaussian_blur and awgn"
        )
    return [Distortion(**{**each, "levels": tuple(each["levels"])}) for each in noted]


def _systems(model: nn.Module) -> dict[str, nn.Module]:
    """The networks to export by their names in the table; the last is the one that is kept."""
    if isinstance(model, GatedModel):
        name = "deepcorrect" if isinstance(model, AdaptedModel) else "finetuned_gated"
        return {"baseline": model.untouched(), name: model}
    return {"baseline": model}


def _calibrated(loader: Batches) -> set[bytes]:
    """The digests of the calibration images.

    Raises:
        InputError: There are too few different images.
    """
    found: set[bytes] = set()
    for batch in numbered_batches(loader, PURPOSE):
        found |= _digests(batch.images)
    if len(found) < FEWEST_IMAGES:
        raise InputError(
            f"the calibration images are only {len(found)} different ones: give at least "
            f"{FEWEST_IMAGES}, better a hundred"
        )
    return found


def _digests(images: Tensor) -> set[bytes]:
    """A digest of each image's values."""
    values = images.cpu().contiguous().numpy()
    return {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in values}


class _Seen:
    """A loader that remembers the digests of the images that it has yielded.

    Args:
        iterable: Batches of (images, labels).
    """

    def __init__(self, iterable: Batches) -> None:
        self.iterable = iterable
        self.digests: set[bytes] = set()

    @property
    def dataset(self) -> Any:
        """The loader's images, if it has them, for the length of a progress bar."""
        return getattr(self.iterable, "dataset", None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.iterable:
            self.digests |= _digests(images)
            yield images, labels


def _quantize_gated(
    parts: GatedParts,
    exported: Path,
    base: Path,
    out: Path,
    shown: Iterator[Tensor],
    images: Tensor,
    dynamic: bool,
) -> None:
    """Writes a network with a gate: the gate in float32, and both networks in eight bits.

    ONNX Runtime does not quantise what stands in the branches of an `If`, so the corrected network
    is quantised apart, on all images, and then composed with the untouched one.
    """
    import onnx  # noqa: PLC0415

    corrected, rounded = (out.with_suffix(f".{name}.onnx") for name in ("corrected", "rounded"))
    with torch.no_grad():
        onnx.save(onnx_model(parts.corrected, images, dynamic), corrected)
        gate = onnx_model(parts.gate, images, dynamic)
    quantize_file(corrected, rounded, shown)
    own, ours = onnx.load(base), onnx.load(rounded)
    whole = compose_gated(gate, compose_mean(own, ours) if parts.means else own, ours)
    del whole.metadata_props[:]
    whole.metadata_props.extend(onnx.load(exported).metadata_props)
    onnx.save(whole, out)


def _shown(
    task: str, loader: Batches, distortions: Sequence[LevelledDistortion], seed: int
) -> Iterator[Tensor]:
    """Yields the calibration images, clean and at every level, batch by batch."""
    cells = [CLEAN, *cells_of(distortions)]
    with progress(task, count_of(loader)) as step:
        for batch in distorted_batches(loader, cells, seed=seed, purpose=PURPOSE):
            yield batch.images
            step(len(batch.images) / len(cells))


def _grids(
    written: Mapping[str, Path],
    loader: _Seen,
    distortions: Sequence[LevelledDistortion],
    seed: int,
) -> dict[str, Grid]:
    """Each file's accuracy on the same images; the untouched float32 network is the reference."""
    cache = DistortedCache()
    reference = OnnxNetwork(written["baseline"])
    return {
        name: evaluate(
            OnnxNetwork(path),
            loader,
            distortions,
            seed=seed,
            task=f"evaluation of {name}",
            reference=reference,
            cache=cache,
        )
        for name, path in written.items()
    }


def _write(
    result: Quantized, source: Path, distortions: Sequence[LevelledDistortion], seed: int
) -> None:
    """Writes the file, which says how it was made, and the table beside it: both or neither."""
    import onnx  # noqa: PLC0415

    note = {
        **SETTINGS,
        "calibration_images": result.calibration_images,
        "calibrated_and_evaluated": result.calibrated_and_evaluated,
        "distortions": [asdict(each) for each in distortions],
        "seed": seed,
    }
    held = onnx.load(source)
    entry = held.metadata_props.add()
    entry.key, entry.value = "quantization", json.dumps({**note, "top1": _top1(result.grids)})
    evaluated = next(iter(result.grids.values()))
    with files.replacing(result.table) as table, files.replacing(result.path) as file:
        onnx.save(held, file)
        record = {
            "schema": SCHEMA,
            "file": result.path.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            **note,
            "evaluation_images": evaluated.images,
            "target": evaluated.target,
            "clean_loss": result.clean_loss,
            "distorted_loss": result.distorted_loss,
            "systems": {
                name: {"bytes": result.file_bytes[name], "distortions": grid.to_json()}
                for name, grid in result.grids.items()
            },
        }
        table.write_text(json.dumps(record, indent=1) + "\n")


def _top1(grids: Mapping[str, Grid]) -> dict[str, Any]:
    """Top-1 accuracies by system: on clean images, and by distortion at each level."""
    return {
        name: {"clean": grid.clean_top1}
        | {kind: list(curve.top1) for kind, curve in grid.curves.items()}
        for name, grid in grids.items()
    }


def _level_means(grid: Grid) -> dict[str, float]:
    """Each distortion's top-1 accuracy, averaged over its levels without the clean images."""
    return {name: sum(curve.top1) / len(curve.top1) for name, curve in grid.curves.items()}


def _say_what_is_wrong(result: Quantized) -> None:
    """Notes on stderr where eight bits lose much, or the accuracies are too high."""
    images = next(iter(result.grids.values())).images
    if result.clean_loss > MOST_CLEAN_LOSS or result.distorted_loss > MOST_DISTORTED_LOSS:
        console().print(
            f"note: eight bits lose {100 * result.clean_loss:.1f} points on {images} clean images "
            f"and up to {100 * result.distorted_loss:.1f} on a distortion's levels; calibration "
            "images that are closer to those the network will meet may help"
        )
    if result.calibrated_and_evaluated:
        console().print(
            f"note: {result.calibrated_and_evaluated} of the {images} images were calibrated on, "
            "too, so that the accuracies in eight bits may be too high"
        )
