"""Ranking: the swap against Captum and plain hooks, the path against its closed form, files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import captum.attr
import pytest
import torch
from conftest import TINY_SITES, Batch, TinyCNN, cut, tiny_cnn, with_convolutions_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcorrect.classifier import Classifier
from deepcorrect.distortions import Distortion
from deepcorrect.errors import InputError
from deepcorrect.ranking import (
    METHODS,
    Ranking,
    count_for,
    ideal_correction,
    load_ranking,
    rank,
)
from deepcorrect.ranking._methods import Pair, path
from deepcorrect.sites import Replay, tap

DIGITS_SITES = ("features.0.0", "features.1.0", "features.2.0")
SIGMA = 1.25  # the trained digits network still gets about half of the images right
BLUR = f"gaussian_blur:{SIGMA}"


def blurred(images: Tensor, sigma: float = SIGMA) -> Tensor:
    return Distortion("gaussian_blur")(images, sigma)


def clean_maps(model: nn.Module, images: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    with torch.no_grad(), tap(model, sites) as maps:
        model(images)
    return dict(maps)


def pair_of(model: nn.Module, batch: Batch, sites: Sequence[str]) -> Pair:
    images, labels = batch
    clean = clean_maps(model, images, sites)
    return Pair(clean, Replay(model, blurred(images), sites), labels, torch.Generator())


def label_log_probability(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).log_softmax(1)[torch.arange(len(labels)), labels]


@pytest.fixture(scope="module")
def swaps(digits_model: Classifier, digits_batch: Batch) -> dict[str, Ranking]:
    """The two exact methods' rankings of the trained digits network, on 48 blurred digits."""
    return {
        method: rank(digits_model, cut(*digits_batch, 20), [BLUR], method, DIGITS_SITES[:2])
        for method in ("swap", "swap_logprob")
    }


# --- swap


def captum_gains(model: Classifier, site: str, batch: Batch, measured: str) -> Tensor:
    """Each image's gain when a filter is 'ablated' to its clean map: images x filters."""
    images, labels = batch
    clean = clean_maps(model, images, [site])[site]

    def measure(inputs: Tensor) -> Tensor:
        if measured == "swap":
            return (model(inputs).argmax(1) == labels).double()
        return label_log_probability(model, inputs, labels).double()

    filters = clean.shape[1]
    with torch.no_grad():
        lost = captum.attr.LayerFeatureAblation(
            measure, model.network.get_submodule(site)
        ).attribute(
            blurred(images),
            layer_baselines=clean,
            layer_mask=torch.arange(filters).view(1, filters, 1, 1),
        )
    assert isinstance(lost, Tensor)
    return -lost[:, :, 0, 0]


@pytest.mark.parametrize("site", DIGITS_SITES[:2])
def test_swap_is_captums_ablation_to_the_clean_maps(
    swaps: dict[str, Ranking], digits_model: Classifier, digits_batch: Batch, site: str
) -> None:
    gains = captum_gains(digits_model, site, digits_batch, "swap")
    counts = swaps["swap"].by_level[site][0] * len(digits_batch[1])
    assert torch.equal(counts.round(), gains.sum(0).double())
    assert torch.allclose(counts, counts.round(), atol=1e-9)
    assert len(counts.unique()) > 2, "the comparison would say little if all were equal"


@pytest.mark.parametrize("site", DIGITS_SITES[:2])
def test_swap_logprob_is_captums_ablation_to_the_clean_maps(
    swaps: dict[str, Ranking], digits_model: Classifier, digits_batch: Batch, site: str
) -> None:
    gains = captum_gains(digits_model, site, digits_batch, "swap_logprob").mean(0)
    assert torch.allclose(swaps["swap_logprob"].by_level[site][0], gains.double(), atol=1e-4)


def test_swap_on_an_awkward_network_is_a_full_pass_with_hooks(
    classifier: Classifier, images: Tensor
) -> None:
    with torch.no_grad():
        labels = classifier(images).argmax(1)
        ranking = rank(classifier, cut(images, labels, 5), ["awgn:40", "gaussian_blur:1"], "swap")
        from_logits = rank(classifier, cut(images, labels, 5), ["gaussian_blur:1"], "swap_logprob")
        distorted = blurred(images, 1)
        before = classifier(distorted)
        right = (before.argmax(1) == labels).sum()
        for site in TINY_SITES:
            clean = clean_maps(classifier, images, [site])[site]
            for index in range(clean.shape[1]):

                def swap(maps: Tensor, c: Tensor = clean, i: int = index) -> Tensor:
                    maps[:, i] = c[:, i]
                    return maps

                normalised = (distorted - classifier.mean) / classifier.std
                logits = with_convolutions_by_hand(classifier.network, {site: swap}, normalised)
                gained = int((logits.argmax(1) == labels).sum() - right)
                assert float(ranking.by_level[site][1, index]) == pytest.approx(gained / 12)
                rise = (logits.log_softmax(1) - before.log_softmax(1))[range(12), labels].mean()
                assert float(from_logits.by_level[site][0, index]) == pytest.approx(
                    float(rise), abs=1e-5
                )


