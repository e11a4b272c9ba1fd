"""docs/distortions.md: its pictures and tables, from the registry and the results, not measured.

python -m benchmarks.distortions.draw
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.pages import DOCS, fill
from deepcorrect.distortions import GROUPS, KINDS, Distortion, Kind
from deepcorrect.distortions._registry import PARAMETERS
from deepcorrect.runtime import files, seeds_for

RESULTS = Path(__file__).parent.parent / "results" / "distortions"
SIDE = 224
TITLES = {
    "paper": "The paper's two",
    "imagenet_c": "ImageNet-C's fifteen common corruptions",
    "imagenet_c_extra": "ImageNet-C's four for validation",
    "camera": "Cameras and pipelines",
}


BENCHMARKS = {"imagenet": "ImageNet", "cifar": "CIFAR"}


def scene() -> Tensor:
    """A picture drawn here, 1 x 3 x 224 x 224: sky, sun, hills, a house, a tree, grass."""
    big = 4 * SIDE
    y = np.linspace(0, 1, big)[:, None, None]
    sky = np.array([92, 152, 214]) * (1 - y) + np.array([232, 226, 205]) * y
    picture = Image.fromarray(np.broadcast_to(sky, (big, big, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((640, 70, 780, 210), fill=(255, 238, 170))
    for base, height, wave, color in (
        (560, 90, 170, (108, 134, 150)),
        (620, 70, 120, (92, 140, 96)),
    ):
        ridge = [(x, base - height * math.sin(x / wave) ** 2) for x in range(0, big + 8, 8)]
        pen.polygon([(0, big), *ridge, (big, big)], fill=color)
    pen.rectangle((0, 690, big, big), fill=(88, 128, 60))
    rng = np.random.default_rng(0)
    for x, bottom in zip(rng.integers(0, big, 900), rng.integers(700, big, 900), strict=True):
        shade = int(rng.integers(-28, 28))
        pen.line((x, bottom, x + 6, bottom - 26), (88 + shade, 132 + shade, 58), 3)
    pen.rectangle((180, 470, 450, 730), fill=(196, 92, 66))
    for row in range(470, 730, 20):
        pen.line((180, row, 450, row), (158, 70, 50), 3)
    pen.polygon([(150, 474), (315, 350), (480, 474)], fill=(84, 58, 52))
    pen.rectangle((290, 600, 350, 730), fill=(62, 44, 40))
    for left in (205, 375):
        pen.rectangle(
            (left, 520, left + 52, 580), fill=(250, 232, 168), outline=(60, 50, 40), width=5
        )
    pen.rectangle((650, 520, 684, 740), fill=(84, 60, 42))
    for x, top, size in zip(
        rng.normal(667, 60, 160), rng.normal(440, 62, 160), rng.integers(14, 42, 160), strict=True
    ):
        green = int(rng.integers(70, 150))
        pen.ellipse((x - size, top - size, x + size, top + size), fill=(40, green, 48))
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def strip(kind: Kind, image: Tensor) -> Image.Image:
    """The picture, and it at every level of the large grid, side by side."""
    levels = kind.large_levels
    batch = image.expand(len(levels), -1, -1, -1)
    seeds = seeds_for("strip", kind.name, first=0, count=len(levels))
    shown = torch.cat([image, Distortion(kind.name)(batch, torch.tensor(levels).double(), seeds)])
    pixels = (shown.clamp(0, 1) * 255).round().to(torch.uint8)
    gap = torch.full((len(pixels), 3, SIDE, 6), 255, dtype=torch.uint8)
    row = torch.cat([pixels, gap], 3).permute(2, 0, 3, 1).reshape(SIDE, -1, 3)[:, :-6]
    return Image.fromarray(row.contiguous().numpy())


def numbers(values: tuple[Any, ...]) -> str:
    return " ".join(f"{value:g}" if not isinstance(value, bool) else "" for value in values).strip()


def gallery() -> str:
    """Every kind: what it does, its levels and numbers, its picture."""
    parts = []
    for group, names in GROUPS.items():
        parts.append(f"### {TITLES[group]}: `{group}`\n")
        for name in names:
            kind = KINDS[name]
            parts.append(f"**`{name}`** {kind.summary} Level: {kind.unit}.")
            if kind.severities is not None and name != "rolling_mixture":
                for size in PARAMETERS[::-1]:
                    each = "; ".join(numbers(values) for values in kind.severities[size])
                    parts.append(f"<br>{BENCHMARKS[size]}: {each}.")
            elif kind.severities is None:
                for levels, title in (
                    (kind.large_levels, "From 128 pixels"),
                    (kind.small_levels, "below"),
                ):
                    parts.append(f"{title}: {', '.join(f'{level:g}' for level in levels)}.")
            parts.append(f"Source: {kind.source}.\n\n![{name}](images/distortions/{name}.jpg)\n")
    return "\n".join(parts)


def fidelity_table(fidelity: dict[str, Any]) -> str:
    """A row a corruption: the worst severity's differences."""
    lines = [
        "| corruption | mean, largest difference of 255 | mean | variance | spectrum | accuracy, "
        "points: mean of five | worst (95 % interval) | draws | two draws of theirs |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for name, cells in fidelity["cells"].items():
        every = list(cells.values())
        pixels = "stochastic"
        if "mean_difference" in every[0]:
            pixels = (
                f"{max(c['mean_difference'] for c in every):.2f}, "
                f"{max(c['largest_difference'] for c in every):.1f}"
            )
        worst = [
            max((100 * (c["ratios"][i] - 1) for c in every for i in places), key=abs)
            for places in ((0,), (1,), range(2, 9))
        ]
        mean = 100 * sum(c["top1_difference"] for c in every) / len(every)
        apart = max(every, key=lambda c: abs(c["top1_difference"]))
        low, high = (100 * value for value in apart["top1_interval"])
        draws = min(cell.get("draws", 1) for cell in every)
        theirs = ""
        if draws > 1:
            theirs = f"{100 * sum(c['theirs_top1_apart'] for c in every) / len(every):.1f}"
        lines.append(
            f"| `{name}` | {pixels} | {worst[0]:+.1f} % | {worst[1]:+.1f} % | {worst[2]:+.1f} % | "
            f"{mean:+.1f} | {100 * apart['top1_difference']:+.1f} ({low:+.1f} to {high:+.1f}) | "
            f"{draws} | {theirs} |"
        )
    return "\n".join(lines)


def same_draws_table(same: dict[str, Any]) -> str:
    """A row a corruption: the worst severity's differences, given the same random numbers."""
    lines = [
        "| corruption | mean difference of 255 | values more than 1 apart | largest difference "
        "| accuracy, points, by severity |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, cells in same["cells"].items():
        every = [cells[severity] for severity in sorted(cells)]
        points = ", ".join(f"{100 * cell['top1_difference']:+.1f}" for cell in every)
        lines.append(
            f"| `{name}` | {max(cell['mean_difference'] for cell in every):.2f} | "
            f"{100 * max(cell['share_above_one'] for cell in every):.2f} % | "
            f"{max(cell['largest_difference'] for cell in every):.0f} | {points} |"
        )
    return "\n".join(lines)


def speed_table(speed: dict[str, Any]) -> str:
    lines = [
        "| corruption | ours, ms an image | imagecorruptions, ms | times as fast | against "
        "every core of it | in processor time | memory, batches |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in speed["corruptions"].items():
        memory = one.get("memory_in_batches")  # not of a corruption's second peer
        lines.append(
            f"| `{name}` | {one['ours_milliseconds']:.2f} | {one['peer_milliseconds']:.2f} | "
            f"{one['peer_over_ours']:.1f} | {one['peer_workers_over_ours']:.1f} | "
            f"{one['peer_processor_over_ours']:.1f} | {'' if memory is None else f'{memory:.1f}'} |"
        )
    means = speed["geometric_mean"]
    lines.append(
        f"| geometric mean | | | **{means['peer']:.1f}** | **{means['peer_workers']:.1f}** | "
        f"**{means['peer_processor']:.1f}** | |"
    )
    return "\n".join(lines)


def main() -> None:
    folder = DOCS / "images" / "distortions"
    folder.mkdir(parents=True, exist_ok=True)
    image = scene()
    for kind in KINDS.values():
        row = strip(kind, image)
        row.resize((row.width * 5 // 8, row.height * 5 // 8), Image.Resampling.LANCZOS).save(
            folder / f"{kind.name}.jpg", quality=82
        )
    tables = {"gallery": gallery()}
    for name, make in (
        ("fidelity", fidelity_table),
        ("same_draws", same_draws_table),
        ("speed", speed_table),
    ):
        if (RESULTS / f"{name}.json").exists():
            tables[name] = make(files.read_json(RESULTS / f"{name}.json"))
    fill(DOCS / "distortions.md", tables)


if __name__ == "__main__":
    main()
