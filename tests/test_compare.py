"""Two rankings compared, by their numbers and by ideal correction."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import Batch, cut, tiny_cnn, with_convolutions_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from test_ranking import BLUR, DIGITS_SITES, blurred, clean_maps
from torch import Tensor

from deepcorrect.distortions import LevelledDistortion
from deepcorrect.networks import Classifier
from deepcorrect.ranking import IdealCorrection, Ranking, compare, ideal_correction, lead, rank
from deepcorrect.runtime import InputError


def ranking_of(values: dict[str, list[float]], method: str = "swap") -> Ranking:
    tensors = {site: torch.tensor([row], dtype=torch.float64) for site, row in values.items()}
    return Ranking(tensors, method, (LevelledDistortion("awgn", (10,)),), 9, 0.5)


@pytest.fixture(scope="module")
def ranked(digits_model: Classifier, digits_batch: Batch) -> Ranking:
    """The trained digits network's, on 48 blurred digits."""
    batches = cut(*digits_batch, 20)
    return rank(digits_model, batches, [BLUR], "gradient", DIGITS_SITES[:2])


# --- compare


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=25),
    st.floats(0.05, 1),
)
def test_agreement_is_scipys_spearman_and_the_overlap_of_sets(
    pairs: list[tuple[int, int]], beta: float
) -> None:
    one, other = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    first, second = ranking_of({"a": one}), ranking_of({"a": other})
    found = compare(first, second, beta)
    if len(set(one)) > 1 and len(set(other)) > 1:
        expected = float(spearmanr(one, other).statistic)  # pyright: ignore
        assert found.spearman["a"] == pytest.approx(expected, abs=1e-9)
        assert found.mean_spearman == found.spearman["a"]
    else:
        assert math.isnan(found.spearman["a"])
        assert math.isnan(found.mean_spearman)
    tops = [set(each.top(beta)["a"]) for each in (first, second)]
    assert found.overlap["a"] == pytest.approx(len(tops[0] & tops[1]) / len(tops[0]))
    assert found.beta == beta


def test_a_ranking_agrees_with_itself_and_disagrees_with_its_reverse() -> None:
    drawn = np.random.default_rng(0).permutation(20).astype(float).tolist()
    ranking, reverse = ranking_of({"a": drawn}), ranking_of({"a": [-x for x in drawn]})
    same, other = compare(ranking, ranking), compare(ranking, reverse)
    assert (same.mean_spearman, same.mean_overlap) == (pytest.approx(1), 1)
    assert (other.mean_spearman, other.mean_overlap) == (pytest.approx(-1), 0)


def test_only_shared_sites_are_compared_and_means_pass_over_constant_ones() -> None:
    first = ranking_of({"a": [1, 2, 3, 4], "b": [1, 1, 1], "c": [0, 1], "d": [5]})
    second = ranking_of({"d": [2], "c": [1, 0], "b": [3, 1, 2], "a": [1, 2, 3, 4], "e": [1]})
    found = compare(first, second, 0.5)
    assert list(found.spearman) == list(found.overlap) == ["a", "b", "c", "d"]
    assert [site for site, value in found.spearman.items() if math.isnan(value)] == ["b", "d"]
    assert found.mean_spearman == pytest.approx((1 - 1) / 2)
    assert found.overlap == {"a": 1.0, "b": 0.5, "c": 0.0, "d": 1.0}
    assert found.mean_overlap == pytest.approx(2.5 / 4)


