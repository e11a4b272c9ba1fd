"""Networks whose output is not N x classes logits: read rightly, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Batch, TinyCNN, cut, tiny_cnn
from test_cli import command
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.models import output_classes
from deepcorrect.networks import as_logits, read_outputs
from deepcorrect.runtime import InputError, note_once

GRID = ["awgn:20"]


class Ending(nn.Module):
    """The tiny network and what comes after its logits."""

    def __init__(self, ending: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner: TinyCNN = tiny_cnn()
        self.ending = ending

    def forward(self, images: Tensor) -> Any:
        return self.ending(self.inner(images))


def ending(function: Callable[[Tensor], Any]) -> nn.Module:
    return Ending(function).eval()


def as_tuple(logits: Tensor) -> tuple[Tensor]:
    return (logits,)


READ = {
    "softmax": lambda logits: logits.softmax(1),
    "percentages": lambda logits: 100 * logits.softmax(1),
    "softmax in double": lambda logits: logits.double().softmax(1),
    "log-softmax": lambda logits: logits.log_softmax(1),
    "sigmoid per class": lambda logits: logits.sigmoid(),
    "tuple of one": as_tuple,
    "list of one": lambda logits: [logits],
    "mapping": lambda logits: {"logits": logits, "loss": None},
    "object": lambda logits: SimpleNamespace(logits=logits),
    "maps of one pixel": lambda logits: logits[:, :, None, None],
    "probabilities in a mapping": lambda logits: {"logits": logits.softmax(1)},
    "squeezed": lambda logits: logits[:, :, None].squeeze(),
}
"""Endings that change no answer: with each, every figure must be that of the logits."""


@pytest.fixture(autouse=True)
def _said_again() -> None:
    note_once.cache_clear()


@pytest.mark.parametrize("name", READ)
def test_figures_are_those_of_the_logits(name: str, images: Tensor, labels: Tensor) -> None:
    # a single image last, whose dimension a network may squeeze away
    batches = list(zip(images[:9].split(4), labels[:9].split(4), strict=True))
    network, expected = ending(READ[name]), ending(lambda logits: logits)
    for target in ("labels", "prediction"):
        found = dc.evaluate(network, batches, GRID, target=target)
        wanted = dc.evaluate(expected, batches, GRID, target=target)
        assert found.curves["awgn"].top1 == wanted.curves["awgn"].top1
        for one, other in zip(found.curves["awgn"].cells, wanted.curves["awgn"].cells, strict=True):
            assert one.ece == pytest.approx(other.ece, abs=1e-4)
    for method in ("swap_logprob", "conductance"):
        found, wanted = (
            dc.rank(each, batches, GRID, method, ["inner.stem"]).by_level["inner.stem"]
            for each in (network, expected)
        )
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["softmax", "sigmoid per class", "mapping", "object"])
def test_corrections_are_trained_as_on_the_logits(name: str, batches: list[Batch]) -> None:
    states = []
    for network in (ending(READ[name]), ending(lambda logits: logits)):
        adapted = dc.correct(network, {"inner.stem": [0, 3]}, unit={"kind": "lite", "width": 4})
        objective = {"labels": 1.0, "logits": 1.0}
        history = dc.fit(
            adapted, batches, GRID, validation=batches, epochs=1, precision="float32",
            objective=objective,
        )  # fmt: skip
        states.append((adapted.state_dict(), history.epochs[0].loss, history.epochs[0].score))
    assert states[0][1:] == pytest.approx(states[1][1:], abs=1e-3)
    for key, tensor in states[1][0].items():
        torch.testing.assert_close(states[0][0][key], tensor, atol=1e-3, rtol=1e-2, msg=key)


@pytest.mark.parametrize("name", ["softmax", "mapping", "maps of one pixel"])
def test_an_exported_file_returns_logits(name: str, images: Tensor, tmp_path: Path) -> None:
    network = ending(READ[name])
    dc.export(network, tmp_path / "network.pt2", images=images)
    with torch.no_grad():
        found = dc.load_exported(tmp_path / "network.pt2")(images)
        wanted = ending(lambda logits: logits)(images)
    torch.testing.assert_close(found.log_softmax(1), wanted.log_softmax(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("in_one", [False, True], ids=["N x 1", "N"])
@pytest.mark.parametrize("last", ["logit", "sigmoid"])
def test_one_value_per_image_stands_for_two_classes(
    last: str, in_one: bool, images: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(logits: Tensor) -> Tensor:
        value = logits[:, :1] - logits[:, 1:2]
        value = value.sigmoid() if last == "sigmoid" else value
        return value[:, 0] if in_one else value

    def two(logits: Tensor) -> Tensor:
        value = logits[:, :1] - logits[:, 1:2]
        return torch.cat([torch.zeros_like(value), value], 1)

    labels = torch.arange(len(images)) % 2
    batches = cut(images, labels, 5)
    found, wanted = (dc.evaluate(ending(each), batches, GRID) for each in (one, two))
    assert found.curves["awgn"].top1 == wanted.curves["awgn"].top1
    assert found.clean is not None
    assert wanted.clean is not None
    assert found.clean.ece == pytest.approx(wanted.clean.ece, abs=1e-5)
    assert "of class 1 against class 0" in capsys.readouterr().err


def test_one_value_in_0_to_1_of_unknown_kind_is_refused(images: Tensor) -> None:
    network = ending(lambda logits: (logits[:, :1] / 1000).abs().clamp(0, 1))
    with pytest.raises(InputError, match=r"a logit or a probability. Return two values"):
        read_outputs(network, images)


@pytest.mark.parametrize("rows", ["zeros", "a linear layer's"])
def test_logits_that_look_like_probabilities_stay_logits(rows: str, images: Tensor) -> None:
    linear = nn.Linear(3 * 16 * 16, 2)
    nn.init.zeros_(linear.weight)
    linear.bias.data = torch.tensor([0.25, 0.75]) if rows != "zeros" else torch.zeros(2)
    network = nn.Sequential(nn.Flatten(), linear)
    assert as_logits(network, images) is network


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits: (logits, logits[:, :2]), r"a tuple of \(12 x 5; 12 x 2\)"),
        (lambda logits: {"out": logits}, "a dict of out"),
        (lambda logits: logits.mean(0), "returns 5 for 12 images"),
        (lambda logits: logits.T, "returns 5 x 12 for 12 images"),
        (lambda logits: logits[..., None, None].expand(-1, -1, 4, 4), "12 x 5 x 4 x 4"),
        (lambda logits: logits.argmax(1), "int64 numbers, such as the numbers of classes"),
        (lambda logits: logits.detach().numpy(), "returns a ndarray"),
        (lambda logits: None, "returns a NoneType"),
        (lambda logits: logits.sum(), "a single number"),
        (lambda logits: logits * torch.nan, "NaN or infinite values for 12 of the first 12"),
        (lambda logits: logits + torch.inf, "NaN or infinite values"),
        (F.dropout, "draws random numbers"),
        (lambda logits: logits + torch.randn_like(logits), "DEEPCORRECT_CHECK_IMAGES=0"),
        (lambda logits: logits @ torch.zeros(3, 3), "does not accept images of 12 x 3 x 16 x 16"),
    ],
)
def test_other_outputs_are_refused_in_one_line(
    function: Callable[[Tensor], Any], message: str, images: Tensor, labels: Tensor
) -> None:
    network, batches = ending(function), [(images, labels % 2)]
    adapted = dc.correct(network, {"inner.stem": [0]})
    calls: list[Callable[[], Any]] = [
        lambda: dc.evaluate(network, batches, GRID),
        lambda: dc.rank(network, batches, GRID, "swap"),
        lambda: dc.fit(adapted, batches, GRID, epochs=1),
        lambda: dc.evaluate(adapted, batches, GRID),
    ]
    for call in calls:
        with pytest.raises(InputError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_the_check_of_random_answers_can_be_switched_off(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPCORRECT_CHECK_IMAGES", "0")
    assert dc.evaluate(ending(F.dropout), batches, GRID).images == 12


def test_a_nan_later_on_is_refused_with_its_image(images: Tensor, labels: Tensor) -> None:
    class Later(nn.Module):
        def forward(self, shown: Tensor) -> Tensor:
            rows = shown.mean((2, 3)).repeat(1, 6)
            return torch.where(shown[:, :1, 0, 0] == 0.125, torch.nan, rows)

    changed = torch.cat([images, images])
    changed[20, :, 0, 0] = 0.125
    with pytest.raises(InputError, match=r"answer to image 20 \(counted from 0\) is NaN"):
        dc.evaluate(Later(), cut(changed, torch.cat([labels, labels]), 8), GRID)


def test_answers_that_depend_on_the_batch_are_said(
    batches: list[Batch], capsys: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(3 * 256, 16)
    )
    dc.evaluate(network, batches, GRID)
    assert "figures depend on the batch size" in capsys.readouterr().err


def test_the_random_state_is_left_alone(batches: list[Batch]) -> None:
    torch.manual_seed(5)
    dc.evaluate(tiny_cnn(), batches, GRID)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


# --- networks that are no plain module


def test_compiled_networks_are_ranked_and_counted(batches: list[Batch]) -> None:
    network = tiny_cnn()
    preprocessing = dc.Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
    wanted = dc.rank(network, batches, GRID).by_level
    counted = dc.costs(network, preprocessing)
    compiled = torch.compile(network, backend="eager")
    assert isinstance(compiled, nn.Module)
    with torch.no_grad():
        compiled(batches[0][0])  # compiled code is there before the first hook
    for site, values in dc.rank(compiled, batches, GRID).by_level.items():
        torch.testing.assert_close(values, wanted[site])
    assert dc.costs(compiled, preprocessing) == counted


@pytest.mark.parametrize("make", ["traced", "scripted"])
def test_torchscript_is_evaluated_and_counted_and_refused_elsewhere(
    make: str, batches: list[Batch]
) -> None:
    network, images = tiny_cnn(), batches[0][0]
    scripted: Any = (
        torch.jit.trace(network, images) if make == "traced" else torch.jit.script(network)
    )
    preprocessing = dc.Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
    found, wanted = (dc.evaluate(each, batches, GRID) for each in (scripted, network))
    assert found.curves["awgn"].top1 == wanted.curves["awgn"].top1
    assert dc.costs(scripted, preprocessing) == dc.costs(network, preprocessing)
    calls: list[Callable[[], Any]] = [
        lambda: dc.rank(scripted, batches, GRID),
        lambda: dc.fit(scripted, batches, GRID, epochs=1),
        lambda: dc.feature_transfer(scripted, batches, batches, GRID),
        lambda: dc.export(scripted, "network.pt2", images=images),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"is TorchScript .* give the network that it was"):
            call()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_refused_with_what_to_do(
    kind: torch.dtype, batches: list[Batch]
) -> None:
    name = str(kind).removeprefix("torch.")
    with pytest.raises(InputError, match=rf"weights are {name}: give network.float\(\)"):
        dc.evaluate(tiny_cnn().to(kind), batches, GRID)


def test_networks_without_values_and_functions_are_refused(batches: list[Batch]) -> None:
    empty: Any = tiny_cnn().to("meta")
    function: Any = lambda images: images.mean((2, 3))  # noqa: E731
    for network, message in ((empty, "no values"), (function, "is a function: give a torch.nn")):
        calls: list[Callable[[], Any]] = [
            lambda: dc.evaluate(network, batches, GRID),  # noqa: B023 - called at once
            lambda: dc.rank(network, batches, GRID),  # noqa: B023
            lambda: dc.fit(network, batches, GRID, epochs=1),  # noqa: B023
            lambda: dc.correct(network, {"stem": [0]}),  # noqa: B023
        ]
        for call in calls:
            with pytest.raises(InputError, match=message):
                call()


def test_gradients_that_a_network_stops_are_asked_for(batches: list[Batch]) -> None:
    class Stopped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_cnn()

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                return self.inner(images)

    network = Stopped()
    assert dc.rank(network, batches, GRID, "swap").by_level
    with pytest.raises(InputError, match="has no gradient, as under torch.no_grad"):
        dc.rank(network, batches, GRID, "conductance")
    with pytest.raises(InputError, match="the objective has no gradient"):
        dc.fit(network, batches, GRID, epochs=1)


@pytest.mark.parametrize(("channels", "advice"), [(1, r"expand\(-1, 3"), (4, r"\[:, :3\]")])
def test_a_classifier_refuses_other_channels(
    channels: int, advice: str, classifier: dc.Classifier, labels: Tensor
) -> None:
    with pytest.raises(InputError, match=rf"have {channels} channels .* takes 3.*{advice}"):
        dc.evaluate(classifier, [(torch.rand(12, channels, 16, 16), labels)], GRID)


# --- through the command line

CODE = """
import deepcorrect as dc
from torch import nn

