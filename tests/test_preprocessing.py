"""Preprocessing: how an image becomes a network's input, compared with torchvision and Pillow."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_pixels
from PIL import Image
from torch import Tensor

from deepcorrect.data import (
    Preprocessing,
    convert_channels,
    open_files,
    open_image,
    resize_and_crop,
    to_tensor,
)
from deepcorrect.data._decoding import UnsupportedImageError
from deepcorrect.data._preprocessing import Interpolation
from deepcorrect.runtime import InputError, optional_import

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


# --- to the pixel as torchvision and timm

SIDES = [200, 211, 223, 224, 225, 234, 235, 236, 247, 256, 257, 273, 299, 300]
RATIOS = [1, 1.004, 1.13, 1.333, 1.5, 1.777, 2.001, 2.51, 3]
SHAPES = [
    shape
    for number, (side, ratio) in enumerate((side, ratio) for side in SIDES for ratio in RATIOS)
    for shape in [(side, round(side * ratio))[:: 1 if number % 2 else -1]]
]
NOISE = random_pixels(900, 900)


def torchvision_transform(fit: Preprocessing) -> Any:
    transforms = optional_import("torchvision.transforms.v2", "torchvision")
    side = fit.resize or fit.input_size
    interpolation = transforms.InterpolationMode(fit.interpolation)
    return transforms.Compose(
        [
            transforms.Resize([side, side] if fit.squash else side, interpolation, antialias=True),
            transforms.CenterCrop(fit.input_size),
        ]
    )


def timm_transform(fit: Preprocessing) -> Any:
    create = optional_import("timm.data", "timm").create_transform
    return create(
        fit.input_size,
        is_training=False,
        interpolation=fit.interpolation,
        mean=fit.mean,
        std=fit.std,
        crop_pct=fit.input_size / ((fit.resize or fit.input_size) + 0.5),
        crop_mode="squash" if fit.squash else "center",
        normalize=False,
    )


@pytest.mark.parametrize("library", [torchvision_transform, timm_transform])
@pytest.mark.parametrize("squash", [False, True])
def test_every_pixel_is_that_of_torchvision_and_timm(library: Any, squash: bool) -> None:
    fit = Preprocessing(224, (0.0,) * 3, (1.0,) * 3, 235, "bilinear", squash)
    transform = library(fit)
    different = []
    for height, width in SHAPES[::7] if squash else SHAPES:
        image = Image.fromarray(NOISE[:height, :width])
        if not np.array_equal(_pixels(transform(image)), _pixels(resize_and_crop(image, fit))):
            different.append((height, width))
    assert different == []


def _pixels(image: Any) -> np.ndarray:
    if isinstance(image, Tensor):
        return image.permute(1, 2, 0).numpy()
    return np.asarray(image)


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(("size", "resize"), [(16, 19), (17, 28), (24, 24), (24, None), (1, 2)])
def test_small_inputs_and_other_interpolations_are_torchvisions(
    size: int, resize: int | None, interpolation: Interpolation
) -> None:
    fit = Preprocessing(size, (0.0,) * 3, (1.0,) * 3, resize, interpolation)
    transform = torchvision_transform(fit)
    for shape in ((5, 7), (19, 19), (24, 24), (24, 25), (61, 20), (33, 34), (1, 8), (40, 300)):
        image = Image.fromarray(random_pixels(*shape))
        assert np.array_equal(np.asarray(transform(image)), np.asarray(resize_and_crop(image, fit)))


@pytest.mark.parametrize("shape", [(20, 161), (170, 20), (13, 1999), (640, 16)])
def test_only_the_central_square_of_a_long_image_is_computed(shape: tuple[int, int]) -> None:
    """Pillow takes the box as single-precision numbers, so a value may differ by its rounding."""
    fit = Preprocessing(24, HALF, HALF, 28, "bilinear")
    image = Image.fromarray(random_pixels(*shape))
    ours = np.asarray(resize_and_crop(image, fit)).astype(int)
    assert np.abs(ours - np.asarray(torchvision_transform(fit)(image))).max() <= 1


def test_an_image_of_the_input_size_is_resized_unless_it_is_prepared() -> None:
    fit, image = Preprocessing(24, HALF, HALF, 28), Image.fromarray(random_pixels(24, 24))
    assert np.array_equal(
        np.asarray(resize_and_crop(image, fit)), np.asarray(torchvision_transform(fit)(image))
    )
    kept = resize_and_crop(image, fit, keep_fitting=True)
    assert np.array_equal(np.asarray(kept), np.asarray(image))


# --- orientation

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


def oriented(pixels: np.ndarray, orientation: int, format: str = "PNG", **how: Any) -> bytes:
    """An image file with an EXIF orientation."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, format, exif=exif, **how)
    return buffer.getvalue()


