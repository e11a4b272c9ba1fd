"""Files that somebody changed: read as they were, or refused with an error of ours, never else.

    python -m benchmarks.reliability.mutations [--count 10000] [--minutes 60] [--only KIND]

Each mutation changes one file of a kind: bytes flipped, cut, repeated or inserted; in JSON and YAML
a value, a key or a whole part replaced by one of another type or an absurd one. `signed` mutations
set the checksums anew, as somebody does who knows the format. Counted are the mutations that were
refused, those that were read and answer as before, those that were read and answer otherwise
(possible only where a file has no checksum, or was signed), and errors that are not ours, which
must be none. `--count` is the number for a kind that takes milliseconds; of slower kinds a share is
tried. The kinds take turns, and benchmarks/results/reliability/mutations.json is written after each
turn; `--resume 1` goes on with what it holds. With `--only`, the kinds whose names begin so are
tried again and take their places there.
"""

from __future__ import annotations

import atexit
import copy
import functools
import hashlib
import json
import math
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import deepcorrect as dc
from benchmarks.reliability.cases import Clock, draw_digits, drawn, keep, make_data, options
from deepcorrect.correction._budget import filters_within
from deepcorrect.correction._checkpoint import config_sha256, file_sha256
from deepcorrect.data import Preprocessing
from deepcorrect.distortions import parse_all, stored
from deepcorrect.experiments import analyse, load_recipe, run
from deepcorrect.experiments.report import write_report
from deepcorrect.ranking import NetworkSize
from deepcorrect.ranking._description import checksum
from deepcorrect.runtime import files

SLOW = "report: "
"""How the names of the kinds begin that take a second to read."""

SLOW_SECONDS = 20
"""A mutated file that takes more time of the processor to be read or refused counts as an error."""

TURNS = 20
"""The parts in which each kind's mutations are tried."""

LEAST = 40
"""The fewest mutations of a part but the last, since each part makes the files anew."""

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A disk in memory for the copies, where there is one, as they are written and read at once."""

ABSURD: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, -0.5, 1e308, -1e308, 2**31, 2**63, 2**64, 10**30, 10**18),
    *("", "..", "../../x", "/etc/passwd", "x" * 5000, "\0", "nan", "1e999", "\N{SNOWMAN}", "<b>"),
    *([], {}, [[]], {"": None}, [0] * 1000, float("nan"), float("inf"), [float("-inf")]),
]


def network() -> nn.Module:
    """A small network with fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


