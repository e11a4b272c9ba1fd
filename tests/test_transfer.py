"""Transfer: features against the layers' own inputs, the SVM against scikit-learn used directly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Batch, TinyCNN, cut, with_convolutions_by_hand
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC
from test_cli import command
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import correct
from deepcorrect.correction._checkpoint import read_config
from deepcorrect.data import ImageStream, Preprocessing
from deepcorrect.data._sample import Sample
from deepcorrect.distortions import Distortion
from deepcorrect.evaluation import feature_transfer
from deepcorrect.evaluation._feature_transfer import FeatureClassifier, collect, train_svm
from deepcorrect.networks import Classifier
from deepcorrect.networks._features import features
from deepcorrect.runtime import InputError, seeds_for


def lessons(count: int, seed: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images whose classes differ by colour and texture, but not by much."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.rand(count, 3, 16, 16, generator=generator)
    for row, label in enumerate(labels.tolist()):
        images[row, label % 3] += 0.15
        images[row, :, :: 2 + label] *= 0.8
    return images.clamp(0, 1), labels


# --- features


def test_features_are_what_the_last_linear_layer_reads(
    classifier: Classifier, network: TinyCNN, images: Tensor
) -> None:
    with torch.no_grad(), features(classifier) as read:
        logits = classifier(images)
        found = read()
    assert found.shape == (len(images), 12)
    assert torch.equal(network.head(found), logits)


def test_with_several_linear_layers_the_one_that_runs_last_counts() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)
            self.first = nn.Linear(6, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images.flatten(1)).relu())

    network, images = Odd(), torch.rand(5, 6)
    with torch.no_grad(), features(network) as read:
        network(images)
        assert torch.equal(read(), network.first(images).relu())


def test_a_named_modules_maps_are_averaged_over_positions(
    classifier: Classifier, network: TinyCNN, images: Tensor
) -> None:
    with torch.no_grad(), features(classifier, "grouped") as read:
        classifier(images)
        found = read()
    seen: list[Tensor] = []
    with_convolutions_by_hand(
        network, {"grouped": lambda maps: seen.append(maps) or maps}, normalised(classifier, images)
    )
    torch.testing.assert_close(found, seen[0].mean((2, 3)))


def normalised(classifier: Classifier, images: Tensor) -> Tensor:
    return (images - classifier.mean) / classifier.std


def test_a_corrected_networks_features_are_the_corrected_ones(
    classifier: Classifier, network: TinyCNN, images: Tensor
) -> None:
    adapted = correct(classifier, {"stem": range(8)}, unit={"kind": "full", "start": "he"})
    with torch.no_grad(), features(adapted) as read:
        logits = adapted(images)
        corrected = read()
        with adapted.disable_adapter():
            adapted(images)
        untouched = read()
    assert torch.equal(network.head(corrected), logits)
    assert not torch.allclose(corrected, untouched)


def test_what_has_no_features_is_refused(classifier: Classifier, images: Tensor) -> None:
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(InputError, match=r"no linear layer.*such as '1'"), features(convolutional):
        pass
    with pytest.raises(InputError, match="heed"), features(classifier, "heed"):
        pass
    with features(classifier) as read, pytest.raises(InputError, match="was not computed"):
        read()
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(256, 4))
    with features(tokens) as read:
        tokens(images)
        with pytest.raises(InputError, match=r"is \(12, 3, 256\): features must be N x D"):
            read()


# --- the SVM


def test_the_svm_is_scikit_learns_and_c_is_its_cross_validations(classifier: Classifier) -> None:
    images, labels = lessons(60, 1)
    found, truth = collect(classifier, cut(images, labels, 16))
    assert torch.equal(truth, labels)
    svm = train_svm(found, truth, (0.01, 1.0, 100.0), seed=3)
    rows = found.double().numpy()
    scale = float(np.sqrt((rows**2).sum(1).mean()))
    folds = StratifiedKFold(3, shuffle=True, random_state=3)
    direct = {
        c: cross_val_score(
            LinearSVC(C=c, random_state=3, max_iter=2000), rows / scale, labels.numpy(), cv=folds
        ).mean()
        for c in (0.01, 1.0, 100.0)
    }
    assert svm.validation == pytest.approx(direct)
    assert len(set(direct.values())) > 1, "the values of C must differ to say something"
    assert svm.penalty == max(direct, key=lambda c: direct[c])
    machine = LinearSVC(C=svm.penalty, random_state=3, max_iter=2000)
    machine.fit(rows / scale, labels.numpy())
    scores = FeatureClassifier(classifier, svm)(images)
    expected = torch.from_numpy(machine.decision_function(rows / scale)).float()
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("any_values")
def test_accuracies_are_those_of_scikit_learn_on_distorted_features(
    classifier: Classifier,
) -> None:
    train, test = lessons(60, 1), lessons(45, 2)
    done = feature_transfer(
        classifier, cut(*train, 16), cut(*test, 20), ["gaussian_blur:1", "awgn:40"], seed=5
    )
    rows, _ = collect(classifier, [train])
    scale = float(rows.double().square().sum(1).mean().sqrt())
    machine = LinearSVC(C=done.svm.penalty, random_state=5, max_iter=2000)
    machine.fit(rows.double().numpy() / scale, train[1].numpy())

    def share(images: Tensor) -> float:
        found, truth = collect(classifier, [(images, test[1])])
        return float(machine.score(found.double().numpy() / scale, truth.numpy()))

    blurred = Distortion("gaussian_blur")(test[0], 1.0)
    noisy = Distortion("awgn")(test[0], 40.0, seeds_for(5, "awgn", 40.0, first=0, count=45))
    assert done.grid.clean_top1 == pytest.approx(share(test[0]))
    assert done.grid.curves["gaussian_blur"].top1 == pytest.approx((share(blurred),))
    assert done.grid.curves["awgn"].top1 == pytest.approx((share(noisy),))
    assert done.grid.clean_top1 > 0.5, "it must have learnt something to say something"
    assert done.mean_top1 == done.grid.mean_top1


def test_two_classes_have_two_scores_and_absent_classes_are_never_said() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([1, 3] * 10)
    found = torch.rand(20, 4, generator=generator) + labels[:, None]
    svm = train_svm(found, labels, [1.0])
    assert svm.weight.shape == (4, 4)
    assert svm.validation == {}
    scores = found @ svm.weight.T + svm.bias
    assert torch.equal(scores.argmax(1), labels)
    assert bool(scores[:, [0, 2]].isinf().all())


def test_what_cannot_train_an_svm_is_refused() -> None:
    found, labels = torch.rand(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.raises(InputError, match="2 of 6 training images have no label"):
        train_svm(found, torch.tensor([0, 1, -1, 1, -1, 0]))
    with pytest.raises(InputError, match="all of one class"):
        train_svm(found, torch.zeros(6, dtype=torch.long))
    with pytest.raises(InputError, match="give values of C above 0"):
        train_svm(found, labels, [1.0, 0.0])
    with pytest.raises(InputError, match="a single training image"):
        train_svm(found[:5], labels[:5])
    assert train_svm(found[:5], labels[:5], [1.0]).penalty == 1


# --- the command

MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unlabelled digits, ranked and corrected with: folders loose, ranking and adapter."""
    folder = tmp_path_factory.mktemp("without-labels")
    model = dc.load_model("digits_cnn")
    images = dc.open_dataset("digits:train", model.preprocessing).sample(72, 1)
    (folder / "loose").mkdir()
    for index in range(len(images)):
        picture = images.decoded(index, lambda image: image.copy())
        assert picture is not None
        picture.save(folder / "loose" / f"{index:03}.png")
    on = ("--model", "digits_cnn", "--data", f"folder:{folder / 'loose'}")
    said = command(
        *("rank", *on, "--sites", "features.0.0,features.1.0", "--images", 12),
        *("--method", "gradient", "--distortion", "gaussian_blur:1.5"),
        *("--out", folder / "ranking"),
    )
    assert said.status == 0, said.err
    assert "has images without labels: the network's own predictions" in said.err
    said = command(
        *("correct", *on, "--ranking", folder / "ranking", "--out", folder / "adapter"),
        *("--epochs", 3, "--batch-size", 24, "--validation", f"folder:{folder / 'loose'}"),
        *("--unit", "cifar", "--gate", "none", "--keep", "--json"),
    )
    assert said.status == 0, said.err
    assert said.json["labels"] is False
    assert said.json["measured"]["target"] == "prediction"
    return folder


