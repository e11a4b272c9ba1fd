"""Sets that are read in order, from shards or by `datasets`: their orders, ends and memory."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Batch, cut, random_pixels, tiny_cnn, tiny_recipe
from PIL import Image
from torch import Tensor

import deepcorrect as dc
from deepcorrect.data import (
    ImageSet,
    ImageStream,
    Preprocessing,
    count_of,
    every_nth,
    loader,
    open_dataset,
    to_tensor,
)
from deepcorrect.data._sample import Place, Sample
from deepcorrect.data._streaming import shuffled
from deepcorrect.data._webdataset import expanded
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError

COLOUR = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)


def encoded(seed: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(20, 24, seed=seed)).save(buffer, format)
    return buffer.getvalue()


def expected(seed: int) -> Tensor:
    return to_tensor(Image.fromarray(random_pixels(20, 24, seed=seed)), COLOUR)


def write_tar(path: Path, parts: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Three shards of 7 samples; an image's number is its pixel value and, modulo 5, its label."""
    for shard in range(3):
        parts: dict[str, bytes] = {}
        for number in range(shard * 7, shard * 7 + 7):
            parts |= {f"{number:04}.png": encoded(number), f"{number:04}.cls": b"%d" % (number % 5)}
        write_tar(tmp_path / f"part-{shard:02}.tar", parts)
    return f"webdataset:{tmp_path}/part-{{00..02}}.tar"


def opened(spec: str) -> ImageStream:
    images = open_dataset(spec, COLOUR)
    assert isinstance(images, ImageStream)
    return images


def contents(images: ImageSet, **how: Any) -> tuple[Tensor, list[int]]:
    batches = list(loader(images, **how))
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]).tolist()


def numbers(images: ImageSet, **how: Any) -> list[int]:
    """The numbers of the images that were read, in their order."""
    known = torch.stack([expected(number) for number in range(21)])
    found, labels = contents(images, **how)
    order = [int((known == image).flatten(1).all(1).nonzero()) for image in found]
    assert labels == [number % 5 for number in order]
    return order


# --- shards


def test_shards_are_read_in_order_by_any_number_of_workers(shards: str) -> None:
    images = open_dataset(shards, COLOUR)
    assert isinstance(images, ImageStream)
    assert images.labelled
    for workers in (0, 2):
        assert numbers(images, batch_size=4, workers=workers) == list(range(21))
    assert [len(b[0]) for b in loader(images, 8)] == [8, 8, 5]


@pytest.mark.parametrize("shuffle", [False, True])
def test_of_a_shard_the_images_that_are_decoded_are_read_alone(
    shards: str, monkeypatch: pytest.MonkeyPatch, shuffle: bool
) -> None:
    """So processes that share the batches of shards do not read each other's images."""
    images = open_dataset(shards, COLOUR)
    read: list[Place] = []
    whole = Place.read
    monkeypatch.setattr(Place, "read", lambda place: read.append(place) or whole(place))

    def part(first: int, step: int) -> list[Batch]:
        torch.manual_seed(3)
        return list(every_nth(loader(images, 4, shuffle=shuffle), first, step))

    alone = part(0, 1)
    assert len(read) == len(set(read)) == 21
    read.clear()
    for first in range(2):
        for found, same in zip(part(first, 2), alone[first::2], strict=True):
            assert torch.equal(found[0], same[0])
            assert torch.equal(found[1], same[1])
    assert len(read) == len(set(read)) == 21


