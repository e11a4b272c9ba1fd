"""Ranking: the swap against Captum and plain hooks, streaming, files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import captum.attr
import pytest
import torch
from conftest import CLASSES, SIZE, TINY_SITES, Batch, TinyCNN, cut, with_convolutions_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from deepcorrect.data import Preprocessing
from deepcorrect.distortions import Distortion, LevelledDistortion
from deepcorrect.networks import Classifier, tap
from deepcorrect.networks._cost import multiply_adds
from deepcorrect.networks.patching import Replay
from deepcorrect.ranking import (
    METHODS,
    NetworkSize,
    Pair,
    Ranking,
    Target,
    count_for,
    load_ranking,
    rank,
)
from deepcorrect.ranking._clean_distorted import Clean
from deepcorrect.ranking._description import checksum
from deepcorrect.runtime import InputError, files

DIGITS_SITES = ("features.0.0", "features.1.0", "features.2.0")
SIGMA = 1.25  # the trained digits network still gets about half of the images right
BLUR = f"gaussian_blur:{SIGMA}"


def blurred(images: Tensor, sigma: float = SIGMA) -> Tensor:
    return Distortion("gaussian_blur")(images, sigma)


def clean_maps(model: nn.Module, images: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    with torch.no_grad(), tap(model, sites) as maps:
        model(images)
    return dict(maps)


def pair_of(
    model: nn.Module, batch: Batch, sites: Sequence[str], target: Target = "labels"
) -> Pair:
    """Blurred images, whose passes are recorded module by module."""
    images, labels = batch
    with torch.no_grad():
        clean = Clean(model, sites, images, labels, target)
    return Pair(clean, blurred(images), partial(Replay, model, sites=sites))


def label_log_probability(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).log_softmax(1)[torch.arange(len(labels)), labels]


@pytest.fixture(scope="module")
def swaps(digits_model: Classifier, digits_batch: Batch) -> dict[str, Ranking]:
    """The two exact methods' rankings of the trained digits network, on 48 blurred digits."""
    return {
        method: rank(digits_model, cut(*digits_batch, 20), [BLUR], method, DIGITS_SITES[:2])
        for method in ("swap", "swap_logprob")
    }


@pytest.fixture
def sensitive(network: TinyCNN) -> Classifier:
    """Its answers change with a single filter, so that counts of right ones say something."""
    return Classifier(network, Preprocessing(SIZE, (0.5,) * 3, (0.05,) * 3), "tiny").eval()


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
    sensitive: Classifier, images: Tensor
) -> None:
    with torch.no_grad():
        labels = sensitive(images).argmax(1)
        ranking = rank(sensitive, cut(images, labels, 5), ["awgn:40", "gaussian_blur:1"], "swap")
        from_logits = rank(sensitive, cut(images, labels, 5), ["gaussian_blur:1"], "swap_logprob")
        distorted = blurred(images, 1)
        before = sensitive(distorted)
        right = (before.argmax(1) == labels).sum()
        for site in TINY_SITES:
            clean = clean_maps(sensitive, images, [site])[site]
            for index in range(clean.shape[1]):

                def swap(maps: Tensor, c: Tensor = clean, i: int = index) -> Tensor:
                    maps[:, i] = c[:, i]
                    return maps

                normalised = (distorted - sensitive.mean) / sensitive.std
                logits = with_convolutions_by_hand(sensitive.network, {site: swap}, normalised)
                gained = int((logits.argmax(1) == labels).sum() - right)
                assert float(ranking.by_level[site][1, index]) == pytest.approx(gained / 12)
                rise = (logits.log_softmax(1) - before.log_softmax(1))[range(12), labels].mean()
                assert float(from_logits.by_level[site][0, index]) == pytest.approx(
                    float(rise), abs=1e-5
                )
    assert bool(ranking.by_level["pointwise"].any())


# --- streaming


