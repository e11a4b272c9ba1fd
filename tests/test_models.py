"""Models: the built-in networks, the user's own Python code, and weights that must fit."""

from __future__ import annotations

import os
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from deepcorrect.data import ImageSet, Preprocessing, loader, open_dataset
from deepcorrect.models import (
    AlexNet,
    CifarAllCNN,
    CifarResNet20,
    DigitsCNN,
    load_model,
    load_weights,
    output_classes,
)
from deepcorrect.networks import Classifier, convolutions, tap
from deepcorrect.runtime import InputError
from deepcorrect.runtime._devices import inference

SHARED = os.environ.get("DEEPCORRECT_SHARED")

PYTHON_MODEL = """
import torch
from torch import nn
from deepcorrect import Classifier, InputError, Preprocessing

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
    def forward(self, images):
        return self.conv(images).mean((2, 3))

def bare():
    return Net()

def wrapped():
    return Classifier(Net(), Preprocessing(8, (0.5,), (0.25,)), "mine")

def fails():
    raise KeyError("no such thing")

def refuses():
    raise InputError("not like this")

class InColour(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

def colour():
    return InColour()

def number():
    return 3

constant = 5
"""


def accuracy(model: nn.Module, images: ImageSet) -> float:
    right = total = 0
    with inference(model), torch.no_grad():
        for batch, labels in loader(images, 250):
            right += int((model(batch).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# --- built-in networks


def closed_form(convolutions: list[tuple[int, int, int]], norms: bool, biases: bool) -> int:
    """The number of parameters of convolutions (inputs, outputs, kernel) and batch norms."""
    return sum(
        i * o * k * k + (o if biases else 0) + (2 * o if norms else 0) for i, o, k in convolutions
    )


ALLCNN = [(3, 96, 3), (96, 96, 3), (96, 96, 3), (96, 192, 3), (192, 192, 3), (192, 192, 3)]
ALLCNN += [(192, 192, 3), (192, 192, 1), (192, 100, 1)]
RESNET = [(3, 16, 3), *[(16, 16, 3)] * 6, (16, 32, 3), *[(32, 32, 3)] * 5, (32, 64, 3)]
RESNET += [(64, 64, 3)] * 5
DIGITS_CONVOLUTIONS = [(1, 16, 3), (16, 32, 3), (32, 64, 3), (64, 64, 3)]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (CifarAllCNN(), closed_form(ALLCNN, norms=True, biases=True)),
        (CifarAllCNN(), 1_389_804),  # from the model card of the trained weights, without buffers
        (CifarResNet20(), closed_form(RESNET, norms=True, biases=False) + 64 * 100 + 100),
        (CifarResNet20(), 275_572),
        (DigitsCNN(), closed_form(DIGITS_CONVOLUTIONS, norms=True, biases=True) + 64 * 10 + 10),
    ],
)
def test_parameters_are_counted_as_stated(network: nn.Module, expected: int) -> None:
    assert parameters(network) == expected


def test_alexnet_has_the_papers_60_9_million() -> None:
    with torch.device("meta"):
        network = AlexNet()
    assert parameters(network) == pytest.approx(60.9e6, rel=2e-3)
    filters = [layer.out_channels for layer in convolutions(network).values()]
    assert filters == [96, 256, 384, 384, 256]


def test_alexnets_maps_are_the_papers() -> None:
    """Krizhevsky et al. 2012: 55, 27, 13, 13 and 13 pixels; a 6 x 6 x 256 input to the first
    fully connected layer."""
    with torch.device("meta"):
        network = AlexNet(classes=7).eval()
        with tap(network) as maps:
            logits = network(torch.zeros(2, 3, 227, 227))
    assert [m.shape[-1] for m in maps.values()] == [55, 27, 13, 13, 13]
    assert logits.shape == (2, 7)


OWN_CLASSES = {"digits_cnn": 10, "cifar_allcnn": 100, "cifar_resnet20": 100}


@pytest.mark.parametrize("name", OWN_CLASSES)
@pytest.mark.parametrize("classes", [None, 7])
def test_built_in_models_give_logits(name: str, classes: int | None) -> None:
    model = load_model(name, classes=classes)
    known = model.preprocessing
    assert output_classes(model, known) == (classes or OWN_CLASSES[name])
    assert (model.name, model.training) == (name, False)


