"""The fifteen common corruptions at five severities, for several systems, and what it says of them.

What is kept of a system under a corruption is the answers' correctness, image by image, so that
intervals and differences are of the same images. A system and corruption that is kept is not
measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from benchmarks.evidence.streams import in_memory, right_mixed, right_sorted
from benchmarks.pages import not_run, table
from deepcorrect.alternatives import finetune
from deepcorrect.correction import GatedCopy, Strength, load_adapter, set_strength
from deepcorrect.data import ImageSet
from deepcorrect.distortions import CLEAN, GROUPS, cells_of, parse_all
from deepcorrect.evaluation import Reference, corruption_error
from deepcorrect.evaluation._compare import mean_interval
from deepcorrect.networks import Classifier
from deepcorrect.runtime import Precision, files

SEVERITIES = (1, 2, 3, 4, 5)
RESAMPLES = 1000
CLEAN_NAME = "clean"
BASELINE = "network as it is"


@dataclass(frozen=True)
class Measured:
    """A system to measure.

    Attributes:
        build: makes it, when it is needed.
        mixed: whether its images come mixed.
    """

    build: Callable[[], nn.Module]
    mixed: bool = False


class Setting(NamedTuple):
    """What a command measures.

    Attributes:
        network: the network, to which adapters and copies belong.
        adapting: makes each test-time method; they are measured sorted and mixed.
        images: the test images.
        kept: the JSON file.
        batch: how many images come together.
    """

    network: Classifier
    adapting: Mapping[str, Callable[[], nn.Module]]
    images: ImageSet
    kept: Path
    batch: int


def command(
    doc: str | None,
    images: int,
    setting: Callable[[argparse.Namespace], Setting],
    networks: Sequence[str] = (),
) -> None:
    """Runs a command that measures systems under the corruptions.

    Args:
        doc: its help.
        images: how many test images there are.
        setting: from its options to what it measures.
        networks: those that it knows; of a single one it has no option.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if networks:
        parser.add_argument("--network", choices=list(networks), default=networks[0])
    _add_options(parser, images)
    given = parser.parse_args()
    chosen = setting(given)
    every = given_systems(chosen.network, given.adapter, given.tuned) | {
        f"{name}, {order}": Measured(build, mixed=order == "mixed")
        for name, build in chosen.adapting.items()
        for order in ("sorted", "mixed")
    }
    measure(given, every, chosen.images, given.kept or chosen.kept, size=chosen.batch)


def figures(
    kept: Path, command: str, shown: Callable[[Mapping[str, Mapping[str, Sequence[str]]]], str]
) -> str:
    """The tables of what is kept: one of all corruptions, and one of each; or how to make them."""
    if not kept.exists():
        return not_run(command)
    found = read(kept)
    return "\n\n".join([shown(found), by_corruption(found), *least_gains(found)])


def _add_options(parser: argparse.ArgumentParser, images: int) -> None:
    """Adds the options that the commands share."""
    parser.add_argument("--adapter", type=named, action="append", default=[])
    parser.add_argument("--tuned", type=named, action="append", default=[])
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--only", nargs="*", help="names of systems; all without it")
    parser.add_argument("--kept", type=Path, help="another file for the figures")
    parser.add_argument("--list", action="store_true", help="the names, and nothing else")


def named(text: str) -> tuple[str, Path]:
    """`NAME=PATH`, as an option takes it."""
    name, equals, path = text.partition("=")
    if not equals or not name or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH of something that exists")
    return name, Path(path)


def given_systems(
    network: Classifier, adapters: Sequence[tuple[str, Path]], tuned: Sequence[tuple[str, Path]]
) -> dict[str, Measured]:
    """The network, the adapters, and the fine-tuned copies with and without their gates."""
    found = {BASELINE: Measured(lambda: network)}
    for name, folder in adapters:
        found[name] = Measured(partial(load_adapter, network, folder))
    for name, path in tuned:
        found[name] = Measured(partial(tuned_copy, network, path, gated=False))
        if strength_beside(path).exists():
            found[f"{name}, gated"] = Measured(partial(tuned_copy, network, path, gated=True))
    return found


