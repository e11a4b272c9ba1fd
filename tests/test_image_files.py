"""Image files as people have them: depths, signs, frames, files that are something else."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import random_pixels
from PIL import Image
from torch import Tensor

from deepcorrect.data import (
    Preprocessing,
    image_extensions,
    images_in,
    loader,
    open_dataset,
    open_files,
    open_image,
    to_tensor,
)
from deepcorrect.runtime import note_once

SIZE = 32
COLOUR = Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3)
GREY = Preprocessing(SIZE, (0.5,), (0.5,))
PIXELS = random_pixels(SIZE, SIZE, 3)


@pytest.fixture(autouse=True)
def _nothing_is_said_yet() -> None:
    note_once.cache_clear()


def read(path: Path, fit: Preprocessing = COLOUR) -> np.ndarray:
    """The pixels of a file as a network gets them, H x W x C in 0 to 255."""
    with open_image(str(path)) as image:
        values: Tensor = (to_tensor(image, fit) * 255).round().byte()
    return values.permute(1, 2, 0).numpy()


def refusal(path: Path, fit: Preprocessing = COLOUR) -> str:
    """The only entry of the list of files that could not be read."""
    images = open_files([path], fit)
    assert images[0] is None
    (described,) = images.described_bad(3)
    return described.removeprefix(str(path))


# --- values


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_read_by_their_upper_8_as_in_opencv(tmp_path: Path, ending: str) -> None:
    wide = random_pixels(SIZE, SIZE, 3, seed=2).astype(np.uint16) * 257
    path = tmp_path / f"colour.{ending}"
    assert cv2.imwrite(str(path), wide)
    stored: Any = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert np.array_equal(read(path), stored[..., ::-1])
    assert cv2.imwrite(str(path), wide[..., 0])
    grey: Any = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(read(path, GREY)[..., 0], grey)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, SIZE, 3)])
def test_values_of_8_bits_in_16_are_refused(
    tmp_path: Path, ending: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / f"dark.{ending}"
    cv2.imwrite(str(path), PIXELS.reshape(-1)[: int(np.prod(shape))].reshape(shape).astype("u2"))
    assert "of which the values use only 8" in refusal(path)


def test_values_of_12_bits_in_16_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[..., 0].astype(np.uint16) << 4)
    assert read(tmp_path / "a.tif", GREY).max() == 16
    assert "if their values are of 10, 12 or 14 bits" in capsys.readouterr().err


def test_a_black_image_of_16_bits_is_black(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((SIZE, SIZE), np.uint16))
    assert not read(tmp_path / "a.tif").any()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((PIXELS[..., 0].astype(int) - 128).astype(np.int8), "signed values"),
        (PIXELS[..., 0].astype(np.int16) - 128, "mode I.* with values from -128"),
        (PIXELS[..., 0].astype(np.uint32) << 24, "mode I with values from"),
        (PIXELS[..., 0] / 255, "a TIFF image, damaged or of a form"),
        (PIXELS[..., 0].astype(np.float32), "mode F with values from"),
        (PIXELS[..., 0].astype(np.float32) / 127 - 1, "mode F with values from"),
        (PIXELS.astype(np.float32) / 255, "a TIFF image, damaged or of a form"),
    ],
)
def test_values_without_a_known_white_are_refused(
    tmp_path: Path, values: np.ndarray, said: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert re.search(said, refusal(tmp_path / "a.tif", GREY))


def test_white_is_where_the_file_says_that_it_is(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[..., 0], photometric="miniswhite")
    assert np.array_equal(read(tmp_path / "a.tif", GREY)[..., 0], 255 - PIXELS[..., 0])


def test_inverted_cmyk_of_adobe_is_read_as_in_opencv(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    smooth = Image.fromarray(PIXELS[:4, :4]).resize((SIZE, SIZE))
    smooth.convert("CMYK").save(path, quality=100)
    assert b"Adobe" in path.read_bytes()
    stored: Any = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert np.abs(read(path).astype(int) - stored[..., ::-1]).max() <= 2


# --- frames


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_frames_is_read_and_said(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    lossless: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / f"a.{ending}"
    first.save(path, save_all=True, append_images=[second], **lossless)
    first.save(tmp_path / f"alone.{ending}", **lossless)
    assert np.array_equal(read(path), read(tmp_path / f"alone.{ending}"))
    if ending != "gif":
        assert np.array_equal(read(path), PIXELS)
    format = Image.registered_extensions()[f".{ending}"]
    error = capsys.readouterr().err
    assert error.count(f"of {format} images with several frames or pages, the first one") == 1


# --- files that are something else


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (b"", "it is empty"),
        (bytes(500), "filled with zeros"),
        (b"%PDF-1.4 ...", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"#?RADIANCE\nFORMAT", "Radiance"),
        (b"\x1f\x8b\x08" + bytes(9), "compressed"),
    ],
)
def test_a_file_that_is_no_image_is_named_as_what_it_is(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert said in refusal(path)
    with pytest.raises((ValueError, OSError), match=said):
        open_image(io.BytesIO(content))


def test_a_file_that_does_not_exist_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.png") == " (no such file or directory)"


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", started)
    monkeypatch.setattr(subprocess, "Popen", started)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for name in ("a.png", "b.eps"):
        (tmp_path / name).write_text(text)
        assert "PostScript" in refusal(tmp_path / name)


def test_files_that_pillow_only_names_or_writes_are_no_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for name in ("b.pdf", "c.h5", "d.eps", "e.mpg", "f.grib", "g.wmf"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in images_in(tmp_path)] == ["a.png"]
    assert "6 files in" in capsys.readouterr().err
    assert {".jpg", ".jpeg", ".jfif", ".png", ".tif", ".webp", ".avif"} <= image_extensions()


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "bmp", "tif", "ppm", "jp2"])
def test_the_content_counts_and_not_the_extension(tmp_path: Path, ending: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / f"a.{ending}")
    expected = read(tmp_path / f"a.{ending}")
    for name in ("b.jpg", "c.PNG"):
        (tmp_path / name).write_bytes((tmp_path / f"a.{ending}").read_bytes())
        assert np.array_equal(read(tmp_path / name), expected)
    stored = np.asarray(Image.open(tmp_path / f"a.{ending}").convert("RGB"))
    assert np.array_equal(expected, stored)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_a_cut_file_is_never_half_an_image(tmp_path: Path, ending: str, cut: float) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    assert open_files([path], COLOUR)[0] is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 40000)])
def test_the_smallest_and_longest_images_have_their_colour(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    Image.new("RGB", (shape[1], shape[0]), (9, 80, 200)).save(tmp_path / "a.png")
    assert np.array_equal(
        np.unique(read(tmp_path / "a.png").reshape(-1, 3), axis=0), [[9, 80, 200]]
    )


def test_an_embedded_profile_changes_no_value(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=profile)
    with open_image(str(tmp_path / "a.png")) as image:
        assert image.info.get("icc_profile")
    assert np.array_equal(read(tmp_path / "a.png"), PIXELS)


def test_reasons_reach_the_warning_of_a_set_and_of_a_stream(
    tmp_path: Path, make_folder: Callable[[Any], Path]
) -> None:
    folder = make_folder({"ant": 2})
    (folder / "ant" / "z.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    images = open_dataset(f"folder:{folder}", COLOUR)
    (batch,) = loader(images)
    assert batch[0].shape == torch.Size([2, 3, SIZE, SIZE])
    assert "git lfs pull" in images.described_bad(1)[0]
