"""Draws a run's accuracy against level, as the README shows it.

python scripts/draw_accuracy.py runs/demo docs/images/demo_accuracy.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from deepcorrect.experiments.report import accuracy_figure
from deepcorrect.runtime.files import read_json


def main() -> None:
    """Reads the run in the first argument and writes the picture in the second."""
    run, out = (Path(argument) for argument in sys.argv[1:3])
    figure = accuracy_figure(read_json(run / "results.json"))
    figure.savefig(out, dpi=110, facecolor="white")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
