"""Eight threads that call one corrected network at once: each gets the answers of a thread alone.

    python -m benchmarks.reliability.threads [--calls 1600] [--threads 8] [--seed 0]

The network has units, weights of its own for some filters, and a gate. Threads call it with batches
of several sizes, some inside `disable_adapter()`, some despite the gate; meanwhile others evaluate
it against the untouched network's predictions. Counted are the answers that differ from those of
one thread by more than 1e-5, which must be 0. Writes benchmarks/results/reliability/threads.json.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

import deepcorrect as dc
from benchmarks.reliability.cases import drawn, keep, options
from deepcorrect.networks import ungated

TOLERANCE = 1e-5
WAYS = ("gated", "disabled", "ungated")


def subject() -> dc.AdaptedModel:
    """A correction of the digits network whose gate decides by the image."""
    model = dc.load_model("digits_cnn")
    filters = {"features.0.0": [1, 5, 9], "features.2.0": [0, 7]}
    unit = {"features.0.0": "weights+dense", "features.2.0": "dense"}
    adapted = dc.correct(model, filters, unit=unit)
    drawing = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=drawing))
    clean = [(torch.rand(40, 1, 28, 28, generator=drawing) * 0.5, torch.zeros(40)) for _ in "12"]
    dc.fit_gate(adapted, clean, "awgn:80", false_alarms=0.5)
    return adapted


def answer(adapted: dc.AdaptedModel, way: str, images: Tensor) -> Tensor:
    """Logits of a batch in one of the ways to call the network."""
    blocks = {"disabled": adapted.disable_adapter(), "ungated": ungated(adapted)}
    with torch.no_grad(), blocks.get(way, nullcontext()):
        return adapted(images)


def campaign(calls: int, threads: int, seed: int) -> Counter[str]:
    """Counts calls by way, and answers that differ."""
    adapted = subject()
    drawing = torch.Generator().manual_seed(seed)
    batches = [torch.rand(1 + n % 5, 1, 28, 28, generator=drawing) for n in range(12)]
    expected = {(way, n): answer(adapted, way, b) for way in WAYS for n, b in enumerate(batches)}
    shown = torch.cat(batches[:6])
    images = [(shown, torch.zeros(len(shown), dtype=torch.long))]

    def agreement() -> float:
        grid = dc.evaluate(adapted, images, "awgn:40", target="prediction")
        return grid.mean_top1

    alone = agreement()

    def one(number: int) -> tuple[str, bool]:
        choose = drawn(seed, number)
        if number % 40 == 0:
            return "evaluations", agreement() == alone
        way, place = choose.choice(WAYS), choose.randrange(len(batches))
        found, wanted = answer(adapted, way, batches[place]), expected[way, place]
        return way, torch.allclose(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)

    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        for way, same in pool.map(one, range(calls)):
            counts[way] += 1
            counts["differ"] += not same
    counts["differ afterwards"] = sum(
        not torch.equal(answer(adapted, way, batches[place]), wanted)
        for (way, place), wanted in expected.items()
    )
    return counts


def main() -> None:
    sizes = options(__doc__ or "", calls=1600, threads=8)
    torch.set_num_threads(1)
    started = time.monotonic()
    counts = campaign(sizes.calls, sizes.threads, sizes.seed)
    values: dict[str, Any] = {
        "seed": sizes.seed,
        "seconds": round(time.monotonic() - started, 1),
        "threads": sizes.threads,
        "calls": sizes.calls,
        "counts": dict(sorted(counts.items())),
        "bad": {key: counts[key] for key in ("differ", "differ afterwards")},
    }
    keep(sizes.out, "threads", values)


if __name__ == "__main__":
    main()