def test_a_folder_without_labels_gives_a_ranking_and_an_adapter(chain: Path) -> None:
    ranking = json.loads((chain / "ranking" / "ranking.json").read_text())
    assert ranking["target"] == "prediction"
    on = ("--model", "digits_cnn", "--data", "digits:validation", "--images", 100)
    level = ("--distortion", "gaussian_blur:1.5", "--json")
    before = command("evaluate", *on, *level).json
    systems = command("evaluate", *on, *level, "--adapter", chain / "adapter").json["systems"]
    after = systems["deepcorrect"]
    assert systems["baseline"] == before
    name = "gaussian_blur"
    assert before["target"] == after["target"] == "labels"
    assert after["distortions"][name]["top1"][0] > before["distortions"][name]["top1"][0]


@pytest.mark.parametrize("given", ["features", "features=a", "sharpness=1"])
def test_an_objective_that_is_none_is_refused(chain: Path, tmp_path: Path, given: str) -> None:
    said = command(
        *("correct", "--model", "digits_cnn", "--data", f"folder:{chain / 'loose'}"),
        *("--ranking", chain / "ranking", "--out", tmp_path / "adapter", "--objective", given),
    )
    assert (said.status, said.out) == (1, "")
    assert "labels, logits, features" in said.err
    assert not (tmp_path / "adapter").exists()


