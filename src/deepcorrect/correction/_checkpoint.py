"""The files of a saved adapter: configuration, tensors and model card, with their checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deepcorrect.correction import _hub
from deepcorrect.correction._config import AdapterConfig
from deepcorrect.correction._model_card import CARD_FILE, card, user_text
from deepcorrect.correction._shipped import CONFIG_FILE, shipped_adapters, shipped_folder
from deepcorrect.runtime import InputError, files, first_problem

WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
"""The files of a saved adapter."""


def folder_of(source: str | Path) -> Path:
    """The folder of an adapter: `source` itself, the one of a shipped adapter, or a download.

    Raises:
        InputError: The repository cannot be downloaded and is not in the cache.
    """
    if _hub.is_hub_spec(source):
        return _hub.download(str(source), ADAPTER_FILES)
    return shipped_folder(source) or Path(source)


def read_verified(folder: Path) -> AdapterConfig:
    """Reads a saved adapter's configuration and verifies the checksum of its tensors.

    Raises:
        InputError: A file is missing, incomplete or changed.
    """
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"{folder} holds an incomplete adapter: it has no {WEIGHTS_FILE}")
    if file_sha256(weights) != config.weights_sha256:
        raise InputError(
            f"{weights} is not the file that {CONFIG_FILE} describes (its checksum differs): "
            "the adapter is incomplete, or was changed since it was saved; save or copy it again"
        )
    return config


def read_config(folder: str | Path) -> AdapterConfig:
    """Reads a saved adapter's configuration and verifies its checksum.

    Raises:
        InputError: The file is missing, is not an adapter's configuration, or was changed.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} holds no adapter: it has no {CONFIG_FILE}. Give the folder of an adapter, "
            f"hf:OWNER/NAME[@REVISION], or one that is shipped: {', '.join(shipped_adapters())}"
        )
    stored = files.read_json(path)
    try:
        config = AdapterConfig.model_validate(stored)
    except ValidationError as error:
        where, _, message = first_problem(error)
        raise InputError(f"{path} is not an adapter's configuration: {where}: {message}") from None
    if config.schema_version > 1 and config.config_sha256 != config_sha256(stored):
        raise InputError(
            f"{path} was changed since it was saved (its checksum differs): copy or download it "
            "again. Only its notes may be edited"
        )
    return config


def write_config(folder: Path, config: AdapterConfig) -> None:
    """Writes the card and the configuration with its checksum, next to the tensors.

    The configuration is last: until it is there, other tensors than its own are refused, so that
    no card of another adapter stands beside one that loads.
    """
    stored = config.model_dump(mode="json")
    if config.gate is None:  # the form of files that are older than gates
        del stored["gate"]
    write_card(folder, config, folder.resolve().name)
    files.write_json(folder / CONFIG_FILE, {**stored, "config_sha256": config_sha256(stored)})


def write_card(folder: Path, config: AdapterConfig, place: str) -> None:
    """Writes the card and keeps the text that a user has added below the previous one."""
    path = folder / CARD_FILE
    text = card(config, (folder / WEIGHTS_FILE).stat().st_size, place)
    added = user_text(path)
    files.write_text(path, f"{text}\n{added}" if added else text)


def config_sha256(stored: Mapping[str, Any]) -> str:
    """The SHA-256 of a configuration as stored in its file, without the notes."""
    signed = {key: value for key, value in stored.items() if key not in ("notes", "config_sha256")}
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