def test_allcnns_maps_are_those_of_its_card() -> None:
    with torch.no_grad(), tap(network := CifarAllCNN().eval()) as maps:
        network(torch.zeros(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps.values()] == [32, 32, 16, 16, 16, 8, 6, 6, 6]


def test_resnets_shortcut_is_every_second_pixel_and_zero_channels() -> None:
    block = CifarResNet20().eval().layer2[0]
    with torch.no_grad():
        for name in ("bn2.weight", "bn2.bias"):
            block.get_parameter(name).zero_()  # the residual vanishes
        maps = torch.rand(1, 16, 8, 8)
        out = block(maps)
    assert torch.equal(out[:, 8:24], maps[:, :, ::2, ::2])
    assert torch.equal(out[:, :8], torch.zeros(1, 8, 4, 4))
    assert torch.equal(out[:, 24:], torch.zeros(1, 8, 4, 4))


def test_a_built_in_model_without_weights_warns(capsys: pytest.CaptureFixture[str]) -> None:
    load_model("cifar_resnet20")
    assert "its weights are random" in capsys.readouterr().err
    load_model("digits_cnn")
    assert capsys.readouterr().err == ""
    load_model("digits_cnn", classes=3)
    assert "its weights are random" in capsys.readouterr().err


def test_random_weights_on_purpose_are_the_same_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, again = (load_model("digits_cnn", "random").network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], load_model("digits_cnn").network.head.weight)  # pyright: ignore
    assert capsys.readouterr().err == ""


def test_the_shipped_digits_weights_are_small_and_good(
    digits_model: Classifier, digits_test: ImageSet
) -> None:
    from deepcorrect import models

    assert (Path(models.__path__[0]) / "digits_cnn.safetensors").stat().st_size < 1_000_000
    assert accuracy(digits_model, digits_test) >= 0.97


def test_a_classifier_normalises_as_its_preprocessing_says(digits_model: Classifier) -> None:
    images = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(
            digits_model(images), digits_model.network((images - 0.1307) / 0.3081), atol=1e-5
        )


def test_unknown_models_suggest_near_ones() -> None:
    with pytest.raises(
        InputError, match=r"unknown model 'cifar_alcnn', did you mean 'cifar_allcnn'"
    ):
        load_model("cifar_alcnn")
    with pytest.raises(InputError, match="classes=0 is not accepted"):
        load_model("digits_cnn", classes=0)


# --- python:


@pytest.fixture
def python_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(PYTHON_MODEL)
    return path


GIVEN: dict[str, Any] = {"input_size": 8, "mean": (0.5,), "std": (0.25,)}


def test_a_python_file_gives_a_model(python_file: Path) -> None:
    bare = load_model(f"python:{python_file}:bare", **GIVEN)
    assert bare.preprocessing == Preprocessing(8, (0.5,), (0.25,))
    assert (bare.name, bare.training) == ("bare", False)
    assert output_classes(bare, bare.preprocessing) == 2
    wrapped = load_model(f"python:{python_file}:wrapped")
    assert (wrapped.name, wrapped.preprocessing) == ("mine", Preprocessing(8, (0.5,), (0.25,)))


def test_a_python_module_gives_a_model(python_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(python_file.parent))
    assert load_model("python:my_net:wrapped").name == "mine"


def test_flags_replace_what_the_model_says(python_file: Path) -> None:
    model = load_model(f"python:{python_file}:wrapped", input_size=12, mean=(0.1,))
    assert model.preprocessing == Preprocessing(12, (0.1,), (0.25,))
    assert float(model.mean) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("bare", "does not say how its images are prepared: give --input-size, --mean, --std"),
        ("bere", "unknown callable of .*my_net.py 'bere', did you mean 'bare'"),
        ("constant", "unknown callable of .*my_net.py 'constant'"),
        ("fails", r"fails\(\) failed: KeyError: 'no such thing'"),
        ("refuses", "not like this"),
        ("number", "returned int: it must return a torch.nn.Module"),
    ],
)
def test_bad_callables_say_what_is_wrong(python_file: Path, attribute: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"python:{python_file}:{attribute}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:", "is not python:FILE_OR_MODULE:CALLABLE"),
        ("python:only_a_module", "is not python:FILE_OR_MODULE:CALLABLE"),
        ("python:nowhere.py:build", "there is no file nowhere.py"),
        ("python:no_such_module_here:build", "importing 'no_such_module_here' failed: ModuleNotF"),
    ],
)
def test_bad_python_specs_say_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(spec)


