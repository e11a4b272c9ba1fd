"""Latency of kinds of corrections in PyTorch and ONNX Runtime.

    OMP_NUM_THREADS=1 python -m benchmarks.deployment.kinds torch onnx onnx-int8
        [--model cifar_resnet20 ...] [--batch 1 32] [--kinds KIND ...]
    python -m benchmarks.deployment.kinds draw

Every corrected network is fused and runs in turns with the folded baseline of the same runtime, one
at a time. Units correct 75 % of the maps of the stem and the sums of blocks, or of every
convolution in a network without sums; `weights` are those of half of each convolution's filters.
Weights are random: latency does not depend on them. With one thread it is the processor time that
counts, which a busy machine disturbs less. Adds to `benchmarks/results/deployment/kinds.json`;
`draw` writes the tables of docs/deployment.md.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

import torch
from torch import Tensor

import deepcorrect as dc
from benchmarks import pages
from benchmarks.kept import read_kept
from benchmarks.subjects import RESULTS as FOLDER
from deepcorrect import correction
from deepcorrect.deployment._latency import Stopwatch
from deepcorrect.networks import choose, costs, tap
from deepcorrect.runtime import files

RESULTS = FOLDER / "deployment" / "kinds.json"
RUNTIMES = {"torch": "PyTorch", "onnx": "ONNX", "onnx-int8": "int8"}
MODELS = ("cifar_resnet20", "cifar_allcnn", "torchvision:resnet18", "efficientnet_lite0")
BETA = 0.75
ONE_BY_ONE: dict[str, Any] = {"kind": "full", "kernel_size": 1, "dilations": ()}
DENSE: dict[str, Any] = {"kind": "bottleneck", "dilations": [1]}
INVERTED: dict[str, Any] = {"kind": "inverted"}
FREE = "weights"
SMALL = "dense"
KINDS: dict[str, Any] = {
    FREE: FREE,
    "two 1x1, half as wide": {**ONE_BY_ONE, "width_share": 0.5},
    "one dense 3x3, half as wide": DENSE,
    "one dense 3x3, 8 wide": {**DENSE, "width": 8},
    "one dense 3x3, 16 wide": {**DENSE, "width": 16},
    "one dense 3x3, 12 wide": {**DENSE, "width": 12},
    "dense": "dense",
    "bottleneck": "bottleneck",
    "inverted": INVERTED,
    "inverted, 3x3": {**INVERTED, "kernel_size": 3},
    "inverted, half as wide as its filters": {**INVERTED, "width_share": 0.5},
    "inverted with modulation": {**INVERTED, "modulation": 8},
}


def measured(name: str, runtime: Any, batch: int, kinds: list[str]) -> dict[str, Any]:
    """Each kind's time over the folded baseline's, and its multiply-adds."""
    model = dc.load_model(name, "random")
    size = model.preprocessing.input_size
    images = torch.rand(batch, 3, size, size)
    stopwatch = Stopwatch(model, images, runtime)
    base = costs(model, model.preprocessing).multiply_adds
    found = {}
    for kind in kinds:
        adapted = correction.correct(model, filters(model, images[:1], kind), unit=KINDS[kind])
        latency = stopwatch(adapted)
        work = costs(adapted, model.preprocessing).multiply_adds / base - 1
        found[kind] = {"ratio": latency.ratio, "multiply_adds": round(work, 4)}
        print(name, runtime, batch, kind, found[kind], flush=True)
    return found


def filters(model: dc.Classifier, image: Tensor, kind: str) -> dict[str, list[int]]:
    """The filters that a kind corrects at each site."""
    share, sites = (0.5, None) if kind == FREE else (BETA, "auto")
    names = list(choose(model, image.repeat(2, 1, 1, 1), sites))
    with torch.no_grad(), tap(model, names) as maps:
        model(image)
    return {name: list(range(max(1, round(share * maps[name].shape[1])))) for name in names}


def draw() -> None:
    """Writes the tables of docs/deployment.md."""
    results = files.read_json(RESULTS)
    blocks = {"kinds": table_of_kinds(results), "networks": table_of_networks(results)}
    pages.fill(pages.DOCS / "deployment.md", blocks)


def table_of_kinds(results: list[dict[str, Any]]) -> str:
    """All kinds at ResNet-20, one column for each runtime and batch, with one thread."""
    shown = [
        each
        for each in results
        if (each["model"], each["threads"]) == (MODELS[0], 1)
        and each["kinds"].keys() >= KINDS.keys()
    ]
    head = [f"{RUNTIMES[each['runtime']]}, batch {each['batch']}" for each in shown]
    rows = [
        [
            kind,
            f"+{100 * shown[0]['kinds'][kind]['multiply_adds']:.0f} %",
            *(_ratio(each, kind) for each in shown),
        ]
        for kind in KINDS
    ]
    return pages.table(["unit", "multiply-adds", *head], rows)


def table_of_networks(results: list[dict[str, Any]]) -> str:
    """What costs nothing and what costs little, in every network and runtime."""
    found: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for each in results:
        of = each["model"], each["threads"], each["batch"]
        found.setdefault(of, {})[each["runtime"]] = each
    order = sorted(found, key=lambda of: (MODELS.index(of[0]), *of[1:]))
    rows = [
        [
            f"`{model}`, {threads} thread{'s' * (threads > 1)}, batch {batch}",
            *(_ratio(found[model, threads, batch].get(runtime), kind) for kind, runtime in COLUMNS),
        ]
        for model, threads, batch in order
    ]
    head = [f"{kind}, {RUNTIMES[runtime]}" for kind, runtime in COLUMNS]
    return pages.table(["network", *head], rows)


COLUMNS = [(kind, runtime) for kind in (FREE, SMALL) for runtime in RUNTIMES]


def _ratio(entry: dict[str, Any] | None, kind: str) -> str:
    """A kind's time, or nothing where it was not measured."""
    return f"{entry['kinds'][kind]['ratio']:.2f}" if entry and kind in entry["kinds"] else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtimes", nargs="+", choices=[*RUNTIMES, "draw"])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS[:1]))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    if given.runtimes == ["draw"]:
        draw()
        return
    for name, runtime, batch in product(given.model, given.runtimes, given.batch):
        about = {"model": name, "runtime": runtime, "batch": batch}
        about |= {"threads": torch.get_num_threads()}
        kinds = measured(name, runtime, batch, given.kinds)
        results = read_kept(RESULTS)
        before = [entry for entry in results if about.items() <= entry.items()]
        old = before[0]["kinds"] if before else {}
        record = {**about, "torch": torch.__version__, "kinds": {**old, **kinds}}
        files.write_json(RESULTS, [*(entry for entry in results if entry not in before), record])


if __name__ == "__main__":
    main()
