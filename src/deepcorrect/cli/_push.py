"""`push`: an adapter to the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import deepcorrect as dc
from deepcorrect.cli._options import Json


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The adapter's folder.")],
    repo: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME", help="The repository on the Hub; made if it does not exist."
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch to write to. Default: the main one.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the adapter's weights for its card, such as apache-2.0."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload an adapter and its model card to the Hugging Face Hub.

    The token is taken from HF_TOKEN or from 'hf auth login'. Afterwards hf:OWNER/NAME is accepted
    wherever --adapter is.
    """
    notes: dict[str, Any] = {"license": license} if license else {}
    commit = dc.push_to_hub(folder, repo, notes, revision=revision, private=private or None)
    if as_json:
        print(json.dumps({"adapter": f"hf:{repo.removeprefix('hf:')}", "commit": commit}))
    else:
        print(commit)
