"""Weights files as people bring them: older and tied state dicts, prefixes, wrappings, pickles."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from deepcorrect.models import DigitsCNN, load_model, load_weights
from deepcorrect.runtime import InputError, StandIn, files


def digits(seed: int = 5) -> DigitsCNN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DigitsCNN()


def state_of(seed: int = 5) -> dict[str, Tensor]:
    return dict(digits(seed).state_dict())


def under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def loaded(value: Any, folder: Path, network: nn.Module | None = None, **given: Any) -> nn.Module:
    network = network or digits(1)
    load_weights(network, saved(value, folder / "w.pt"), **given)
    return network


def has_state(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items())


# --- what PyTorch itself loads


class Tied(nn.Module):
    """A network whose two layers have one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        scale = torch.rand(3)
        self.register_buffer("scale", scale)
        self.register_buffer("same_scale", scale)


class Counted(nn.Module):
    """A network with a module that has a state of its own besides tensors."""

    def __init__(self, count: int = 0) -> None:
        super().__init__()
        self.layer, self.count = nn.Linear(2, 2), count

    def get_extra_state(self) -> Any:
        return {"count": self.count}

    def set_extra_state(self, state: Any) -> None:
        self.count = state["count"]


class Renaming(nn.Module):
    """A network that itself accepts the names of its earlier version."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(_: Any, state: dict[str, Any], prefix: str, *__: Any) -> None:
        for name in [name for name in state if name.startswith(prefix + "old.")]:
            state[name.replace("old.", "layer.")] = state.pop(name)


def test_states_without_counters_of_batches_load(tmp_path: Path) -> None:
    given = {n: t for n, t in state_of().items() if not n.endswith("num_batches_tracked")}
    assert len(given) < len(state_of())
    for value in (given, collections.OrderedDict(given), under("module.", given)):
        assert has_state(loaded(value, tmp_path), given)
    files.write_tensors(tmp_path / "w.safetensors", given)
    load_weights(network := digits(1), tmp_path / "w.safetensors")
    assert has_state(network, given)


def test_running_statistics_may_not_be_missing(tmp_path: Path) -> None:
    given = {n: t for n, t in state_of().items() if not n.endswith("running_var")}
    with pytest.raises(InputError, match="running_var is missing"):
        loaded(given, tmp_path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_tied_tensor_need_be_there_once(tmp_path: Path, prefix: str) -> None:
    source = Tied()
    save_model(source, str(tmp_path / "w.safetensors"))
    load_weights(network := Tied(), tmp_path / "w.safetensors")
    assert has_state(network, source.state_dict())
    for left_out in ("first.weight", "second.weight"):
        given = {n: t for n, t in source.state_dict().items() if n not in (left_out, "scale")}
        assert has_state(loaded(under(prefix, given), tmp_path, Tied()), source.state_dict())
    given = {n: t for n, t in source.state_dict().items() if not n.endswith(".weight")}
    with pytest.raises(InputError, match="first.weight is missing; second.weight is missing"):
        loaded(under(prefix, given), tmp_path, Tied())


@pytest.mark.parametrize("prefix", ["", "module.", "net.module."])
def test_extra_states_are_restored(tmp_path: Path, prefix: str) -> None:
    state = under(prefix, Counted(7).state_dict())
    network = loaded({"state_dict": state}, tmp_path, Counted())
    assert isinstance(network, Counted)
    assert network.count == 7
    del state[f"{prefix}_extra_state"]
    with pytest.raises(InputError, match="_extra_state is missing"):
        loaded(state, tmp_path, Counted())


def test_a_networks_own_rules_for_names_apply(tmp_path: Path) -> None:
    source = nn.Linear(2, 2).state_dict()
    for prefix in ("old.", "module.old.", "layer."):
        network = loaded(under(prefix, source), tmp_path, Renaming())
        assert has_state(network, under("layer.", source))
    with pytest.warns(FutureWarning):
        normed = nn.utils.weight_norm(nn.Conv2d(1, 2, 3))  # the older form has other names
    now = loaded(normed.state_dict(), tmp_path, parametrizations.weight_norm(nn.Conv2d(1, 2, 3)))
    ones = torch.ones(1, 1, 3, 3)
    assert torch.allclose(now(ones), normed(ones))


# --- prefixes


PREFIXES = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "model.module.",
    "model._orig_mod.module.",
    "net.",
    "encoder.backbone.",
    "features.",  # also the name of a child
    "head.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_that_makes_names_fit_is_stripped(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = state_of()
    assert has_state(loaded(under(prefix, state), tmp_path), state)
    assert has_state(loaded({"state_dict": under(prefix, state)}, tmp_path), state)
    assert capsys.readouterr().err == ""


class Inner(nn.Module):
    """A network whose own child has the name of a wrapper."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))