# --- path


class TwoClasses(nn.Module):
    """One convolution, then everything linear: the margin is linear in the site's maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Linear(6 * 8 * 8, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).flatten(1))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_path_is_its_closed_form_where_the_margin_is_linear(seed: int, steps: int) -> None:
    """With margin m, log p = -log(1 + exp(-m)), whose derivative is the sigmoid of -m. The mean
    gradient along the path is its weight in the margin times the mean of that at the midpoints."""
    torch.manual_seed(seed)
    network = TwoClasses().eval()
    nn.init.normal_(network.head.weight, 0, 0.3)
    images, labels = torch.rand(5, 1, 8, 8), torch.randint(2, (5,))
    pair = pair_of(network, (images, labels), ["conv"])
    found = path(pair, "conv", steps)

    weight = (network.head.weight[1] - network.head.weight[0]).detach().double().view(6, 8, 8)
    bias = float((network.head.bias[1] - network.head.bias[0]).detach())
    expected = torch.zeros(6, dtype=torch.float64)
    for image in range(5):
        sign = 1 if labels[image] == 1 else -1
        clean = pair.clean["conv"][image].double()
        distorted = pair.distorted.maps["conv"][image].double()
        start = sign * (float((distorted * weight).sum()) + bias)
        parts = sign * ((clean - distorted) * weight).sum((1, 2))  # each filter's, of the margin
        middles = start + (torch.arange(steps) + 0.5) / steps * float(parts.sum())
        expected += parts * torch.sigmoid(-middles).mean()
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("site", DIGITS_SITES)
def test_path_is_captums_integrated_gradients(
    digits_model: Classifier, digits_batch: Batch, site: str
) -> None:
    """No shortcut passes these sites, so that Captum's path from input to input is the same."""
    images, labels = digits_batch
    pair = pair_of(digits_model, digits_batch, [site])
    attributed = captum.attr.LayerIntegratedGradients(
        lambda inputs: digits_model(inputs).log_softmax(1),
        digits_model.network.get_submodule(site),
    ).attribute(
        images,
        baselines=blurred(images),
        target=labels,
        n_steps=4,
        method="riemann_middle",
    )
    assert isinstance(attributed, Tensor)
    expected = attributed.sum((0, 2, 3)).double()
    assert torch.allclose(path(pair, site, 4), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("site", DIGITS_SITES)
def test_path_is_complete(digits_model: Classifier, digits_batch: Batch, site: str) -> None:
    """With many steps, the filters' priorities sum to the gain of swapping all of them."""
    pair = pair_of(digits_model, digits_batch, [site])
    labels = digits_batch[1]
    with torch.no_grad():
        after = pair.distorted.from_site(site, pair.clean[site]).log_softmax(1)
    rows = torch.arange(len(labels))
    gain = float((after - pair.distorted.logits.log_softmax(1))[rows, labels].sum())
    coarse, fine = (float(path(pair, site, steps).sum()) for steps in (4, 32))
    assert fine == pytest.approx(gain, rel=5e-3)
    assert coarse == pytest.approx(gain, rel=0.15)


def test_path_on_an_awkward_network_is_complete_too(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    pair = pair_of(classifier, (images, labels), TINY_SITES)
    rows = torch.arange(len(labels))
    for site in TINY_SITES:
        with torch.no_grad():
            after = pair.distorted.from_site(site, pair.clean[site]).log_softmax(1)
        gain = (after - pair.distorted.logits.log_softmax(1))[rows, labels].sum()
        assert float(path(pair, site, 64).sum()) == pytest.approx(float(gain), rel=1e-2, abs=1e-3)


def test_path_agrees_with_the_swap_on_what_matters(
    swaps: dict[str, Ranking], digits_model: Classifier, digits_batch: Batch
) -> None:
    """The estimate is of the same quantity: filters that gain much by the swap lead it too."""
    site = DIGITS_SITES[0]
    estimated = rank(digits_model, cut(*digits_batch, 20), [BLUR], "path", [site])
    pairs = torch.stack([swaps["swap_logprob"].priorities[site], estimated.priorities[site]])
    assert float(torch.corrcoef(pairs)[0, 1]) > 0.5


# --- streaming


@pytest.mark.parametrize("method", METHODS)
def test_the_batch_size_does_not_matter(
    classifier: Classifier, images: Tensor, labels: Tensor, method: str
) -> None:
    grid = ["awgn:20,60", "gaussian_blur:1"]
    one, other = (rank(classifier, cut(images, labels, size), grid, method) for size in (12, 5))
    assert one.sites == other.sites == TINY_SITES
    if method == "random":
        return  # a draw a batch: only its shape is promised
    for site in TINY_SITES:
        tolerance = 1e-12 if method == "swap" else 1e-6
        assert torch.allclose(one.by_level[site], other.by_level[site], atol=tolerance)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_nothing_to_correct_scores_zero(
    classifier: Classifier, batches: list[Batch], method: str
) -> None:
    ranking = rank(classifier, batches, ["gaussian_blur:0", "awgn:0"], method)
    for site in TINY_SITES:
        assert torch.equal(ranking.by_level[site], torch.zeros_like(ranking.by_level[site]))


def test_levels_stand_in_a_row_and_the_priority_is_their_mean(
    classifier: Classifier, batches: list[Batch]
) -> None:
    both = rank(classifier, batches, ["gaussian_blur:1,2", "awgn:30"], "swap_logprob", ["stem"])
    blur = rank(classifier, batches, ["gaussian_blur:1,2"], "swap_logprob", ["stem"])
    noise = rank(classifier, batches, ["awgn:30"], "swap_logprob", ["stem"])
    rows = both.by_level["stem"]
    assert torch.equal(rows, torch.cat([blur.by_level["stem"], noise.by_level["stem"]]))
    assert torch.allclose(both.priorities["stem"], (rows[0] + rows[1] + rows[2]) / 3)
    assert (both.images, both.method, both.seed) == (12, "swap_logprob", 0)
    assert [d.levels for d in both.distortions] == [(1, 2), (30,)]


def test_the_noise_depends_on_the_seed_alone(classifier: Classifier, batches: list[Batch]) -> None:
    first, same, other = (
        rank(classifier, batches, ["awgn:60"], "swap_logprob", ["stem"], seed=s).by_level["stem"]
        for s in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_networks_mode_and_gradients_are_left_alone(
    classifier: Classifier, batches: list[Batch]
) -> None:
    classifier.network.train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    rank(classifier, batches, ["gaussian_blur:1"], "path")
    assert classifier.network.training
    assert all(torch.equal(before[name], t) for name, t in classifier.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())


def test_empty_batches_are_passed_over(classifier: Classifier, batches: list[Batch]) -> None:
    empty = (torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.long))
    plain = rank(classifier, batches, ["awgn:20"], "path", ["stem"])
    mixed = rank(classifier, [empty, *batches, empty], ["awgn:20"], "path", ["stem"])
    assert torch.equal(plain.by_level["stem"], mixed.by_level["stem"])
    with pytest.raises(InputError, match="there are no images to rank with"):
        rank(classifier, [empty], ["awgn:20"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "swop"}, "unknown ranking method 'swop', did you mean 'swap'"),
        ({"sites": ["stam"]}, "unknown site 'stam', did you mean 'stem'"),
        ({"distortions": ["blur"]}, "unknown distortion 'blur'"),
        ({"loader": []}, "there are no images to rank with"),
        ({"loader": [(torch.rand(1, 3, 16, 16), torch.tensor([5]))]}, "label 5: the network has 5"),
        ({"loader": [(torch.rand(1, 3, 16, 16), torch.tensor([-1]))]}, "label -1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    network: TinyCNN, batches: list[Batch], change: dict, message: str
) -> None:
    given_arguments = {"loader": batches, "distortions": ["awgn:5"], **change}
    with pytest.raises(InputError, match=message):
        rank(network, **given_arguments)


# --- the ranking


def ranking_of(values: dict[str, list[list[float]]]) -> Ranking:
    levels = len(next(iter(values.values())))
    distortion = Distortion("awgn", tuple(range(1, levels + 1)), clip=True)
    tensors = {site: torch.tensor(rows, dtype=torch.float64) for site, rows in values.items()}
    return Ranking(tensors, "swap", (distortion,), 7, 1.5, 3)


def test_filters_are_ordered_by_their_mean_and_ties_by_their_place() -> None:
    ranking = ranking_of({"a": [[0, 3, 1, 1], [2, 1, 1, 3]], "b": [[1, 1, 1], [1, 1, 1]]})
    assert ranking.order("a") == [1, 3, 0, 2]
    assert ranking.order("b") == [0, 1, 2]
    assert ranking.top(0.5) == {"a": [1, 3], "b": [0, 1]}
    assert ranking.top({"a": 0.75}) == {"a": [0, 1, 3]}
    with pytest.raises(InputError, match="unknown ranked site 'c'"):
        ranking.order("c")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.floats(0.001, 1))
def test_top_takes_the_best_share(values: list[int], beta: float) -> None:
    ranking = ranking_of({"a": [[float(v) for v in values]]})
    chosen = ranking.top(beta)["a"]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == max(1, round(beta * len(values)))
    left = set(range(len(values))) - set(chosen)
    assert all(values[i] >= values[j] for i in chosen for j in left)
    assert all(i < j for i in chosen for j in left if values[i] == values[j])


@pytest.mark.parametrize("beta", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_beta_must_be_a_share(beta: float) -> None:
    with pytest.raises(InputError, match="not a share of filters"):
        count_for(beta, 10)


def test_only_keeps_some_sites() -> None:
    ranking = ranking_of({"a": [[1.0]], "b": [[2.0]], "c": [[3.0]]})
    assert ranking.only(["c", "a"]).sites == ("a", "c")
    assert ranking.only(["c", "a"]).distortions == ranking.distortions
    with pytest.raises(InputError, match="unknown ranked site 'd'"):
        ranking.only(["a", "d"])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.integers(1, 3))
def test_a_ranking_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], levels: int
) -> None:
    folder = tmp_path_factory.mktemp("ranking")
    ranking = ranking_of({"z.last": [values] * levels, "a.first": [[1 / 3]] * levels})
    assert ranking.save(folder) == folder
    found = load_ranking(folder)
    assert found.sites == ("z.last", "a.first")
    for site in ranking.sites:
        assert torch.equal(found.by_level[site], ranking.by_level[site])
        assert found.by_level[site].dtype == ranking.by_level[site].dtype
    assert found.distortions == ranking.distortions
    assert (found.method, found.images, found.seconds, found.seed) == ("swap", 7, 1.5, 3)


