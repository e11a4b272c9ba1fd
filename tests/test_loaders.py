"""Loaders as people write them: the same figures as from (images, labels), or one line."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Batch, TinyCNN
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import deepcorrect as dc
from deepcorrect.data import random_part, read_batches
from deepcorrect.runtime import InputError, note_once

GRID = ["awgn:20"]
CLASSES = 5
Given = Callable[[Tensor, Tensor], Any]


@pytest.fixture(autouse=True)
def _said_again() -> None:
    note_once.cache_clear()


@pytest.fixture
def stored(images: Tensor) -> Tensor:
    """Images whose values are those of bytes."""
    return (images * 255).round() / 255


class Subclass(Tensor):
    """As torchvision's `tv_tensors.Image` is one."""


def with_inference_tensors(images: Tensor, labels: Tensor) -> Any:
    with torch.inference_mode():
        return images.clone(), labels.clone()


ACCEPTED: dict[str, Given] = {
    "labels N x 1": lambda x, y: (x, y[:, None]),
    "one-hot labels": lambda x, y: (x, F.one_hot(y, CLASSES)),
    "one-hot floats": lambda x, y: (x, F.one_hot(y, CLASSES).float()),
    "float labels": lambda x, y: (x, y.float()),
    "short labels": lambda x, y: (x, y.short()),
    "byte labels": lambda x, y: (x, y.byte()),
    "list of labels": lambda x, y: (x, y.tolist()),
    "list, not tuple": lambda x, y: [x, y],
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "image and label": lambda x, y: {"image": x, "label": y},
    "pixel_values and labels": lambda x, y: {"pixel_values": x, "labels": y},
    "mapping of another class": lambda x, y: UserDict({"pixel_values": x, "labels": y}),
    "jpg and cls, and more": lambda x, y: {"__key__": ["a"] * len(y), "jpg": x, "cls": y},
    "a third part": lambda x, y: (x, y, torch.arange(len(y))),
    "double": lambda x, y: (x.double(), y),
    "bytes": lambda x, y: ((x * 255).round().byte(), y),
    "list of images": lambda x, y: (list(x), list(y)),
    "channels last in memory": lambda x, y: (x.to(memory_format=torch.channels_last), y),
    "inference tensors": with_inference_tensors,
    "requiring gradients": lambda x, y: (x.clone().requires_grad_(), y),
    "a subclass": lambda x, y: (x.as_subclass(Subclass), y),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_same_batch_in_other_forms(name: str, stored: Tensor, labels: Tensor) -> None:
    wanted = list(zip(stored.split(5), labels.split(5), strict=True))
    given = [ACCEPTED[name](*batch) for batch in wanted]
    for found, (images, truth) in zip(read_batches(given), wanted, strict=True):
        assert type(found.images) is Tensor
        assert not found.images.requires_grad
        torch.testing.assert_close(found.images, images)
        assert torch.equal(found.labels, truth)


@pytest.mark.parametrize("name", ["one-hot floats", "pixel_values and labels", "inference tensors"])
def test_every_function_reads_them_alike(
    name: str, network: TinyCNN, stored: Tensor, labels: Tensor
) -> None:
    wanted = list(zip(stored.split(4), labels.split(4), strict=True))
    results = []
    for loader in (wanted, [ACCEPTED[name](*batch) for batch in wanted]):
        grid = dc.evaluate(network, loader, GRID)
        ranking = dc.rank(network, loader, GRID)
        adapted = dc.correct(network, {"stem": [0]}, unit={"kind": "lite", "width": 4})
        history = dc.fit(adapted, loader, GRID, epochs=1, precision="float32")
        svm = dc.feature_transfer(network, loader, loader, GRID, penalties=[1.0])
        figures = (grid.curves["awgn"].top1, history.epochs[0].loss, svm.mean_top1)
        results.append((figures, ranking.by_level["stem"]))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("given", [lambda x: x, lambda x: [x], lambda x: {"image": x}])
def test_images_without_labels_are_measured_against_the_prediction(
    given: Callable[[Tensor], Any], network: TinyCNN, images: Tensor
) -> None:
    grid = dc.evaluate(network, [given(part) for part in images.split(5)], GRID)
    assert (grid.target, grid.clean_top1, grid.images) == ("prediction", 1.0, 12)


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy())