@pytest.mark.parametrize("name", ["module", "model", "_orig_mod"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.module.", "_orig_mod."])
def test_a_child_that_is_called_like_a_wrapper_keeps_its_name(
    tmp_path: Path, name: str, prefix: str
) -> None:
    source = Inner(name).state_dict()
    assert has_state(loaded(under(prefix, source), tmp_path, Inner(name)), source)


def test_wrappers_inside_the_names_and_around_the_network(tmp_path: Path) -> None:
    state = state_of()
    for part in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"):
        given = {name.replace("features.", f"features.{part}."): t for name, t in state.items()}
        assert given.keys() != state.keys()
        assert has_state(loaded(given, tmp_path), state)
    whole = nn.Module()
    whole.add_module("module", digits(1))
    assert has_state(loaded(state, tmp_path, whole), under("module.", state))


def test_tensors_beside_the_networks_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = state_of()
    given = under("model.", state) | {
        "criterion.weight": torch.ones(10),
        "top1.n": torch.ones(1),
    }
    assert has_state(loaded({"state_dict": given}, tmp_path), state)
    said = capsys.readouterr().err
    assert "those under 'model.'; 2 others are left out (criterion.weight, top1.n)" in said
    averaged = under("module.", state) | {"n_averaged": torch.tensor(3)}
    counted = state | {"total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)}
    for given in (averaged, counted):
        assert has_state(loaded(given, tmp_path), state)
    assert capsys.readouterr().err == ""


def test_a_small_part_of_another_network_is_refused_unless_it_is_named(tmp_path: Path) -> None:
    given = {**under("body.", state_of()), "fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}
    with pytest.raises(InputError, match=r"under 'fc.'.*--state fc"):
        loaded(given, tmp_path, nn.Linear(2, 3))
    assert has_state(loaded(given, tmp_path, nn.Linear(2, 3), state="fc"), {"bias": torch.ones(3)})


def test_a_network_without_tensors_and_one_without_shapes_load(tmp_path: Path) -> None:
    loaded({}, tmp_path, nn.ReLU())
    source = nn.Linear(3, 2).state_dict()
    assert has_state(loaded(source, tmp_path, nn.LazyLinear(2)), source)


# --- wrappings


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"net": s},
        lambda s: {"model": s, "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
        lambda s: {"anything": s, "loss": torch.tensor(0.5)},
        lambda s: {"a": {"b": {"c": s}}, "config": {"lr": 0.1}, "none": None},
        lambda s: {"weights": under("module.", s), "loss_state": {"weight": torch.ones(10)}},
        lambda s: {"student": s, "teacher": {"conv.weight": torch.ones(1, 1, 3, 3)}},
        lambda s: {"model": s, "state_dict": s},
        lambda s: {"ema": None, "model_state_dict": s},
    ],
)
def test_the_one_state_dict_that_fits_is_found(
    tmp_path: Path, wrap: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    state = state_of()
    assert has_state(loaded(wrap(state), tmp_path), state)
    assert capsys.readouterr().err == ""


# --- what does not fit


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda s: {n.replace("head", "fc"): t for n, t in s.items()},
            ["head.weight is missing", "fc.weight is not in the network", "same network under"],
        ),
        (lambda s: s | {"aux.weight": torch.ones(2)}, ["aux.weight is not in", "larger network"]),
        (
            lambda s: {n: t for n, t in s.items() if "head" not in n},
            ["head.bias", "without its h"],
        ),
        (lambda _: dict(DigitsCNN(3).state_dict()), ["shape (3,", "for 3 classes: give --classes"]),
        (lambda _: {"block.0/first.weight": torch.ones(2)}, ["adapter of deepcorrect"]),
        (lambda s: {**s, "x.lora_A.weight": torch.ones(2)}, ["a LoRA adapter"]),
        (
            lambda s: under("module.", {**s, "extra": torch.ones(1), "head.weight": torch.ones(2)}),
            ["under 'module.'", "extra is not in the network", "head.weight has shape (2,)"],
        ),
    ],
)
def test_what_is_missing_and_what_is_left_over_are_both_said(
    tmp_path: Path, change: Callable[[Any], Any], parts: list[str]
) -> None:
    network = digits(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        loaded(change(state_of()), tmp_path, network)
    assert all(part in str(caught.value) for part in [*parts, "weights of another network"])
    assert has_state(network, before)


# --- several states


def two(first: str, second: str) -> dict[str, Any]:
    return {first: state_of(5), second: state_of(6), "epoch": 3}


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("state_dict", "state_dict_ema"), "state_dict_ema"),
        (("model", "model_ema"), "model_ema"),
        (("model_ema", "state_dict_ema"), "state_dict_ema"),
        (("ema", "state_dict"), "ema"),
        (("net", "ema_state"), "ema_state"),
        (("model", "state_dict"), "state_dict"),
        (("best", "model"), "model"),
        (("cinema", "model"), "model"),  # no average, though its name contains "ema"
    ],
)
def test_of_several_states_one_is_taken_and_named(
    tmp_path: Path, names: tuple[str, str], taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = two(*names)
    other = next(name for name in names if name != taken)
    assert has_state(loaded(value, tmp_path), value[taken])
    said = capsys.readouterr().err
    assert f"{taken!r} is taken ({other} would fit, too); --state NAME takes another" in said
    assert has_state(loaded(value, tmp_path, state=other), value[other])
    assert has_state(loaded(value, tmp_path, state=taken), value[taken])
    assert capsys.readouterr().err == ""


def test_timm_takes_the_same_state(tmp_path: Path) -> None:
    from deepcorrect.runtime import try_torchvision

    try_torchvision()
    timm = pytest.importorskip("timm")
    for names in (
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "state_dict"),
    ):
        path = saved(two(*names), tmp_path / "w.pt")
        load_weights(network := digits(1), path)
        assert has_state(network, timm.models.load_state_dict(str(path)))