@pytest.mark.parametrize(
    ("other", "beta", "message"),
    [
        ({"z": [1.0, 2.0]}, 0.5, "share no site: the first has a, the second z"),
        ({"a": [1.0, 2.0]}, 0.5, "site 'a' has 3 filters in one ranking and 2 in the other"),
        ({"a": [1.0, 2.0, 3.0]}, 0.0, "beta=0.0 is not a share"),
        ({"a": [1.0, 2.0, 3.0]}, 1.5, "beta=1.5 is not a share"),
    ],
)
def test_rankings_of_different_networks_are_refused(
    other: dict[str, list[float]], beta: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compare(ranking_of({"a": [1, 2, 3]}), ranking_of(other), beta)


# --- lead


def curves(shares: Tensor, seed: int = 0) -> IdealCorrection:
    """One site, two levels, three betas; image i is right with probability `shares[i]`."""
    drawing = torch.Generator().manual_seed(seed)
    right = torch.rand(2, 3, len(shares), generator=drawing) < shares
    before = torch.zeros(2, len(shares), dtype=torch.bool)
    return IdealCorrection(
        (0.1, 0.5, 0.9), (LevelledDistortion("awgn", (1, 2)),), {"a": right}, before
    )


def test_equal_curves_have_no_lead() -> None:
    one = curves(torch.full((40,), 0.6))
    found = lead(one, one)
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_the_lead_is_the_difference_of_mean_areas_inside_its_interval() -> None:
    good, bad = curves(torch.full((200,), 0.8), 1), curves(torch.full((200,), 0.4), 2)
    found, other = lead(good, bad), lead(bad, good)
    assert found.mean == pytest.approx(good.area("a") - bad.area("a"))
    assert 0 < found.low < found.mean < found.high
    assert (other.mean, other.low, other.high) == pytest.approx(
        (-found.mean, -found.high, -found.low), abs=5e-3
    )
    assert lead(good, bad) == found, "the resampling is seeded"


def test_the_leads_interval_is_as_wide_as_the_central_limit_says() -> None:
    one, other = curves(torch.rand(400), 1), curves(torch.rand(400), 2)
    difference = (one.by_image - other.by_image).numpy()
    error = float(difference.std() / np.sqrt(400))
    found = lead(one, other, 4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_curves_are_means_over_images() -> None:
    found = curves(torch.linspace(0, 1, 30))
    right = found.right["a"].numpy()
    assert found.images == 30
    assert np.allclose(found.top1["a"].numpy(), right.mean(2))
    assert found.area("a") == pytest.approx(right.mean())
    assert np.allclose(found.by_image.numpy(), right.mean((0, 1)))
    assert found.distorted_top1.tolist() == [0, 0]


# --- ideal correction


def test_ideally_correcting_every_filter_gives_clean_accuracy(
    digits_model: Classifier, digits_batch: Batch, ranked: Ranking
) -> None:
    """Nothing but the site lies between the image and what follows it."""
    images, labels = digits_batch
    found = ideal_correction(
        digits_model, cut(images, labels, 20), ranked, [1.0], [BLUR, "awgn:100"]
    )
    with torch.no_grad():
        clean = float((digits_model(images).argmax(1) == labels).double().mean())
        distorted = float((digits_model(blurred(images)).argmax(1) == labels).double().mean())
    assert distorted < clean
    assert float(found.distorted_top1[0]) == pytest.approx(distorted)
    for site in found.top1:
        assert found.top1[site].flatten().tolist() == pytest.approx([clean] * 2)


def test_ideal_correction_is_a_full_pass_with_the_first_filters_swapped(
    digits_model: Classifier, digits_batch: Batch, ranked: Ranking
) -> None:
    images, labels = digits_batch
    ranking = ranked
    betas = (0.25, 0.5)
    found = ideal_correction(digits_model, cut(images, labels, 20), ranking, betas)
    normalised = (blurred(images) - digits_model.mean) / digits_model.std
    for site in ranking.sites:
        clean = clean_maps(digits_model, images, [site])[site]
        for column, beta in enumerate(betas):
            count = int(beta * clean.shape[1])
            best = ranking.by_level[site][0].topk(count).indices

            def swap(maps: Tensor, c: Tensor = clean, b: Tensor = best) -> Tensor:
                maps[:, b] = c[:, b]
                return maps

            with torch.no_grad():
                logits = with_convolutions_by_hand(digits_model.network, {site: swap}, normalised)
            expected = float((logits.argmax(1) == labels).double().mean())
            assert float(found.top1[site][0, column]) == pytest.approx(expected)
        assert found.area(site) == pytest.approx(float(found.top1[site].mean()))


def test_ideal_corrections_json_is_by_site_and_distortion(
    classifier: Classifier, batches: list[Batch]
) -> None:
    ranking = rank(classifier, batches, ["gaussian_blur:1,2", "awgn:30"], "random", ["stem"])
    found = ideal_correction(classifier, batches, ranking, (0.5, 1.0))
    written = json.loads(json.dumps(found.to_json()))
    assert written["levels"] == {"gaussian_blur": [1, 2], "awgn": [30]}
    assert written["top1"]["stem"]["gaussian_blur"] == found.top1["stem"][:2].tolist()
    assert written["top1"]["stem"]["awgn"] == found.top1["stem"][2:].tolist()
    assert written["distorted_top1"]["awgn"] == found.distorted_top1[2:].tolist()
    assert (written["betas"], written["images"]) == ([0.5, 1.0], 12)


def test_ideal_correction_refuses_bad_betas_and_no_images(batches: list[Batch]) -> None:
    network = tiny_cnn()
    ranking = rank(network, batches, ["awgn:30"], "random", ["stem"])
    with pytest.raises(InputError, match="beta=0 is not a share"):
        ideal_correction(network, batches, ranking, [0])
    with pytest.raises(InputError, match="no images"):
        ideal_correction(network, [], ranking)
