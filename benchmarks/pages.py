"""Pages of docs/ that results are written into: their tables, and the blocks that hold them."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import t as student

from deepcorrect.runtime import files

DOCS = Path(__file__).parents[1] / "docs"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows))


def with_interval(found: Sequence[float], sign: str = "", digits: int = 4) -> str:
    """The mean, and the half of its 95 % interval (Student's) where there are three or more."""
    mean = f"{statistics.mean(found):{sign}.{digits}f}"
    if len(found) < 3 or len(set(found)) == 1:
        return mean
    half = student.ppf(0.975, len(found) - 1) * statistics.stdev(found) / math.sqrt(len(found))
    return f"{mean} ± {half:.{digits}f}"


def not_run(command: str) -> str:
    """What a page says where there are no results: the module, and its options, that make them."""
    return f"*Not run yet: `python -m {command}`.*"


def fill(page: Path, blocks: Mapping[str, str]) -> None:
    """Writes blocks of a page anew, each between `<!-- NAME -->` and `<!-- end -->`."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(marks, lambda m, b=block: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{page} has {count} blocks '<!-- {name} -->', not one")
    files.write_text(page, text)