def test_torchvisions_averaged_state_has_a_prefix_and_a_counter(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(digits(6), use_buffers=True)
    value = {"model": state_of(5), "model_ema": averaged.state_dict(), "args": argparse.Namespace()}
    assert has_state(loaded(value, tmp_path), state_of(6))
    assert has_state(loaded(value, tmp_path, state="model"), state_of(5))
    assert has_state(loaded(value, tmp_path, state="model_ema"), state_of(6))


def test_an_average_that_does_not_fit_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {"state_dict": state_of(), "state_dict_ema": dict(DigitsCNN(3).state_dict())}
    assert has_state(loaded(value, tmp_path), state_of())
    said = capsys.readouterr().err
    assert "'state_dict' is taken (state_dict_ema does not fit)" in said
    with pytest.raises(InputError, match=r"head.weight has shape \(3,"):
        loaded(value, tmp_path, state="state_dict_ema")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"student": state_of(5), "teacher": state_of(6)}, ["student", "teacher"]),
        (
            {"state_dict": under("student.", state_of(5)) | under("teacher.", state_of(6))},
            ["state_dict.student", "state_dict.teacher"],
        ),
        (state_of(5) | under("teacher.", state_of(6)), [".", "teacher"]),
        ({"a": {"net": state_of(5)}, "b": {"net": state_of(6)}}, ["a.net", "b.net"]),
    ],
)
def test_several_states_without_a_usual_name_are_refused_until_one_is_chosen(
    tmp_path: Path, value: dict[str, Any], names: list[str]
) -> None:
    with pytest.raises(InputError, match=f"2 times, as {', '.join(names)}: choose one") as caught:
        loaded(value, tmp_path)
    assert f"--state {names[1]} (in Python, state={names[1]!r})" in str(caught.value)
    assert has_state(loaded(value, tmp_path, state=names[1]), state_of(6))
    if names[0] != ".":
        assert has_state(loaded(value, tmp_path, state=names[0]), state_of(5))


