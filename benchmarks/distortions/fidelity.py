"""Are our corruptions those of the benchmark? Against imagecorruptions, on the same images.

    DEEPCORRECT_SHARED=... python -m benchmarks.distortions.fidelity [--images 500] [--draws 1]
        [NAME ...]

Deterministic corruptions are compared pixel by pixel; stochastic ones by their mean, variance and
radial power spectrum. EfficientNet-Lite0's accuracy is measured under both. Stochastic ones can be
drawn several times on either side (`--draws`): a cell is the mean over the draws, its interval says
how far the mean may be off through the draws (95 %, on these images), and what two draws of theirs
differ by is beside it. What was measured of a draw is kept in runs/, so a stopped benchmark goes
on, and more draws are added to those that are there; remove a file to measure it again.
benchmarks/results/distortions/fidelity.json has all cells.
"""

from __future__ import annotations

import argparse
import math
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.distortions.subjects import (
    BATCH,
    CORRUPTIONS,
    DETERMINISTIC,
    RESULTS,
    SEVERITIES,
    network_and_images,
    ours_of,
    theirs_of,
)
from deepcorrect.networks import Classifier
from deepcorrect.runtime import autocast, device_of, files, to_device

WORK = Path("runs/distortions-benchmark")
BANDS = (1, 3, 6, 12, 24, 48, 80, 112)  # cycles in 224 pixels
RESAMPLES = 1000
Who = Literal["ours", "theirs"]


def spectrum(images: Tensor) -> Tensor:
    """Power of the grey images in each band of radial frequency, N x bands."""
    grey = images.mean(1)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()
    axis = torch.fft.fftfreq(grey.shape[-1]) * grey.shape[-1]
    radius = torch.hypot(axis[:, None], axis[None])
    return torch.stack(
        [power[:, (radius >= low) & (radius < high)].mean(1) for low, high in pairwise(BANDS)], 1
    )


def statistics(images: Tensor) -> Tensor:
    """By image: mean, mean square, and the power in each band, N x (2 + bands), float64."""
    images = images.double()
    first = torch.stack([images.mean((1, 2, 3)), images.square().mean((1, 2, 3))], 1)
    return torch.cat([first, spectrum(images.float()).double()], 1)


def ratios(ours: Tensor, theirs: Tensor) -> Tensor:
    """Ratios of mean, variance and band powers, of statistics ... x N x (2 + bands)."""

    def summary(values: Tensor) -> Tensor:
        mean = values.mean(-2)
        variance = mean[..., 1:2] - mean[..., :1].square()
        return torch.cat([mean[..., :1], variance, mean[..., 2:]], -1)

    return summary(ours) / summary(theirs)


def stored(images: Tensor) -> Tensor:
    """Cut off to 8 bits, as the peer does."""
    return (images.clamp(0, 1) * 255 + 1e-3).floor() / 255