@pytest.mark.parametrize(
    ("method", "target"),
    [*((method, "labels") for method in METHODS), ("gradient", "kl"), ("swap_logprob", "kl")],
)
def test_the_batch_size_does_not_matter(
    sensitive: Classifier, images: Tensor, labels: Tensor, method: str, target: Target
) -> None:
    """Nor does it to the noise, which is drawn image by image."""
    grid = ["awgn:20,60", "gaussian_blur:1"]
    one, other = (
        rank(sensitive, cut(images, labels, size), grid, method, seed=3, target=target)
        for size in (12, 5)
    )
    assert one.sites == other.sites == TINY_SITES
    for site in TINY_SITES:
        if method == "swap":  # counts
            assert torch.equal(one.by_level[site], other.by_level[site])
            assert bool(one.by_level["pointwise"].any())
        scale = float(one.by_level[site].abs().max().clamp_min(1))
        assert torch.allclose(one.by_level[site], other.by_level[site], atol=1e-6 * scale)


def test_batches_of_growing_size_are_cut_to_the_first_ones(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    growing = [(images[:2], labels[:2]), (images[2:5], labels[2:5]), (images[5:], labels[5:])]
    one, other = (
        rank(classifier, batches, ["awgn:20"], "swap_logprob", ["stem"]).by_level["stem"]
        for batches in (growing, cut(images, labels, 12))
    )
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("random", "psnr")])
def test_nothing_to_correct_scores_zero(
    classifier: Classifier, batches: list[Batch], method: str
) -> None:
    ranking = rank(classifier, batches, ["gaussian_blur:0", "awgn:0"], method)
    for site in TINY_SITES:
        assert torch.equal(ranking.by_level[site], torch.zeros_like(ranking.by_level[site]))


def test_a_ranking_says_what_its_network_costs(
    classifier: Classifier, batches: list[Batch]
) -> None:
    ranking = rank(classifier, batches, ["gaussian_blur:1"], "change", ["stem", "pointwise"])
    assert ranking.maps == {"stem": (16, 16), "pointwise": (8, 8)}
    assert ranking.network is not None
    assert ranking.network.parameters == sum(p.numel() for p in classifier.parameters())
    assert ranking.network.multiply_adds == multiply_adds(classifier, batches[0][0][:1])
    assert not ranking.gains
    assert rank(classifier, batches, ["gaussian_blur:1"], "gradient", ["stem"]).gains


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
        (
            {"loader": [(torch.rand(1, 3, 16, 16), torch.tensor([-1]))], "target": "labels"},
            "label -1",
        ),
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
    distortion = LevelledDistortion("awgn", tuple(range(1, levels + 1)), clip=True)
    tensors = {site: torch.tensor(rows, dtype=torch.float64) for site, rows in values.items()}
    sizes = {site: (6 - place, 4) for place, site in enumerate(values)}
    size = NetworkSize(1000, 50_000)
    return Ranking(tensors, "swap", (distortion,), 7, 1.5, 3, "kl", sizes, size)


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
    assert (found.target, found.maps, found.network) == ("kl", ranking.maps, ranking.network)
    assert found.gains


def test_the_description_says_how(tmp_path: Path) -> None:
    ranking_of({"a": [[0.0, 4.0], [1.0, 2.0]], "b": [[1.0], [1.0]]}).save(tmp_path)
    described = json.loads((tmp_path / "ranking.json").read_text())
    levels = [1, 2]
    assert described == {
        "schema": 3,
        "method": "swap",
        "distortions": [{"name": "awgn", "levels": levels, "clip": True, "quantize": False}],
        "sites": {"a": 2, "b": 1},
        "images": 7,
        "seconds": 1.5,
        "seed": 3,
        "target": "kl",
        "maps": {"a": [6, 4], "b": [5, 4]},
        "weights": {},
        "gains": True,
        "network": {"parameters": 1000, "multiply_adds": 50_000},
    }


def test_a_ranking_without_costs_is_read_back(tmp_path: Path) -> None:
    plain = Ranking({"a": torch.ones(1, 2)}, "swap", (LevelledDistortion("awgn", (5,)),), 7, 1.5)
    found = load_ranking(plain.save(tmp_path))
    assert (found.network, found.maps, found.target) == (None, {}, "labels")


def test_the_priorities_file_holds_a_tensor_a_site(tmp_path: Path) -> None:
    ranking_of({"a": [[0.0, 4.0], [1.0, 2.0]]}).save(tmp_path)
    held = load_file(tmp_path / "ranking.safetensors")
    assert {site: tensor.tolist() for site, tensor in held.items()} == {"a": [0.5, 3.0]}


LEVELS = "ranking_levels.safetensors"


