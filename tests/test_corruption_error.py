"""Corruption error: against sums done by hand, with what is missing left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepcorrect.evaluation._corruption_error import (
    ALEXNET,
    ALEXNET_CLEAN,
    ALEXNET_REFERENCE,
    COMMON,
    EXTRA,
    SEVERITIES,
    corruption_error,
    reference_for,
)
from deepcorrect.runtime import InputError


def curve(
    errors: list[float], clean: float | None = None, levels: tuple[float, ...] = SEVERITIES
) -> dict[str, Any]:
    """What a system's record says of one distortion, from errors."""
    return {
        "levels": list(levels),
        "top1": [1 - error for error in errors],
        "clean_top1": None if clean is None else 1 - clean,
    }


FOG, SNOW = [0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0.3, 0.4, 0.5, 0.5]


def test_over_alexnet_by_hand() -> None:
    found = corruption_error({"fog": curve(FOG, 0.1), "snow": curve(SNOW, 0.1)}, ALEXNET_REFERENCE)
    fog, snow = 1.5 / (5 * 0.819324), 2.0 / (5 * 0.866816)
    assert found["by_corruption"]["fog"]["ce"] == pytest.approx(fog)
    assert found["mce"] == pytest.approx((fog + snow) / 2)
    fog, snow = 1.0 / (5 * 0.819324 - 5 * 0.434846), 1.5 / (5 * 0.866816 - 5 * 0.434846)
    assert found["relative_mce"] == pytest.approx((fog + snow) / 2)
    assert found["mean"] == pytest.approx((0.3 + 0.4) / 2)
    assert found["by_corruption"]["snow"]["errors"] == pytest.approx(SNOW)
    assert found["reference"] == "alexnet"


def test_alexnet_itself_has_one() -> None:
    curves = {name: curve([error] * 5, ALEXNET_CLEAN) for name, error in ALEXNET.items()}
    found = corruption_error(curves, ALEXNET_REFERENCE)
    assert (found["mce"], found["relative_mce"]) == (pytest.approx(1), pytest.approx(1))
    assert (found["in_mce"], found["missing"]) == (15, [])


def test_alexnets_errors_are_of_the_benchmarks_nineteen() -> None:
    assert set(ALEXNET) == {*COMMON, *EXTRA}
    assert all(ALEXNET_CLEAN < error < 1 for error in ALEXNET.values())


def test_without_a_reference_it_is_the_mean_error() -> None:
    found = corruption_error({"fog": curve(FOG, 0.1), "snow": curve(SNOW, 0.1)}, None)
    assert found["mce"] == found["mean"] == pytest.approx(0.35)
    assert found["relative_mce"] == pytest.approx(0.25)
    assert found["reference"] is None


def test_without_clean_images_nothing_is_relative() -> None:
    found = corruption_error({"fog": curve(FOG)}, ALEXNET_REFERENCE)
    assert found["mce"] is not None
    assert found["relative_mce"] is None
    assert found["by_corruption"]["fog"]["relative_ce"] is None


def test_the_extra_four_and_others_are_reported_and_left_out() -> None:
    alone = corruption_error({"fog": curve(FOG, 0.1)}, ALEXNET_REFERENCE)
    others = {"spatter": curve(SNOW, 0.1), "awgn": curve([0.9], 0.1, (20,))}
    found = corruption_error({**others, "fog": curve(FOG, 0.1)}, ALEXNET_REFERENCE)
    for key in ("mean", "mce", "relative_mce", "in_mce", "missing"):
        assert found[key] == alone[key]
    assert (found["in_mce"], len(found["missing"])) == (1, 14)
    spatter = found["by_corruption"]["spatter"]
    assert spatter["group"] == "extra"
    assert spatter["ce"] == pytest.approx(2.0 / (5 * 0.717512))
    assert found["by_corruption"]["awgn"]["group"] == "other"
    assert found["by_corruption"]["awgn"]["ce"] is None


def test_some_severities_are_not_divided_by_all_of_alexnets() -> None:
    curves = {"fog": curve([0.1, 0.2], 0.1, (1, 3)), "snow": curve(SNOW, 0.1)}
    found = corruption_error(curves, ALEXNET_REFERENCE)
    assert found["by_corruption"]["fog"]["ce"] is None
    assert found["mce"] == pytest.approx(2.0 / (5 * 0.866816))
    assert found["in_mce"] == 1
    assert "fog" in found["missing"]
    assert found["mean"] == pytest.approx((0.15 + 0.4) / 2)
    assert corruption_error({"awgn": curve([0.2], 0.1, (20,))}, None)["mce"] is None


def test_any_network_can_be_the_reference(tmp_path: Path) -> None:
    theirs = {"fog": curve([0.2, 0.4], 0.1, (1, 2)), "snow": curve([0.5], 0.1, (1,))}
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"distortions": theirs}))
    reference = reference_for(str(path))
    ours = {"fog": curve([0.2, 0.1], 0.05, (1, 2)), "snow": curve([0.3, 0.4], 0.05, (1, 2))}
    found = corruption_error(ours, reference)
    assert found["mce"] == pytest.approx(0.3 / 0.6)
    assert found["relative_mce"] == pytest.approx((0.3 - 0.1) / (0.6 - 0.2))
    assert found["by_corruption"]["snow"]["ce"] is None, "the reference has not seen its level 2"
    assert found["reference"] == str(path)
    perfect = reference_for(str(path))
    assert perfect is not None
    faultless = tmp_path / "faultless.json"
    faultless.write_text(json.dumps({"distortions": {"fog": curve([0.0, 0.0], None, (1, 2))}}))
    assert corruption_error(ours, reference_for(str(faultless)))["mce"] is None


def test_names_of_references(tmp_path: Path) -> None:
    assert reference_for(None) is None
    assert reference_for(None, ALEXNET_REFERENCE) is ALEXNET_REFERENCE
    assert reference_for("alexnet") is ALEXNET_REFERENCE
    assert reference_for("none", ALEXNET_REFERENCE) is None
    with pytest.raises(InputError, match="there is no file resnet. --reference takes alexnet"):
        reference_for("resnet")
    for text in ("{}", "[]", '{"distortions": {}}', '{"distortions": {"fog": {"levels": [1]}}}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(InputError, match="is not the output of 'deepcorrect evaluate --json'"):
            reference_for(str(tmp_path / "other.json"))
