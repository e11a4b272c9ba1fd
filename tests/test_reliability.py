"""Short forms of the reliability campaign, whose figures are in docs/reliability.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_cli import command

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reliability import bombs, cases, kills, mutations, soak, threads  # noqa: E402

MUTATIONS = 25
LARGE = ("memory: archive of 4 GB", "memory: tar entry", "memory: image", "memory: a number of 40")
"""Cases that take many seconds to write or to refuse: the script alone runs them."""


@pytest.mark.parametrize(
    "name", [name for name in mutations.TARGETS if not name.startswith(mutations.SLOW)]
)
def test_mutated_files_are_read_as_they_were_or_refused_with_our_own_error(name: str) -> None:
    found = mutations.campaign(name, MUTATIONS, seed=1)
    assert found["errors"] == {}
    assert found["refused"] + found["same"] + found["other"] == MUTATIONS
    assert found["refused"] > 0


@pytest.mark.parametrize("name", [name for name in bombs.CASES if not name.startswith(LARGE)])
def test_nothing_runs_fills_the_memory_or_reaches_outside(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "case"
    cases.draw_digits(folder / "digits", each=1)
    arguments = bombs.CASES[name](folder)
    before = set(tmp_path.rglob("*"))
    monkeypatch.chdir(folder)
    said = command(*arguments)
    assert said.status == (0 if name.startswith(bombs.SOME_GOOD) else 1), said.err
    assert "Traceback" not in said.err
    assert "--debug shows where" not in said.err  # an error that is not ours
    made = set(tmp_path.rglob("*")) - before
    assert [path for path in made if not path.is_relative_to(folder / "out")] == []


def test_eight_threads_on_one_corrected_network() -> None:
    counts = threads.campaign(80, 8, seed=2)
    assert counts["differ"] == counts["differ afterwards"] == 0
    assert min(counts[way] for way in (*threads.WAYS, "evaluations")) > 0


def test_names_on_standard_input_are_answered_alike_again_and_again(tmp_path: Path) -> None:
    found = soak.soak(cases.draw_digits(tmp_path / "data", classes=3, each=2), 4.0, seed=3)
    assert found["bad"] == {"wrong": 0, "unanswered": 0}
    assert found["status"] in (0, 1)  # 1 where a name that cannot be read was given
    assert found["answers"] > 6


def test_a_killed_distort_goes_on_and_writes_the_same(tmp_path: Path) -> None:
    data = cases.make_data(tmp_path / "data")
    arguments = kills.commands(data)["distort"]
    expected, seconds = kills.whole("distort", arguments, tmp_path)
    given = "distort", arguments, expected, seconds
    counts = kills.series(*given, seed=4, cold=1, cold_seconds=seconds)
    assert counts["series"] == 1
    assert {key: counts[key] for key in kills.BAD if counts[key]} == {}
