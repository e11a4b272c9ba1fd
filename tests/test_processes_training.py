"""Several processes train as one with a larger batch, and go on after a kill."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZE, Batch, cut, tiny_cnn, tiny_recipe, write_digits
from several import ended, needs_gloo, started
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdaptedModel, correct
from deepcorrect.data import ImageSet, Preprocessing
from deepcorrect.experiments import load_recipe, run
from deepcorrect.networks import Classifier
from deepcorrect.runtime import OtherProcessError, files
from deepcorrect.training import History, fit
from deepcorrect.training._shared_norms import SharedNorms

HOW: dict[str, Any] = {
    "distortions": ["gaussian_blur:1,2"],  # noise differs from process to process
    "epochs": 2,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "objective": {"labels": 1.0, "logits": 1.0, "activations": 1.0, "features": 0.5},
    "l1": 1e-4,
    "augmentation": {"shift": 0.1, "flip": True},
    "precision": "float32",
    "channels_last": False,
}


def images(count: int = 26) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(26, 3, SIZE, SIZE, generator=generator)[:count], (torch.arange(26) % 5)[
        :count
    ]


def adapted() -> AdaptedModel:
    torch.manual_seed(0)
    known = Preprocessing(SIZE, (0.4,) * 3, (0.3,) * 3)
    model = Classifier(tiny_cnn(), known, "tiny").eval()
    return correct(model, {"stem": range(0, 8, 2), "pointwise": range(6)}, unit="bottleneck")


class Dying:
    """Batches of which one kills the training in the first epoch."""

    def __init__(self, batches: list[Batch], at: int) -> None:
        self.batches, self.at, self.dataset = batches, at, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches):
            if number == self.at:
                raise KeyboardInterrupt
            yield batch


def plain(history: History) -> list[Any]:
    return [[each.loss, each.score] for each in history.epochs] + [history.images_seen]


def trained(folder: Path, name: str, count: int = 26, **changes: Any) -> None:
    """Trains on batches of 4 in each process, and writes what came of it."""
    model, batches = adapted(), cut(*images(count), 4)
    history = fit(model, batches, validation=batches, **{**HOW, **changes})
    files.write_tensors(folder / f"{name}.safetensors", dict(model.state_dict()))
    files.write_json(folder / f"{name}.json", plain(history))


def work(folder: Path, index: int) -> None:
    trained(folder, f"whole-{index}")
    trained(folder, f"single-{index}", 13)  # the second step has one image
    place = folder / "within.pt"
    try:  # three batches a step: the third step of the first epoch never comes
        dying = Dying(cut(*images(), 4), 6)
        fit(adapted(), dying, validation=cut(*images(), 4), checkpoint=place,
            checkpoint_steps=1, **HOW)  # fmt: skip
    except KeyboardInterrupt:
        pass
    trained(folder, f"resumed-{index}", checkpoint=place)
    said = "nothing"
    broken = cut(*images(), 4)
    if index == 1:
        broken[4][0][0] = 1e38  # an infinite loss in the second step of one process
    try:
        fit(adapted(), broken, **HOW)
    except OtherProcessError:
        said = "another"
    except dc.DeepCorrectError as error:
        said = str(error)
    files.write_json(folder / f"broken-{index}.json", said)
    run(load_recipe(folder / "tiny.yaml"), folder / "run")


@pytest.fixture(scope="module")
def together(digits_test: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which three processes wrote what they trained, and a run of theirs."""
    folder = tmp_path_factory.mktemp("trained")
    write_digits(digits_test, folder)
    (folder / "tiny.yaml").write_text(json.dumps(tiny_recipe(folder)), encoding="utf-8")
    assert ended(started(work, folder, 3)) == [0] * 3
    return folder


