"""Several processes share the work of one: the same figures, each image decoded once."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZE, Batch, cut, tiny_cnn
from PIL import Image
from several import ACCELERATE, TORCHRUN, ended, launched, needs_gloo, started
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect import runtime
from deepcorrect.data import ImageSet, Preprocessing, every_nth
from deepcorrect.data._sample import Place
from deepcorrect.distortions import DistortedCache, Distortion, stored
from deepcorrect.evaluation import compare, evaluate_stored
from deepcorrect.networks import Classifier
from deepcorrect.ranking import Ranking, ideal_correction, load_ranking, rank
from deepcorrect.runtime import OtherProcessError, files

WORLD = 3
GRID = ["awgn:10,40", "gaussian_blur:1"]


def small(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(tiny_cnn(), Preprocessing(SIZE, (0.5,) * 3, (0.05,) * 3), "tiny").eval()


def some_batches() -> list[Batch]:
    """Five batches, the last a small one: the processes' shares differ."""
    images = torch.rand(18, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return cut(images, small()(images).argmax(1), 4)


class Pictures:
    """Pictures of which some cannot be read, and which were read in this process."""

    def __init__(self, bad: tuple[int, ...]) -> None:
        self.bad, self.read = bad, []

    def __call__(self, row: int) -> Image.Image:
        self.read.append(row)
        if row in self.bad:
            raise OSError("cut off")
        pixels = np.random.default_rng(row).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        return Image.fromarray(pixels)


def picture_set(*bad: int) -> tuple[ImageSet, Pictures]:
    pictures = Pictures(bad)
    fit = Preprocessing(SIZE, (0.5,) * 3, (0.05,) * 3)
    labels = [row % 5 for row in range(23)]
    return ImageSet("pictures", pictures, labels, map(str, range(23)), fit), pictures


def evaluated_shards() -> tuple[Any, list[int]]:
    """The accuracy on two shards, one of whose images cannot be read, and what this one read."""
    read: list[int] = []
    whole = Place.read
    pictures = Pictures(())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for shard in range(2):
            with tarfile.open(f"{folder}/{shard}.tar", "w") as archive:
                for row in range(12 * shard, 12 * shard + 12):
                    buffer = io.BytesIO()
                    pictures(row).save(buffer, "PNG")
                    content = buffer.getvalue()[: 40 if row == 5 else None]
                    for name, part in ((f"{row:02}.png", content), (f"{row:02}.cls", b"1")):
                        member = tarfile.TarInfo(name)
                        member.size = len(part)
                        archive.addfile(member, io.BytesIO(part))
        patch.setattr(Place, "read", lambda place: read.append(place.size) or whole(place))
        images = dc.open_dataset(f"webdataset:{folder}/{{0,1}}.tar", small().preprocessing)
        read.clear()
        grid = dc.evaluate(small(), dc.loader(images, 4), GRID, seed=3)
    return [grid.to_json(), grid.images], read


class Counting(nn.Module):
    """Answers as its network does, and counts the images since each level's start."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.seen = small(), 0

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.network(images) + self.seen * torch.linspace(0, 0.1, 5)


def ranked(method: str, batches: list[Batch]) -> Ranking:
    return rank(small(), batches, GRID, method, ["stem", "pointwise"], seed=5)


def curves_of(ranking: Ranking, batches: list[Batch]) -> dict[str, Tensor]:
    found = ideal_correction(small(), batches, ranking, (0.25, 0.5))
    named = {f"right/{site}": values.byte() for site, values in found.right.items()}
    return {**named, "before": found.distorted_right.byte()}


def measurements() -> Iterator[tuple[str, Any]]:
    """Everything that is measured, by name, ready for JSON."""
    images, pictures = picture_set(3, 9, 22)
    batches = dc.loader(images, 4)
    grid = dc.evaluate(small(), batches, GRID, seed=3)
    yield "evaluate", [grid.to_json(), grid.images]
    yield "read", pictures.read.copy()
    images.warn_of_bad()
    yield "bad", images.bad
    shards, read = evaluated_shards()
    yield "shards", shards
    yield "read of shards", read
    cache = DistortedCache()
    twice = [dc.evaluate(small(), batches, GRID, seed=3, cache=cache) for _ in range(2)]
    yield "cached", [each.to_json() for each in twice]
    unlabelled = [(images, torch.full_like(labels, -1)) for images, labels in some_batches()]
    grid = dc.evaluate(small(1), unlabelled, GRID, reference=small())
    yield "agreement", [grid.to_json(), grid.target]
    yield "adapting", dc.evaluate(Counting(), some_batches(), GRID).to_json()
    found = compare(small(), small(1), some_batches(), GRID)
    yield "compare", [found.gain, found.interval, found.clean_interval]
    parts = {"fog": {1.0: some_batches, 2.0: lambda: some_batches()[:2]}}
    yield "stored", evaluate_stored(small(), parts, some_batches()).to_json()
    transfer = dc.feature_transfer(small(), batches, batches, GRID, penalties=[1.0])
    yield "transfer", [transfer.grid.to_json(), transfer.svm.weight.tolist()]


def failing(index: int) -> str:
    """What each process raises where a batch of the second one has an unknown label."""
    batches = some_batches()
    batches[1][1][2] = 77
    try:
        dc.evaluate(small(), batches, "gaussian_blur:1")
    except OtherProcessError:
        return "another"
    except dc.DeepCorrectError as error:
        return str(error)
    return "nothing"


def work(folder: Path, index: int) -> None:
    ranked("gradient", some_batches()).save(folder / f"ranking-{index}")
    few = ranked("gradient", some_batches()[:1])  # the other processes have nothing to do
    few.save(folder / f"few-{index}")
    first = load_ranking(folder / f"ranking-{index}")
    files.write_tensors(folder / f"curves-{index}", curves_of(first, some_batches()))
    files.write_json(folder / f"measured-{index}.json", dict(measurements()))
    for form in ("folder", "npy", "parquet"):
        stored.write_distorted(
            "digits:test", ["awgn:80"], folder / form, form, images=25, batch_size=4
        )
    files.write_json(folder / f"failing-{index}.json", failing(index))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which three processes wrote what they found."""
    folder = tmp_path_factory.mktemp("together")
    assert ended(started(work, folder, WORLD)) == [0] * WORLD
    return folder


@needs_gloo
def test_processes_rank_as_one_does(together: Path) -> None:
    alone = ranked("gradient", some_batches())
    found = [load_ranking(together / f"ranking-{index}") for index in range(WORLD)]
    for site in alone.sites:
        for each in found:
            assert torch.equal(each.by_level[site], found[0].by_level[site])
            assert torch.allclose(each.by_level[site], alone.by_level[site], atol=1e-6)
        assert bool(alone.by_level[site].any())
    for each in found:
        assert each.images == alone.images == 18
        assert (each.target, each.maps, each.network) == (alone.target, alone.maps, alone.network)
        assert each.distortions == alone.distortions


@needs_gloo
def test_a_process_may_have_nothing_to_do(together: Path) -> None:
    alone = ranked("gradient", some_batches()[:1])
    for index in range(WORLD):
        found = load_ranking(together / f"few-{index}")
        assert found.images == 4
        for site in alone.sites:
            assert torch.equal(found.by_level[site], alone.by_level[site])


@needs_gloo
def test_processes_find_the_ideal_correction_that_one_finds(together: Path) -> None:
    alone = curves_of(load_ranking(together / "ranking-0"), some_batches())
    for index in range(WORLD):
        found = files.read_tensors(together / f"curves-{index}")
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            assert torch.equal(found[name], values), name


def flat(value: Any) -> list[Any]:
    """All values inside nested lists and mappings, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    return [each for inner in value for each in flat(inner)] if isinstance(value, list) else [value]


@needs_gloo
def test_processes_measure_what_one_measures(together: Path) -> None:
    alone = dict(measurements())
    found = [files.read_json(together / f"measured-{index}.json") for index in range(WORLD)]
    read = [each.pop("read") for each in found]
    first = [0, 1, 2, 3]  # each reads the first batch once more, which settles what is right
    expected = sorted([*first * WORLD, *alone.pop("read")])
    assert sorted(row for rows in read for row in rows) == expected
    assert [len(rows) - len(first) for rows in read] == [8, 8, 7]
    read = [each.pop("read of shards") for each in found]
    alone_read = alone.pop("read of shards")
    assert len(alone_read) == 24
    assert [len(sizes) - len(first) for sizes in read] == [8, 8, 8]
    total = [*alone_read[:4] * WORLD, *alone_read]
    assert sorted(size for sizes in read for size in sizes) == sorted(total)
    assert alone["shards"][1] == 23
    for each in found:
        assert each.keys() == alone.keys()
        for name, values in alone.items():
            for one, other in zip(flat(values), flat(each[name]), strict=True):
                assert one == (pytest.approx(other, abs=1e-6) if isinstance(one, float) else other)


@needs_gloo
def test_processes_write_the_distorted_copies_of_one(together: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    for form in ("folder", "npy", "parquet"):
        stored.write_distorted("digits:test", ["awgn:80"], tmp_path / form, form, images=25)
        names = sorted(
            path.relative_to(tmp_path) for path in (tmp_path / form).rglob("*") if path.is_file()
        )
        assert len(names) > 1
        for name in names:
            one, other = tmp_path / name, together / name
            if name.suffix == ".parquet":
                assert pyarrow.read_table(one).equals(pyarrow.read_table(other))
            else:
                assert one.read_bytes() == other.read_bytes()


@needs_gloo
def test_an_error_in_one_process_ends_all(together: Path) -> None:
    said = [files.read_json(together / f"failing-{index}.json") for index in range(WORLD)]
    assert [said[0], said[2]] == ["another"] * 2
    assert said[1].startswith("the data has label 77")


def test_every_nth_batch_has_the_images_that_the_whole_loader_has_there() -> None:
    images, pictures = picture_set()
    for shuffle in (False, True):
        torch.manual_seed(4)
        whole = list(dc.loader(images, 4, shuffle=shuffle))
        pictures.read.clear()
        parts: list[list[Any]] = []
        for first in range(3):
            torch.manual_seed(4)
            parts.append(list(every_nth(dc.loader(images, 4, shuffle=shuffle), first, 3)))
        assert sorted(pictures.read) == list(range(23))
        for number, (pixels, labels) in enumerate(whole):
            found = parts[number % 3][number // 3]
            assert torch.equal(found[0], pixels)
            assert torch.equal(found[1], labels)


# --- launched


@pytest.fixture(scope="module")
def launched_rank(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("launched") / "ranking"
    done = launched(
        *(TORCHRUN, "rank", "--model", "digits_cnn", "--data", "digits:test", "--images", 8),
        *("--batch-size", 3, "--distortion", "awgn:60", "--sites", "features.0.0"),
        *("--method", "gradient", "--out", folder, "--json", "--device", "cpu"),
    )
    return folder, done


@needs_gloo
def test_a_launched_rank_prints_and_writes_one_ranking(
    launched_rank: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = launched_rank
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["images"] == 8
    ranking = load_ranking(folder)
    assert said["priorities"]["features.0.0"] == ranking.priorities["features.0.0"].tolist()
    assert done.stderr.count("ranking: ") == 1


@needs_gloo
def test_a_launched_error_is_one_line() -> None:
    done = launched(ACCELERATE, "evaluate", "--model", "digits_cnn", "--data", "digits:nowhere")
    assert done.returncode == 1
    assert done.stderr.count("unknown data 'digits:nowhere'") == 1
    assert not done.stdout


def test_outside_a_launch_nothing_is_shared() -> None:
    value = torch.arange(3)
    assert runtime.process_count() == 1
    assert runtime.process_index() == 0
    assert runtime.total(value) is value
    assert runtime.gathered(value) == [value]
    assert runtime.agree(4) == [4]
    with runtime.together(), runtime.alone():
        assert runtime.from_main(lambda: "here") == "here"