def test_the_priorities_file_holds_a_tensor_a_site(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    ranking_of({"a": [[0.0, 4.0], [1.0, 2.0]]}).save(tmp_path)
    held = load_file(tmp_path / "ranking.safetensors")
    assert {site: tensor.tolist() for site, tensor in held.items()} == {"a": [0.5, 3.0]}


def damage_json(folder: Path, **changes: object) -> None:
    path = folder / "ranking.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: truncate(f / "ranking_levels.safetensors"), "not a whole safetensors file"),
        (lambda f: (f / "ranking_levels.safetensors").unlink(), "there is no file"),
        (lambda f: (f / "ranking.json").unlink(), "there is no file"),
        (lambda f: truncate(f / "ranking.json"), "is not a JSON file"),
        (lambda f: (f / "ranking.json").write_text("[]"), "not a ranking's description"),
        (lambda f: (f / "ranking.json").write_text("{}"), "not a ranking's description"),
        (lambda f: damage_json(f, sites=["a"]), "not a ranking's description"),
        (lambda f: damage_json(f, sites={"a": 3}), "does not hold site 'a'"),
        (lambda f: damage_json(f, sites={"b": 2}), "does not hold site 'b'"),
        (lambda f: damage_json(f, distortions=[{"name": "awgn"}]), "not a ranking's description"),
    ],
)
def test_a_damaged_ranking_is_refused(tmp_path: Path, damage, message: str) -> None:
    ranking_of({"a": [[0.0, 4.0]]}).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        load_ranking(tmp_path)


# --- ideal correction


def test_ideally_correcting_every_filter_gives_clean_accuracy(
    digits_model: Classifier, digits_batch: Batch, swaps: dict[str, Ranking]
) -> None:
    """Nothing but the site lies between the image and what follows it."""
    images, labels = digits_batch
    found = ideal_correction(
        digits_model, cut(images, labels, 20), swaps["swap"], [1.0], [BLUR, "awgn:100"]
    )
    with torch.no_grad():
        clean = float((digits_model(images).argmax(1) == labels).double().mean())
        distorted = float((digits_model(blurred(images)).argmax(1) == labels).double().mean())
    assert distorted < clean
    assert float(found.distorted_top1[0]) == pytest.approx(distorted)
    for site in found.top1:
        assert found.top1[site].flatten().tolist() == pytest.approx([clean] * 2)


def test_ideal_correction_is_a_full_pass_with_the_first_filters_swapped(
    digits_model: Classifier, digits_batch: Batch, swaps: dict[str, Ranking]
) -> None:
    images, labels = digits_batch
    ranking = swaps["swap_logprob"]
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
