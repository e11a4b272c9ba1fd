"""Procedural textures of ice for the frost corruption."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import cached

SIDE = 512  # pixels
FREQUENCIES = (0.44, 1, 2, 4, 8, 16, 32, 64, 112)
"""The frequencies, in cycles per 224 pixels, at which the power of a texture is known."""

SHARES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""The quantiles at which the brightness of a texture is known."""

COARSE = 4
"""The frequency, in cycles per 224 pixels, that separates light and shade from crystals."""

ROUNDS = 4
"""How often the spectrum and the distribution of brightness are imposed in turn."""


@dataclass(frozen=True)
class Texture:
    """The statistics of a texture.

    Attributes:
        colours: The quantiles of red, green and blue, from 0 to 255, at `SHARES`.
        spectrum: The radial power at `FREQUENCIES`, up to a factor.
        patches: How unevenly crystals are distributed: the standard deviation of the logarithm of
            their contrast, and its correlation with the brightness around them.
        needle: The length of the crystals in pixels, and how many of them start per 100 pixels.
    """

    colours: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    spectrum: tuple[float, ...]
    patches: tuple[float, float]
    needle: tuple[int, float]


# fmt: off
_WHITE = Texture(((108.0, 137.0, 159.0, 186.0, 200.0, 211.0, 224.0, 232.0, 239.0),
                  (108.0, 139.0, 162.0, 190.0, 205.0, 217.0, 229.0, 236.0, 243.0),
                  (113.0, 146.0, 170.0, 199.0, 214.0, 227.0, 239.0, 245.0, 250.0)),
                 (480800.0, 138900.0, 11160.0, 3935.0, 1468.0, 533.4, 130.5, 36.5, 1.08),
                 (0.288, -0.658), (36, 5))
TEXTURES = (
    Texture(((23.0, 30.0, 39.0, 57.0, 74.0, 97.0, 134.0, 156.0, 173.0),
             (111.0, 116.0, 123.0, 136.0, 147.0, 160.0, 178.0, 190.0, 204.0),
             (129.0, 135.0, 141.0, 153.0, 164.0, 175.0, 189.0, 200.0, 213.0)),
            (1752000.0, 53000.0, 3750.0, 1260.0, 191.4, 78.48, 57.2, 27.9, 1.08),
            (0.338, 0.379), (24, 2)),
    _WHITE,
    _WHITE,
    Texture(((46.0, 74.0, 100.0, 130.0, 147.0, 161.0, 186.0, 214.0, 241.0),
             (60.0, 88.0, 115.0, 145.0, 161.0, 176.0, 201.0, 229.0, 255.0),
             (66.0, 98.0, 125.0, 156.0, 174.0, 190.0, 216.0, 244.0, 255.0)),
            (293700.0, 32600.0, 933.1, 628.0, 553.0, 195.8, 97.81, 31.6, 1.14),
            (0.55, 0.128), (12, 8)),
    Texture(((24.0, 33.0, 46.0, 72.0, 96.0, 124.0, 171.0, 207.0, 243.0),
             (34.0, 45.0, 57.0, 84.0, 107.0, 135.0, 180.0, 215.0, 247.0),
             (45.0, 56.0, 70.0, 97.0, 120.0, 146.0, 190.0, 222.0, 251.0)),
            (150000.0, 3400.0, 1259.0, 1590.0, 437.5, 121.2, 33.17, 8.25, 1.08),
            (0.484, -0.106), (22, 6)),
)
# fmt: on
"""Fitted by `python -m benchmarks.distortions.textures`, so that random crops of 224 pixels have
the colours, the radial power spectrum and the unevenness of crops of the five images that the
benchmark draws from (the second one occurs twice there), at the benchmark's scale. Afterwards the
power of the fifth one's lowest frequency was halved, and some powers were changed by up to 11 %,
to allow for clipping at the higher severities. The length and the number of crystals come from
`benchmarks.distortions.crystals`, which makes a texture as difficult for a network as the
benchmark's. Only these measured statistics are used, not the pictures themselves."""


@cached
def texture(number: int, scale: float, device: torch.device) -> Tensor:
    """A texture, 3 x S x S in [0, 1], that repeats without a seam.

    Args:
        number: The texture's index in `TEXTURES`.
        scale: The magnification, where 1.1 is the scale of the statistics.
        device: The device of the result.
    """
    picture = _of_number(number)
    if scale != 1.1:
        side = round(SIDE * scale / 1.1)
        wide = picture.repeat(1, 3, 3)[None]
        shrunk = F.interpolate(wide, (3 * side, 3 * side), mode="bilinear", align_corners=False)
        picture = shrunk[0, :, side : 2 * side, side : 2 * side]
    return picture.contiguous().to(device)


@cached
def tiled_texture(
    number: int, scale: float, height: int, width: int, device: torch.device
) -> Tensor:
    """The texture, extended so that a crop of height x width can start at each of its pixels."""
    ice = texture(number, scale, device)
    side = ice.shape[-1]
    rows = torch.arange(side + height - 1, device=device) % side
    columns = torch.arange(side + width - 1, device=device) % side
    return ice.index_select(1, rows).index_select(2, columns)


