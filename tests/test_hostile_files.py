"""Files that somebody made to do harm: refused in one line, nothing run, nothing left behind."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyCNN, tiny_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.correction import AdapterConfig
from deepcorrect.correction._checkpoint import config_sha256, file_sha256
from deepcorrect.correction._tensors import unit_shapes
from deepcorrect.experiments import load_recipe
from deepcorrect.runtime import InputError, files, parse_json, parse_yaml

# --- JSON and YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ("[" * 66 + "]" * 66, "nested more than 64 deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        ("9" * 5_000, "a number of 5000 digits"),
        ("-" + "9" * 21, "a number of 22 digits"),
        (str(2**64), "more than 64 bits"),
        (str(-(2**63) - 1), "more than 64 bits"),
        ("1e999", "the number 1e999 is not accepted"),
        ("[NaN]", "the number NaN is not accepted"),
        ("-Infinity", "the number -Infinity is not accepted"),
        ("{} {}", "is not a JSON file"),
    ],
)
def test_json_is_bounded(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_json(text, "here")


def test_json_of_our_own_size_is_read() -> None:
    value = {"a": [2**64 - 1, -(2**63), 1.5, None, True, "x" * 10_000], "deep": [[[[[[1]]]]]]}
    assert parse_json(json.dumps(value), "here") == value


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGED = "m0: &m0 {k0: 1, k1: 2}\n" + "".join(
    f"m{n}: &m{n} {{a{n}: *m{n - 1}, b{n}: *m{n - 1}, <<: *m{n - 1}}}\n" for n in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100000 values with its aliases written out"),
        (MERGED, "more than 100000 values with its aliases written out"),
        ("a: &a [*a]", "an alias inside the value that it stands for"),
        ("&a {b: *a}", "an alias inside the value that it stands for"),
        ("&a {? *a : 1}", "an alias inside the value that it stands for"),
        ("[" * 20_000, "nested more than 64 deep"),
        ("[" * 66 + "]" * 66, "nested more than 64 deep"),
        ("- " * 65 + "1", "nested more than 64 deep"),
        ("seed: " + "9" * 5_000, "not YAML of plain values"),
        ("seed: 0x" + "f" * 17, "more than 64 bits"),
        ("seed: " + ":".join(["59"] * 20), "more than 64 bits"),
        ("day: 2020-13-45", "not YAML of plain values"),
        ("? [a, b]\n: 1", "is not YAML"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
        ("!!python/name:os.system", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
    ],
)
def test_yaml_is_bounded(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_yaml(text, "here")
    with pytest.raises(InputError):
        load_recipe("demo", [f"name={text}"])


def test_files_that_are_too_large_or_no_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# " + "x" * (1 << 20))
    with pytest.raises(InputError, match="it has more than 1048576 bytes"):
        load_recipe(path)
    with pytest.raises(InputError, match="a folder, a pipe or a device"):
        files.read_json(Path("/dev/zero"))
    with pytest.raises(InputError, match="a folder, a pipe or a device"):
        files.read_json(tmp_path)


# --- recipes


def test_a_circle_of_recipes_is_refused_however_its_names_are_spelt(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "one.yaml").write_text("based_on: inner/../inner/two.yaml\n")
    (tmp_path / "inner" / "two.yaml").write_text("based_on: ../inner/../one.yaml\n")
    with pytest.raises(InputError, match="based on itself"):
        load_recipe(tmp_path / "one.yaml")
    (tmp_path / "link.yaml").symlink_to("mine.yaml")
    (tmp_path / "mine.yaml").write_text("based_on: link.yaml\n")
    with pytest.raises(InputError, match="based on itself"):
        load_recipe(tmp_path / "mine.yaml")


def test_a_long_chain_of_recipes_is_refused(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(f"based_on: {number + 1}.yaml\n")
    with pytest.raises(InputError, match="based on more than 16 others"):
        load_recipe(tmp_path / "0.yaml")


@pytest.mark.parametrize("name", ["..", ".", "...", ".hidden", "a/b", "", "x" * 101, "a\n", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="key 'name'"):
        load_recipe("demo", [f"name={json.dumps(name)}"])


@pytest.mark.parametrize("name", ["..", "a/b", "a.b", ""])
def test_a_system_whose_name_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"based_on: demo\nsystems: {{{json.dumps(name)}: {{method: deepcorrect}}}}\n")
    with pytest.raises(InputError, match="cannot name a system"):
        load_recipe(path)


@pytest.mark.parametrize("seed", [2**63, 2**64, 10**30, -1, True, 0.5, "1"])
def test_seeds_beyond_63_bits_are_refused_everywhere(seed: Any, network: TinyCNN) -> None:
    batches = [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))]
    adapted = dc.correct(network, {"stem": [1]})
    calls: list[Callable[[], object]] = [
        lambda: dc.correct(network, {"stem": [1]}, seed=seed),
        lambda: dc.rank(network, batches, "awgn:20", seed=seed),
        lambda: dc.evaluate(network, batches, "awgn:20", seed=seed),
        lambda: dc.fit(adapted, batches, "awgn:20", seed=seed, epochs=1),
        lambda: dc.fit_gate(adapted, batches, "awgn:20", seed=seed),
    ]
    for call in calls:
        with pytest.raises(InputError, match="not an integer from 0 to 2\\^63 - 1"):
            call()


# --- adapters


def saved(folder: Path, unit: Any = None) -> Path:
    adapted = dc.correct(tiny_cnn(), {"stem": [1, 4], "pointwise": [0, 5]}, unit=unit or "lite")
    return adapted.save_pretrained(folder)


def signed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a configuration as somebody does who knows the checksums."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    config["weights_sha256"] = file_sha256(folder / "adapter_model.safetensors")
    config["config_sha256"] = config_sha256(config)
    path.write_text(json.dumps(config))


def with_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = files.read_tensors(path)
    change(tensors)
    files.write_tensors(path, tensors)
    signed(folder, lambda config: None)


def everything(network: nn.Module) -> dict[str, object]:
    """All that a refused load might leave behind on a network."""
    found: dict[str, object] = {}
    for name, module in network.named_modules():
        hooks = [value for key, value in vars(module).items() if "hook" in key and value]
        found[name] = (type(module), module.training, sorted(vars(module)), hooks)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        found[name] = (id(tensor), tensor.requires_grad, tensor._version, tensor.data_ptr())
    return found


def unit(site: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: signed(folder, lambda c: c["sites"][site]["unit"].update(changes))


def gate(**changes: Any) -> Callable[[Path], None]:
    own = {"kinds": ["awgn"], "weights": [[1.0] * 38], "biases": [0.0], "false_alarms": 0.05}
    return lambda folder: signed(folder, lambda c: c.update(gate={**own, **changes}))


def sketch(*shape: int, mean: float = 0.0) -> Callable[[Path], None]:
    value = {"shape": shape, "mean": mean, "size": 1.0}
    return lambda folder: signed(folder, lambda c: c["sites"]["stem"].update(sketch=value))


WEIGHT = "stem/residual.0.weight"
VARIANCE = "stem/residual.1.running_var"


def edit(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    return lambda folder: with_tensors(folder, lambda t: t.update({name: value(t[name])}))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "14 GB of a unit": (unit("stem", width=60_000), "needs"),
    "a unit without end": (unit("stem", width=10**9), "width"),
    "a modulation without end": (unit("stem", modulation=10**9), "modulation"),
    "a modulation that is not there": (unit("stem", modulation=65_000), "do not match"),
    "a dilation without end": (unit("stem", dilations=[10**9]), "dilations"),
    "stages without end": (unit("stem", dilations=[1] * 100_000), "dilations"),
    "a wide share": (unit("stem", width=None, width_share=4.0, width_multiple=64), "needs"),
    "an image of a terabyte": (sketch(1, 3, 10**6, 10**6), "sketch"),
    "an image of nothing": (sketch(0, 3, 16, 16), "sketch"),
    "weights of another layer": (
        lambda f: signed(f, lambda c: c["sites"]["stem"].update(weights=10**12)),
        "weights",
    ),
    "channels without end": (
        lambda f: signed(f, lambda c: c["sites"]["stem"].update(channels=10**12)),
        "was made for",
    ),
    "a NaN": (edit(WEIGHT, lambda t: t * torch.nan), "NaN or infinite"),
    "an infinite value": (
        edit(WEIGHT, lambda t: t.index_fill(0, torch.tensor([0]), torch.inf)),
        "inf",
    ),
    "a value beyond float32": (edit(WEIGHT, lambda t: t.double() + 1e300), "NaN or infinite"),
    "whole numbers": (edit(WEIGHT, lambda t: t.long()), "int64 values"),
    "complex numbers": (edit(WEIGHT, lambda t: t + 0j), "complex64 values"),
    "a count of batches that is none": (
        edit("stem/residual.1.num_batches_tracked", lambda t: t.float()),
        "float32 values",
    ),
    "a negative variance": (edit(VARIANCE, lambda t: t - 9), "negative values"),
    "another shape": (edit(WEIGHT, lambda t: t[:, :1]), "needs"),
    "one tensor more": (
        lambda f: with_tensors(f, lambda t: t.update({"stem/more": torch.ones(1)})),
        "stem/more",
    ),
    "one site more": (
        lambda f: with_tensors(f, lambda t: t.update({"other/more": torch.ones(1)})),
        "other/more",
    ),
    "one tensor less": (lambda f: with_tensors(f, lambda t: t.pop(WEIGHT)), "do not match"),
    "a gate beyond float32": (gate(weights=[[1e300] * 38]), "gate.weights"),
    "a gate of another shape": (gate(weights=[[1.0] * 38, [1.0] * 37]), "gate"),
    "a gate without rows": (gate(kinds=[], weights=[], biases=[]), "gate"),
    "deep notes": (
        lambda f: signed(f, lambda c: c.update(notes=json.loads("[" * 70 + "]" * 70))),
        "nested more than 64 deep",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_adapter_is_refused_and_leaves_no_trace(name: str, tmp_path: Path) -> None:
    harm, message = HOSTILE[name]
    harm(saved(tmp_path))
    network = tiny_cnn()
    before = everything(network)
    with pytest.raises(InputError, match=message):
        dc.load_adapter(network, tmp_path)
    assert everything(network) == before


def test_refused_tensors_change_none_of_an_adapters(network: TinyCNN) -> None:
    adapted = dc.correct(network, {"stem": [1, 4]}, unit={"kind": "lite", "start": "he"})
    before = copy.deepcopy(adapted.state_dict())
    given = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    given[list(given)[-1]] = torch.full_like(given[list(given)[-1]], torch.nan)
    with pytest.raises(InputError, match="NaN or infinite"):
        adapted.load_state_dict(given)
    assert all(torch.equal(before[name], each) for name, each in adapted.state_dict().items())


def test_a_gate_of_other_images_is_refused_when_it_reads_some(tmp_path: Path) -> None:
    gate(weights=[[1.0] * 20])(saved(tmp_path))
    adapted = dc.load_adapter(tiny_cnn(), tmp_path)
    with pytest.raises(InputError, match="the gate reads 20 statistics"):
        adapted(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_that_was_cast_is_told_why_no_adapter_fits(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    saved(tmp_path)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=f"This network is {kind}: load the adapter first"):
        dc.load_adapter(tiny_cnn().to(dtype), tmp_path)
    images = torch.rand(2, 3, 16, 16)
    adapted = dc.load_adapter(tiny_cnn(), tmp_path).to(dtype)
    assert adapted(images.to(dtype)).dtype == dtype


def test_a_network_without_values_is_refused_everywhere(tmp_path: Path) -> None:
    saved(tmp_path)
    network = tiny_cnn().to("meta")
    batches = [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))]
    calls: list[Callable[[], object]] = [
        lambda: dc.load_adapter(network, tmp_path),
        lambda: dc.correct(network, {"stem": [1]}),
        lambda: dc.rank(network, batches, "awgn:20"),
        lambda: dc.evaluate(network, batches, "awgn:20"),
        lambda: dc.fit(network, batches, "awgn:20", epochs=1),
    ]
    for call in calls:
        with pytest.raises(InputError, match="no values"):
            call()


@settings(max_examples=40, deadline=None)
@given(
    filters=st.integers(1, 5),
    width=st.one_of(st.none(), st.integers(1, 7)),
    share=st.sampled_from([0.5, 1.0, 2.5]),
    kernel=st.sampled_from([1, 3, 5]),
    dilations=st.lists(st.integers(1, 2), max_size=3),
    flags=st.lists(st.booleans(), min_size=5, max_size=5),
    modulation=st.one_of(st.none(), st.integers(1, 3)),
)
def test_the_shapes_of_a_unit_that_is_not_made_are_those_of_one_that_is(
    filters: int,
    width: int | None,
    share: float,
    kernel: Any,
    dilations: list[int],
    flags: list[bool],
    modulation: int | None,
) -> None:
    separable, depthwise, norm_first, affine, gains = flags
    config = dc.UnitConfig(
        width=width,
        width_share=share,
        kernel_size=kernel,
        dilations=tuple(dilations),
        separable=separable,
        depthwise=depthwise,
        norm_first=norm_first,
        affine=affine,
        modulation=modulation,
        hidden_gains=gains and modulation is not None,
    )
    made = dc.CorrectionUnit(filters, config).state_dict()
    assert unit_shapes(config, filters) == {name: tuple(t.shape) for name, t in made.items()}


def test_the_bounds_leave_room_for_every_kind_of_unit() -> None:
    for kind in ("full", "bottleneck", "lite", "cifar", "rank_constrained", "inverted", "dense"):
        adapted = dc.correct(tiny_cnn(), {"stem": [0, 1]}, unit=kind)
        stored = adapted.config.model_dump(mode="json")
        assert AdapterConfig.model_validate(stored) == adapted.config