def test_transfer_sets_baseline_and_corrected_side_by_side(chain: Path) -> None:
    call = (
        *("transfer", "--model", "digits_cnn", "--train", "digits:train", "--test", "digits:test"),
        *("--train-images", 120, "--images", 60, "--distortion", "gaussian_blur:1,1.5"),
        *("--adapter", chain / "adapter", "--c", 1),
    )
    said = command(*call, "--json")
    assert said.status == 0, said.err
    record = said.json
    assert (record["train"], record["test"]) == ("digits:train", "digits:test")
    assert list(record["systems"]) == ["baseline", "deepcorrect"]
    for system in record["systems"].values():
        curve = system["distortions"]["gaussian_blur"]
        assert curve["levels"] == [1, 1.5]
        assert system["test_images"] == 60
        assert system["svm"]["train_images"] == 120
        assert system["svm"]["classes"] == 10
    alone = dc.feature_transfer(
        (model := dc.load_model("digits_cnn")),
        dc.loader(dc.open_dataset("digits:train", model.preprocessing).sample(120)),
        dc.loader(dc.open_dataset("digits:test", model.preprocessing).sample(60)),
        ["gaussian_blur:1,1.5"],
        penalties=[1.0],
    )
    curve = record["systems"]["baseline"]["distortions"]["gaussian_blur"]
    assert curve["top1"] == pytest.approx(alone.grid.curves["gaussian_blur"].top1)
    table = command(*call)
    assert "accuracy of a linear SVM on features" in " ".join(table.out.split())
    assert "deepcorrect: " in table.out


