"""`report`: the pages of a run's report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepcorrect.cli._options import Json


def command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    as_json: Json = False,
) -> None:
    """Write the HTML report of a run again."""
    from deepcorrect.experiments.report import write_report

    path = write_report(folder)
    print(json.dumps({"report": str(path)}) if as_json else f"report: {path}")
