"""What stored work is bound to: digests of images, and messages that name what changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

import deepcorrect as dc
from deepcorrect.data import Preprocessing, images_digest
from deepcorrect.runtime import InputError, check_inputs, measured_once

FIT = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)


def pictures(folder: Path, shade: int = 0, name: str = "2.png") -> str:
    for row in range(3):
        place = folder / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        colour = (row, row, shade if row == 2 else 0)
        Image.new("RGB", (8, 8), colour).save(place / (name if row == 2 else f"{row}.png"))
    return images_digest(dc.open_dataset(f"folder:{folder}", FIT))


def test_images_that_were_replaced_change_the_digest(tmp_path: Path) -> None:
    first = pictures(tmp_path / "x" / "set")
    assert pictures(tmp_path / "y" / "set") == first  # the same images elsewhere
    assert pictures(tmp_path / "z" / "set", shade=9) != first
    assert pictures(tmp_path / "w" / "set", name="3.png") != first


def test_loaders_have_the_digest_of_their_images(tmp_path: Path) -> None:
    pictures(tmp_path)
    images = dc.open_dataset(f"folder:{tmp_path}", FIT)
    known = images_digest(images)
    assert images_digest(dc.loader(images, 2, shuffle=True)) == known
    assert images_digest(images.select([0, 1])) != known
    assert images_digest(Subset(images, [0, 1])) != images_digest(Subset(images, [1, 2]))


def test_a_data_set_of_a_user_is_not_read_and_draws_no_random_number() -> None:
    data = TensorDataset(torch.rand(4, 3, 8, 8), torch.arange(4))
    state = torch.random.get_rng_state()
    first = images_digest(DataLoader(data, 2, shuffle=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    other = TensorDataset(data.tensors[0], torch.arange(4) + 1)
    assert images_digest(DataLoader(other, 2)) != first


def test_a_message_names_what_changed_within_settings() -> None:
    before = {"training setting": {"epochs": 2, "l1": 0.0}, "network": "a" * 64}
    now = {"training setting": {"epochs": 3, "l1": 0.0}, "network": "b" * 64}
    message = r"with another training setting \(epochs \(2, now 3\)\), network: go"
    with pytest.raises(InputError, match=message):
        check_inputs("a.pt", before, now, "go")
    with pytest.raises(InputError, match="does not say what it was made from"):
        check_inputs("a.pt", None, now, "go")


def test_what_was_measured_once_is_bound_to_its_inputs(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    assert measured_once(path, {"network": "a"}, lambda: 1.5, float) == 1.5
    assert measured_once(path, {"network": "a"}, lambda: 2.5, float) == 1.5
    with pytest.raises(InputError, match="speed.json was made with another network"):
        measured_once(path, {"network": "b"}, lambda: 2.5, float)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="does not hold what was measured"):
        measured_once(path, {"network": "a"}, lambda: 2.5, float)