@needs_gloo
@pytest.mark.parametrize(("name", "count"), [("whole", 26), ("single", 13)])
def test_processes_train_as_one_with_a_larger_batch(together: Path, name: str, count: int) -> None:
    model, batches = adapted(), cut(*images(count), 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    history = fit(model, cut(*images(count), 12), validation=batches, **HOW)
    assert history.images_seen == 2 * count
    expected = model.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in expected.items())
    for index in range(3):
        found = files.read_tensors(together / f"{name}-{index}.safetensors")
        for key, value in expected.items():
            assert torch.allclose(found[key].float(), value.float(), rtol=1e-4, atol=1e-5), key
        for one, other in zip(
            plain(history), files.read_json(together / f"{name}-{index}.json"), strict=True
        ):
            assert one == pytest.approx(other, abs=1e-5)


@needs_gloo
def test_processes_that_died_within_an_epoch_end_as_those_that_did_not(together: Path) -> None:
    for index in range(3):
        whole, resumed = (
            files.read_tensors(together / f"{name}-{index}.safetensors")
            for name in ("whole", "resumed")
        )
        for name, value in whole.items():
            assert torch.equal(resumed[name], value), name
        one, other = (
            files.read_json(together / f"{name}-{index}.json") for name in ("whole", "resumed")
        )
        assert one == other


@needs_gloo
def test_an_infinite_loss_in_one_process_ends_all(together: Path) -> None:
    for index in range(3):
        assert "the loss is" in files.read_json(together / f"broken-{index}.json")


@needs_gloo
def test_processes_run_a_recipe_once(together: Path, finished_run: Path) -> None:
    ours, one = (
        json.loads((folder / "results.json").read_text())
        for folder in (together / "run", finished_run)
    )
    assert ours["systems"].keys() == one["systems"].keys()
    for name in ("baseline", "tent"):  # nothing of these is trained
        if name in one["systems"]:
            for kind, curve in one["systems"][name]["distortions"].items():
                assert ours["systems"][name]["distortions"][kind]["top1"] == curve["top1"]
    first, second = (dc.load_ranking(folder) for folder in (together / "run", finished_run))
    for site in second.sites:
        assert torch.allclose(first.by_level[site], second.by_level[site], atol=1e-6)
    log = (together / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log].count("start") == 1
    assert (together / "run" / "report.html").is_file()


# --- killed


def train_long(folder: Path, index: int) -> None:
    del index
    trained(folder, "long", checkpoint=folder / "long.pt", checkpoint_steps=3, epochs=400)


@needs_gloo
def test_a_killed_process_ends_the_others_and_another_number_goes_on(tmp_path: Path) -> None:
    processes = started(train_long, tmp_path, 2)
    while not (tmp_path / "long.pt").exists():
        assert all(process.is_alive() for process in processes)
        time.sleep(0.05)
    time.sleep(random.random())
    processes[1].kill()
    begun = time.monotonic()
    codes = ended(processes)
    assert codes == [1, -signal.SIGKILL]
    assert time.monotonic() - begun < 60
    saved = files.read_checkpoint(tmp_path / "long.pt")
    done, epochs = saved["images_seen"] + saved["begun"]["images"], len(saved["epochs"])
    how = {**HOW, "epochs": 400}
    with pytest.raises(KeyboardInterrupt):  # one process goes on where two were
        fit(adapted(), Dying(cut(*images(), 4), 6), validation=cut(*images(), 4),
            checkpoint=tmp_path / "long.pt", checkpoint_steps=1, **how)  # fmt: skip
    again = files.read_checkpoint(tmp_path / "long.pt")
    assert len(again["epochs"]) in (epochs, epochs + 1)
    assert again["images_seen"] + again["begun"]["images"] >= done


def test_shared_norms_are_those_of_torch() -> None:
    maps = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    for momentum in (0.1, None):
        ours, theirs = (nn.BatchNorm2d(4, momentum=momentum) for _ in range(2))
        first, second = (maps.clone().requires_grad_() for _ in range(2))
        with SharedNorms():
            found = ours(first)
        expected = theirs(second)
        (found.square().sum() + found[0].sum()).backward()
        (expected.square().sum() + expected[0].sum()).backward()
        assert torch.allclose(found, expected, atol=1e-5)
        assert first.grad is not None
        assert second.grad is not None
        assert torch.allclose(first.grad, second.grad, atol=1e-5)
        for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
            assert torch.allclose(one.float(), other.float(), atol=1e-5)