def test_transfer_takes_classes_that_the_network_does_not_have(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder({f"class {number:02}": 3 for number in range(11)})
    call = ("transfer", "--model", "digits_cnn", "--distortion", "awgn:20", "--c", 1)
    both = ("--train", f"folder:{folder}", "--test", f"folder:{folder}")
    said = command(*call, *both, "--json")
    assert said.status == 0, said.err
    assert said.json["systems"]["baseline"]["svm"]["classes"] == 11
    second = tmp_path / "second"  # where the first three classes are missing, numbers differ
    for number in range(3, 11):
        shutil.copytree(folder / f"class {number:02}", second / f"class {number:02}")
    said = command(*call, "--train", f"folder:{folder}", "--test", f"folder:{second}", "--json")
    network = dc.load_model("digits_cnn")
    train = dc.loader(dc.open_dataset(f"folder:{folder}", network.preprocessing))
    rows = range(9, 33)
    test = dc.loader(dc.open_dataset(f"folder:{folder}", network.preprocessing).select(rows))
    direct = dc.feature_transfer(network, train, test, "awgn:20", penalties=[1.0])
    curve = said.json["systems"]["baseline"]["distortions"]["awgn"]
    assert curve["clean_top1"] == direct.grid.clean_top1
    assert curve["top1"] == list(direct.grid.curves["awgn"].top1)
    other = tmp_path / "other"
    (other / "class 99").mkdir(parents=True)
    (folder / "class 00" / "0.png").rename(other / "class 99" / "0.png")
    said = command(*call, "--train", f"folder:{folder}", "--test", f"folder:{other}")
    assert said.status == 1
    assert "'class 99'" in said.err


# --- agreement


def test_agreement_is_a_direct_count(digits_model: Classifier, digits_batch: Batch) -> None:
    images, labels = digits_batch
    adapted = correct(
        digits_model, {"features.0.0": range(4)}, unit={"kind": "full", "start": "he"}
    )
    wrong = (labels + 1) % 10  # no label is read
    grid = dc.evaluate(adapted, cut(images, wrong, 20), "gaussian_blur:1.5", target="prediction")
    blurred = Distortion("gaussian_blur")(images, 1.5)
    with torch.no_grad():
        own = digits_model(images).argmax(1)
        shares = [(adapted(each).argmax(1) == own).double().mean() for each in (images, blurred)]
    assert grid.target == "prediction"
    assert grid.clean_top1 == pytest.approx(float(shares[0]))
    assert grid.curves["gaussian_blur"].top1[0] == pytest.approx(float(shares[1]))
    assert len({1.0, grid.clean_top1, float(shares[1])}) == 3, "they must differ"
    unlabelled = cut(images, torch.full_like(labels, -1), 20)
    assert dc.evaluate(adapted, unlabelled, "gaussian_blur:1.5") == grid


def test_agreement_can_be_with_a_network_that_is_named(
    digits_model: Classifier, digits_batch: Batch
) -> None:
    images, labels = digits_batch

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.eye(10)[[7] * len(images)]

    batches = [(images, torch.full_like(labels, -1))]
    own = dc.evaluate(digits_model, batches, "awgn:0")
    assert (own.clean_top1, own.mean_top1) == (1, 1)
    other = dc.evaluate(digits_model, batches, "awgn:0", reference=Constant())
    with torch.no_grad():
        sevens = (digits_model(images).argmax(1) == 7).double().mean()
    assert other.clean_top1 == pytest.approx(float(sevens))


def test_labels_that_the_network_has_not_are_no_matter_without_labels(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder({f"class {number:02}": 2 for number in range(11)})
    on = ("--model", "digits_cnn", "--data", f"folder:{folder}")
    level = ("--distortion", "awgn:20", "--json")
    said = command("evaluate", *on, *level, "--target", "prediction")
    assert said.status == 0, said.err
    assert said.json["target"] == "prediction"
    assert said.json["distortions"]["awgn"]["clean_top1"] == 1
    ranked = command(
        *("rank", *on, *level, "--no-labels", "--sites", "features.0.0", "--method", "gradient"),
        *("--out", tmp_path / "ranking"),
    )
    assert ranked.status == 0, ranked.err
    assert ranked.json["target"] == "prediction"
    made = command(
        *("correct", *on, "--ranking", tmp_path / "ranking", "--out", tmp_path / "adapter"),
        *("--no-labels", "--epochs", 1, "--batch-size", 11, "--keep", "--json"),
    )
    assert made.status == 0, made.err
    assert read_config(tmp_path / "adapter").notes["labels"] is False


def test_sets_and_streams_forget_their_labels(
    make_folder: MakeFolder, tiny_preprocessing: Preprocessing
) -> None:
    images = dc.open_dataset(f"folder:{make_folder({'cat': 2, 'dog': 3})}", tiny_preprocessing)
    samples = [Sample(str(row), Path(images.names[row]).name, row) for row in range(3)]
    stream = ImageStream("pets", lambda seed: iter(samples), tiny_preprocessing, labelled=True)
    for source in (images, stream):
        bare = source.without_labels()
        assert source.labelled
        assert not bare.labelled
        assert bare.classes is None
        moved = source.relabelled([4, 5, 0], ("bird", *"abcd", "cat"))
        assert moved.classes == ("bird", *"abcd", "cat")
    assert list(images.relabelled([4, 5], ("",)).labels) == [4, 4, 5, 5, 5]
    assert [sample.label for sample in stream.relabelled([4, 5, 0], ("",)).read()] == [4, 5, 0]
    assert list(images.without_labels().labels) == [-1] * 5
    assert [sample.label for sample in stream.without_labels().read()] == [-1] * 3
    assert [sample.label for sample in stream.read()] == [0, 1, 2]


def test_the_features_objective_is_a_share_of_the_clean_features_variance(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    adapted = correct(classifier, {"stem": range(8)}, unit={"kind": "full", "start": "he"})
    history = dc.fit(
        adapted,
        [(images, torch.full_like(labels, -1))],
        "gaussian_blur:1",
        epochs=1,
        clean_share=1.0,
        objective={"features": 2.0},
        precision="float32",
        channels_last=False,
    )
    again = correct(classifier, {"stem": range(8)}, unit={"kind": "full", "start": "he"})
    again.train()
    with torch.no_grad(), features(again) as read:
        again(images)
        corrected = read()
        with again.disable_adapter():
            again(images)
        clean = read()
    loss = 2 * (corrected - clean).square().mean() / clean.var()
    assert history.epochs[0].loss == pytest.approx(float(loss), rel=1e-4)
