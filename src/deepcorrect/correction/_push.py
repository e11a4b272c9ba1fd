"""Uploading an adapter to the Hugging Face Hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepcorrect.correction import _hub
from deepcorrect.correction._checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_config,
    read_verified,
    write_card,
    write_config,
)
from deepcorrect.correction._corrected_model import AdaptedModel
from deepcorrect.correction._model_card import CARD_FILE


def push_to_hub(
    adapter: AdaptedModel | str | Path,
    repo: str,
    notes: Mapping[str, Any] | None = None,
    *,
    revision: str | None = None,
    private: bool | None = None,
) -> str:
    """Uploads an adapter with its model card to the Hugging Face Hub, in one commit.

    Args:
        adapter: The adapter on its network, or the folder where it was saved.
        repo: The repository, `OWNER/NAME`. It is created if it does not exist.
        notes: Additions to the notes of the configuration, such as `license`.
        revision: The branch, created if it does not exist; None selects the main branch.
        private: Whether a new repository is private; None selects the owner's default.

    Returns:
        The URL of the commit.

    Raises:
        InputError: The folder holds no complete adapter, the Hub cannot be reached, or it does not
            accept the upload.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]})
        >>> dc.push_to_hub(adapted, "owner/blur-adapter", {"license": "mit"})  # doctest: +SKIP
        'https://huggingface.co/owner/blur-adapter/commit/...'
        >>> dc.push_to_hub(adapted, "blur-adapter")
        Traceback (most recent call last):
            ...
        deepcorrect.runtime._errors.InputError: repository 'blur-adapter' is not OWNER/NAME
    """
    repo = repo.removeprefix(_hub.PREFIX)
    with tempfile.TemporaryDirectory(prefix="deepcorrect-") as temporary:
        folder = Path(temporary)
        if isinstance(adapter, AdaptedModel):
            adapter.save_pretrained(folder, notes)
        else:
            config = read_verified(Path(adapter))
            shutil.copy(Path(adapter) / WEIGHTS_FILE, folder / WEIGHTS_FILE)
            if (Path(adapter) / CARD_FILE).is_file():
                shutil.copy(Path(adapter) / CARD_FILE, folder / CARD_FILE)
            write_config(
                folder, config.model_copy(update={"notes": {**config.notes, **(notes or {})}})
            )
        write_card(folder, read_config(folder), f"{_hub.PREFIX}{repo}")
        return _hub.upload(
            folder,
            (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE),
            repo,
            revision=revision,
            private=private,
        )