def edited(folder: Path, edit: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    """Changes the description in a ranking's file as somebody could who knows the format."""
    path = folder / LEVELS
    tensors, described = load_file(path), files.read_description(path)
    info = json.loads(described["ranking"])
    edit(info)
    text = json.dumps(info)
    sums = {"sha256": checksum(text, tensors)} if sign else {"sha256": described["sha256"]}
    files.write_tensors(path, tensors, {"ranking": text, **sums})


def with_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    text = files.read_description(folder / LEVELS)["ranking"]
    described = {"ranking": text, "sha256": checksum(text, tensors)}
    files.write_tensors(folder / LEVELS, tensors, described)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


NAN, WHOLE = float("nan"), torch.ones(1, 2).double()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: truncate(f / LEVELS), "not a complete safetensors file"),
        (lambda f: (f / LEVELS).unlink(), "there is no file"),
        (lambda f: flip_a_bit(f / LEVELS), "its checksum differs"),
        (lambda f: edited(f, lambda i: i.update(images=8), sign=False), "its checksum differs"),
        (lambda f: files.write_tensors(f / LEVELS, {"a": WHOLE}), "lost its description"),
        (lambda f: edited(f, lambda i: i.clear()), "does not describe a ranking"),
        (lambda f: edited(f, lambda i: i.update(sites=["a"])), "ranking: sites"),
        (lambda f: edited(f, lambda i: i.update(sites={"a": 3})), "the 3 filters of site 'a'"),
        (
            lambda f: edited(f, lambda i: i["sites"].update(b=2)),
            "the 2 filters of site 'b'",
        ),
        (lambda f: edited(f, lambda i: i.update(sites={})), "ranking: sites"),
        (lambda f: edited(f, lambda i: i.update(schema=99)), "ranking: schema"),
        (lambda f: edited(f, lambda i: i.update(schema=2)), "lost its description"),
        (lambda f: edited(f, lambda i: i.update(images=-1)), "ranking: images"),
        (lambda f: edited(f, lambda i: i.update(images=True)), "ranking: images"),
        (lambda f: edited(f, lambda i: i.update(images=10**30)), "ranking: images"),
        (lambda f: edited(f, lambda i: i.update(seed=2**63)), "ranking: seed"),
        (lambda f: edited(f, lambda i: i.update(seconds=NAN)), "ranking: seconds"),
        (lambda f: edited(f, lambda i: i.update(target="top5")), "ranking: target"),
        (lambda f: edited(f, lambda i: i.update(gains="yes")), "ranking: gains"),
        (lambda f: edited(f, lambda i: i.update(more=1)), "ranking: more"),
        (lambda f: edited(f, lambda i: i.update(maps=None)), "ranking: maps"),
        (lambda f: edited(f, lambda i: i.update(maps={"a": [0, 4]})), "ranking: maps"),
        (lambda f: edited(f, lambda i: i.update(maps={"c": [6, 4]})), "'c' is no ranked site"),
        (lambda f: edited(f, lambda i: i.update(weights={"a": -9})), "ranking: weights"),
        (lambda f: edited(f, lambda i: i.update(network={"size": 3})), "ranking: network"),
        (lambda f: edited(f, lambda i: i["network"].update(parameters=-1)), "ranking: network"),
        (lambda f: edited(f, lambda i: i["network"].update(more=1)), "ranking: network"),
        (lambda f: edited(f, lambda i: i.update(distortions=[])), "ranking: distortions"),
        (lambda f: edited(f, lambda i: i["distortions"][0].pop("levels")), "distortions"),
        (lambda f: edited(f, lambda i: i["distortions"][0].update(levels=[NAN])), "distortions"),
        (lambda f: edited(f, lambda i: i["distortions"][0].update(levels=[-4])), "level -4"),
        (lambda f: edited(f, lambda i: i["distortions"][0].update(name="fog of war")), "unknown"),
        (lambda f: edited(f, lambda i: i["distortions"][0].update(levels=[1, 2])), "there are 2"),
        (lambda f: with_tensors(f, {"a": WHOLE * NAN}), "NaN or infinite"),
        (lambda f: with_tensors(f, {"a": WHOLE / 0}), "NaN or infinite"),
        (lambda f: with_tensors(f, {"a": WHOLE.int()}), "int32 priorities"),
        (lambda f: with_tensors(f, {"a": WHOLE[0]}), "shape"),
        (lambda f: with_tensors(f, {"a": WHOLE, "b": WHOLE + 1}), "does not describe"),
        (lambda f: with_tensors(f, {}), "does not hold"),
    ],
)
def test_a_damaged_ranking_is_refused(tmp_path: Path, damage, message: str) -> None:
    ranking_of({"a": [[0.0, 4.0]]}).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        load_ranking(tmp_path)