class Ends(nn.Module):
    def __init__(self, ending):
        super().__init__()
        self.inner = dc.load_model("digits_cnn").network
        self.ending = ending
    def forward(self, images):
        return self.ending(self.inner(images))

def logits(): return Ends(lambda z: z)
def softmax(): return Ends(lambda z: z.softmax(1))
def named(): return Ends(lambda z: {"logits": z})
def one_logit(): return Ends(lambda z: z[:, 3:4] - z[:, 5:6])
def one_share(): return Ends(lambda z: (z[:, 3:4] - z[:, 5:6]).sigmoid())
def classifier():
    return dc.Classifier(softmax(), dc.Preprocessing(28, (0.1307,), (0.3081,)))
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "ends.py"
    path.write_text(CODE, encoding="utf-8")
    return path


PREPARED = ("--input-size", 28, "--mean", 0.1307, "--std", 0.3081)


@pytest.mark.parametrize("name", ["softmax", "named", "classifier"])
def test_predict_prints_the_networks_own_confidence(
    name: str, code: Path, digits_folder: Path
) -> None:
    given = () if name == "classifier" else PREPARED
    folder = digits_folder / "test" / "3"
    found, wanted = (
        command("predict", folder, "--model", f"python:{code}:{each}", *more, "--json").json
        for each, more in ((name, given), ("logits", PREPARED))
    )
    for one, other in zip(found, wanted, strict=True):
        assert one["labels"] == other["labels"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


@pytest.mark.parametrize("name", ["one_logit", "one_share"])
def test_predict_with_one_value_per_image(name: str, code: Path, digits_folder: Path) -> None:
    for digit, label in ((3, "1"), (5, "0")):
        folder = digits_folder / "test" / str(digit)
        note_once.cache_clear()
        said = command("predict", folder, "--model", f"python:{code}:{name}", *PREPARED, "--json")
        assert [answer["labels"] for answer in said.json] == [[label]] * len(said.json)
        assert all(answer["probabilities"][0] > 0.5 for answer in said.json)
        assert "of class 1 against class 0" in said.err


def test_a_loaded_model_returns_logits(code: Path) -> None:
    statistics: Any = {"input_size": 28, "mean": (0.1307,), "std": (0.3081,)}
    images = torch.rand(3, 1, 28, 28)
    plain, softmax, one = (
        dc.load_model(f"python:{code}:{name}", **statistics)
        for name in ("logits", "softmax", "one_logit")
    )
    with torch.no_grad():
        wanted = plain(images)
        least = -80.0  # the logarithm of about the smallest float32
        found, expected = softmax(images), wanted.log_softmax(1)
        torch.testing.assert_close(found.clamp_min(least), expected.clamp_min(least))
        difference = wanted[:, 3] - wanted[:, 5]
        torch.testing.assert_close(one(images)[:, 1], difference, atol=1e-4, rtol=1e-4)
    assert output_classes(one, one.preprocessing) == 2
