"""Writing a run's report."""

from __future__ import annotations

from pathlib import Path

from deepcorrect.experiments.report._page import page
from deepcorrect.experiments.report._read import read_run
from deepcorrect.runtime import files

REPORT_FILE = "report.html"


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` from the files of a run's folder.

    The page is a single file. It loads nothing from the network and runs no script.

    Args:
        folder: a run's folder.

    Returns:
        The path of the report.

    Raises:
        InputError: a file that the report needs is missing or is not what a run writes.

    Example:
        >>> from deepcorrect.experiments.report import write_report
        >>> write_report("nowhere")
        Traceback (most recent call last):
        ...
        deepcorrect.runtime._errors.InputError: there is no folder nowhere: give the folder of a run
    """
    folder = Path(folder)
    path = folder / REPORT_FILE
    if folder.is_dir():
        files.check_file(path)
    files.write_text(path, page(read_run(folder)))
    return path
