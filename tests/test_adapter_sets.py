"""Several adapters on one network, one of them in use; and the network told however it is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SIZE, TinyCNN, tiny_cnn
from test_adapter import FILTERS, adapted_tiny, saved_tiny
from test_cli import command
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import correct, load_adapter
from deepcorrect.correction._checkpoint import config_sha256
from deepcorrect.data import Preprocessing
from deepcorrect.deployment import fuse
from deepcorrect.networks import Classifier, convolutions, tap
from deepcorrect.networks._fingerprint import fingerprint, fingerprint_by_names
from deepcorrect.runtime import InputError


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str | Path]:
    for seed, name in enumerate(("blur", "noise")):
        adapted_tiny(tiny_cnn(), seed=seed).save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in ("blur", "noise")}


def test_adapters_are_chosen_by_name_and_none_is_the_baseline(
    folders: dict[str, str | Path], classifier: Classifier, images: Tensor
) -> None:
    with torch.no_grad():
        baseline = classifier(images)
        alone = {
            name: load_adapter(Classifier(tiny_cnn(), classifier.preprocessing), folder)(images)
            for name, folder in folders.items()
        }
        adapters = dc.load_adapters(classifier, folders)
        assert (adapters.names, adapters.active) == (("blur", "noise"), None)
        assert torch.equal(adapters(images), baseline)
        adapters.use("noise")
        assert torch.equal(adapters(images), alone["noise"])
        with adapters.use("blur") as chosen:
            assert torch.equal(chosen(images), alone["blur"])
            with adapters.use(None):
                assert torch.equal(adapters(images), baseline)
            assert adapters.active == "blur"
        assert torch.equal(adapters(images), alone["noise"])
        with pytest.raises(ZeroDivisionError), adapters.use("blur"):
            raise ZeroDivisionError
        assert adapters.active == "noise"
        assert torch.equal(classifier(images), baseline)
        assert torch.allclose(fuse(adapters["blur"])(images), alone["blur"], atol=1e-4)
    assert list(adapters) == ["blur", "noise"]
    assert len(adapters) == 2


def test_the_network_stays_as_it_is(
    folders: dict[str, str | Path], classifier: Classifier, images: Tensor
) -> None:
    classifier.train()
    adapters = dc.load_adapters(classifier, folders)
    adapters.use("blur")
    adapters.train()(images)
    assert adapters.network is classifier
    assert all(module.training for module in classifier.modules())
    assert all(p.requires_grad for p in classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())


def test_a_sets_state_is_that_of_its_adapters(
    folders: dict[str, str | Path], classifier: Classifier, images: Tensor
) -> None:
    adapters = dc.load_adapters(classifier, folders)
    state = {name: tensor.clone() for name, tensor in adapters.state_dict().items()}
    assert {name.split("/")[0] for name in state} == {"blur", "noise"}
    other = dc.load_adapters(Classifier(tiny_cnn(), classifier.preprocessing), folders)
    with torch.no_grad():
        for parameter in other.adapters.parameters():
            if not any(parameter is each for each in other.network.parameters()):
                parameter.zero_()
        found = other.load_state_dict(state)
        assert not found.missing_keys
        assert not found.unexpected_keys
        for name in ("blur", "noise"):
            with adapters.use(name), other.use(name):
                assert torch.equal(adapters(images), other(images))
    with pytest.raises(InputError, match="belongs to no adapter of the set: blur, noise"):
        other.load_state_dict({**state, "rain/stem/residual.0.weight": images})
    with pytest.raises(InputError, match="tensors"):
        other.load_state_dict({k: v for k, v in state.items() if k.startswith("blur")})


def test_a_set_stands_for_the_adapter_in_use(
    folders: dict[str, str | Path], classifier: Classifier, images: Tensor
) -> None:
    """Where maps are read, costs counted, and accuracy measured."""
    adapters = dc.load_adapters(classifier, folders)
    blur = adapters["blur"]
    bare = dc.costs(adapters, classifier.preprocessing)
    assert bare.multiply_adds == dc.costs(classifier, classifier.preprocessing).multiply_adds
    assert bare.trainable_parameters == 0
    with adapters.use("blur"), torch.no_grad():
        with tap(adapters, ["stem"]) as maps, tap(blur, ["stem"]) as expected:
            adapters(images)
        assert torch.equal(maps["stem"], expected["stem"])
        used = dc.costs(adapters, classifier.preprocessing)
        own = dc.costs(blur, classifier.preprocessing)
        assert used.trainable_parameters == own.trainable_parameters
        assert used.multiply_adds == own.multiply_adds > bare.multiply_adds
        agreement = dc.evaluate(adapters, [(images, torch.full((12,), -1))], "awgn:20")
        same = dc.evaluate(blur, [(images, torch.full((12,), -1))], "awgn:20")
        assert agreement.mean_top1 == same.mean_top1


def test_one_that_does_not_fit_leaves_none_on(
    folders: dict[str, str | Path], tmp_path: Path, network: TinyCNN
) -> None:
    with pytest.raises(InputError, match="holds no adapter"):
        dc.load_adapters(network, {**folders, "third": tmp_path / "absent"})
    assert not any(module._forward_hooks for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())


def test_what_makes_no_set(folders: dict[str, str | Path], network: TinyCNN) -> None:
    adapters = dc.load_adapters(network, folders)
    with pytest.raises(InputError, match="unknown adapter 'blurr', did you mean 'blur'"):
        adapters.use("blurr")
    with pytest.raises(InputError, match="at least one adapter"):
        dc.AdapterSet({})
    with pytest.raises(InputError, match="cannot name an adapter"):
        dc.AdapterSet({"a.b": adapters["blur"]})
    with pytest.raises(InputError, match="on a different network"):
        dc.AdapterSet({"a": adapters["blur"], "b": adapted_tiny(tiny_cnn())})


# --- whichever way the network was built


class Mine(nn.Module):
    """A wrapper of one's own, with a buffer and a name of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.backbone = network

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


