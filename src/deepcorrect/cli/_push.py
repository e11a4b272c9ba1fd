"""`push`: an adapter to the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deepcorrect import correction
from deepcorrect.cli._options import Json


def push(
    folder: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME at the hub; made if absent.")],
    revision: Annotated[str | None, typer.Option(help="Branch; default: the main one.")] = None,
    license: Annotated[
        str | None, typer.Option(help="Of the adapter's weights, such as apache-2.0; for its card.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put an adapter and its model card into a repository of the Hugging Face Hub.

    The token is HF_TOKEN's, or that of 'hf auth login'. Wherever --adapter is taken, hf:OWNER/NAME
    takes it back."""
    notes: dict[str, Any] = {"license": license} if license else {}
    commit = correction.push_to_hub(folder, repo, notes, revision=revision, private=private or None)
    if as_json:
        print(json.dumps({"adapter": f"hf:{repo.removeprefix('hf:')}", "commit": commit}))
    else:
        print(commit)