@functools.cache
def same_network() -> nn.Module:
    """One network for all adapters, none of which may leave a trace on it."""
    return network()


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        file: its name in the folder.
        make: writes it and what belongs to it into a folder.
        read: reads it as users do, and says what it then answers.
        form: `json`, `yaml` or `bytes`.
        sign: sets checksums anew after a mutation; None where there are none.
        checked: whether a checksum must notice a change that is not signed.
        share: how many mutations are tried for each one of a kind that takes milliseconds.
    """

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], str]
    form: str
    sign: Callable[[Path], None] | None = None
    checked: bool = False
    share: float = 1.0


# --- kinds of files


def make_adapter(folder: Path) -> None:
    gate = dc.GateConfig(kinds=("awgn",), weights=((0.1,) * 38,), biases=(1.0,), false_alarms=0.05)
    adapted = dc.correct(network(), {"0": [1, 4], "3": [2]}, unit={"kind": "dense", "start": "he"})
    adapted.set_gate(gate)
    adapted.save_pretrained(folder)


def read_adapter(folder: Path) -> str:
    model = same_network()
    before = _trace(model)
    try:
        adapted = dc.load_adapter(model, folder)
        with torch.no_grad():
            gated = _text(adapted(IMAGES))
            gate = adapted.config.gate
            adapted.set_gate(None)  # which may let all images through
            return json.dumps([gated, _text(adapted(IMAGES)), gate and gate.model_dump_json()])
    finally:
        if _trace(model) != before:
            raise RuntimeError("a load left a trace on the network")


def sign_adapter(folder: Path) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    if isinstance(config, dict):
        config["weights_sha256"] = file_sha256(folder / "adapter_model.safetensors")
        config["config_sha256"] = config_sha256(config)
        path.write_text(json.dumps(config))


def make_ranking(folder: Path) -> None:
    drawing = torch.Generator().manual_seed(2)
    by_level = {site: torch.rand(3, 8, generator=drawing).double() for site in ("0", "3")}
    levels = parse_all("awgn:10,20,30", 16)
    maps, size = {"0": (16, 16), "3": (16, 16)}, NetworkSize(500, 9000)
    ranking = dc.Ranking(
        by_level,
        "path",
        levels,
        10,
        1.0,
        maps=maps,
        weights={"0": 27, "3": 8},
        network=size,
    )
    ranking.save(folder)


def read_ranking(folder: Path) -> str:
    ranking = dc.load_ranking(folder)
    budget = filters_within(ranking, {"parameters": 2000.0}, "dense")
    return json.dumps([ranking.top(0.5), budget, ranking.info()], sort_keys=True)


def sign_ranking(folder: Path) -> None:
    """Signs what the mutation of `description.json` made of the header."""
    path = folder / "ranking_levels.safetensors"
    text = (folder / "description.json").read_text()
    tensors = files.read_tensors(path)
    files.write_tensors(path, tensors, {"ranking": text, "sha256": checksum(text, tensors)})


def make_description(folder: Path) -> None:
    make_ranking(folder)
    text = files.read_description(folder / "ranking_levels.safetensors")["ranking"]
    (folder / "description.json").write_text(text)


def make_recipe(folder: Path) -> None:
    text = load_recipe("demo").to_yaml()
    (folder / "recipe.yaml").write_text(text)


def read_recipe(folder: Path) -> str:
    return load_recipe(folder / "recipe.yaml").to_yaml()


def make_gate(folder: Path) -> None:
    gate = dc.GateConfig(kinds=("awgn",), weights=((0.1,) * 38,), biases=(1.0,), false_alarms=0.05)
    files.write_json(folder / "gate.json", gate.model_dump(mode="json"))


def read_gate(folder: Path) -> str:
    return files.read_json_as(folder / "gate.json", dc.GateConfig).model_dump_json()


def make_weights(folder: Path) -> None:
    files.write_tensors(folder / "weights.safetensors", dict(network().state_dict()))


def read_weights(folder: Path) -> str:
    module = folder / "net.py"
    module.write_text(
        "from benchmarks.reliability.mutations import network, Preprocessing\n"
        "from deepcorrect import Classifier\n"
        "def make():\n"
        "    return Classifier(network(), Preprocessing(16, (.5,) * 3, (.5,) * 3), 'net')\n"
    )
    model = dc.load_model(f"python:{module}:make", weights=str(next(folder.glob("weights.*"))))
    with torch.no_grad():
        return _text(model(IMAGES))


def make_pickle(folder: Path) -> None:
    torch.save(network().state_dict(), folder / "weights.pt")


def make_stored(folder: Path) -> None:
    data = draw_digits(folder.with_name(folder.name + "-digits"), classes=3, each=2)
    stored.write_distorted(f"folder:{data}", ["awgn:20,40"], folder, "npy")
    shutil.rmtree(data)


def read_stored(folder: Path) -> str:
    found = stored.open_corrupted(f"cifar_c:{folder}", Preprocessing(28, (0.5,), (0.5,)))
    texts = []
    for kind, levels in found.parts.items():
        for level, opened in levels.items():
            images = opened()
            values = [images[row] for row in range(len(images))]
            texts.append((kind, level, [(str(v[1]), _digest(v[0])) for v in values if v]))
    return json.dumps(texts)


@functools.cache
def finished_run() -> Path:
    """The folder of a finished and analysed run, made once."""
    folder = Path(tempfile.mkdtemp(prefix="deepcorrect-reliability-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run(load_recipe(make_data(folder / "data") / "tiny.yaml"), folder / "run")
    analyse(folder / "run", images=20, classes=3)
    (folder / "run" / "report.html").unlink()
    return folder / "run"


def make_run(folder: Path) -> None:
    shutil.copytree(finished_run(), folder, dirs_exist_ok=True)


def read_run(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def _text(values: Tensor) -> str:
    return json.dumps([round(value, 4) for value in values.double().flatten().tolist()])


def _digest(values: Tensor) -> str:
    return hashlib.sha256((10000 * values.double()).round().numpy().tobytes()).hexdigest()


def _trace(model: nn.Module) -> object:
    return [
        (name, type(module), module.training, len(module._forward_hooks), sorted(vars(module)))
        for name, module in model.named_modules()
    ] + [(name, p.requires_grad, p._version) for name, p in model.named_parameters()]


TARGETS: dict[str, Target] = {
    "adapter configuration": Target(
        "adapter_config.json", make_adapter, read_adapter, "json", checked=True
    ),
    "adapter configuration, signed": Target(
        "adapter_config.json", make_adapter, read_adapter, "json", sign_adapter
    ),
    "adapter tensors": Target(
        "adapter_model.safetensors", make_adapter, read_adapter, "bytes", checked=True
    ),
    "adapter tensors, signed": Target(
        "adapter_model.safetensors", make_adapter, read_adapter, "bytes", sign_adapter
    ),
    "ranking": Target(
        "ranking_levels.safetensors", make_ranking, read_ranking, "bytes", checked=True
    ),
    "ranking description, signed": Target(
        "description.json", make_description, read_ranking, "json", sign_ranking
    ),
    "recipe": Target("recipe.yaml", make_recipe, read_recipe, "yaml", share=0.25),
    "gate": Target("gate.json", make_gate, read_gate, "json"),
    "weights": Target("weights.safetensors", make_weights, read_weights, "bytes", share=0.3),
    "weights, PyTorch": Target("weights.pt", make_pickle, read_weights, "bytes", share=0.3),
    "stored set, description": Target("distort.json", make_stored, read_stored, "json"),
    "stored set, array": Target("awgn.npy", make_stored, read_stored, "bytes"),
    "stored set, labels": Target("labels.npy", make_stored, read_stored, "bytes"),
    **{
        f"{SLOW}{name}": Target(name, make_run, read_run, form, share=0.003)  # it draws the report
        for name, form in {
            "results.json": "json",
            "history.json": "json",
            "examples.json": "json",
            "environment.json": "json",
            "ideal.json": "json",
            "analysis.json": "json",
            "recipe.yaml": "yaml",
            "adapter/adapter_config.json": "json",
            "ranking_levels.safetensors": "bytes",
        }.items()
    },
}
COUNTED = ("mutations", "refused", "same", "other", "error")


# --- mutations


def mutate(path: Path, form: str, choose: random.Random) -> None:
    """Changes a file in one place, as its form suggests or as bytes."""
    if form == "bytes" or choose.random() < 0.2:
        path.write_bytes(_bytes(path.read_bytes(), choose))
        return
    text = path.read_text(encoding="utf-8")
    changed = _value(_parsed(text, form), choose)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the one in C is ten times as fast
    changed_text = json.dumps(changed) if form == "json" else yaml.dump(changed, Dumper=dumper)
    path.write_text(changed_text, encoding="utf-8")


@functools.cache
def _parsed(text: str, form: str) -> Any:
    """The value of a file before its mutations, which leave it alone."""
    return json.loads(text) if form == "json" else yaml.safe_load(text)


def _bytes(content: bytes, choose: random.Random) -> bytes:
    place = (
        choose.randrange(len(content))
        if choose.random() < 0.5
        else choose.randrange(min(len(content), 400))
    )
    kind = choose.randrange(6)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return (
            content[:place]
            + bytes([content[place] ^ (1 << choose.randrange(8))])
            + content[place + 1 :]
        )
    if kind == 2:
        return content[:place] + choose.randbytes(choose.randrange(1, 9)) + content[place:]
    if kind == 3:
        return content[:place] + content[place + choose.randrange(1, 9) :]
    if kind == 4:
        return content[:place] + content[place : place + 64] * 50 + content[place:]
    digits = choose.choice([b"9" * 20, b"-1", b"0", b"1e400", b"NaN", b"[" * 2000])
    return content[:place] + digits + content[place + len(digits) :]


def _value(value: Any, choose: random.Random) -> Any:
    """A value with one part replaced, removed, renamed or doubled."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or choose.random() < 0.02:
        return choose.choice(ABSURD)
    holder, key = choose.choice(places)
    kind = choose.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[choose.choice([f"{key}x", "..", "", "a/b", "schema"])] = holder[key]
    elif kind == 2:
        other, place = choose.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif kind == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = choose.choice([-1, 0, 2, 1000, 0.001]) * holder[key]
    elif kind == 4 and isinstance(holder[key], list) and holder[key]:
        holder[key] = holder[key] * choose.choice([2, 100])
    else:
        holder[key] = copy.deepcopy(choose.choice(ABSURD))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a value: what holds it, and the key."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    if not isinstance(value, dict | list):
        return
    for key, each in list(inner):
        yield value, key
        if isinstance(each, dict | list):
            yield from _places(each)


