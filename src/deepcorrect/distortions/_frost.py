"""Procedural textures of ice for the frost corruption."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import constant

SIDE = 512
FREQUENCIES = (0.44, 1, 2, 4, 8, 16, 32, 64, 112)  # cycles in 224 pixels
SHARES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)  # of pixels that are darker
COARSE = 4  # cycles in 224 pixels: slower changes are light and shade, faster ones crystals
ROUNDS = 4


@dataclass(frozen=True)
class Texture:
    """What is known of a texture.

    Attributes:
        colours: red, green and blue, of 255, that the given `SHARES` of pixels stay below.
        spectrum: radial power at `FREQUENCIES`, to any scale.
        patches: how unevenly crystals are spread, as the standard deviation of their contrast's
            logarithm, and its correlation with the brightness around them.
        needle: length of its crystals in pixels, and how many begin in a hundred pixels.
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
"""Made by `python -m benchmarks.distortions.textures` so that random cuts of 224 pixels have the
colours, the radial power spectrum and the unevenness of cuts of the five images that the benchmark
draws from (it has the second one twice), at the scale it uses them at. Then the fifth's slowest
wave was halved, and some powers moved by up to 11 %, for what clipping leaves of them at the higher
severities. How long and how many crystals are, `benchmarks.distortions.crystals` tells: as many as
make a texture as hard for a network as the benchmark's. Those are measured facts; the pictures
themselves are not used."""


@constant
def texture(number: int, scale: float, device: torch.device) -> Tensor:
    """Texture `number`, 3 x S x S in [0, 1], which repeats without a seam.

    Args:
        number: its place in `TEXTURES`.
        scale: of its pixels; the statistics are those at 1.1.
        device: where it is wanted.
    """
    picture = drawn(TEXTURES[number], number)
    if scale != 1.1:
        side = round(SIDE * scale / 1.1)
        wide = picture.repeat(1, 3, 3)[None]
        shrunk = F.interpolate(wide, (3 * side, 3 * side), mode="bilinear", align_corners=False)
        picture = shrunk[0, :, side : 2 * side, side : 2 * side]
    return picture.contiguous().to(device)


@constant
def wrapped_texture(
    number: int, scale: float, height: int, width: int, device: torch.device
) -> Tensor:
    """The texture, repeated so far that a cut of height x width fits wherever it begins in it."""
    ice = texture(number, scale, device)
    side = ice.shape[-1]
    rows = torch.arange(side + height - 1, device=device) % side
    columns = torch.arange(side + width - 1, device=device) % side
    return ice.index_select(1, rows).index_select(2, columns)


def drawn(look: Texture, seed: int) -> Tensor:
    """A texture of that look, 3 x SIDE x SIDE in [0, 1].

    Crystals get the spectrum, become stronger here and weaker there, and are given the spectrum
    and the distribution of brightness in turns, as each step undoes a little of the other.
    """
    drawing = torch.Generator().manual_seed(seed)
    pattern = _with_spectrum(_needles(look, drawing), look.spectrum)
    pattern = _in_patches(pattern, *look.patches, drawing)
    grey = tuple(sum(channel) / 3 for channel in zip(*look.colours, strict=True))
    for _ in range(ROUNDS):
        pattern = _with_spectrum(_with_values(pattern, grey), look.spectrum)
    return torch.stack([_with_values(pattern, channel) for channel in look.colours]) / 255


def _needles(look: Texture, drawing: torch.Generator) -> Tensor:
    """Straight crystals of all directions, in sheaves, SIDE x SIDE."""
    length, density = look.needle
    count = int(density * SIDE * SIDE / 100)
    places = torch.rand(count, 2, generator=drawing) * SIDE
    grain = torch.randn(1, 1, 8, 8, generator=drawing)
    field = F.interpolate(grain, (SIDE, SIDE), mode="bicubic")[0, 0]
    cells = places.long()
    angles = math.pi * field[cells[:, 0], cells[:, 1]]
    angles = angles + (torch.randint(3, (count,), generator=drawing) - 1) * math.pi / 3
    strength = torch.randn(count, generator=drawing)
    reach = length * (0.3 + torch.rand(count, generator=drawing))
    pattern = torch.zeros(SIDE * SIDE)
    for step in torch.linspace(-0.5, 0.5, 2 * length):
        rows = (places[:, 0] + step * reach * angles.sin()).round().long() % SIDE
        columns = (places[:, 1] + step * reach * angles.cos()).round().long() % SIDE
        pattern.index_add_(0, rows * SIDE + columns, strength)
    return pattern.view(SIDE, SIDE)


def _radius() -> Tensor:
    """The frequency of each place of a spectrum, in cycles a SIDE."""
    axis = torch.fft.fftfreq(SIDE) * SIDE
    return torch.hypot(axis[:, None], axis[None])


def _with_spectrum(pattern: Tensor, wanted: tuple[float, ...]) -> Tensor:
    """The pattern with that radial power spectrum, mean 0 and deviation 1."""
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
    pattern: Tensor, strength: float, brightness: float, drawing: torch.Generator
) -> Tensor:
    """The pattern, its fine parts stronger in some places than in others."""
    slow = torch.exp(-((_radius() * 224 / SIDE / COARSE) ** 2))

    def coarse(maps: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(maps) * slow).real

    light = coarse(pattern)
    chance = coarse(torch.randn(SIDE, SIDE, generator=drawing))
    field = brightness * light / light.std()
    field = field + math.sqrt(1 - brightness**2) * chance / chance.std()
    return light + (pattern - light) * torch.exp(strength * field)


def _with_values(pattern: Tensor, values: tuple[float, ...]) -> Tensor:
    """The pattern's ranks, with the values that `SHARES` of its pixels are to stay below."""
    order = pattern.flatten().argsort()
    share = (torch.arange(len(order), dtype=torch.float64) + 0.5) / len(order)
    knots = torch.special.ndtri(torch.tensor(SHARES, dtype=torch.float64)).tolist()
    result = torch.empty(len(order))
    result[order] = _interpolated(torch.special.ndtri(share).float(), knots, list(values))
    return result.view(pattern.shape)


def _interpolated(at: Tensor, places: list[float], values: list[float]) -> Tensor:
    """Values between known places, on straight lines; beyond them, those of the last ones."""
    x, y = torch.tensor(places), torch.tensor(values)
    right = torch.searchsorted(x, at).clamp(1, len(places) - 1)
    part = ((at - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    return y[right - 1] + part * (y[right] - y[right - 1])
