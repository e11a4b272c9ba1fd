"""Preprocessing: how an image becomes a network's input, compared with direct calls of Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_pixels
from PIL import Image
from torch import Tensor

from deepcorrect.data import Preprocessing, to_tensor
from deepcorrect.data._preprocessing import Interpolation
from deepcorrect.runtime import InputError

HALF = (0.5, 0.5, 0.5)


def levels(image: Tensor) -> np.ndarray:
    """A random image, H x W x C in 8 bits."""
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_images_are_resized_by_the_interpolation_of_the_network(
    interpolation: Interpolation,
) -> None:
    image = Image.fromarray(random_pixels(40, 60))
    given = to_tensor(image, Preprocessing(24, HALF, HALF, 32, interpolation))
    resized = image.resize((48, 32), Image.Resampling[interpolation.upper()]).crop((12, 4, 36, 28))
    assert np.array_equal(levels(given), np.asarray(resized))


@pytest.mark.parametrize(("resize", "cut"), [(None, 0), (32, 4)])
def test_squash_resizes_both_sides_and_keeps_the_whole_image(resize: int | None, cut: int) -> None:
    image = Image.fromarray(random_pixels(40, 60))
    given = to_tensor(image, Preprocessing(24, HALF, HALF, resize, "bicubic", squash=True))
    side = resize or 24
    whole = image.resize((side, side), Image.Resampling.BICUBIC)
    expected = whole.crop((cut, cut, cut + 24, cut + 24))
    assert np.array_equal(levels(given), np.asarray(expected))


def test_an_unknown_interpolation_is_named_with_what_is_accepted() -> None:
    with pytest.raises(InputError, match="unknown interpolation 'bicubical', did you mean"):
        Preprocessing(24, HALF, HALF, None, "bicubical")  # pyright: ignore[reportArgumentType]