def test_a_python_file_with_an_error_says_so(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import torch\nnot a python\n")
    with pytest.raises(InputError, match="importing .* failed: SyntaxError"):
        load_model(f"python:{path}:build")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5,) * 3, "std": (0.5,) * 2}, "mean has 3 values and std has 2"),
        ({"mean": (0.5,) * 2, "std": (0.5,) * 2}, r"one value \(grey\) or three"),
        ({"std": (0.0,)}, r"std 0 is not in \(0, 1\]"),
        ({"input_size": 0}, "not a number of pixels above 0"),
        ({"resize": 4}, "smaller than the input size"),
    ],
)
def test_bad_preprocessing_says_what_is_wrong(
    python_file: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"python:{python_file}:bare", **{**GIVEN, **changes})


@pytest.mark.parametrize(
    ("spec", "given", "mean", "std"),
    [
        ("colour", {"mean": (0.4,), "std": (0.2,)}, (0.4,) * 3, (0.2,) * 3),
        ("colour", {"mean": (0.4,), "std": (0.2, 0.3, 0.1)}, (0.4,) * 3, (0.2, 0.3, 0.1)),
        ("bare", {"mean": (0.4,), "std": (0.2,)}, (0.4,), (0.2,)),
        ("cifar_resnet20", {"mean": (0.4,)}, (0.4,) * 3, (0.2673, 0.2564, 0.2762)),
        ("cifar_resnet20", {"mean": 0.4, "std": [0.2]}, (0.4,) * 3, (0.2,) * 3),
        ("digits_cnn", {"std": (0.5,)}, (0.1307,), (0.5,)),
    ],
)
def test_one_value_stands_for_all_channels(
    python_file: Path, spec: str, given: Any, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    own = spec in ("colour", "bare")
    size: dict[str, Any] = {"input_size": 8} if own else {}
    named = f"python:{python_file}:{spec}" if own else spec
    model = load_model(named, "random", **size, **given)
    assert (model.preprocessing.mean, model.preprocessing.std) == (mean, std)
    side = model.preprocessing.input_size
    images = torch.rand(2, len(mean), side, side)
    channels = [(images[:, c] - mean[c]) / std[c] for c in range(len(mean))]
    with torch.no_grad():
        expected = model.network(torch.stack(channels, 1))
        assert torch.allclose(model(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        ("cifar_resnet20", (0.5,) * 2, "mean has 2 values, and this network's images have 3"),
        ("cifar_resnet20", (0.5,) * 4, "give one value for all channels, or one for each"),
        ("digits_cnn", (0.5,) * 3, "mean has 3 values, and this network's images have 1 channel"),
        ("colour", (0.5,) * 2, r"one value \(grey\) or three"),
        ("colour", (0.5,) * 4, r"one value \(grey\) or three"),
        ("colour", ("a",), "is not one number per channel"),
        ("colour", (), "mean has 0 values"),
    ],
)
def test_statistics_of_other_channels_are_refused(
    python_file: Path, spec: str, values: Any, message: str
) -> None:
    named = f"python:{python_file}:{spec}" if spec == "colour" else spec
    with pytest.raises(InputError, match=message):
        load_model(named, "random", input_size=32, mean=values, std=values)


def test_a_network_that_does_not_take_the_images_says_so(python_file: Path) -> None:
    model = load_model(f"python:{python_file}:bare", input_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(InputError, match="does not accept images of 1 x 3 x 8 x 8"):
        output_classes(model, model.preprocessing)
    maps = Classifier(nn.Conv2d(1, 2, 3), Preprocessing(8, (0.5,), (0.5,)))
    with pytest.raises(InputError, match="returns 1 x 2 x 6 x 6 for 1 images: it must return"):
        output_classes(maps, maps.preprocessing)


# --- weights


def another_digits(seed: int = 5) -> DigitsCNN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DigitsCNN()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("w.safetensors", lambda state: state),
        ("w.pt", lambda state: state),
        ("w.pth", lambda state: {"state_dict": state, "epoch": 3}),
        ("w.pt", lambda state: {"model": state}),
        ("w.pt", lambda state: {f"module.{name}": tensor for name, tensor in state.items()}),
        ("w.bin", lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}),
    ],
)
def test_weights_are_read_in_every_usual_form(
    tmp_path: Path, name: str, pack: Callable[[dict[str, Tensor]], Any]
) -> None:
    source = another_digits()
    content = pack(dict(source.state_dict()))
    if name.endswith(".safetensors"):
        save_file(content, tmp_path / name)
    else:
        torch.save(content, tmp_path / name)
    loaded = load_model("digits_cnn", tmp_path / name).network.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in source.state_dict().items())


