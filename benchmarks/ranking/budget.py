"""Filters chosen by a budget against the paper's fixed share, at the same cost, after training.

    DEEPCORRECT_SHARED=... python -m benchmarks.ranking.budget [--images 5000] [--epochs 3]

ResNet-20 on CIFAR-100, one adapter for both distortions. `fixed` corrects half of every site's
filters; the budgets are what that costs, in parameters and in multiply-adds, and half of it, with
the fixed share that costs the same beside. Trained on the same images, judged on validation images
that the ranking did not see. Written to benchmarks/results/ranking/budget.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import deepcorrect as dc
from benchmarks.subjects import (
    DISTORTIONS,
    RESULTS,
    batches,
    cifar_network,
    cifar_rows,
    cifar_training,
)
from deepcorrect.data import loader
from deepcorrect.evaluation import evaluate
from deepcorrect.networks import costs
from deepcorrect.ranking import Ranking, rank
from deepcorrect.runtime import files
from deepcorrect.training import fit

RANKED, JUDGED = (3000, 100), (3500, 1000)  # first row and number, of the validation rows


def same_cost(network: dc.Classifier, ranking: Ranking, limit: int, kind: str) -> float:
    """The largest share of every site's filters whose units cost at most `limit`."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if added(network, ranking, middle)[kind] <= limit else (low, middle)
        )
    return low


def corrected(network: dc.Classifier, ranking: Ranking, choice: Any) -> dc.AdaptedModel:
    """The network with units for a share of the filters, or within a budget (a mapping)."""
    chosen = {"budget": choice} if isinstance(choice, dict) else {"beta": choice}
    return dc.correct(network, ranking, unit="bottleneck", **chosen)


def added(network: dc.Classifier, ranking: Ranking, beta: Any) -> dict[str, int]:
    """What the units cost, in parameters and multiply-adds."""
    before = costs(network, network.preprocessing)
    adapted = corrected(network, ranking, beta)
    after = costs(adapted, network.preprocessing)
    return {
        "parameters": after.parameters - before.parameters,
        "multiply_adds": after.multiply_adds - before.multiply_adds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Budgets against fixed shares.")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    network = cifar_network("resnet20")
    ranking = rank(network, batches(cifar_rows(network, *RANKED)), DISTORTIONS)
    judged = batches(cifar_rows(network, *JUDGED))
    whole = added(network, ranking, 0.5)
    choices: dict[str, Any] = {}
    for share in (1.0, 0.5):
        for kind in ("parameters", "multiply_adds"):
            limit = share * whole[kind]
            fixed = 0.5 if share == 1 else same_cost(network, ranking, int(limit), kind)
            choices[f"fixed beta {fixed:.2f}"] = fixed
            choices[f"budget, {limit:,.0f} {kind.replace('_', '-')}"] = {kind: limit}
    report: dict[str, Any] = {
        "images": options.images,
        "epochs": options.epochs,
        "method": ranking.method,
        "baseline": evaluate(network, judged, DISTORTIONS).mean_top1,
        "choices": {},
    }
    for name, choice in choices.items():
        cost = added(network, ranking, choice)
        adapted = corrected(network, ranking, choice)
        folder = Path("runs/ranking-benchmark/budget") / f"{options.images}-{options.epochs}"
        fit(
            adapted,
            loader(cifar_training(network).sample(options.images), 128, shuffle=True),
            DISTORTIONS,
            seed=0,
            checkpoint=folder / f"{name}.pt",
            task=name,
            epochs=options.epochs,
        )
        grid = evaluate(adapted, judged, DISTORTIONS)
        report["choices"][name] = {
            **cost,
            "filters": {site: len(c.filters) for site, c in adapted.config.sites.items()},
            "mean_top1": grid.mean_top1,
            "clean_top1": grid.clean_top1,
            "by_distortion": {kind: curve.mean_top1 for kind, curve in grid.curves.items()},
        }
        print(name, cost, round(grid.mean_top1, 4), flush=True)
        files.write_json(RESULTS / "ranking" / "budget.json", report)
    print(f"written: {RESULTS / 'ranking' / 'budget.json'}")


if __name__ == "__main__":
    main()
