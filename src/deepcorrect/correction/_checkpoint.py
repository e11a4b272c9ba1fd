"""A saved adapter's files: configuration, tensors and card, and the checksums over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deepcorrect.correction import _hub
from deepcorrect.correction._config import AdapterConfig
from deepcorrect.correction._model_card import CARD_FILE, card, kept_below
from deepcorrect.runtime import InputError, files, first_problem

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def folder_of(source: str | Path) -> Path:
    """The folder of an adapter: `source`, or where `hf:OWNER/NAME[@REVISION]` was downloaded.

    Raises:
        InputError: the repository cannot be had.
    """
    if _hub.is_hub_spec(source):
        return _hub.download(str(source), (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE))
    return Path(source)


def read_whole(folder: Path) -> AdapterConfig:
    """Reads a saved adapter's configuration and checks that its tensors are the ones it describes.

    Raises:
        InputError: a file is missing, not whole or changed.
    """
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"{folder} holds no whole adapter: it has no {WEIGHTS_FILE}")
    if file_sha256(weights) != config.weights_sha256:
        raise InputError(
            f"{weights} is not the file that {CONFIG_FILE} describes (its checksum differs): "
            "the adapter was cut off while it was saved, or changed since; save or copy it again"
        )
    return config


def read_config(folder: str | Path) -> AdapterConfig:
    """Reads a saved adapter's configuration.

    Raises:
        InputError: there is none, or it is not one.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no adapter: it has no {CONFIG_FILE}")
    held = files.read_json(path)
    try:
        config = AdapterConfig.model_validate(held)
    except ValidationError as error:
        where, _, message = first_problem(error)
        raise InputError(f"{path} is not an adapter's configuration: {where}: {message}") from None
    if config.schema_version > 1 and config.config_sha256 != config_sha256(held):
        raise InputError(
            f"{path} was changed since it was saved (its checksum differs): copy or download it "
            "again. Its notes alone may be edited"
        )
    return config


def write_config(folder: Path, config: AdapterConfig) -> None:
    """Writes the configuration with its checksum, and the card; the tensors are there."""
    held = config.model_dump(mode="json")
    if config.gate is None:  # as files were before there were gates
        del held["gate"]
    files.write_json(folder / CONFIG_FILE, {**held, "config_sha256": config_sha256(held)})
    write_card(folder, config, folder.resolve().name)


def write_card(folder: Path, config: AdapterConfig, place: str) -> None:
    """The card, above what a user has added to the one that was there."""
    path = folder / CARD_FILE
    text = card(config, (folder / WEIGHTS_FILE).stat().st_size, place)
    below = kept_below(path)
    files.write_text(path, f"{text}\n{below}" if below else text)


def config_sha256(held: Mapping[str, Any]) -> str:
    """The checksum of a configuration as its file holds it, the notes left out."""
    signed = {key: value for key, value in held.items() if key not in ("notes", "config_sha256")}
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
