"""Tutorials: notebooks that are run, and the pages that their results make.

A tutorial is a Python file in docs/tutorials/ in Jupytext's percent format. It is run in a kernel
of its own, and an error in it ends the build. Cells with the tag `check` are run and not shown.
What was run is kept in build/notebooks under a hash of the tutorial and of the package, so that it
runs again after a change to either.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / "build" / "notebooks"
LONGEST_SECONDS = 300
TOGETHER = 2

Content = dict[str, str | bytes]


def run_all(sources: Sequence[Path]) -> list[Content]:
    """Runs tutorials; for each the files that it makes: a page, its pictures and a notebook."""
    with ThreadPoolExecutor(min(TOGETHER, os.cpu_count() or 1)) as threads:
        notebooks = list(threads.map(run, sources))
    return [page(source.stem, each) for source, each in zip(sources, notebooks, strict=True)]


def run(source: Path) -> Any:
    """The notebook with the results of its cells."""
    text = source.read_text(encoding="utf-8")
    kept = KEPT / f"{source.stem}-{_hash(text, _package())}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    notebook = jupytext.reads(text, fmt="py:percent")
    started = time.monotonic()
    folder = tempfile.mkdtemp()
    try:
        client = NotebookClient(
            notebook,
            timeout=LONGEST_SECONDS,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=_environment())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"ran {source.name} in {time.monotonic() - started:.0f} s", flush=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
    return notebook


def _environment() -> dict[str, str]:
    """One thread for each notebook, the package of this clone, and nothing from the network."""
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@functools.cache
def _package() -> str:
    files = sorted(each for each in (ROOT / "src").rglob("*.py") if each.is_file())
    return _hash(*(each.read_text(encoding="utf-8") for each in files))


def page(name: str, notebook: Any) -> Content:
    """The files of a notebook that was run."""
    made: Content = {}
    parts: list[str] = []
    for number, cell in enumerate(notebook.cells):
        if _is_check(cell):
            continue
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            parts += _shown(output, f"{name}-{number}-{place}.png", made)
    title, _, rest = "\n\n".join(parts).partition("\n")
    note = (
        f"*This page is a notebook, run when the site was built. "
        f"[Download it]({name}.ipynb){{ download }} and run it with "
        "`pip install 'deepcorrect-torch[docs]'`.*"
    )
    made[f"{name}.md"] = f"{title}\n\n{note}\n{rest}\n"
    made[f"{name}.ipynb"] = _without_results(notebook)
    return made


def _shown(output: Any, picture: str, made: Content) -> Iterator[str]:
    """An output as Markdown; notes and progress are not shown."""
    if output.output_type == "stream":
        if output.name == "stdout" and output.text.strip():
            yield _text(output.text)
        return
    data = output.get("data", {})
    if "image/png" in data:
        made[picture] = base64.b64decode(data["image/png"])
        yield f"![The figure that this code draws]({picture})"
    elif "text/markdown" in data:
        yield data["text/markdown"]
    elif output.output_type == "execute_result" and "text/plain" in data:
        yield _text(data["text/plain"])


def _text(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip("\n")
    return f"``` {{ .text .output }}\n{plain}\n```"


def _is_check(cell: Any) -> bool:
    """Whether a cell only checks what the page says: it is run, and not shown."""
    return "check" in cell["metadata"].get("tags", ())


def _without_results(notebook: Any) -> str:
    clean = json.loads(nbformat.writes(notebook))
    clean["cells"] = [cell for cell in clean["cells"] if not _is_check(cell)]
    for cell in clean["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(clean, indent=1)