# --- counting


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block after some seconds of the processor's time."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def try_one(
    target: Target, original: Path, expected: str, choose: random.Random
) -> tuple[str, str]:
    """Mutates a copy of a folder and reads it.

    Returns:
        `refused`, `same`, `other` or `error`, and for an error what it was.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        folder = Path(place) / "copy"
        shutil.copytree(original, folder)
        path = folder / target.file
        mutate(path, target.form, choose)
        try:
            if target.sign is not None:
                target.sign(folder)
        except (ValueError, OSError, RecursionError):  # what cannot be signed is tried unsigned
            pass
        try:
            with limited(SLOW_SECONDS):
                answer = target.read(folder)
        except dc.DeepCorrectError:
            return "refused", ""
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return "error", f"{type(error).__name__}: {error}"[:300]
    if answer == expected:
        return "same", ""
    return (
        ("error", "a change was read in spite of its checksum") if target.checked else ("other", "")
    )


def campaign(name: str, count: int, seed: int, first: int = 0) -> dict[str, Any]:
    """Counts what becomes of mutations of one kind of file, from number `first` on."""
    target = TARGETS[name]
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    slowest, started = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        original = Path(place) / "original"
        original.mkdir()
        target.make(original)
        expected = target.read(original)
        for number in range(first, first + count):
            before = time.process_time()
            found, what = try_one(target, original, expected, drawn(seed, name, number))
            slowest = max(slowest, time.process_time() - before)
            counts[found] += 1
            if what:
                errors[f"{what} (mutation {number})"] += 1
    return {
        "mutations": count,
        **{key: counts[key] for key in COUNTED[1:]},
        "slowest_seconds": round(slowest, 2),
        "errors": dict(errors.most_common(20)),
        "seconds": round(time.monotonic() - started, 1),
    }


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The counts of two parts of the mutations of a kind."""
    slowest = max(one["slowest_seconds"], other["slowest_seconds"])
    return {
        **{key: one[key] + other[key] for key in COUNTED},
        "slowest_seconds": slowest,
        "errors": {**one["errors"], **other["errors"]},
        "seconds": round(one["seconds"] + other["seconds"], 1),
    }


