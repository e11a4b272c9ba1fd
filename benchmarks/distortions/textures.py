"""What frost's textures have to look like: measured on the benchmark's, printed as `TEXTURES`.

    python -m benchmarks.distortions.textures

Measures random cuts of 224 pixels of the images that imagecorruptions draws from: their colours,
radial power spectrum, and how unevenly their fine parts are spread. Ours are drawn and measured the
same way, and what they are drawn from is corrected until the measures agree; their crystals
(`NEEDLES`) are chosen with `crystals`. Nothing of the images but these numbers goes into the
product. Takes about a minute.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from importlib.resources import files as package_files
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from deepcorrect.distortions._filters import gaussian
from deepcorrect.distortions._frost import COARSE, FREQUENCIES, SHARES, Texture, synthesised

warnings.simplefilter("ignore")
FILES = ("frost1.png", "frost2.png", "frost4.jpg", "frost5.jpg")  # the third is the second again
SEEDS = (0, 1, 3, 4)  # their places in TEXTURES
NEEDLES = ((24, 2), (36, 5), (12, 8), (22, 6))
CUTS, SIDE, ROUNDS = 64, 224, 7
FINE = (8, 16, 32, 64)  # cycles in 224 pixels: octaves whose unevenness counts
AREA = 16  # pixels: standard deviation of the area in which a contrast is measured


def theirs(file: str) -> Tensor:
    """A texture of theirs at the scale they use it at, 3 x H x W in [0, 1]."""
    picture = cv2.imread(str(Path(str(package_files("imagecorruptions"))) / "frost" / file))
    assert picture is not None
    size = [math.ceil(side * 1.1) for side in picture.shape[1::-1]]
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy(large[..., ::-1].copy()).permute(2, 0, 1).float() / 255


def cuts(picture: Tensor, wraps: bool) -> Tensor:
    """Random cuts, CUTS x 3 x 224 x 224; `wraps`: of a picture that repeats."""
    if wraps:
        picture = torch.cat([picture, picture[:, : SIDE - 1]], 1)
        picture = torch.cat([picture, picture[:, :, : SIDE - 1]], 2)
    rng = np.random.default_rng(0)
    tops, lefts = (rng.integers(0, side - SIDE + wraps, CUTS) for side in picture.shape[1:])
    return torch.stack(
        [
            picture[:, top : top + SIDE, left : left + SIDE]
            for top, left in zip(tops, lefts, strict=True)
        ]
    )


@dataclasses.dataclass(frozen=True)
class Measures:
    """Of cuts: colours by SHARES, power at FREQUENCIES but the first, the spread of mean grey
    between cuts, and the fine parts' unevenness and its correlation with the brightness."""

    colours: Tensor
    power: Tensor
    between: float
    uneven: float
    brightness: float


def measured(picture: Tensor, wraps: bool) -> Measures:
    some = cuts(picture, wraps)
    values = some.transpose(0, 1).flatten(1).numpy()
    grey = some.mean(1)
    radius = torch.hypot(
        *torch.meshgrid(*[torch.fft.fftfreq(SIDE) * SIDE] * 2, indexing="ij")
    ).clamp_min(1e-6)
    centred = grey - grey.mean((1, 2), keepdim=True)
    spectrum = torch.fft.fft2(centred)
    power = spectrum.abs().square().mean(0)
    octave = radius.log2()
    at = [((octave - math.log2(f)).abs() < 0.25) for f in FREQUENCIES[1:]]
    light = gaussian(grey[:, None], AREA).flatten()
    uneven, brightness = [], []
    for band in FINE:
        window = torch.cos((octave - math.log2(band)).clamp(-1, 1) * math.pi / 2)
        part = torch.fft.ifft2(spectrum * window).real
        contrast = gaussian(part.square()[:, None], AREA).clamp_min(1e-12).log().flatten() / 2
        uneven.append(float(contrast.std()))
        brightness.append(float(torch.corrcoef(torch.stack([contrast, light]))[0, 1]))
    return Measures(
        torch.from_numpy(np.quantile(values, SHARES, axis=1).T).float() * 255,
        torch.stack([power[ring].mean() for ring in at]),
        float(grey.mean((1, 2)).std()),
        sum(uneven) / len(FINE),
        sum(brightness) / len(FINE),
    )


def fitted(file: str, needle: tuple[int, float], seed: int) -> Texture:
    """A look whose texture measures as theirs."""
    wanted = measured(theirs(file), wraps=False)
    power = [float(wanted.power[0]), *wanted.power.tolist()]
    strength, brightness = wanted.uneven, wanted.brightness
    for turn in itertools.count():
        red, green, blue = (tuple(round(v, 1) for v in c) for c in wanted.colours.tolist())
        look = Texture(
            (red, green, blue),
            tuple(float(f"{value / power[-1]:.4g}") for value in power),
            (round(strength, 3), round(brightness, 3)),
            needle,
        )
        found = measured(synthesised(look, seed), wraps=True)
        off = wanted.power / found.power
        print(
            f"{file} {turn}: power {', '.join(f'{o:.3f}' for o in off.tolist())}; between "
            f"{wanted.between:.4f} {found.between:.4f}; uneven {wanted.uneven:.3f} "
            f"{found.uneven:.3f}; brightness {wanted.brightness:.2f} {found.brightness:.2f}; "
            f"colours off by {float((wanted.colours - found.colours).abs().max()):.1f}",
            flush=True,
        )
        if turn == ROUNDS:
            return look
        slowest = (wanted.between / found.between) ** 2 * float(off[0])  # both, as near as may be
        faster = [p * o**0.5 for p, o in zip(power[1:], off.tolist(), strict=True)]
        power = [power[0] * slowest**0.5, *faster]  # by roots, as all powers hang together
        strength = min(2.0, strength * wanted.uneven / found.uneven)
        brightness += 0.5 * (wanted.brightness - found.brightness)
        brightness = min(0.95, max(-0.95, brightness))
    raise AssertionError


def main() -> None:
    print(f"frequencies {FREQUENCIES}, coarse below {COARSE}")
    for seed, file, needle in zip(SEEDS, FILES, NEEDLES, strict=True):
        print(fitted(file, needle, seed), flush=True)


if __name__ == "__main__":
    main()