def test_what_other_programs_read_is_not_read_back(tmp_path: Path) -> None:
    ranking_of({"a": [[0.0, 4.0]]}).save(tmp_path)
    for name in ("ranking.json", "ranking.safetensors"):
        (tmp_path / name).write_text("{")
    assert load_ranking(tmp_path).order("a") == [1, 0]


@pytest.mark.parametrize("write", range(3))
@pytest.mark.parametrize("earlier", [True, False])
def test_a_ranking_that_is_written_over_is_the_old_or_the_new_one(
    write: int, earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed at each of the renames leaves no mixture."""
    old, new = ranking_of({"a": [[1.0, 2.0, 3.0]]}), ranking_of({"a": [[4.0, 3.0]]})
    if earlier:
        old.save(tmp_path)

    class Killed(BaseException):
        pass

    renames: list[Path] = []

    def replace(self: Path, target: Path) -> Path:
        if len(renames) == write:
            raise Killed
        renames.append(target)
        return rename(self, target)

    rename = Path.replace
    with monkeypatch.context() as killing:
        killing.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            new.save(tmp_path)
    if write == 0 and not earlier:
        with pytest.raises(InputError, match="there is no file"):
            load_ranking(tmp_path)
        return
    expected = old if write == 0 else new
    assert load_ranking(tmp_path).order("a") == expected.order("a")
    for name in ("ranking.json", "ranking.safetensors"):
        if (tmp_path / name).exists():  # they are those of the ranking that is there
            content = (tmp_path / name).read_bytes()
            expected.save(tmp_path / "again")
            assert content == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by_level": {"a": torch.tensor([[0.0, NAN]])}}, "NaN or infinite"),
        ({"by_level": {"a": torch.ones(3, 2)}}, "there are 1 levels"),
        ({"images": 0}, "images"),
        ({"network": NetworkSize(-1, 3)}, "network"),
        ({"weights": {"b": 3}}, "'b' is no ranked site"),
    ],
)
def test_what_is_no_ranking_is_not_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    good = Ranking({"a": torch.ones(1, 2)}, "swap", (LevelledDistortion("awgn", (5,)),), 7, 1.5)
    good.save(tmp_path)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(good, **changes).save(tmp_path)
    assert torch.equal(load_ranking(tmp_path).by_level["a"], torch.ones(1, 2))


# --- answers that are not finite


class Spoiling(nn.Module):
    """A network whose answer is NaN for images whose first pixel is below a limit."""

    def __init__(self, limit: float, where: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)
        self.limit, self.where = limit, where

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        logits = self.head(maps.mean((2, 3)))
        spoilt = images[:, :1, 0, 0] < self.limit
        value = {"nan": torch.nan, "inf": torch.inf}[self.where]
        return torch.where(spoilt, torch.full_like(logits, value), logits)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_answer_that_is_not_finite_is_refused_with_its_image_and_batch(
    method: str, value: str, images: Tensor, labels: Tensor
) -> None:
    images = images.clamp(0.1, 1)
    images = torch.cat([images, images])  # the first 16 are tried before anything is ranked
    images[21, 0, 0, 0] = 0.0
    batches = cut(images, torch.cat([labels, labels]), 8)
    with pytest.raises(InputError, match=r"image 21 \(counted from 0; in batch 2\), undistorted"):
        rank(Spoiling(0.05, value).eval(), batches, "gaussian_blur:1", method)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_an_answer_to_a_distorted_image_that_is_not_finite_is_refused(
    method: str, images: Tensor, labels: Tensor
) -> None:
    """`random` alone does not look at the answers to distorted images."""
    images = torch.cat([images, images]) / 2 + 0.4
    images[:, :, 0, 0] = 0.6
    network = Spoiling(0.29, "nan").eval()
    with pytest.raises(InputError, match=r"image \d+ .*under awgn 200, is NaN or infinite"):
        rank(network, cut(images, torch.cat([labels, labels]), 8), "awgn:200", method)