def main() -> None:
    sizes = options(__doc__ or "", count=10000, minutes=60.0, only="", resume=0)
    clock = Clock(60 * sizes.minutes)
    kept = sizes.out / "mutations.json"
    before = files.read_json(kept) if (sizes.only or sizes.resume) and kept.exists() else {}
    figures: dict[str, Any] = before.get("kinds", {})
    chosen = [name for name in TARGETS if name.startswith(sizes.only)]
    if sizes.resume and before and before["seed"] != sizes.seed:
        raise SystemExit(f"{kept} is of the seed {before['seed']}: give it, or another --out")
    if not sizes.resume:
        figures = {name: each for name, each in figures.items() if name not in chosen}
    for turn in range(1, TURNS + 1):
        for name in chosen:
            done = figures[name]["mutations"] if name in figures else 0
            wanted = math.ceil(turn / TURNS * sizes.count * TARGETS[name].share)
            if wanted <= done or (wanted - done < LEAST and turn < TURNS) or clock.is_over:
                continue
            found = campaign(name, wanted - done, sizes.seed, done)
            figures[name] = joined(figures[name], found) if done else found
        totals = {key: sum(each[key] for each in figures.values()) for key in COUNTED}
        keep(sizes.out, "mutations", {"seed": sizes.seed, **totals, "kinds": figures}, show=False)
        print(turn, round(clock.spent), totals, flush=True)


if __name__ == "__main__":
    main()