def test_compressed_shards_are_read_as_plain_ones(shards: str, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.tar"):
        path.with_suffix(".tgz").write_bytes(gzip.compress(path.read_bytes()))
    for seed in (None, 5):
        plain = list(opened(shards).read(seed))
        packed = list(opened(shards.replace(".tar", ".tgz")).read(seed))
        assert [each.loaded() for each in plain] == [each.loaded() for each in packed]
        assert all(isinstance(each.content, Place) for each in plain)
        assert all(isinstance(each.content, bytes) for each in packed)


def test_a_shard_that_is_cut_while_it_is_read_has_bad_images(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = opened(shards)
    samples = list(images.read())
    content = (tmp_path / "part-02.tar").read_bytes()
    (tmp_path / "part-02.tar").write_bytes(content[: len(content) // 2])
    batch = images.__getitems__(samples)
    assert [each is None for each in batch[:14]] == [False] * 14
    assert [each is None for each in batch[-2:]] == [True, True]
    images.warn_of_bad()
    assert "could not be read" in capsys.readouterr().err


def test_the_webdataset_library_writes_and_reads_the_same(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(f"file:{tmp_path}/x-%02d.tar", maxcount=3, verbose=0) as sink:
        for number in range(7):
            sink.write({"__key__": f"a/{number}", "png": encoded(number), "cls": number})
    urls = f"{tmp_path}/x-{{00..02}}.tar"
    theirs = [s["cls"] for s in wds.WebDataset(urls, shardshuffle=False, empty_check=False)]
    images = open_dataset(f"webdataset:{urls}", COLOUR)
    found, labels = contents(images)
    assert labels == [int(label) for label in theirs] == list(range(7))
    assert all(torch.equal(found[number], expected(number)) for number in range(7))


def test_braces_are_the_shells(tmp_path: Path) -> None:
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    for pattern in ("a{08..11}b", "{x,y}-{1..3}", "s-{000..002}.tar", "{3..1}", "plain", "a{,b}c"):
        wanted = [f"https://h/{each}" for each in braceexpand(pattern)]
        assert expanded(f"https://h/{pattern}") == wanted
    for name in ("b.tar", "a.tar"):
        (tmp_path / name).touch()
    assert expanded(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    for missing in ("c.tar", "{a,c}.tar", "c-*.tar"):
        with pytest.raises(InputError, match="there is no file .*c"):
            expanded(f"{tmp_path}/{missing}")


@pytest.mark.parametrize(
    ("part", "content", "label"),
    [
        ("cls", b"3\n", 3),
        ("json", b'{"caption": "x", "label": 4}', 4),
        ("json", b'{"class_name": "bee"}', 1),
        ("json", b"2", 2),
        ("txt", b"2", 2),
        ("txt", b" Bee ", 1),
        ("note", b"nothing", -1),
        ("json", b"{broken", -1),
        ("json", b'{"label": null}', -1),
    ],
)
def test_labels_in_every_form(tmp_path: Path, part: str, content: bytes, label: int) -> None:
    write_tar(tmp_path / "a.tar", {f"x.{part}": content, "x.png": encoded(0)})
    images = open_dataset(f"webdataset:{tmp_path}/a.tar", COLOUR)
    assert images.labelled == (label != -1)
    names = ("ant", "bee", "cat", "dog", "eel")
    assert contents(images.matched(5, names))[1] == [label]
    if not images.labelled:
        with pytest.raises(InputError, match="images without labels"):
            images.check_labels(5)


def test_labels_in_words_need_the_networks_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.png": encoded(0), "x.txt": b"unicorn"})
    images = open_dataset(f"webdataset:{tmp_path}/a.tar", COLOUR)
    with pytest.raises(InputError, match="labels in words, such as 'unicorn'"):
        contents(images)
    with pytest.raises(InputError, match="labels in words, such as 'unicorn'"):
        contents(images.matched(2))
    with pytest.raises(InputError, match="does not have by that name, such as 'unicorn'"):
        contents(images.matched(2, ("ant", "bee")), workers=1)


def test_what_is_no_shard_of_images_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.txt": b"1", "y": b"", ".z.png": encoded(0)})
    with pytest.raises(InputError, match="has no images. Accepted: tar files"):
        open_dataset(f"webdataset:{tmp_path}/a.tar", COLOUR)
    (tmp_path / "b.tar").write_text("not a tar file, though long enough " * 40)
    with pytest.raises(InputError, match="has no images"):
        open_dataset(f"webdataset:{tmp_path}/b.tar", COLOUR)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_and_cut_shards_are_counted_and_named(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": encoded(0), "1.png": b"no", "2.png": encoded(2)[:50]})
    write_tar(tmp_path / "b.tar", {f"{n}.png": encoded(n) for n in range(3, 6)})
    whole = (tmp_path / "b.tar").read_bytes()
    first = 512 + -(-len(encoded(3)) // 512) * 512
    (tmp_path / "b.tar").write_bytes(whole[: first + 512 + 600])  # within the second image
    write_tar(tmp_path / "c.tar", {"6.png": encoded(6)})
    images = open_dataset(f"webdataset:{tmp_path}/*.tar", COLOUR)
    found, _ = contents(images, batch_size=2, workers=workers)
    assert [int(torch.equal(found[k], expected(n))) for k, n in enumerate((0, 3, 6))] == [1] * 3
    *two, cut_off = images.bad
    assert two == ["1.png of a.tar", "2.png of a.tar"]
    assert cut_off.startswith("b.tar after its sample 1 (")
    images.warn_of_bad()
    assert "3 of 6 images of *.tar could not be read" in capsys.readouterr().err
    assert len(images) == 6  # counted from the headers of the tar files


def opened_tar(tmp_path: Path, parts: dict[str, bytes], choice: str = "") -> ImageSet:
    write_tar(tmp_path / "a.tar", parts)
    return open_dataset(f"webdataset:{tmp_path}/a.tar{choice}", COLOUR)


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["0.mask.png", "0.png"], "0.png"),
        (["0.png", "0.jpg"], "0.jpg"),
        (["0.webp", "0.bmp", "0.JPEG"], "0.jpeg"),
        (["0.rgb.png", "0.depth.jpg"], "0.depth.jpg"),
        (["0.seg.png", "0.rgb.png"], "0.rgb.png"),
    ],
)
def test_which_of_several_images_is_read_does_not_depend_on_their_order(
    tmp_path: Path, names: list[str], read: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for order in (names, names[::-1]):
        parts = {name: encoded(9 if name.lower() == read else 2) for name in order}
        images = opened_tar(tmp_path, parts | {"0.cls": b"3"})
        found, labels = contents(images)
        assert torch.equal(found[0], expected(9))
        assert (len(found), labels, len(images)) == (1, [3], 1)
    error = capsys.readouterr().err
    assert f"{read.partition('.')[2]} is read" in error
    assert "add its extension to the data, such as webdataset:SHARDS:" in error


def test_an_extension_chooses_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"0.mask.png": encoded(1), "0.png": encoded(2), "1.png": encoded(3)}
    images = opened_tar(tmp_path, parts, ":mask.PNG")
    found, _ = contents(images)
    assert torch.equal(found, expected(1)[None])
    assert images.bad == ["1.mask.png of a.tar"]  # it is not replaced by another image
    assert len(images) == 2
    assert torch.equal(contents(opened_tar(tmp_path, parts, ":png"))[0][1], expected(3))
    star = open_dataset(f"webdataset:{tmp_path}/*.tar:png", COLOUR)
    assert torch.equal(contents(star)[0][0], expected(2))
    with pytest.raises(InputError, match="has no image with the extension 'jpg'"):
        opened_tar(tmp_path, parts, ":jpg")
    assert capsys.readouterr().err == ""


def test_names_with_dots_are_samples_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["img_12.5_a", "img_12.5_b", "img_12.7_a", "dog.0", "dog.1", "d.ir/2020.01.05"]
    parts: dict[str, bytes] = {}
    for number, name in enumerate(names):
        parts |= {f"{name}.png": encoded(number), f"{name}.cls": b"%d" % (number % 5)}
    images = opened_tar(tmp_path, parts)
    assert numbers(images) == list(range(6))
    assert len(images) == 6
    assert capsys.readouterr().err == ""


def test_a_name_that_comes_twice_is_two_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number in (0, 1):
            for name, content in (("x.png", encoded(number)), ("x.cls", b"%d" % number)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    assert numbers(open_dataset(f"webdataset:{path}", COLOUR)) == [0, 1]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


def test_shards_from_a_server(shards: str) -> None:
    folder = str(Path(shards.partition(":")[2]).parent)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=folder)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"webdataset:http://127.0.0.1:{server.server_port}"
        images = open_dataset(f"{address}/part-{{00..02}}.tar", COLOUR)
        assert numbers(images, batch_size=4, workers=1) == list(range(21))
        with pytest.raises(InputError, match="does not say how many images it has"):
            len(images)
        with pytest.raises(InputError, match="none.tar cannot be read .*404"):
            open_dataset(f"{address}/none.tar", COLOUR)
        server.shutdown()
    with pytest.raises(InputError, match="what://x.tar cannot be opened .*[Pp]rotocol"):
        open_dataset("webdataset:what://x.tar", COLOUR)


# --- orders and parts


def test_a_shuffle_is_a_permutation_that_follows_torchs_seed(shards: str) -> None:
    images = open_dataset(shards, COLOUR)

    def order(seed: int, workers: int = 0) -> list[int]:
        torch.manual_seed(seed)
        return numbers(images, batch_size=4, shuffle=True, workers=workers)

    assert sorted(order(1)) == list(range(21))
    assert order(1) == order(1)
    assert order(1) == order(1, workers=2)
    assert len({tuple(order(seed)) for seed in range(4)}) == 4


def test_a_windows_shuffle_is_bounded_and_mixes() -> None:
    samples = [Sample(str(k), bytes(1 << 20)) for k in range(600)]
    found = [int(sample.name) for sample in shuffled(iter(samples), 5)]
    assert sorted(found) == list(range(600))
    lead = max(number - place for place, number in enumerate(found))
    assert 50 < lead <= 256  # 256 MB are 256 of them
    assert np.corrcoef(found[:200], range(200))[0, 1] < 0.9


def test_a_sample_is_the_beginning_of_the_shuffled_stream(shards: str) -> None:
    images = open_dataset(shards, COLOUR)
    first = numbers(images.sample(6, seed=3))
    assert len(set(first)) == 6
    assert first == numbers(images.sample(6, seed=3), workers=1)
    assert first != numbers(images.sample(6, seed=4))
    torch.manual_seed(0)
    assert sorted(numbers(images.sample(6, seed=3), shuffle=True)) == sorted(first)
    assert len(loader(images.sample(6), 4)) == 2
    assert images.sample(None) is images


def test_rows_of_a_stream_come_in_its_order(shards: str) -> None:
    images = open_dataset(shards, COLOUR)
    assert numbers(images.select([13, 2, 20, 2])) == [2, 13, 20]
    assert numbers(images.select([5, 9]).select([1])) == [9]
    assert len(images) == 21
    for row in (-1, 21):
        with pytest.raises(InputError, match=f"row {row} is outside"):
            images.select([row])


def test_a_stream_knows_its_length_or_says_what_to_give(shards: str) -> None:
    images = open_dataset(shards, COLOUR)
    assert count_of(loader(images, 4)) == 0  # not counted for a progress line
    assert len(loader(images, 4)) == 6
    assert count_of(loader(images, 4)) == 21
    endless = ImageStream("x", lambda _: iter(()), COLOUR, labelled=True)
    with pytest.raises(InputError, match="does not say how many images it has.*--images"):
        len(loader(endless))
    for name in ("names", "labels"):
        with pytest.raises(InputError, match=f"is a stream.*its {name} are not known"):
            getattr(endless, name)
    with pytest.raises(InputError, match="is a stream"):
        endless[0]


def test_memory_does_not_grow_with_the_stream() -> None:
    content = encoded(0)

    def many(count: int) -> Callable[[int | None], Iterator[Sample]]:
        return lambda _: (Sample(f"image {k}", content + bytes(20_000), 0) for k in range(count))

    def peak(count: int) -> int:
        images = ImageStream("x", many(count), COLOUR, labelled=True)
        tracemalloc.start()
        for _ in loader(images, 64):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(64)
    assert peak(1600) < 1.3 * peak(400)


# --- used by everything


@pytest.fixture
def tiny(tiny_preprocessing: Preprocessing) -> Classifier:
    return Classifier(tiny_cnn(), tiny_preprocessing, "tiny").eval()


def test_a_stream_is_evaluated_ranked_and_trained_on_as_the_images_in_memory(
    shards: str, tiny: Classifier
) -> None:
    images = open_dataset(shards, tiny.preprocessing)
    pixels, labels = contents(images)
    memory = cut(pixels, torch.tensor(labels), 6)
    for workers in (0, 1):
        stream = loader(images, 6, workers=workers)
        assert dc.evaluate(tiny, stream, ["awgn:40"]) == dc.evaluate(tiny, memory, ["awgn:40"])
    ours = dc.rank(tiny, loader(images, 6), ["awgn:40"], "gradient")
    theirs = dc.rank(tiny, memory, ["awgn:40"], "gradient")
    for site, scores in ours.priorities.items():
        assert torch.equal(scores, theirs.priorities[site])
    states = []
    for batches in (loader(images, 6), memory):
        adapted = dc.correct(tiny, ours, beta=0.5, unit="bottleneck")
        history = dc.fit(adapted, batches, ["awgn:40"], epochs=2, precision="float32")
        assert history.images_seen == 42
        states.append(adapted.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- datasets


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two splits in every form: saved, as Parquet files, and as image folders."""
    import datasets

    folder = tmp_path_factory.mktemp("hub")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    )
    splits = {}
    for split, start in (("train", 0), ("test", 6)):
        rows = [
            {"image": {"bytes": encoded(n), "path": f"{n}.png"}, "label": n % 3}
            for n in range(start, start + 6)
        ]
        splits[split] = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(str(folder / "both"))
    splits["test"].save_to_disk(str(folder / "one"))
    (folder / "files").mkdir()
    for split, table in splits.items():
        table.to_parquet(str(folder / "files" / f"{split}-00000-of-00001.parquet"))
    for number in range(6):
        place = folder / "images" / "train" / ("ant", "bee", "cat")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(encoded(number))
    return folder


@pytest.mark.parametrize("stream", ["", ":stream"])
@pytest.mark.parametrize("form", ["both:test", "one", "files:test"])
def test_data_sets_in_folders(saved: Path, form: str, stream: str) -> None:
    images = open_dataset(f"hf:{saved}/{form}{stream}", COLOUR)
    assert isinstance(images, ImageStream) == bool(stream)
    assert images.classes == ("ant", "bee", "cat")
    for workers in (0, 1) if form == "one" else (0,):
        found, labels = contents(images, batch_size=4, workers=workers)
        assert labels == [0, 1, 2, 0, 1, 2]
        assert all(torch.equal(found[k], expected(k + 6)) for k in range(6))
    assert count_of(loader(images)) == 6
    turned = images.matched(4, ("cat", "Bee", "dog", "ant"))
    assert contents(turned)[1] == [3, 1, 0, 3, 1, 0]
    assert images.labelled


def test_a_folder_of_images_streams_from_its_files(saved: Path) -> None:
    images = open_dataset(f"hf:{saved}/images:stream", COLOUR)
    found, labels = contents(images)
    assert labels == [0, 0, 1, 1, 2, 2]
    assert torch.equal(found[1], expected(3))


def test_slices_and_shuffles(saved: Path) -> None:
    images = open_dataset(f"hf:{saved}/both:train[2:]", COLOUR)
    assert contents(images)[1] == [2, 0, 1, 2]
    assert len(open_dataset(f"hf:{saved}/both:train[:50%]", COLOUR)) == 3
    assert contents(open_dataset(f"hf:{saved}/both:train[-2:-1]", COLOUR))[1] == [1]
    stream = open_dataset(f"hf:{saved}/both:train:stream", COLOUR)
    torch.manual_seed(2)
    assert sorted(contents(stream, shuffle=True)[1]) == [0, 0, 1, 1, 2, 2]
    assert sorted(contents(stream.sample(4, 1))[1]) == sorted(contents(stream.sample(4, 1))[1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("both", "has the splits train, test: name one, as in hf:.*both:train"),
        ("both:validation", "has no split 'validation': it has train, test"),
        ("both:train[x]", r"a slice is FROM:TO in rows or percent"),
        ("both:train[:2]:stream", "a stream cannot be sliced; use --images"),
        ("nowhere", "cannot be read .*Accepted: a name on the Hugging Face Hub"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_said(saved: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(f"hf:{saved}/{spec}", COLOUR)


def test_a_name_that_the_hub_cannot_be_asked_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="hf:nobody/nothing cannot be read"):
        open_dataset("hf:nobody/nothing:train", COLOUR)


def test_a_hub_data_set_is_asked_for_by_name_and_configuration(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands in for the Hub: `load_dataset` receives the arguments of the spec."""
    import datasets

    asked: list[Any] = []
    load = datasets.load_dataset

    def stand_in(name: str, configuration: str | None = None, **how: Any) -> Any:
        asked.append((name, configuration, how["streaming"]))
        return load(str(saved / "files"), **how)

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    assert len(open_dataset("hf:owner/name:test", COLOUR)) == 6
    assert len(open_dataset("hf:owner/name/small:test[:2]", COLOUR)) == 2
    assert contents(open_dataset("hf:owner/name:test:stream", COLOUR))[1] == [0, 1, 2, 0, 1, 2]
    assert asked == [
        ("owner/name", None, False),
        ("owner/name", "small", False),
        ("owner/name", None, True),
    ]


def test_bad_rows_of_a_stream_are_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": encoded(n), "path": None}, "label": n} for n in range(4)]
    rows[1]["image"] = None
    rows[2]["image"] = {"bytes": b"no image", "path": "two.png"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    images = open_dataset(f"hf:{tmp_path}:train:stream", COLOUR)
    assert contents(images)[1] == [0, 3]
    assert images.bad == [f"row 1 of {tmp_path.name}:train", "two.png"]


def test_a_recipe_runs_on_streams_without_labels(
    digits_test: ImageSet, tmp_path: Path, digits_model: Classifier
) -> None:
    """The clean network's predictions replace the labels, also for the part that has labels."""
    from deepcorrect.experiments._recipe import Recipe
    from deepcorrect.experiments._run import run

    for name, rows in (("train", range(60)), ("validation", range(60, 90))):
        parts: dict[str, bytes] = {}
        for row in rows:
            buffer = io.BytesIO()
            digits_test.decoded(row, lambda image, to=buffer: image.save(to, "PNG"))
            parts[f"{row:03}.png"] = buffer.getvalue()
        write_tar(tmp_path / f"{name}.tar", parts)
    values: dict[str, Any] = tiny_recipe(tmp_path) | {
        "ideal": {"images": 0},
        "selection": {"images": 8},
    }
    values["data"] = {
        "train": f"webdataset:{tmp_path}/train.tar",
        "validation": f"webdataset:{tmp_path}/validation.tar",
        "test": "digits:test",
        "test_images": 30,
        "batch_size": 15,
        "workers": 1,
    }
    values["ranking"] |= {"target": "prediction"}
    del values["systems"]["finetuned"]
    training = {"epochs": 1, "batch_size": 20, "precision": "float32", "objective": {"logits": 1}}
    values["systems"]["deepcorrect"]["training"] = training
    path = run(Recipe.model_validate(values), tmp_path / "run")
    record = json.loads(path.read_text())["systems"]["deepcorrect"]
    assert record["images_seen"] == 60
    values["systems"]["deepcorrect"]["training"] = training | {"objective": {"labels": 1}}
    with pytest.raises(InputError, match="train.tar has images without labels"):
        run(Recipe.model_validate(values), tmp_path / "other")
