"""Are our corruptions those of the benchmark? Against imagecorruptions, on the same images.

    DEEPCORRECT_SHARED=... python -m benchmarks.distortions.fidelity [--images 500] [NAME ...]

Deterministic corruptions are compared pixel by pixel; stochastic ones by their mean, variance and
radial power spectrum. EfficientNet-Lite0's accuracy is measured under both. Intervals are 95 %
bootstrap intervals over the images, on which both are measured. Every cell is kept when it is
done, so a stopped benchmark goes on; benchmarks/results/distortions/fidelity.json has them all.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.distortions.subjects import (
    CORRUPTIONS,
    DETERMINISTIC,
    RESULTS,
    SEVERITIES,
    both,
    network_and_images,
)
from deepcorrect import files
from deepcorrect.classifier import Classifier
from deepcorrect.computing import autocast, device_of, placed

BANDS = (1, 3, 6, 12, 24, 48, 80, 112)  # cycles in 224 pixels
RESAMPLES = 1000


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
    return torch.cat([first, spectrum(images)], 1)


def ratios(ours: Tensor, theirs: Tensor) -> Tensor:
    """Ratios of mean, variance and band powers, of statistics ... x N x (2 + bands)."""

    def summary(values: Tensor) -> Tensor:
        mean = values.mean(-2)
        variance = mean[..., 1:2] - mean[..., :1].square()
        return torch.cat([mean[..., :1], variance, mean[..., 2:]], -1)

    return summary(ours) / summary(theirs)


def right(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    device = device_of(network)
    with torch.no_grad(), autocast(device, "auto"):
        return (network(placed(images, device)).argmax(1) == labels).double()


def cell(
    network: Classifier, images: Tensor, labels: Tensor, name: str, severity: int
) -> dict[str, Any]:
    """One corruption at one severity."""
    mean, largest, ours, theirs, hits = [], 0.0, [], [], []
    for rows, own, peer in both(images, name, severity):
        difference = (own.clamp(0, 1) - peer).abs() * 255
        mean.append(difference.mean((1, 2, 3)))
        largest = max(largest, float(difference.max()))
        stored = (own.clamp(0, 1) * 255).floor() / 255  # the peer cuts off to 8 bits
        ours.append(statistics(stored))
        theirs.append(statistics(peer))
        hits.append(torch.stack([right(network, each, labels[rows]) for each in (stored, peer)], 1))
    drawing = torch.Generator().manual_seed(0)
    picks = torch.randint(len(images), (RESAMPLES, len(images)), generator=drawing)
    own_values, peer_values, hit = torch.cat(ours), torch.cat(theirs), torch.cat(hits)
    resampled = ratios(own_values[picks], peer_values[picks])
    lead = (hit[:, 0] - hit[:, 1])[picks].mean(1)
    found: dict[str, Any] = {
        "images": len(images),
        "ratios": ratios(own_values, peer_values).tolist(),
        "intervals": [resampled.quantile(q, 0).tolist() for q in (0.025, 0.975)],
        "top1": hit.mean(0).tolist(),
        "top1_difference": float((hit[:, 0] - hit[:, 1]).mean()),
        "top1_interval": [float(lead.quantile(q)) for q in (0.025, 0.975)],
    }
    if name in DETERMINISTIC:
        found |= {"mean_difference": float(torch.cat(mean).mean()), "largest_difference": largest}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours against imagecorruptions.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--again", action="store_true", help="measure cells that are there, too")
    options = parser.parse_args()
    network, images, labels = network_and_images(options.images)
    path = RESULTS / "fidelity.json"
    for name in options.names or CORRUPTIONS:
        for severity in SEVERITIES:
            done = files.read_json(path) if path.exists() else {"bands": BANDS, "cells": {}}
            before = done["cells"].setdefault(name, {}).get(str(severity))
            if before and before["images"] == len(images) and not options.again:
                continue
            found = cell(network, images, labels, name, severity)
            done["cells"][name][str(severity)] = found
            files.write_json(path, done)
            shown = {k: v for k, v in found.items() if k not in ("intervals", "images")}
            print(name, severity, shown, flush=True)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