class Renamed(nn.Module):
    """The same network as another library would call its parts."""

    def __init__(self, other: TinyCNN) -> None:
        super().__init__()
        self.classifier = other.head
        self.features = nn.ModuleDict(
            {name: other.get_submodule(name) for name in ("pointwise", "depthwise", "grouped")}
        )
        self.embedder, self.n1, self.n2 = other.stem, other.norm, other.out_norm

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.n1(self.embedder(x)))
        out = self.features["depthwise"](torch.relu(self.features["grouped"](maps))) + maps
        out = self.features["pointwise"](nn.functional.avg_pool2d(torch.relu(out), 2))
        return self.classifier(nn.functional.hardswish(self.n2(out)).mean((2, 3)))


def classified(network: nn.Module) -> Classifier:
    """With a normalisation that changes nothing, so that all take the same images."""
    return Classifier(network, Preprocessing(SIZE, (0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize(
    "build",
    [
        classified,
        lambda network: classified(classified(network)),
        Mine,
        lambda network: nn.Sequential(nn.Identity(), Mine(network)),
        nn.DataParallel,
        lambda network: classified(nn.DataParallel(network)),
        torch.compile,
        lambda network: torch.compile(classified(network)),
        Renamed,
    ],
    ids=["Classifier", "two", "own", "Sequential", "DP", "in DP", "compile", "compiled", "renamed"],
)
def test_an_adapter_finds_its_network_whichever_way_it_is_built(
    tmp_path: Path, images: Tensor, build: Callable[[nn.Module], nn.Module]
) -> None:
    expected = saved_tiny(tmp_path / "a", images)
    adapted = load_adapter(build(tiny_cnn()), tmp_path / "a")
    adapted.save_pretrained(tmp_path / "b")
    with torch.no_grad():
        assert torch.allclose(adapted(images), expected, atol=1e-5)
        assert torch.allclose(load_adapter(tiny_cnn(), tmp_path / "b")(images), expected, atol=1e-5)


def test_a_compiled_part_is_refused(tmp_path: Path, images: Tensor) -> None:
    saved_tiny(tmp_path, images)
    with pytest.raises(InputError, match="a part of the network is compiled"):
        load_adapter(Mine(torch.compile(tiny_cnn())), tmp_path)  # pyright: ignore


def stride(network: TinyCNN) -> None:
    network.depthwise.stride = (2, 2)


def eps(network: TinyCNN) -> None:
    network.norm.eps = 1e-3


def layer(network: TinyCNN) -> None:
    network.extra = nn.Linear(2, 2)


@pytest.mark.parametrize("change", [stride, eps, layer])
def test_the_same_weights_in_another_network_are_refused(
    tmp_path: Path, images: Tensor, change: Callable[[TinyCNN], None]
) -> None:
    saved_tiny(tmp_path, images)
    other = tiny_cnn()
    change(other)
    with pytest.raises(InputError, match="with other weights"):
        load_adapter(other, tmp_path)
    assert fingerprint(other) != fingerprint(tiny_cnn())


def test_sites_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    class Twins(nn.Module):
        def __init__(self, names: str) -> None:
            super().__init__()
            for name in names:
                conv = nn.Conv2d(3, 3, 1)
                nn.init.ones_(conv.weight)
                nn.init.zeros_(conv.bias)  # pyright: ignore
                self.add_module(name, conv)

        def forward(self, x: Tensor) -> Tensor:
            for module in self.children():
                x = module(x)
            return x.mean((2, 3))

    correct(Twins("abc"), {"b": [0]}).save_pretrained(tmp_path)
    load_adapter(Twins("abc"), tmp_path)
    with pytest.raises(InputError, match="its site 'b' cannot be identified"):
        load_adapter(Twins("xyz"), tmp_path)


def test_adapters_of_the_first_schema_still_load(tmp_path: Path, images: Tensor) -> None:
    expected = saved_tiny(tmp_path, images)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    config |= {"schema_version": 1, "fingerprint": fingerprint_by_names(tiny_cnn())}
    del config["config_sha256"]
    for site in config["sites"].values():
        del site["content"]
    path.write_text(json.dumps(config))
    with torch.no_grad():
        adapted = load_adapter(tiny_cnn(), tmp_path)
        assert torch.equal(adapted(images), expected)
    with pytest.raises(InputError, match="with other weights"):
        load_adapter(tiny_cnn(seed=3), tmp_path)
    with pytest.raises(InputError, match="no site"):
        load_adapter(Mine(tiny_cnn()), tmp_path)


def test_notes_may_be_edited_and_nothing_else(tmp_path: Path, images: Tensor) -> None:
    saved_tiny(tmp_path, images)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    config["notes"]["license"] = "mit"
    path.write_text(json.dumps(config))
    assert load_adapter(tiny_cnn(), tmp_path).config.notes["license"] == "mit"
    config["base"] = "another"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="was changed since it was saved"):
        load_adapter(tiny_cnn(), tmp_path)
    assert config_sha256(config) != config["config_sha256"]
    assert set(FILTERS) == set(config["sites"])


def test_no_pickle_is_read_without_weights_only() -> None:
    """Every call of torch.load in the product says so, and nothing unpickles by itself."""
    source = Path(dc.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in text.split("torch.load(")[1:]:
            assert "weights_only=True" in call[:200], path
        for word in ("pickle.load", "joblib.load", "allow_pickle=True", "torch.jit.load"):
            assert word not in text, (path, word)
        if "torch.export.load(" in text:
            assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" in text, path


# --- on the command line


def test_evaluate_compares_adapters_by_name(tmp_path: Path) -> None:
    model = dc.load_model("digits_cnn")
    site = next(iter(convolutions(model)))
    for seed in (0, 1):
        unit = {"kind": "lite", "width": 4, "start": "he"}
        correct(model, {site: [0, 1]}, unit=unit, seed=seed).save_pretrained(tmp_path / str(seed))
    call = ("evaluate", "--model", "digits_cnn", "--data", "digits:test", "--images", 20)
    call = (*call, "--distortion", "awgn:20", "--json")
    said = command(
        *call, "--adapter", f"one={tmp_path / '0'}", "--adapter", f"two={tmp_path / '1'}"
    )
    assert said.status == 0, said.err
    systems = said.json["systems"]
    assert list(systems) == ["baseline", "one", "two"]
    assert systems["baseline"]["trainable_parameters"] == 0
    assert systems["one"]["trainable_parameters"] == systems["two"]["trainable_parameters"] > 0
    alone = command(*call, "--adapter", tmp_path / "1").json["systems"]
    assert list(alone) == ["baseline", "deepcorrect"]
    assert alone["deepcorrect"]["distortions"] == systems["two"]["distortions"]
    assert command(*call).json["distortions"] == systems["baseline"]["distortions"]
    refused = command(*call, "--adapter", tmp_path / "0", "--adapter", tmp_path / "1")
    assert "each needs a name of its own, NAME=FOLDER" in refused.err