@cached
def _of_number(number: int) -> Tensor:
    """A texture at the scale of the statistics, on the CPU."""
    return synthesised(TEXTURES[number], number)


def synthesised(statistics: Texture, seed: int) -> Tensor:
    """A random texture with the given statistics, 3 x SIDE x SIDE in [0, 1].

    Crystals are given the spectrum and are made uneven. Then the spectrum and the distribution of
    brightness are imposed in turn, because each of the two steps changes what the other imposed.
    """
    generator = torch.Generator().manual_seed(seed)
    pattern = _with_spectrum(_needles(statistics, generator), statistics.spectrum)
    pattern = _in_patches(pattern, *statistics.patches, generator)
    grey = tuple(sum(channel) / 3 for channel in zip(*statistics.colours, strict=True))
    for _ in range(ROUNDS):
        pattern = _with_spectrum(_with_values(pattern, grey), statistics.spectrum)
    return torch.stack([_with_values(pattern, channel) for channel in statistics.colours]) / 255


def _needles(statistics: Texture, generator: torch.Generator) -> Tensor:
    """Straight crystals, SIDE x SIDE, in bundles of similar directions."""
    length, density = statistics.needle
    count = int(density * SIDE * SIDE / 100)
    centres = torch.rand(count, 2, generator=generator) * SIDE
    grain = torch.randn(1, 1, 8, 8, generator=generator)
    field = F.interpolate(grain, (SIDE, SIDE), mode="bicubic")[0, 0]
    cells = centres.long()
    angles = math.pi * field[cells[:, 0], cells[:, 1]]
    angles = angles + (torch.randint(3, (count,), generator=generator) - 1) * math.pi / 3
    strength = torch.randn(count, generator=generator)
    reach = length * (0.3 + torch.rand(count, generator=generator))
    pattern = torch.zeros(SIDE * SIDE)
    for step in torch.linspace(-0.5, 0.5, 2 * length):
        rows = (centres[:, 0] + step * reach * angles.sin()).round().long() % SIDE
        columns = (centres[:, 1] + step * reach * angles.cos()).round().long() % SIDE
        pattern.index_add_(0, rows * SIDE + columns, strength)
    return pattern.view(SIDE, SIDE)


def _radius() -> Tensor:
    """The frequency of each element of a spectrum, in cycles per SIDE pixels."""
    axis = torch.fft.fftfreq(SIDE) * SIDE
    return torch.hypot(axis[:, None], axis[None])


def _with_spectrum(pattern: Tensor, wanted: tuple[float, ...]) -> Tensor:
    """The pattern with the given radial power spectrum, mean 0 and standard deviation 1."""
    spectrum = torch.fft.fft2(pattern - pattern.mean())
    ring = _radius().round().long()
    count = torch.bincount(ring.flatten())
    present = torch.bincount(ring.flatten(), spectrum.abs().square().flatten()) / count
    frequency = (torch.arange(len(count)) * 224 / SIDE).clamp_min(FREQUENCIES[0])
    known = [[math.log(each) for each in some] for some in (FREQUENCIES, wanted)]
    gain = (_interpolated(frequency.log(), *known).exp() / present.clamp_min(1e-12)).sqrt()
    gain[0] = 0
    shaped = torch.fft.ifft2(spectrum * gain[ring]).real
    return shaped / shaped.std()


def _in_patches(
    pattern: Tensor, strength: float, brightness: float, generator: torch.Generator
) -> Tensor:
    """The pattern with high frequencies that are stronger in some regions than in others."""
    slow = torch.exp(-((_radius() * 224 / SIDE / COARSE) ** 2))

    def coarse(maps: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(maps) * slow).real

    light = coarse(pattern)
    random = coarse(torch.randn(SIDE, SIDE, generator=generator))
    field = brightness * light / light.std()
    field = field + math.sqrt(1 - brightness**2) * random / random.std()
    return light + (pattern - light) * torch.exp(strength * field)


def _with_values(pattern: Tensor, values: tuple[float, ...]) -> Tensor:
    """The pattern with its values changed, in the same order, to these quantiles at `SHARES`."""
    order = pattern.flatten().argsort()
    share = (torch.arange(len(order), dtype=torch.float64) + 0.5) / len(order)
    knots = torch.special.ndtri(torch.tensor(SHARES, dtype=torch.float64)).tolist()
    result = torch.empty(len(order))
    result[order] = _interpolated(torch.special.ndtri(share).float(), knots, list(values))
    return result.view(pattern.shape)


def _interpolated(at: Tensor, points: list[float], values: list[float]) -> Tensor:
    """Linear interpolation between known points, constant beyond the first and the last."""
    x, y = torch.tensor(points), torch.tensor(values)
    right = torch.searchsorted(x, at).clamp(1, len(points) - 1)
    part = ((at - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    return y[right - 1] + part * (y[right] - y[right - 1])