def test_a_state_of_another_name_is_refused(tmp_path: Path) -> None:
    path = saved(two("model", "model_ema"), tmp_path / "w.pt")
    message = "unknown state of .*w.pt 'model_eam', did you mean 'model_ema'"
    with pytest.raises(InputError, match=message):
        load_model("digits_cnn", path, state="model_eam")
    assert has_state(load_model("digits_cnn", path, state="model").network, state_of(5))
    for weights in (None, "random"):
        with pytest.raises(InputError, match="--state.* needs a weights file"):
            load_model("digits_cnn", weights, state="model")


# --- safe unpickling


class Mode(enum.Enum):
    TRAIN = 1


@dataclasses.dataclass
class Settings:
    rate: float = 0.1


class Config(dict):
    """A dictionary of one's own."""


HARMLESS: list[Any] = [
    np.float64(0.93),
    np.float32(0.5),
    np.int64(3),
    np.ones(3),
    np.array(["a"]),
    np.random.default_rng(0),
    np.random.RandomState(0).get_state(),
    argparse.Namespace(rate=0.1, out=Path("runs")),
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2]),
    Path("a/b"),
    Mode.TRAIN,
    {Mode.TRAIN: 1},
    Settings(),
    Config(a=1),
    datetime.datetime(2020, 1, 1),
    datetime.timedelta(1),
    types.SimpleNamespace(a=1),
    functools.partial(int, base=2),
    slice(1, 2),
    range(3),
    frozenset([1]),
    torch.optim.SGD,
    nn.functional.relu,
]


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("value", HARMLESS, ids=lambda value: type(value).__name__)
def test_what_a_checkpoint_holds_beside_its_tensors_does_no_harm(
    tmp_path: Path, value: Any, is_zip: bool
) -> None:
    state = state_of()
    content = {"extra": value, "state_dict": state, "list": [value, {"a": value}]}
    path = tmp_path / "w.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    before = set(torch.serialization.get_safe_globals())
    load_weights(network := digits(1), path)
    assert has_state(network, state)
    assert set(torch.serialization.get_safe_globals()) == before


def test_no_class_in_a_checkpoint_is_imported_or_called(tmp_path: Path) -> None:
    saved({"state_dict": state_of(), "extra": Settings()}, tmp_path / "w.pt")
    content = files.read_checkpoint(tmp_path / "w.pt")
    assert isinstance(content["extra"], StandIn)
    assert content["extra"].origin.endswith("test_weights_files.Settings")
    assert not hasattr(content["extra"], "rate")


def test_a_state_dict_in_a_mapping_of_its_own_class_is_found(tmp_path: Path) -> None:
    for value in (Config(state_dict=state_of()), {"model": Config(state_of())}):
        assert has_state(loaded(value, tmp_path), state_of())


class Calls:
    def __init__(self, function: Any, *given: Any) -> None:
        self.function, self.given = function, given

    def __reduce__(self) -> Any:
        return self.function, self.given


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (exec, "builtins.exec"), (eval, "builtins.eval"), (os.rmdir, "rmdir")],
)
def test_a_file_that_names_functions_that_act_is_refused(
    tmp_path: Path, function: Any, name: str, is_zip: bool
) -> None:
    content = {"state_dict": state_of(), "extra": Calls(function, "1")}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=f"it names .*{name}, which is never called"):
        load_weights(digits(1), tmp_path / "w.pt")


@pytest.mark.parametrize(
    "value", [digits(), {"model": digits()}, {"model": digits(), "epoch": 3}, [digits()]]
)
def test_a_network_that_was_pickled_whole_is_refused_by_its_class(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(InputError) as caught:
        loaded(value, tmp_path)
    assert "DigitsCNN" in str(caught.value)
    assert "torch.save(network.state_dict(), FILE)" in str(caught.value)