def strength_beside(path: Path) -> Path:
    """The file of a fine-tuned copy's strength and gate, `Strength.model_dump(mode="json")`."""
    return path.with_name(f"{path.name}.strength.json")


def tuned_copy(network: Classifier, path: Path, *, gated: bool) -> nn.Module:
    """A fine-tuned copy from a file of its state dict: as it is, or at its strength and gated."""
    copy = finetune(network)
    copy.load_state_dict(files.read_tensors(path))
    if not gated:
        return copy.eval()
    found = GatedCopy(network, copy)
    set_strength(found, files.read_json_as(strength_beside(path), Strength))
    return found.eval()


def measure(
    given: argparse.Namespace,
    every: Mapping[str, Measured],
    images: ImageSet,
    kept: Path,
    *,
    size: int,
) -> None:
    """Measures the systems that a command's options choose, and prints the errors."""
    if given.list:
        print("\n".join(every))
        return
    names = given.only or list(every)
    if unknown := set(names) - every.keys():
        raise SystemExit(f"there is no system {', '.join(unknown)}; there are {', '.join(every)}")
    chosen = {name: every[name] for name in names}
    measure_systems(chosen, images, kept, size=size, precision=given.precision)
    print(by_corruption(read(kept)))


def measure_systems(
    systems: Mapping[str, Measured],
    images: ImageSet,
    kept: Path,
    *,
    size: int,
    seed: int = 0,
    precision: Precision = "float32",
    kinds: Sequence[str] = GROUPS["imagenet_c"],
) -> None:
    """Measures what is missing, corruption by corruption, and keeps it.

    Args:
        systems: by name. Sorted systems are shown each distorted batch together. A mixed one gets
            all corruptions in one stream, which is measured as a whole.
        images: the test images, which are held in memory.
        kept: the JSON file.
        size: how many images come together.
        seed: of the noise and of the order of a mixed stream.
        precision: as for `evaluate`.
        kinds: the corruptions.
    """
    pair = in_memory(images)
    asked = {"images": len(images), "precision": precision}
    found = read(kept, **asked)
    built: dict[str, nn.Module] = {}

    def model(name: str) -> nn.Module:
        if name not in built:
            built[name] = systems[name].build()
        return built[name]

    plain = [name for name, system in systems.items() if not system.mixed]
    levels = ",".join(map(str, SEVERITIES))
    for kind in (CLEAN_NAME, *kinds):
        left = {name: model(name) for name in plain if kind not in found.get(name, {})}
        if not left:
            continue
        cells = [CLEAN]
        if kind != CLEAN_NAME:
            cells = cells_of(parse_all(f"{kind}:{levels}", pair[0].shape[-1]))
        for name, right in right_sorted(left, pair, cells, seed, size, precision, kind).items():
            _keep(kept, found, asked, name, {kind: right})
    cells = [CLEAN, *cells_of(parse_all([f"{kind}:{levels}" for kind in kinds], pair[0].shape[-1]))]
    for name, system in systems.items():
        if not system.mixed or kinds[-1] in found.get(name, {}):
            continue
        right = right_mixed(model(name), pair, cells, seed, size, precision, name)
        parts = {CLEAN_NAME: right[:1]}
        for kind, rows in zip(kinds, right[1:].split(len(SEVERITIES)), strict=True):
            parts[kind] = rows
        _keep(kept, found, asked, name, parts)


def read(kept: Path, **asked: object) -> dict[str, dict[str, list[str]]]:
    """What is kept: by system and corruption, for each severity a 1 for each image that is answered
    right and a 0 for each other.

    Args:
        kept: the JSON file, which need not exist.
        **asked: what its figures must be of, such as `images=650`.
    """
    if not kept.exists():
        return {}
    content = files.read_json(kept)
    for name, value in asked.items():
        if content[name] != value:
            raise SystemExit(f"{kept} has figures of {name} {content[name]}, not {value}")
    return content["right"]


def _keep(
    kept: Path,
    found: dict[str, Any],
    asked: Mapping[str, Any],
    name: str,
    parts: Mapping[str, Tensor],
) -> None:
    for kind, right in parts.items():
        rows = ["".join("01"[int(each)] for each in row) for row in right]
        found.setdefault(name, {})[kind] = rows
    kept.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(kept, {**asked, "right": found})