def saved(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def pickled(value: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def truncated(path: Path, share: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def safetensors_of(network: nn.Module, path: Path) -> Path:
    save_file(dict(network.state_dict()), path)
    return path


class Exploit:
    """A pickle that would run code if it were read without `weights_only`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/deepcorrect-exploited",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: saved(CifarResNet20().state_dict(), d / "w.pt"), "weights of another network"),
        (
            lambda d: safetensors_of(DigitsCNN(3), d / "w.safetensors"),
            r"head.weight has shape \(3,",
        ),
        (lambda d: saved({}, d / "w.pt"), "another network than this DigitsCNN: .* is missing"),
        (lambda d: saved([1, 2], d / "w.pt"), "not a state dict.*holds list"),
        (lambda d: saved(torch.ones(3), d / "w.pt"), "not a state dict.*holds Tensor"),
        (lambda d: saved({"epoch": 3}, d / "w.pt"), "not a state dict.*holds int under 'epoch'"),
        (lambda d: saved({0: torch.ones(1)}, d / "w.pt"), "0 is not in the network"),
        (lambda d: saved(DigitsCNN(), d / "w.pt"), "can be read safely"),
        (lambda d: saved(types.SimpleNamespace(a=1), d / "w.pt"), "can be read safely"),
        (lambda d: saved(Exploit(), d / "w.pt"), "can be read safely"),
        (lambda d: pickled(Exploit(), d / "w.pkl"), "can be read safely"),
        (lambda d: pickled({"a": 1}, d / "w.pkl"), "can be read safely|not a state dict"),
        (lambda d: truncated(saved(DigitsCNN().state_dict(), d / "w.pt")), "cut off or damaged"),
        (
            lambda d: truncated(safetensors_of(DigitsCNN(), d / "w.safetensors")),
            "not a complete safetensors file",
        ),
        (
            lambda d: truncated(safetensors_of(DigitsCNN(), d / "w.safetensors"), 0),
            "it is empty",
        ),
        (lambda d: d / "nowhere.safetensors", "there is no file"),
        (lambda d: d / "nowhere.pt", "there is no file"),
        (lambda d: d, "is a folder: give a file"),
    ],
)
def test_other_files_are_refused_and_the_network_left_alone(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    network = another_digits()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    path = make(tmp_path)
    with pytest.raises(InputError, match=message):
        load_weights(network, path)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not Path("/tmp/deepcorrect-exploited").exists()


# --- the shared, trained networks


@pytest.mark.shared
@pytest.mark.skipif(not SHARED, reason="DEEPCORRECT_SHARED does not name the shared folder")
@pytest.mark.parametrize(
    ("spec", "stem", "top1"),
    [
        ("cifar_allcnn", "cifar100_allcnn", 0.6946),
        ("cifar_resnet20", "cifar100_resnet20", 0.65),
    ],
)
def test_the_shared_networks_reach_their_cards_accuracy(spec: str, stem: str, top1: float) -> None:
    root = Path(str(SHARED))
    model = load_model(spec, root / "models" / f"{stem}.safetensors")
    images = open_dataset(f"parquet:{root}/data/cifar100/test.parquet", model.preprocessing)
    # 500 images: two standard deviations of their mean are four points
    assert accuracy(model, images.sample(500)) == pytest.approx(top1, abs=0.045)


def test_inference_restores_each_modules_mode() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).train()
    network[1].eval()
    images = torch.ones(4, 3)
    with inference(network):
        assert torch.equal(network(images), images)
    assert [module.training for module in network.modules()] == [True, True, False]
    assert F.dropout(images, 1.0, network[0].training).sum() == 0
