"""A power cut at any moment of a write leaves the old or the new, or what is refused.

A simulated disk (benchmarks/reliability/disk.py) drops what was not made to last.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from test_cli import command

import deepcorrect as dc
from deepcorrect.runtime import InputError, files

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reliability import cases, mutations  # noqa: E402
from benchmarks.reliability.disk import Recorder, State, restore  # noqa: E402

LARGE = "".join(f"line {number}\n" for number in range(500))


def recorded(root: Path, work: Callable[[], object]) -> Recorder:
    root.mkdir(exist_ok=True)
    recorder = Recorder(root)
    with recorder.recording():
        work()
    return recorder


def contents(states: list[State], path: str) -> set[str | None]:
    """What a file holds in some states; None where it is absent."""
    found = [state.get(path) for state in states]
    return {None if each is None else each.decode() for each in found}


# --- the simulated disk itself


def test_a_write_that_is_not_made_to_last_may_be_lost_in_part(tmp_path: Path) -> None:
    def careless() -> None:
        (tmp_path / "disk" / "new.tmp").write_text("abcdef")
        os.replace(tmp_path / "disk" / "new.tmp", tmp_path / "disk" / "file")  # noqa: PTH105

    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_text("old")
    found = recorded(tmp_path / "disk", careless)
    assert contents(list(found.states.values()), "file") == {"old", "", "abc", "abcdef"}
    assert contents(found.last, "file") == {"old", "", "abc", "abcdef"}


def test_of_a_file_that_lasts_the_name_may_be_lost(tmp_path: Path) -> None:
    """`fsync` of a file keeps its content; the folder's keeps its entries, up to that moment."""
    root = tmp_path / "disk"

    def write() -> None:
        for name in ("one", "two"):
            with (root / name).open("w") as file:
                file.write(name)
                file.flush()
                os.fsync(file.fileno())

    found = recorded(root, write)
    assert [sorted(state) for state in found.last] == [[], ["one", "two"], ["one"]]
    assert contents(found.last, "one") == {None, "one"}


# --- our own writes


@pytest.mark.parametrize("old", [False, True], ids=["new", "over an old one"])
@pytest.mark.parametrize("kind", ["text", "bytes", "tensors", "checkpoint"])
def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, kind: str, old: bool) -> None:
    path = tmp_path / "disk" / "made" / "below" / "file"

    def write(text: str) -> None:
        values = {text[:6]: torch.arange(float(len(text)))}
        if kind == "text":
            files.write_text(path, text)
        elif kind == "bytes":
            files.write_bytes(path, text.encode())
        elif kind == "tensors":
            files.write_tensors(path, values)
        else:
            files.write_checkpoint(path, values)

    def whole(text: str) -> bytes:
        write(text)
        return path.read_bytes()

    before = whole("old")
    if not old:
        shutil.rmtree(tmp_path / "disk")
    found = recorded(tmp_path / "disk", lambda: write(LARGE))
    after, name = path.read_bytes(), "made/below/file"
    seen = {state.get(name) for state in found.states.values()}
    assert seen == {before if old else None, after}
    assert [state.get(name) for state in found.last] == [after] * len(found.last)
    assert not any(".tmp" in path for state in found.last for path in state)


def answer(read: Callable[[Path], object], state: State, place: Path) -> object:
    """What a reader says of a state; None if it refuses it with an error of ours."""
    restore(state, place)
    try:
        return read(place)
    except InputError:
        return None
    finally:
        shutil.rmtree(place)


def test_a_ranking_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    mutations.make_ranking(root)
    one = dc.load_ranking(root)
    old = mutations.read_ranking(root)
    changed = dc.Ranking(
        {site: 1 - values for site, values in one.by_level.items()},
        *("path", one.distortions, 10, 1.0),
        maps=one.maps,
        weights=one.weights,
        network=one.network,
    )
    found = recorded(root, lambda: changed.save(root))
    new = mutations.read_ranking(root)
    said = [
        answer(mutations.read_ranking, state, tmp_path / "cut") for state in found.states.values()
    ]
    assert len(said) > 4
    assert set(said) == {old, new}
    lasting = [answer(mutations.read_ranking, state, tmp_path / "cut") for state in found.last]
    assert set(lasting) == {new}


def test_an_adapter_is_the_old_or_the_new_one_or_refused(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    mutations.make_adapter(root)
    old = with_card(root)
    torch.manual_seed(8)
    adapted = dc.load_adapter(mutations.network(), root)
    with torch.no_grad():
        for values in adapted.state_dict().values():
            if values.is_floating_point():
                values.copy_(2 + torch.rand_like(values))
    found = recorded(root, lambda: adapted.save_pretrained(root, {"license": "mit"}))
    new = with_card(root)
    said = [answer(with_card, state, tmp_path / "cut") for state in found.states.values()]
    assert all(before != after for before, after in zip(old, new, strict=True))
    assert set(said) == {old, new, None}
    lasting = [answer(with_card, state, tmp_path / "cut") for state in found.last]
    assert set(lasting) == {new}


def with_card(folder: Path) -> tuple[str, str]:
    """What an adapter answers, and the card beside it."""
    return mutations.read_adapter(folder), (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["folder", "npy"])
def test_distort_goes_on_after_a_power_cut(tmp_path: Path, form: str) -> None:
    data = cases.draw_digits(tmp_path / "data", classes=2, each=1)
    given = ["distort", "--data", f"folder:{data}", "--distortion", "awgn:40", "--format", form]
    out = Path("new", "out")
    assert command(*given, "--out", tmp_path / "alone").status == 0
    expected = cases.digest(tmp_path / "alone")
    found = recorded(tmp_path / "disk", lambda: command(*given, "--out", tmp_path / "disk" / out))
    assert cases.digest(tmp_path / "disk" / out) == expected
    every = list(found.states.values())
    assert len(every) > 5
    for state in [*every[:: max(1, len(every) // 8)], *found.last]:
        with restored(state, tmp_path / "cut") as place:
            if state in found.last:
                assert cases.digest(place / out) == expected
            done = command(*given, "--out", place / out)
            assert done.status == 0, done.err
            assert cases.digest(place / out) == expected


@contextmanager
def restored(state: State, place: Path) -> Iterator[Path]:
    restore(state, place)
    try:
        yield place
    finally:
        shutil.rmtree(place)
