"""The analyses' numbers, against plain loops over images, scikit-image and scikit-learn."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from conftest import CLASSES, Batch, TinyCNN, cut, with_convolutions_by_hand
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect import analysis, networks
from deepcorrect.correction import AdaptedModel
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.experiments import report
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, seeds_for

CHOSEN = {"stem": [1, 4, 6], "pointwise": [0, 11]}
GRID = (LevelledDistortion("awgn", (20, 60)), LevelledDistortion("gaussian_blur", (1.0,)))
LEVELS = [(kind, level) for kind in GRID for level in kind.levels]


def disturbed(model: nn.Module, seed: int = 5) -> AdaptedModel:
    """Units that change maps: their last layers are not zero any more."""
    adapted = dc.correct(model, CHOSEN, unit={"kind": "bottleneck", "dilations": [1]})
    drawing = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapted.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=drawing))
    return adapted


@pytest.fixture
def adapted(classifier: Classifier) -> AdaptedModel:
    return disturbed(classifier)


def distorted(images: Tensor, kind: LevelledDistortion, level: float, seed: int = 0) -> Tensor:
    """As the analyses of maps distort the images, all in one batch."""
    seeds = seeds_for(seed, kind.name, level, first=0, count=len(images))
    return kind(images, level, seeds)


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), networks.tap(model, CHOSEN) as found:
        model(images)
    return dict(found)


# --- maps


def test_maps_are_compared_as_scikit_image_does_one_image_after_the_other(
    adapted: AdaptedModel, images: Tensor, batches: list[Batch]
) -> None:
    found = analysis.map_quality(adapted, batches, GRID)
    assert found.images == len(images)
    clean = outputs(adapted.network, images)
    for level, (kind, strength) in enumerate(LEVELS):
        shown = distorted(images, kind, strength)
        for after, model in enumerate((adapted.network, adapted)):
            maps = outputs(model, shown)
            for site, filters in CHOSEN.items():
                for place, number in enumerate(filters):
                    ratios, alike = [], []
                    for one, other in zip(clean[site], maps[site], strict=True):
                        x, y = (m[number].double().numpy() for m in (one, other))
                        low, peak = x.min(), np.ptp(x)
                        ratios.append(peak_signal_noise_ratio(x, y, data_range=peak))
                        scaled = ((x - low) / peak, (y - low) / peak)
                        alike.append(structural_similarity(*scaled, data_range=1))
                    got = {
                        name: found.values[name][site][level, after, place] for name in found.values
                    }
                    assert float(got["psnr"]) == pytest.approx(np.mean(ratios), abs=1e-3)
                    assert float(got["ssim"]) == pytest.approx(np.mean(alike), abs=1e-4)


def test_untrained_units_change_no_map(classifier: Classifier, batches: list[Batch]) -> None:
    found = analysis.map_quality(dc.correct(classifier, CHOSEN), batches, GRID)
    for by_site in found.values.values():
        for values in by_site.values():
            torch.testing.assert_close(values[:, 0], values[:, 1])


def test_batches_do_not_matter(adapted: AdaptedModel, images: Tensor, labels: Tensor) -> None:
    one, other = (
        analysis.map_quality(adapted, cut(images, labels, size), GRID) for size in (12, 5)
    )
    for measure, by_site in one.values.items():
        for site, values in by_site.items():
            torch.testing.assert_close(values, other.values[measure][site], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("measure", [analysis.map_quality, analysis.ideal_against_learned])
def test_images_stream_through(
    measure: Callable[..., Any], adapted: AdaptedModel, images: Tensor, labels: Tensor
) -> None:
    seen: list[weakref.ref[Tensor]] = []

    class Streamed:
        def __iter__(self) -> Iterator[Batch]:
            for _ in range(6):
                batch = images.clone()
                assert sum(ref() is not None for ref in seen) <= 1  # the one before, at most
                seen.append(weakref.ref(batch))
                yield batch, labels
                del batch

    found = measure(adapted, Streamed(), GRID[1:])
    assert found.images == 6 * len(images)


def test_a_filter_that_is_constant_on_clean_images_is_left_out(
    network: TinyCNN, classifier: Classifier, batches: list[Batch]
) -> None:
    with torch.no_grad():
        network.stem.weight[4] = 0
    found = analysis.map_quality(disturbed(classifier), batches, GRID)
    assert found.values["psnr"]["stem"][:, :, 1].isnan().all()
    assert found.values["psnr"]["stem"][:, :, [0, 2]].isfinite().all()
    summary = found.to_json()["distortions"]["awgn"]["psnr"]["sites"]["stem"]["all"]
    assert summary["improved"] in (0.0, 0.5, 1.0)  # of two filters


def test_a_spread_is_of_medians_and_of_the_share_that_gains() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, torch.nan], [2.0, 1.5, 5.0, 9.0]])
    assert analysis.Spread.of(values) == analysis.Spread(2.0, 2.0, 1.0, 2 / 3)
    nothing = torch.full((2, 3), torch.nan)
    assert analysis.Spread.of(nothing) == analysis.Spread(None, None, None, None)


def test_a_distortions_rows_and_the_summary_of_all_its_filters(
    adapted: AdaptedModel, batches: list[Batch]
) -> None:
    found = analysis.map_quality(adapted, batches, GRID)
    assert (found.rows("awgn"), found.rows("gaussian_blur")) == (slice(0, 2), slice(2, 3))
    assert found.of("psnr", "awgn").shape == (2, 5)
    summary = found.to_json()
    assert summary["filters"] == {"stem": 3, "pointwise": 2}
    means = torch.cat([values[:2].mean(0) for values in found.values["ssim"].values()], 1)
    median = float((means[1] - means[0]).median())
    assert summary["distortions"]["awgn"]["ssim"]["all"]["gain"] == pytest.approx(median)


# --- ideal against learned


def test_the_yardstick_is_what_hooks_by_hand_give(
    adapted: AdaptedModel, network: TinyCNN, classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    found = analysis.ideal_against_learned(adapted, cut(images, labels, 5), GRID)
    clean = outputs(classifier, images)

    def top1(logits: Tensor) -> float:
        return float((logits.argmax(1) == labels).double().mean())

    def swapped(site: str) -> Any:
        def edit(output: Tensor) -> Tensor:
            output[:, CHOSEN[site]] = clean[site][:, CHOSEN[site]]
            return output

        return edit

    for kind, strength in LEVELS:
        shown = distorted(images, kind, strength)
        normalised = (shown - classifier.mean) / classifier.std
        place = kind.levels.index(strength)
        by_hand = with_convolutions_by_hand(network, {s: swapped(s) for s in CHOSEN}, normalised)
        got = found.top1[kind.name]
        assert got["ideal"][place] == pytest.approx(top1(by_hand))
        assert got["baseline"][place] == pytest.approx(top1(classifier(shown)))
        assert got["learned"][place] == pytest.approx(top1(adapted(shown)))
    assert found.clean_top1 == pytest.approx(top1(classifier(images)))
    assert found.learned_clean_top1 == pytest.approx(top1(adapted(images)))


def test_all_filters_of_the_last_site_give_the_clean_accuracy_back(
    classifier: Classifier, batches: list[Batch]
) -> None:
    whole = dc.correct(classifier, {"pointwise": list(range(12))})
    found = analysis.ideal_against_learned(whole, batches, GRID)
    for curves in found.top1.values():
        assert curves["ideal"] == [found.clean_top1] * len(curves["ideal"])
        assert curves["learned"] == curves["baseline"]


def test_what_is_recovered_is_the_learned_share_of_the_ideal_gain() -> None:
    curves = {"baseline": [0.4, 0.2], "learned": [0.5, 0.4], "ideal": [0.8, 0.8]}
    nothing = {"baseline": [0.4, 0.2], "learned": [0.5, 0.4], "ideal": [0.3, 0.3]}
    found = analysis.IdealAgainstLearned(
        GRID, 10, 0.9, 0.9, {"awgn": curves, "gaussian_blur": nothing}
    )
    assert found.recovered("awgn") == pytest.approx(0.3)
    assert found.recovered("gaussian_blur") is None


# --- features


def test_neighbour_accuracy_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcorrect.analysis._feature_space.ROWS", 16)
    drawing = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (50,), generator=drawing)
    reference = torch.randn(50, 4, generator=drawing) + labels[:, None]
    queries = reference + 0.8 * torch.randn(50, 4, generator=drawing)
    near = NearestNeighbors(n_neighbors=2).fit(reference.numpy())
    for asked in (queries, reference):
        two = near.kneighbors(asked.numpy(), return_distance=False)
        others = [next(j for j in pair if j != i) for i, pair in enumerate(two)]
        expected = float((labels[others] == labels).double().mean())
        assert analysis.neighbour_accuracy(reference, asked, labels) == pytest.approx(expected)


def test_one_image_has_no_neighbour() -> None:
    with pytest.raises(InputError, match="1 image has no neighbour"):
        analysis.neighbour_accuracy(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1))


def test_neighbours_are_of_the_features_that_the_last_layer_reads(
    adapted: AdaptedModel, network: TinyCNN, classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    systems = {"baseline": classifier, "corrected": adapted}
    found = analysis.neighbours(classifier, systems, cut(images, labels, 5), GRID)
    read: list[Tensor] = []
    heads = [network.head, adapted.corrected.get_submodule("network").site.head]  # pyright: ignore
    handles = [h.register_forward_pre_hook(lambda _, args: read.append(args[0])) for h in heads]

    def by_hand(model: nn.Module, shown: Tensor) -> Tensor:
        with torch.no_grad():
            model(shown)
        return read[-1]

    clean = {name: by_hand(model, images) for name, model in systems.items()}
    for kind, strength in LEVELS:
        place = kind.levels.index(strength)
        seeds = seeds_for(0, kind.name, strength, first=0, count=len(images))
        shown = kind(images, strength, seeds)
        for name, model in systems.items():
            queries = by_hand(model, shown)
            for gallery, got in (("baseline", found.untouched), (name, found.own)):
                expected = analysis.neighbour_accuracy(clean[gallery], queries, labels)
                assert got[kind.name][name][place] == pytest.approx(expected)
    for handle in handles:
        handle.remove()
    assert found.images == len(images)
    assert found.own["awgn"]["baseline"] == found.untouched["awgn"]["baseline"]


def test_a_network_without_a_linear_layer_is_told_to_name_a_module(images: Tensor) -> None:
    bare = nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batches = cut(images, torch.zeros(12, dtype=torch.long), 6)
    with pytest.raises(InputError, match="name a module"):
        analysis.gather({"bare": bare}, batches)
    found, labels = analysis.gather({"bare": bare}, batches, site="0")
    assert found["bare"].shape == (12, CLASSES)
    assert len(labels) == 12


def test_no_image_is_an_error(classifier: Classifier) -> None:
    with pytest.raises(InputError, match="to compare the features of"):
        analysis.gather({"a": classifier}, [])


def test_tsne_keeps_clusters_apart_and_repeats_itself() -> None:
    drawing = torch.Generator().manual_seed(0)
    groups = [torch.randn(20, 6, generator=drawing) + 12 * k for k in (0, 1)]
    first, again = analysis.embed(groups, 3), analysis.embed(groups, 3)
    assert [tuple(part.shape) for part in first] == [(20, 2), (20, 2)]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    inside = max(float((part - part.mean(0)).norm(dim=1).mean()) for part in first)
    assert float((first[0].mean(0) - first[1].mean(0)).norm()) > 2 * inside


def test_tsne_needs_four_points() -> None:
    with pytest.raises(InputError, match="3 points"):
        analysis.embed([torch.zeros(3, 2)])
    assert analysis.embed([torch.arange(4.0)[:, None]])[0].shape == (4, 2)


# --- curves


HISTORY = {
    "finetuned": {
        "images_seen": 400,
        "best": 3,
        "epochs": [{"number": n, "score": s} for n, s in enumerate((0.5, 0.6, 0.7, 0.72))],
    },
    "unvalidated": {"images_seen": 10, "best": 0, "epochs": [{"number": 0, "score": None}]},
}


def test_a_learning_curve_counts_images() -> None:
    curves = analysis.learning_curves(HISTORY)
    assert list(curves) == ["finetuned"]
    curve = curves["finetuned"]
    assert curve.images == (100, 200, 300, 400)
    assert curve.images_to(0.6) == 200
    assert curve.images_to(0.8) is None
    assert curve.to_json()["images_to_within_a_point"] == 400
    assert curve.to_json()["best_top1"] == 0.72


def results_of(mean: float, trained: int, levels: tuple[float, ...] = (1, 2)) -> dict[str, Any]:
    def record(value: float, parameters: int, work: int) -> dict[str, Any]:
        curve = {"levels": list(levels), "mean_top1": value, "clean_top1": 0.9}
        return {
            "trainable_parameters": parameters,
            "multiply_adds": work,
            "distortions": {"awgn": curve},
        }

    return {"systems": {"baseline": record(0.3, 0, 100), "deepcorrect": record(mean, trained, 120)}}


def test_points_by_beta_begin_with_the_baseline_and_ascend() -> None:
    points = analysis.beta_points({0.5: results_of(0.7, 40), 0.25: results_of(0.6, 20)})
    assert [(p.beta, p.mean_top1, p.trainable_parameters) for p in points] == [
        (0.0, 0.3, 0),
        (0.25, 0.6, 20),
        (0.5, 0.7, 40),
    ]
    assert [p.added_multiply_adds for p in points] == pytest.approx([0, 0.2, 0.2])


def test_results_by_beta_must_have_the_system_and_the_same_levels() -> None:
    with pytest.raises(InputError, match=r"no system 'other'.*baseline, deepcorrect"):
        analysis.beta_points({0.5: results_of(0.7, 40)}, "other")
    with pytest.raises(InputError, match="not measured at the same levels"):
        analysis.beta_points({0.2: results_of(0.7, 40), 0.5: results_of(0.7, 40, (1, 3))})
    with pytest.raises(InputError, match="no results"):
        analysis.beta_points({})


# --- figures


def test_figures_leave_matplotlibs_settings_alone(
    adapted: AdaptedModel, classifier: Classifier, batches: list[Batch], tmp_path: Any
) -> None:
    before = dict(matplotlib.rcParams)
    maps = analysis.map_quality(adapted, batches, GRID)
    against = analysis.ideal_against_learned(adapted, batches, GRID)
    curves = analysis.learning_curves(HISTORY)
    points = analysis.beta_points({0.5: results_of(0.7, 40)})
    figures = {
        "maps": report.maps_figure(maps, "deepcorrect"),
        "ideal": report.ideal_against_learned_figure(against, "deepcorrect"),
        "learning": report.learning_figure(curves),
        "beta": report.beta_figure(points),
    }
    for name, figure in figures.items():
        path = report.write_png(figure, tmp_path / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    (panel,) = figures["beta"].axes
    drawn = [np.asarray(line.get_ydata()).tolist() for line in panel.lines]
    assert drawn == [[0.3, 0.7], [0.9, 0.9]]
    assert len(figures["maps"].axes) == 2 * len(GRID)


def test_many_sites_still_have_a_figure() -> None:
    many = {f"layer{i}.conv": torch.rand(3, 2, 4).double() for i in range(60)}
    empty = {site: torch.full((3, 2, 4), torch.nan).double() for site in many}
    figure = report.maps_figure(analysis.MapQuality(GRID, 5, {"psnr": many, "ssim": empty}), "x")
    assert len(figure.axes[-1].get_xticks()) <= 24


@pytest.mark.parametrize("names", [["finetuned"], [f"a_rather_long_name_{n}" for n in range(9)]])
def test_no_name_of_a_legend_is_cut_and_the_curves_keep_their_height(
    names: list[str], tmp_path: Path
) -> None:
    curve = next(iter(analysis.learning_curves(HISTORY).values()))
    figures = {"learning": report.learning_figure(dict.fromkeys(names, curve))}
    half = [0.5] * len(GRID[0].levels)
    curves: dict[str, list[float]] = {"baseline": half, "learned": half, "ideal": half}
    against = analysis.IdealAgainstLearned((GRID[0],), 5, 0.7, 0.7, {GRID[0].name: curves})
    figures["ideal"] = report.ideal_against_learned_figure(against, names[0])
    for name, figure in figures.items():
        report.write_png(figure, tmp_path / f"{name}.png")
        (legend,) = figure.legends
        assert legend.get_window_extent().x1 <= figure.bbox.x1, name
        height = figure.axes[0].get_window_extent().height / figure.dpi
        assert height > 2.5, name
