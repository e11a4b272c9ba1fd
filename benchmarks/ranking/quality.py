"""Which ranking method chooses better filters: ideal-correction areas and stability.

    DEEPCORRECT_SHARED=... python -m benchmarks.ranking.quality [--images 100] [--judged 80]

For both CIFAR networks, at all sites and twelve levels, every method ranks the same images; the
rankings are judged by ideal correction on images that none of them saw. Rankings from the two
halves of the images give the stability; their mean is the ranking that is judged. What is finished
is kept in runs/ranking-benchmark, so a stopped benchmark goes on; the figures are written to
benchmarks/results/ranking/quality.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.subjects import CIFAR, DISTORTIONS, RESULTS, batches, cifar_network, cifar_rows
from deepcorrect.networks import Classifier
from deepcorrect.ranking import (
    METHODS,
    Pair,
    Ranking,
    compare,
    ideal_correction,
    load_ranking,
    rank,
)
from deepcorrect.ranking._priorities import _swapped, register  # both exact methods in one pass
from deepcorrect.runtime import files

WORK = Path("runs/ranking-benchmark")
EXACT = ("swap", "swap_logprob")
JUDGED_FROM = 1000  # of the 5,000 validation rows; ranked images are before
RESAMPLES = 2000


@register("both_swaps", "swap and swap_logprob in one pass")
def both_swaps(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    classes = pair.clean.classes

    def measure(logits: Tensor, rows: Tensor) -> Tensor:
        right = (logits.argmax(1) == classes[rows]).double()
        return torch.stack([right, pair.clean.gain(logits, rows).double()], 1)

    return _swapped(pair, measure)


def ranked(network: Classifier, folder: Path, method: str, first: int, count: int) -> Ranking:
    """A ranking of `count` images from `first` on, read again where it was made before."""
    if (folder / "ranking.json").exists():
        return load_ranking(folder)
    images = batches(cifar_rows(network, first, count))
    ranking = rank(network, images, DISTORTIONS, "both_swaps" if method in EXACT else method)
    if method in EXACT:
        for place, name in enumerate(EXACT):
            by_level = {site: v[..., place].clone() for site, v in ranking.by_level.items()}
            replace(ranking, method=name, by_level=by_level).save(folder.parent / name)
        return load_ranking(folder)
    ranking.save(folder)
    return ranking


def mean_of(first: Ranking, second: Ranking) -> Ranking:
    """The ranking of both halves' images."""
    by_level = {s: (v + second.by_level[s]) / 2 for s, v in first.by_level.items()}
    seconds = first.seconds + second.seconds
    return replace(first, by_level=by_level, images=first.images * 2, seconds=seconds)


def judged(network: Classifier, path: Path, ranking: Ranking, count: int) -> dict[str, Tensor]:
    """By site: how often each image is right over levels and betas, (images,); and by level."""
    if path.exists():
        return files.read_tensors(path)
    curves = ideal_correction(network, batches(cifar_rows(network, JUDGED_FROM, count)), ranking)
    tensors = {site: right.double().mean(1).contiguous() for site, right in curves.right.items()}
    files.write_tensors(path, tensors)  # (levels, images)
    return tensors


def interval(values: Tensor) -> list[float]:
    """95 % percentile interval of the mean, by resampling images."""
    drawing = torch.Generator().manual_seed(0)
    picks = torch.randint(len(values), (RESAMPLES, len(values)), generator=drawing)
    means = values[picks].mean(1)
    return [float(means.quantile(q)) for q in (0.025, 0.975)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Ideal-correction areas and stability.")
    parser.add_argument("--images", type=int, default=100, help="ranked, two halves together")
    parser.add_argument("--judged", type=int, default=80)
    parser.add_argument("--methods", default=",".join(m for m in METHODS if m != "both_swaps"))
    parser.add_argument("--networks", default=",".join(CIFAR))
    options = parser.parse_args()
    for name in options.networks.split(","):
        network = cifar_network(name)
        for method in options.methods.split(","):
            halves = rankings(network, name, method, options.images)
            path = judged_folder(name, options) / f"{method}.safetensors"
            scores = judged(network, path, mean_of(*halves), options.judged)
            area = torch.stack([values.mean() for values in scores.values()]).mean()
            print(f"{name} {method}: area {area:.4f}", flush=True)
    files.write_json(RESULTS / "ranking" / "quality.json", report(options))
    print(f"written: {RESULTS / 'ranking' / 'quality.json'}")


def judged_folder(name: str, options: argparse.Namespace) -> Path:
    return WORK / name / str(options.images) / f"judged{options.judged}"


def rankings(network: Classifier, name: str, method: str, count: int) -> tuple[Ranking, Ranking]:
    """The rankings of the two halves of the images."""
    half = count // 2
    first, second = (
        ranked(network, WORK / name / str(count) / f"half{k}" / method, method, k * half, half)
        for k in range(2)
    )
    return first, second


def report(options: argparse.Namespace) -> dict[str, object]:
    """Areas, leads and stability of every method that has been judged so far."""
    result: dict[str, object] = {"images": options.images, "judged": options.judged}
    scores: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name in CIFAR:
        done = {path.stem: path for path in judged_folder(name, options).glob("*.safetensors")}
        scores[name] = {m: files.read_tensors(done[m]) for m in METHODS if m in done}
        if "swap" not in scores[name]:
            continue
        methods = {}
        for method, by_site in scores[name].items():
            halves = rankings(cifar_network(name), name, method, options.images)
            agreement = compare(*halves, beta=0.5)
            methods[method] = summary(by_site, scores[name]["swap"]) | {
                "top_half_overlap": agreement.mean_overlap,
                "spearman": agreement.mean_spearman,
                "ranking_seconds": sum(each.seconds for each in halves),
            }
        result[name] = {"sites": list(scores[name]["swap"]), "methods": methods}
    each = list(scores.values())
    result["both"] = {
        method: lead_over(
            torch.stack([by_image(one[method]) for one in each]).mean(0),
            torch.stack([by_image(one["swap"]) for one in each]).mean(0),
        )
        for method in METHODS
        if all(method in one and "swap" in one for one in each)
    }
    return result


def by_image(by_site: dict[str, Tensor]) -> Tensor:
    """Mean over sites, betas and levels, (images,)."""
    return torch.stack([values.mean(0) for values in by_site.values()]).mean(0)


def summary(by_site: dict[str, Tensor], swap: dict[str, Tensor]) -> dict[str, object]:
    """A method's areas on one network, and its lead over the paper's metric."""
    values, reference = by_image(by_site), by_image(swap)
    ahead = sum(float(by_site[s].mean()) >= float(swap[s].mean()) for s in swap)
    return lead_over(values, reference) | {
        "by_site": {site: float(v.mean()) for site, v in by_site.items()},
        "by_level": torch.stack(list(by_site.values())).mean((0, 2)).tolist(),
        "sites_ahead": ahead,
    }


def lead_over(values: Tensor, reference: Tensor) -> dict[str, object]:
    """The mean of values by image, and by how much it is above a reference on the same images."""
    return {
        "area": float(values.mean()),
        "interval": interval(values),
        "lead_over_swap": float((values - reference).mean()),
        "lead_interval": interval(values - reference),
    }


if __name__ == "__main__":
    main()
