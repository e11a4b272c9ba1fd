"""Procedural textures of ice for the frost corruption."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import constant

SIDE = 512
FREQUENCIES = (1, 2, 4, 8, 16, 32, 64, 112)  # cycles in 224 pixels


@dataclass(frozen=True)
class Texture:
    """What is known of a texture.

    Attributes:
        colour: mean red, green and blue, of 255.
        deviation: standard deviation of each, of 255.
        spectrum: radial power at `FREQUENCIES`, of any scale.
        needle: length of its crystals in pixels, and how many there are in a hundred pixels.
    """

    colour: tuple[float, float, float]
    deviation: tuple[float, float, float]
    spectrum: tuple[float, ...]
    needle: tuple[int, float]


_WHITE = Texture(
    (200.8, 205.4, 214.5),
    (21.4, 22.1, 22.6),
    (1.58e9, 3.33e8, 1.32e8, 5.92e7, 2.29e7, 4.82e6, 1.30e6, 8.8e4),
    (40, 0.6),
)
TEXTURES = (
    Texture(
        (77.7, 149.1, 165.7),
        (26.9, 16.5, 15.3),
        (2.34e9, 5.27e8, 7.92e7, 1.19e7, 3.43e6, 2.08e6, 8.27e5, 8.3e4),
        (12, 2.0),
    ),
    _WHITE,
    _WHITE,  # the benchmark has this one twice
    Texture(
        (137.6, 152.8, 165.2),
        (28.5, 28.5, 29.9),
        (1.77e9, 2.40e8, 1.35e8, 8.77e7, 3.37e7, 1.61e7, 4.15e6, 3.6e5),
        (12, 1.5),
    ),
    Texture(
        (112.4, 123.4, 134.8),
        (44.4, 43.3, 41.7),
        (3.32e9, 1.45e9, 7.49e8, 2.24e8, 6.16e7, 1.40e7, 3.73e6, 8.7e5),
        (24, 1.0),
    ),
)
"""Means, deviations and radial power of the five images that the benchmark draws from, measured
on cuts of 224 pixels at the scale it uses them at; the pictures themselves are not used."""


@constant
def texture(number: int, scale: float, device: torch.device) -> Tensor:
    """Texture `number`, 3 x S x S in [0, 1], which repeats without a seam.

    Args:
        number: its place in `TEXTURES`.
        scale: of its pixels; the statistics are those at 1.1.
        device: where it is wanted.
    """
    look = TEXTURES[number]
    drawing = torch.Generator().manual_seed(number)
    crystals = _coloured(_needles(look, drawing), look)
    colour, deviation = torch.tensor(look.colour), torch.tensor(look.deviation)
    picture = colour[:, None, None] + deviation[:, None, None] * crystals
    if scale != 1.1:
        side = round(SIDE * scale / 1.1)
        wrapped = picture.repeat(1, 3, 3)[None]
        shrunk = F.interpolate(wrapped, (3 * side, 3 * side), mode="bilinear", align_corners=False)
        picture = shrunk[0, :, side : 2 * side, side : 2 * side]
    return (picture / 255).clamp(0, 1).contiguous().to(device)


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
    drawn = torch.zeros(SIDE * SIDE)
    for step in torch.linspace(-0.5, 0.5, 2 * length):
        rows = (places[:, 0] + step * reach * angles.sin()).round().long() % SIDE
        columns = (places[:, 1] + step * reach * angles.cos()).round().long() % SIDE
        drawn.index_add_(0, rows * SIDE + columns, strength)
    return drawn.view(SIDE, SIDE)


def _coloured(pattern: Tensor, look: Texture) -> Tensor:
    """The pattern with the texture's radial power spectrum, mean 0 and deviation 1."""
    spectrum = torch.fft.fft2(pattern - pattern.mean())
    axis = torch.fft.fftfreq(SIDE) * SIDE
    ring = torch.hypot(axis[:, None], axis[None]).round().long()
    count = torch.bincount(ring.flatten())
    present = torch.bincount(ring.flatten(), spectrum.abs().square().flatten()) / count
    frequency = torch.arange(len(count)) * 224 / SIDE
    wanted = _interpolated(frequency, FREQUENCIES, look.spectrum)
    gain = (wanted / present.clamp_min(1e-12)).sqrt()
    gain[0] = 0
    shaped = torch.fft.ifft2(spectrum * gain[ring]).real
    return shaped / shaped.std()


def _interpolated(at: Tensor, places: tuple[int, ...], values: tuple[float, ...]) -> Tensor:
    """Values between known places, straight on logarithmic axes."""
    x = at.clamp(places[0], places[-1]).log()
    known, heights = torch.tensor(places).log(), torch.tensor(values).log()
    right = torch.searchsorted(known, x.contiguous()).clamp(1, len(places) - 1)
    share = (x - known[right - 1]) / (known[right] - known[right - 1])
    return (heights[right - 1] + share * (heights[right] - heights[right - 1])).exp()