REFUSED: dict[str, tuple[Given, str]] = {
    "soft labels": (lambda x, y: (x, F.one_hot(y, CLASSES) * 0.9 + 0.02), "not one-hot"),
    "several labels": (lambda x, y: (x, torch.ones(len(y), CLASSES)), "not one-hot"),
    "names": (lambda x, y: (x, [f"class {k}" for k in y]), r"are names \('class"),
    "broken numbers": (lambda x, y: (x, y + 0.5), r"numbers of classes, 0, 1"),
    "NaN": (lambda x, y: (x, y * torch.nan), "has label nan"),
    "fewer labels": (lambda x, y: (x, y[:-1]), r"12 images with labels of shape \(11,\)"),
    "boxes": (lambda x, y: (x, torch.rand(len(y), 2, 4)), "one label per image"),
    "from 1": (lambda x, y: (x, y * 0 + CLASSES), r"label 5: the network has 5 classes"),
    "ignored": (lambda x, y: (x, y * 0 - 100), "label -100"),
    "labels first": (lambda x, y: (y, x), "images are 12, where N x C x H x W"),
    "two pictures": (lambda x, y: {"image": x, "img": x, "label": y}, "2 keys for images"),
    "no picture": (lambda x, y: {"photo": x, "label": y}, "no key for images among 'photo'"),
    "nested": (lambda x, y: ((x, y), y), "yields a tuple of"),
    "list of mappings": (lambda x, y: [{"image": x[0], "label": 1}], "yields a list of"),
    "text": (lambda x, y: "a.png", "yields a str"),
    "integers": (lambda x, y: ((x * 255).long(), y), "are int64"),
    "bits": (lambda x, y: (x > 0.5, y), "are bool"),
    "channels last": (lambda x, y: (x.permute(0, 2, 3, 1), y), r"permute\(0, 3, 1, 2\)"),
    "without channels": (lambda x, y: (x[:, 0], y), r"unsqueeze\(1\)"),
    "single images": (lambda x, y: (x[0], y[0]), "give batches"),
    "Pillow's": (lambda x, y: ([picture(each) for each in x], y), "a list of Image: give tensors"),
    "of two sizes": (lambda x, y: ([x[0], x[1][:, :8]], y[:2]), "differ in size"),
    "NaN in an image": (lambda x, y: (x.clone().fill_(torch.nan), y), "image 0 has NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(
    name: str, network: TinyCNN, images: Tensor, labels: Tensor
) -> None:
    given, message = REFUSED[name]
    loader = [given(images, labels)]
    for call in (dc.evaluate, dc.rank):
        with pytest.raises(InputError, match=message) as raised:
            call(network, loader, GRID)
        assert "\n" not in str(raised.value)
    adapted = dc.correct(network, {"stem": [0]}, unit={"kind": "lite", "width": 4})
    if name not in ("NaN in an image", "single images"):  # of which training has its own word
        with pytest.raises(InputError, match=message):
            dc.fit(adapted, loader, GRID, epochs=1, objective={"labels": 1.0})


class Samples(IterableDataset[Any]):
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(self.images, self.labels, strict=True))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (TensorDataset, "a TensorDataset, a data set that yields one image"),
        (Samples, "give batches"),
        (lambda x, y: "digits:test", r"dc.loader\(dc.open_dataset\('digits:test'"),
        (lambda x, y: lambda: [(x, y)], "a function, which yields no batches: give what it"),
        (lambda x, y: None, "a NoneType, which yields no batches"),
        (lambda x, y: x, "give batches"),
        (lambda x, y: (x, y), "images are 12, where"),
    ],
)
def test_what_is_no_loader_is_refused(
    loader: Given, message: str, network: TinyCNN, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(InputError, match=message):
        dc.evaluate(network, loader(images, labels), GRID)


def test_loaders_of_every_kind_are_read(
    network: TinyCNN, images: Tensor, labels: Tensor, batches: list[Batch]
) -> None:
    class WithoutLength:
        def __iter__(self) -> Iterator[Batch]:
            return iter(batches)

    empty = (torch.zeros(0, 3, 16, 16), torch.zeros(0))
    wanted = dc.evaluate(network, batches, GRID).curves["awgn"].top1
    loaders: list[Any] = [
        WithoutLength(),
        DataLoader(Samples(images, labels), 4),
        DataLoader(TensorDataset(images, labels), 4),
        DataLoader(TensorDataset(images, labels), 4, collate_fn=lambda b: tuple(zip(*b))),  # noqa: B905
        [empty, *batches],
        [(images[:1], labels[:1]), (images[1:], labels[1:])],
    ]
    for loader in loaders:
        assert dc.evaluate(network, loader, GRID).curves["awgn"].top1 == wanted


def test_images_of_several_sizes_are_read_where_the_network_takes_them(
    network: TinyCNN, images: Tensor, labels: Tensor
) -> None:
    loader = [(images[:6], labels[:6]), (images[6:, :, :12], labels[6:])]
    assert dc.evaluate(network, loader, GRID).images == 12
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES))
    with pytest.raises(InputError, match="does not accept images of 6 x 3 x 12 x 16"):
        dc.evaluate(fixed, loader, GRID)


def test_what_was_assumed_is_said(
    classifier: dc.Classifier, images: Tensor, labels: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    data = TensorDataset((images[:, :, :12] * 255).byte(), labels, labels)
    dc.evaluate(classifier, DataLoader(data, 5, drop_last=True), GRID)
    said = capsys.readouterr().err
    for words in (
        "are bytes: they are divided by 255",
        "batches have 3 parts",
        "images are 12 x 16 and the network's input size is 16",
        "leaves 2 of 12 images out (drop_last=True)",
    ):
        assert said.count(words) == 1, words


class Lazy:
    """A loader of another library, which does not know its length."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def test_a_random_part_is_the_same_images_of_every_loader_in_order() -> None:
    images = torch.rand(23, 3, 4, 4)
    numbers = torch.arange(23)
    batches = list(zip(images.split(5), numbers.split(5), strict=True))
    data = TensorDataset(images, numbers)
    for given in (batches, Lazy(batches), DataLoader(data, 4), DataLoader(data, 4, shuffle=True)):
        found: list[Tensor] = []
        for seed in (0, 0, 1):
            part = random_part(given, 9, seed)
            shown, rows = (torch.cat(each) for each in zip(*read_batches(part), strict=True))
            assert torch.equal(shown, images[rows.long()])
            assert len(rows) == 9
            assert rows.tolist() == sorted(set(rows.tolist()))
            found.append(rows)
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])
        assert found[0].tolist() == torch.randperm(23, generator=seeded())[:9].sort()[0].tolist()
        assert sum(len(labels) for _, labels in read_batches(random_part(given, 23))) == 23


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