def summary(right: Mapping[str, Sequence[str]], reference: Reference | None) -> dict[str, Any]:
    """The corruption errors of one system, as `deepcorrect.evaluation.corruption_error` has them.

    Args:
        right: of the system, from `read`; the clean images and some corruptions.
        reference: the network by whose errors those of others are divided.
    """
    shares = {kind: _as_tensor(rows).mean(1).tolist() for kind, rows in right.items()}
    [clean] = shares.pop(CLEAN_NAME)
    curves = {
        kind: {"levels": SEVERITIES, "top1": top1, "clean_top1": clean}
        for kind, top1 in shares.items()
    }
    return {"clean": 1 - clean, **corruption_error(curves, reference)}


def interval(
    found: Mapping[str, Mapping[str, Sequence[str]]],
    name: str,
    than: str,
    reference: Reference | None,
) -> tuple[float, float]:
    """A system's mCE less another's, and half of the 95 % interval of the difference.

    Without a reference it is the mean error.

    The interval is of the images: they are drawn again with replacement, the same for both.
    """
    count = len(found[name][CLEAN_NAME][0])
    each = _errors_by_image(found[name], reference) - _errors_by_image(found[than], reference)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    means = each[drawn].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return float(each.mean()), (high - low) / 2


def _errors_by_image(right: Mapping[str, Sequence[str]], reference: Reference | None) -> Tensor:
    """What each image has for an mCE, whose mean over images is the system's, (N,)."""
    parts = []
    for kind in GROUPS["imagenet_c"]:
        theirs = 1.0 if reference is None else reference.error(kind, SEVERITIES)
        assert theirs is not None
        parts.append((1 - _as_tensor(right[kind])).mean(0) / theirs)
    return torch.stack(parts).mean(0)


def _as_tensor(rows: Sequence[str]) -> Tensor:
    """Kept rows as levels x N of 0 and 1."""
    return torch.tensor([[int(each) for each in row] for row in rows], dtype=torch.float64)


def whole(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The systems that have all fifteen corruptions."""
    wanted = {CLEAN_NAME, *GROUPS["imagenet_c"]}
    return [name for name, right in found.items() if wanted <= right.keys()]


def each_summary(
    found: Mapping[str, Mapping[str, Sequence[str]]], reference: Reference | None
) -> Iterator[tuple[str, dict[str, Any], tuple[float, float] | None]]:
    """The name, the `summary` and the `interval` of the difference from the network, which has
    none, of each system that has all fifteen corruptions."""
    for name in whole(found):
        change = None if name == BASELINE else interval(found, name, BASELINE, reference)
        yield name, summary(found[name], reference), change


def least_gains(found: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[str]:
    """For each system, a sentence about the level at which it gains least over the network as it
    is, and at how many it is behind by more than the 95 % interval over the images."""
    for name in whole(found):
        if name == BASELINE:
            continue
        levels = []
        for kind in GROUPS["imagenet_c"]:
            changes = _as_tensor(found[name][kind]) - _as_tensor(found[BASELINE][kind])
            for severity, change in zip(SEVERITIES, changes, strict=True):
                at = f"{kind.replace('_', ' ')} of severity {severity}"
                levels.append((float(change.mean()), mean_interval(change), at))
        behind = sum(gain < -half for gain, half, _ in levels)
        gain, half, at = min(levels)
        yield (
            f"{name} is behind by more than the interval at {behind} of {len(levels)} levels, and "
            f"gains least under {at}: {100 * gain:+.1f} ± {100 * half:.1f} points."
        )


def by_corruption(found: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """A table of the mean error of each system under each corruption, in percent."""
    names = whole(found)
    errors = {name: summary(found[name], None)["by_corruption"] for name in names}
    rows = [
        [kind.replace("_", " "), *(f"{100 * errors[name][kind]['mean']:.1f}" for name in names)]
        for kind in GROUPS["imagenet_c"]
    ]
    return table(["error, %", *names], rows)
