"""Draws the pictures that the explorer ships: everyday things, and digits.

    python scripts/draw_pictures.py

They are made here and nowhere else, so that they are under the project's own licence. Each is drawn
four times as large and averaged. A gradient, a soft shadow and a little grain make them look enough
like photographs for networks that were trained on ImageNet.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deepcorrect.runtime import files

FOLDER = Path(__file__).parent.parent / "src" / "deepcorrect" / "explorer" / "pictures"
SIDE, SCALE = 320, 4
DIGIT_SIDE = 28
Point = tuple[float, float]


class Canvas:
    """A square picture whose coordinates run from 0 to 1."""

    def __init__(self, top: Sequence[int], bottom: Sequence[int]) -> None:
        self.side = SIDE * SCALE
        rows = np.linspace(0, 1, self.side)[:, None, None]
        sky = (1 - rows) * np.array(top) + rows * np.array(bottom)
        filled = np.broadcast_to(sky, (self.side, self.side, 3)).round().astype(np.uint8)
        self.image = Image.fromarray(filled)
        self.pen = ImageDraw.Draw(self.image)

    def at(self, *points: Point) -> list[tuple[float, float]]:
        """Points in pixels."""
        return [(x * self.side, y * self.side) for x, y in points]

    def shape(self, points: Sequence[Point], colour: Sequence[int]) -> None:
        """A filled polygon."""
        self.pen.polygon(self.at(*points), fill=tuple(colour))

    def line(self, points: Sequence[Point], colour: Sequence[int], width: float) -> None:
        """A line with round corners."""
        wide = max(1, round(width * self.side))
        self.pen.line(self.at(*points), fill=tuple(colour), width=wide, joint="curve")

    def disc(
        self, centre: Point, radius: float, colour: Sequence[int], squash: float = 1.0
    ) -> None:
        """A filled ellipse whose height is `squash` times its width."""
        x, y = centre
        box = self.at((x - radius, y - radius * squash), (x + radius, y + radius * squash))
        self.pen.ellipse([*box[0], *box[1]], fill=tuple(colour))

    def shade(self, centre: Point, radius: float, strength: float) -> None:
        """Light on a ball: bright at the upper left, dark at the lower right of the disc."""
        values = np.asarray(self.image, dtype=np.float32)
        axis = np.arange(self.side) / self.side
        x, y = (axis[None, :] - centre[0]) / radius, (axis[:, None] - centre[1]) / radius
        inside = (x * x + y * y) <= 1
        depth = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
        light = np.clip(-0.45 * x - 0.55 * y + 0.7 * depth, 0, 1)
        factor = np.where(inside, 1 - strength + 1.25 * strength * light, 1)[..., None]
        shaded = np.clip(values * factor, 0, 255).astype(np.uint8)
        self.image = Image.fromarray(shaded)
        self.pen = ImageDraw.Draw(self.image)

    def shadow(self, centre: Point, radius: float, squash: float, strength: float) -> None:
        """A soft dark ellipse under what is drawn next."""
        mask = Image.new("L", self.image.size, 0)
        x, y = centre
        box = self.at((x - radius, y - radius * squash), (x + radius, y + radius * squash))
        ImageDraw.Draw(mask).ellipse([*box[0], *box[1]], fill=round(255 * strength))
        mask = mask.filter(ImageFilter.GaussianBlur(0.02 * self.side))
        self.image.paste(Image.new("RGB", self.image.size, (10, 10, 15)), mask=mask)
        self.pen = ImageDraw.Draw(self.image)

    def finish(self, grain: float = 4.0) -> Image.Image:
        """The picture at its size, with a little grain."""
        small = self.image.resize((SIDE, SIDE), Image.Resampling.BOX)
        noise = np.random.default_rng(0).normal(0, grain, (SIDE, SIDE, 1))
        values = np.asarray(small, dtype=np.float64) + noise
        return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))


def around(centre: Point, radius: float, turns: float) -> Point:
    """The point on a circle after some turns, clockwise from the top."""
    angle = 2 * math.pi * turns
    return centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)


def wall_clock() -> Image.Image:
    """A clock at ten past ten."""
    c = Canvas((214, 205, 186), (186, 172, 150))
    middle = (0.5, 0.5)
    c.shadow((0.53, 0.54), 0.38, 1, 0.5)
    c.disc(middle, 0.38, (72, 46, 30))
    c.shade(middle, 0.38, 0.45)
    c.disc(middle, 0.325, (246, 243, 232))
    for minute in range(60):
        long = minute % 5 == 0
        ends = (
            around(middle, 0.30, minute / 60),
            around(middle, 0.27 if long else 0.285, minute / 60),
        )
        c.line(ends, (30, 30, 34), 0.012 if long else 0.004)
    for turns, length, width in ((10 / 12 + 1 / 72, 0.16, 0.018), (10 / 60, 0.25, 0.012)):
        c.line((around(middle, -0.04, turns), around(middle, length, turns)), (24, 24, 28), width)
    c.line((around(middle, -0.06, 0.58), around(middle, 0.26, 0.58)), (170, 30, 30), 0.005)
    c.disc(middle, 0.018, (24, 24, 28))
    return c.finish()


def balloon() -> Image.Image:
    """A hot-air balloon in front of the sky."""
    c = Canvas((70, 130, 205), (196, 220, 238))
    middle, radius = (0.5, 0.38), 0.27
    colours = ((214, 48, 42), (246, 190, 52), (38, 92, 170))
    neck = (0.5, 0.74)
    bands = 12
    for band in range(bands):
        left, right = (math.sin(math.pi * (k / bands - 0.5)) for k in (band, band + 1))
        points = []
        for edge, rows in ((left, range(41)), (right, reversed(range(41)))):
            for row in rows:
                turn = math.pi * row / 40
                width = math.sin(turn) if row < 22 else max(0.1, math.sin(turn) ** 0.8)
                y = middle[1] - radius * math.cos(turn) * (1 if row < 20 else 1.18)
                points.append((middle[0] + edge * radius * width, y))
        c.shape(points, colours[band % 3])
    c.shade(middle, radius * 1.02, 0.4)
    for side in (-0.045, -0.015, 0.015, 0.045):
        c.line(((0.5 + side, 0.69), (0.5 + side * 0.8, neck[1] + 0.05)), (60, 45, 35), 0.004)
    c.shape(((0.455, 0.79), (0.545, 0.79), (0.535, 0.87), (0.465, 0.87)), (122, 78, 42))
    for k in range(4):
        y = 0.80 + 0.02 * k
        c.line(((0.46, y), (0.54, y)), (88, 54, 28), 0.004)
    return c.finish()


def traffic_light() -> Image.Image:
    """A traffic light that shows red."""
    c = Canvas((150, 178, 205), (206, 214, 218))
    c.shape(((0.48, 0.8), (0.52, 0.8), (0.52, 1), (0.48, 1)), (70, 72, 74))
    c.shape(((0.36, 0.06), (0.64, 0.06), (0.64, 0.82), (0.36, 0.82)), (26, 30, 28))
    c.line(
        ((0.36, 0.06), (0.64, 0.06), (0.64, 0.82), (0.36, 0.82), (0.36, 0.06)), (12, 14, 13), 0.012
    )
    lamps = ((0.2, (236, 44, 36)), (0.44, (74, 60, 20)), (0.68, (22, 62, 40)))
    for y, colour in lamps:
        c.disc((0.5, y), 0.108, (14, 16, 15))
        c.disc((0.5, y), 0.09, colour)
        c.shade((0.5, y), 0.09, 0.35)
        hood = [around((0.5, y), 0.115, -0.25 + k / 60) for k in range(31)]
        c.line(hood, (8, 10, 9), 0.022)
    return c.finish()


def golf_ball() -> Image.Image:
    """A golf ball on grass."""
    random = np.random.default_rng(3)
    c = Canvas((70, 120, 46), (44, 92, 30))
    for _ in range(5200):
        x, y = random.random(2)
        length = 0.02 + 0.04 * y
        green = 70 + 90 * random.random()
        tip = (x + 0.02 * random.normal(), y - length)
        c.line(((x, y), tip), (int(green * 0.55), int(green), int(green * 0.3)), 0.0035)
    c.shadow((0.53, 0.78), 0.3, 0.3, 0.75)
    middle, radius = (0.5, 0.5), 0.31
    c.disc(middle, radius, (236, 236, 232))
    for row in range(-9, 10):
        for column in range(-9, 10):
            x, y = (column + 0.5 * (row % 2)) / 9, row / 9 * 0.87
            distance = math.hypot(x, y)
            if distance < 0.97:
                curve = math.sin(distance * math.pi / 2) / max(distance, 1e-6)
                at = (middle[0] + radius * x * curve, middle[1] + radius * y * curve)
                size = 0.0125 * math.sqrt(max(0.15, 1 - (distance * curve) ** 2))
                c.disc((at[0] + 0.002, at[1] + 0.002), size, (196, 198, 196))
                c.disc((at[0] + 0.0045, at[1] + 0.0045), size * 0.7, (218, 219, 216))
    c.shade(middle, radius, 0.5)
    for _ in range(260):
        x = 0.22 + 0.56 * random.random()
        green = 70 + 90 * random.random()
        c.line(
            ((x, 0.84), (x + 0.02 * random.normal(), 0.84 - 0.08 * random.random())),
            (int(green * 0.55), int(green), int(green * 0.3)),
            0.004,
        )
    return c.finish()


def lighthouse() -> Image.Image:
    """A striped lighthouse by the sea."""
    c = Canvas((96, 150, 214), (214, 228, 238))
    c.shape(((0, 0.78), (1, 0.78), (1, 1), (0, 1)), (36, 84, 122))
    for k in range(40):
        y = 0.79 + 0.005 * k
        c.line(((0.03 * (k % 7), y), (1, y)), (44 + k, 94 + k, 132 + k // 2), 0.002)
    c.shape(
        ((0.2, 1), (0.28, 0.86), (0.42, 0.82), (0.62, 0.81), (0.78, 0.88), (0.9, 1)), (78, 70, 62)
    )
    c.shape(((0.3, 1), (0.36, 0.88), (0.52, 0.85), (0.7, 0.9), (0.8, 1)), (98, 90, 80))

    def half(y: float) -> float:
        return 0.055 + 0.06 * (y - 0.25) / 0.6

    edges = [0.26 + 0.118 * k for k in range(6)]
    for k, (top, bottom) in enumerate(itertools.pairwise(edges)):
        colour = (204, 44, 40) if k % 2 == 0 else (240, 240, 236)
        corners = (
            (0.5 - half(top), top),
            (0.5 + half(top), top),
            (0.5 + half(bottom), bottom),
            (0.5 - half(bottom), bottom),
        )
        c.shape(corners, colour)
        dark = tuple(int(v * 0.72) for v in colour)
        c.shape(
            (
                (0.5 + 0.4 * half(top), top),
                (0.5 + half(top), top),
                (0.5 + half(bottom), bottom),
                (0.5 + 0.4 * half(bottom), bottom),
            ),
            dark,
        )
    c.shape(((0.42, 0.245), (0.58, 0.245), (0.58, 0.265), (0.42, 0.265)), (50, 50, 54))
    c.shape(((0.455, 0.16), (0.545, 0.16), (0.545, 0.245), (0.455, 0.245)), (252, 236, 160))
    for x in (0.455, 0.485, 0.515, 0.545):
        c.line(((x, 0.16), (x, 0.245)), (50, 50, 54), 0.005)
    c.shape(((0.44, 0.16), (0.56, 0.16), (0.5, 0.09)), (176, 36, 34))
    c.line(((0.42, 0.22), (0.58, 0.22)), (50, 50, 54), 0.004)
    for y in (0.4, 0.63):
        c.shape(((0.485, y), (0.515, y), (0.515, y + 0.045), (0.485, y + 0.045)), (44, 50, 60))
    return c.finish()


def ladybird() -> Image.Image:
    """A ladybird on a leaf."""
    c = Canvas((96, 158, 60), (62, 122, 40))
    for k in range(9):
        x = -0.1 + 0.14 * k
        c.line(((0.0, 0.52), (x + 0.3, 0.05 if k % 2 else 1.0)), (86, 146, 54), 0.006)
    c.line(((0, 0.52), (1, 0.48)), (138, 190, 96), 0.014)
    c.shadow((0.53, 0.57), 0.3, 0.8, 0.55)
    for turn in (0.16, 0.25, 0.34, 0.66, 0.75, 0.84):
        c.line(
            (around((0.5, 0.54), 0.2, turn), around((0.5, 0.54), 0.34, turn)), (18, 16, 16), 0.014
        )
    c.disc((0.5, 0.29), 0.11, (20, 18, 18), 0.8)
    for side in (-1, 1):
        c.line(((0.5 + side * 0.04, 0.22), (0.5 + side * 0.1, 0.13)), (18, 16, 16), 0.008)
    c.disc((0.5, 0.55), 0.27, (206, 34, 26))
    c.shade((0.5, 0.55), 0.27, 0.45)
    c.disc((0.5, 0.335), 0.155, (16, 14, 14), 0.5)
    for side in (-1, 1):
        c.disc((0.5 + side * 0.095, 0.325), 0.034, (238, 234, 224))
    c.line(((0.5, 0.33), (0.5, 0.82)), (18, 16, 16), 0.01)
    c.disc((0.5, 0.44), 0.05, (16, 14, 14))
    for x, y in ((0.13, 0.5), (0.15, 0.64), (0.09, 0.74)):
        for side in (-1, 1):
            c.disc((0.5 + side * x, y), 0.043, (16, 14, 14))
    return c.finish()


STROKES: dict[int, tuple[tuple[Point, ...], ...]] = {
    3: (
        (
            (0.3, 0.22),
            (0.5, 0.16),
            (0.68, 0.27),
            (0.6, 0.43),
            (0.45, 0.48),
            (0.64, 0.55),
            (0.71, 0.7),
            (0.55, 0.83),
            (0.3, 0.78),
        ),
    ),
    5: (
        (
            (0.68, 0.18),
            (0.38, 0.2),
            (0.34, 0.46),
            (0.55, 0.44),
            (0.68, 0.58),
            (0.62, 0.78),
            (0.44, 0.84),
            (0.29, 0.77),
        ),
    ),
    8: (
        (
            (0.62, 0.28),
            (0.5, 0.17),
            (0.37, 0.27),
            (0.42, 0.42),
            (0.6, 0.55),
            (0.65, 0.72),
            (0.5, 0.84),
            (0.35, 0.73),
            (0.42, 0.55),
            (0.58, 0.42),
            (0.63, 0.29),
        ),
    ),
}
"""The strokes of digits, as a pen draws them."""


def digit(number: int) -> Image.Image:
    """A digit as MNIST has them: white on black, 28 x 28."""
    side = DIGIT_SIDE * 16
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    for stroke in STROKES[number]:
        for x, y in smooth(stroke):
            radius = 0.047 * side
            pen.ellipse(
                (x * side - radius, y * side - radius, x * side + radius, y * side + radius),
                fill=255,
            )
    return image.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.LANCZOS)


def smooth(points: Sequence[Point], steps: int = 40) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    padded = np.array([points[0], *points, points[-1]])
    found: list[Point] = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in np.linspace(0, 1, steps):
            x, y = 0.5 * (
                2 * b
                + (c - a) * t
                + (2 * a - 5 * b + 4 * c - d) * t**2
                + (3 * b - a - 3 * c + d) * t**3
            )
            found.append((float(x), float(y)))
    return found


THINGS: tuple[Callable[[], Image.Image], ...] = (
    balloon,
    golf_ball,
    ladybird,
    lighthouse,
    traffic_light,
    wall_clock,
)


def main() -> None:
    """Writes all pictures."""
    for draw in THINGS:
        save(draw(), f"{draw.__name__}.jpg", quality=90)
    for number in STROKES:
        save(digit(number), f"digit_{number}.png")


def save(image: Image.Image, name: str, **options: int) -> None:
    """Writes one picture."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if name.endswith("jpg") else "PNG", **options)
    files.write_bytes(FOLDER / name, buffer.getvalue())
    print(f"{name}: {len(buffer.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