def seen(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What a person sees, by the definition in the EXIF standard: where row 0 and column 0 are."""
    return {
        1: stored,  # top, left
        2: stored[:, ::-1],  # top, right
        3: stored[::-1, ::-1],  # bottom, right
        4: stored[::-1],  # bottom, left
        5: stored.swapaxes(0, 1),  # left, top
        6: stored.swapaxes(0, 1)[:, ::-1],  # right, top
        7: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: stored.swapaxes(0, 1)[::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", FORMATS)
def test_every_orientation_is_turned_upright(format: str, orientation: int) -> None:
    stored = random_pixels(12, 20)
    content = oriented(stored, orientation, format, **FORMATS[format])
    if format == "JPEG":  # its pixels are not those that were given to it
        plain = oriented(stored, 1, format, **FORMATS[format])
        stored = np.asarray(Image.open(io.BytesIO(plain)))
    upright = convert_channels(open_image(io.BytesIO(content)), 3)
    assert np.array_equal(np.asarray(upright), seen(stored, orientation))
    assert np.array_equal(np.asarray(convert_channels(upright, 3)), np.asarray(upright))


def test_orientation_in_xmp_alone_and_of_16_bits() -> None:
    stored = random_pixels(12, 20)
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "WEBP", lossless=True, xmp=b'<x tiff:Orientation="8"/>')
    upright = convert_channels(open_image(io.BytesIO(buffer.getvalue())), 3)
    assert np.array_equal(np.asarray(upright), seen(stored, 8))
    deep = stored[..., 0].astype(np.uint16) * 257
    for format in ("PNG", "TIFF"):
        upright = convert_channels(open_image(io.BytesIO(oriented(deep, 6, format))), 1)
        assert np.array_equal(np.asarray(upright), seen(stored[..., 0], 6))


@pytest.mark.parametrize(
    "block",
    [b"", b"noise", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63"],
)
def test_a_damaged_exif_block_says_nothing(block: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(12, 20)).save(buffer, "JPEG", exif=b"Exif\0\0" + block)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = convert_channels(open_image(io.BytesIO(buffer.getvalue())), 3)
    assert image.size == (20, 12)


# --- modes


def reread(image: Image.Image, format: str = "TIFF") -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return open_image(io.BytesIO(buffer.getvalue()))


def test_a_float_tiff_in_0_to_1_is_scaled() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    image = reread(Image.fromarray(values))
    assert image.mode == "F"
    found = to_tensor(image, Preprocessing(16, (0.5,), (0.5,)))
    assert torch.equal(found, torch.arange(256).view(1, 16, 16) / 255)


def test_int32_is_8_or_16_bits_by_its_largest_value() -> None:
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    for scale in (1, 257):
        image = reread(Image.fromarray(values * scale))
        assert image.mode == "I"
        assert np.array_equal(np.asarray(convert_channels(image, 1)), values)
    dark = open_image(io.BytesIO(b"P5 2 1 65535 " + bytes([0, 200, 0, 100])))  # 16 bits by format
    assert np.asarray(convert_channels(dark, 1)).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4), 128.0, np.float32), "mode F with values from 128 to 128, and floats are"),
        (np.full((4, 4), np.nan, np.float32), "mode F with values from nan"),
        (np.array([[-0.5, 1]], np.float32), "mode F with values from -0.5 to 1"),
        (np.array([[0, 70000]], np.int32), "mode I with values from 0 to 70,000, and integers are"),
        (np.array([[-1, 9]], np.int32), "mode I with values from -1 to 9"),
    ],
)
def test_values_of_unknown_meaning_are_refused_with_the_mode(
    values: np.ndarray, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnsupportedImageError, match=message):
        convert_channels(reread(Image.fromarray(values)), 3)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    images = open_files([path], Preprocessing(4, HALF, HALF))
    assert images[0] is None
    images.warn_of_bad()
    assert f"1 of 1 images of files could not be read and were left out: {path} ({message}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_picture_in_the_alpha_channel_alone_is_refused(mode: str) -> None:
    alpha = Image.fromarray(random_pixels(8, 8)[..., 0])
    image = Image.new("LA" if mode == "LA" else "RGBA", (8, 8))
    image.putalpha(alpha)
    if mode == "P":
        image = Image.new("P", (8, 8))
        image.putpalette([0, 0, 0] * 2)
        image.putpixel((3, 3), 1)
        image.info["transparency"] = b"\x00\xff"
    with pytest.raises(UnsupportedImageError, match=f"mode {mode} with one colour everywhere"):
        convert_channels(reread(image, "PNG"), 3)
    for opaque in (0, 255):  # an alpha channel that says nothing leaves the colour
        plain = Image.new("RGBA", (8, 8), (10, 20, 30, opaque))
        assert convert_channels(plain, 3).getpixel((0, 0)) == (10, 20, 30)


def test_transparency_leaves_the_colours() -> None:
    pixels = random_pixels(8, 8)
    image = Image.fromarray(pixels).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = 3
    assert np.array_equal(np.asarray(convert_channels(reread(image, "PNG"), 3)), expected)
    grey = Image.fromarray(np.dstack([pixels[..., 0], pixels[..., 1]]), "LA")
    for channels in (1, 3):
        found = np.asarray(convert_channels(reread(grey, "PNG"), channels))
        assert np.array_equal(found.reshape(8, 8, -1)[..., 0], pixels[..., 0])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_files_keep_their_colours(format: str) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (20, 40, 200), (255, 255, 255), (0, 0, 0)]
    for colour in colours:
        image = reread(Image.new("RGB", (8, 8), colour).convert("CMYK"), format)
        assert image.mode == "CMYK"
        found = np.asarray(convert_channels(image, 3)).astype(int)
        assert np.abs(found - np.array(colour)).max() <= 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "HSV", "LAB", "PA", "RGBX", "I;16B", "I;16L", "La"])
def test_rarer_modes_are_converted_or_named(mode: str, channels: int) -> None:
    image = Image.new(mode, (5, 4))
    if mode == "La":
        with pytest.raises(UnsupportedImageError, match="mode La cannot be converted to"):
            convert_channels(image, channels)
    else:
        assert convert_channels(image, channels).mode == ("L" if channels == 1 else "RGB")


# --- very large images


def test_a_very_large_image_is_left_out_with_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{side}.png" for side in (10, 12, 15)]
    for path in paths:
        side = int(path.stem)
        Image.fromarray(random_pixels(side, side)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    images = open_files(paths, Preprocessing(8, HALF, HALF))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns of the second
        assert [images[row] is None for row in range(3)] == [False, False, True]
    images.warn_of_bad()
    assert f"{paths[2]} (225 pixels, and the limit is 200: make the image smaller" in (
        capsys.readouterr().err
    )