def right(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    device = device_of(network)
    with torch.no_grad(), autocast(device, "auto"):
        return (network(to_device(images, device)).argmax(1) == labels).double()


def one_draw(
    who: Who,
    network: Classifier,
    images: Tensor,
    labels: Tensor,
    name: str,
    severity: int,
    draw: int,
) -> dict[str, Tensor]:
    """By image: `statistics`, and whether the network is `right`; kept in runs/."""
    path = WORK / f"{name}-{severity}-{draw}-{who}-{len(images)}.safetensors"
    if path.exists():
        return files.read_tensors(path)
    found: dict[str, list[Tensor]] = {"statistics": [], "right": []}
    for first in range(0, len(images), BATCH):
        rows = slice(first, first + BATCH)
        make = ours_of if who == "ours" else theirs_of
        made = stored(make(images[rows], name, severity, draw, first))
        found["statistics"].append(statistics(made))
        found["right"].append(right(network, made, labels[rows]))
    kept = {part: torch.cat(each) for part, each in found.items()}
    files.write_tensors(path, kept)
    return kept


def apart(images: Tensor, name: str, severity: int) -> dict[str, float]:
    """How far the pixels of a deterministic corruption are apart, of 255."""
    path = WORK / f"{name}-{severity}-pixels-{len(images)}.json"
    if path.exists():
        return files.read_json(path)
    mean, largest = 0.0, 0.0
    for first in range(0, len(images), BATCH):
        part = images[first : first + BATCH]
        own = ours_of(part, name, severity, 0, first).clamp(0, 1)
        difference = (own - theirs_of(part, name, severity, 0, first)).abs() * 255
        mean += float(difference.mean()) * len(part) / len(images)
        largest = max(largest, float(difference.max()))
    found = {"mean_difference": mean, "largest_difference": largest}
    files.write_json(path, found)
    return found


def cell(
    network: Classifier, images: Tensor, labels: Tensor, name: str, severity: int, draws: int
) -> dict[str, Any]:
    """One corruption at one severity."""
    subject = (network, images, labels, name, severity)
    ours, theirs = (
        [one_draw(who, *subject, draw) for draw in range(draws)] for who in ("ours", "theirs")
    )
    each = torch.stack(
        [ratios(o["statistics"], t["statistics"]) for o, t in zip(ours, theirs, strict=True)]
    )
    hits, peer_hits = (torch.stack([one["right"] for one in who]) for who in (ours, theirs))
    pooled = ratios(
        torch.cat([one["statistics"] for one in ours]),
        torch.cat([one["statistics"] for one in theirs]),
    )
    found: dict[str, Any] = {
        "images": len(images),
        "draws": draws,
        "ratios": pooled.tolist(),
        "top1": [float(who.mean()) for who in (hits, peer_hits)],
        "top1_difference": float(hits.mean() - peer_hits.mean()),
    }
    if name in DETERMINISTIC:
        found |= apart(images, name, severity)
    if draws == 1:
        return found | one_draw_intervals(ours[0], theirs[0])
    error = each.std(0) / math.sqrt(draws)
    spread = math.sqrt(float((hits.var(0) + peer_hits.var(0)).sum()) / draws) / len(images)
    pairs = list(combinations(theirs, 2))
    theirs_apart = torch.stack([ratios(a["statistics"], b["statistics"]) for a, b in pairs])
    top1_apart = [abs(float(a["right"].mean() - b["right"].mean())) for a, b in pairs]
    return found | {
        "intervals": [(pooled - 1.96 * error).tolist(), (pooled + 1.96 * error).tolist()],
        "top1_interval": [found["top1_difference"] + side * 1.96 * spread for side in (-1, 1)],
        "theirs_apart": (theirs_apart - 1).abs().mean(0).tolist(),
        "theirs_top1_apart": sum(top1_apart) / len(top1_apart),
    }


def one_draw_intervals(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Any]:
    """95 % bootstrap intervals over the images, where there is one draw alone."""
    count = len(ours["right"])
    drawing = torch.Generator().manual_seed(0)
    picks = torch.randint(count, (RESAMPLES, count), generator=drawing)
    resampled = ratios(ours["statistics"][picks], theirs["statistics"][picks])
    lead = (ours["right"] - theirs["right"])[picks].mean(1)
    return {
        "intervals": [resampled.quantile(q, 0).tolist() for q in (0.025, 0.975)],
        "top1_interval": [float(lead.quantile(q)) for q in (0.025, 0.975)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours against imagecorruptions.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--draws", type=int, default=1, help="of stochastic corruptions")
    options = parser.parse_args()
    network, images, labels = network_and_images(options.images)
    path = RESULTS / "fidelity.json"
    for name in options.names or CORRUPTIONS:
        for severity in SEVERITIES:
            draws = 1 if name in DETERMINISTIC else options.draws
            found = cell(network, images, labels, name, severity, draws)
            done = files.read_json(path) if path.exists() else {"bands": BANDS, "cells": {}}
            done["cells"].setdefault(name, {})[str(severity)] = found
            files.write_json(path, done)
            print(name, severity, {k: found[k] for k in ("ratios", "top1_difference")}, flush=True)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
