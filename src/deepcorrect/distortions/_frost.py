"""Procedural textures of ice for the frost corruption."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcorrect.distortions._filters import constant

SIDE = 512
FREQUENCIES = (0.44, 0.9, 1, 2, 4, 8, 16, 32, 64, 112)  # cycles in 224 pixels


@dataclass(frozen=True)
class Texture:
    """What is known of a texture.

    Attributes:
        colour: mean red, green and blue, of 255.
        deviation: standard deviation of each, of 255.
        spectrum: radial power at `FREQUENCIES`, to any scale.
        needle: length of its crystals in pixels, and how many begin in a hundred pixels.
    """

    colour: tuple[float, float, float]
    deviation: tuple[float, float, float]
    spectrum: tuple[float, ...]
    needle: tuple[int, float]


_WHITE = Texture(
    (197.9, 202.3, 211.5),
    (20.5, 21.1, 21.9),
    (5.10e5, 9.52e4, 1.78e4, 3960, 3280, 1340, 499, 110, 30.3, 1),
    (36, 5),
)
TEXTURES = (
    Texture(
        (76.7, 147.4, 163.8),
        (24.8, 15.1, 14.2),
        (1.15e06, 49400, 2110, 10000, 1860, 296, 90.4, 56.8, 22.9, 1.18),
        (10, 8),
    ),
    _WHITE,
    _WHITE,  # the benchmark has this one twice
    Texture(
        (144.3, 159.1, 172.0),
        (26.8, 26.8, 28.2),
        (212000, 3670, 63.8, 182, 854, 464, 183, 79.9, 21.5, 1.08),
        (12, 8),
    ),
    Texture(
        (100.7, 112.1, 124.0),
        (38.2, 37.8, 37.0),
        (221000, 397, 0.712, 2350, 1670, 440, 127, 30.4, 7.88, 1.2),
        (22, 7),
    ),
)
"""Chosen so that random cuts of 224 pixels have the mean colour, the spread of it between cuts, the
variance and the radial power spectrum of cuts of the five images that the benchmark draws from, at
the scale it uses them at. Those are measured facts; the pictures themselves are not used."""


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


def _interpolated(at: Tensor, places: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Values between known places, straight on logarithmic axes."""
    x = at.clamp(places[0], places[-1]).log()
    known, heights = torch.tensor(places).log(), torch.tensor(values).log()
    right = torch.searchsorted(known, x.contiguous()).clamp(1, len(places) - 1)
    share = (x - known[right - 1]) / (known[right] - known[right - 1])
    return (heights[right - 1] + share * (heights[right] - heights[right - 1])).exp()
