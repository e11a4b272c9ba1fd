"""What MkDocs does beyond the pages in docs/: see `mkdocs.yml`, which names this file."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from scripts.site import check, notebooks, reference  # noqa: E402  (MkDocs loads this file by its path)

logging.getLogger("griffe").setLevel(logging.ERROR)

TOP_PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages whose text is a file at the top of the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made, and the pictures that lie outside docs/."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for page, name in TOP_PAGES.items()}
    made |= reference.pages()
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    sources = [file for file in files if re.fullmatch(r"tutorials/\w+\.py", file.src_uri)]
    results = notebooks.run_all([Path(file.abs_src_path or "") for file in sources])
    for file, result in zip(sources, results, strict=True):
        files.remove(file)
        for name, content in result.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    for name in _pictures():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Makes links of the repository links of the site: pages have titles and no file names."""
    titles = _titles(config.nav)
    markdown = re.sub(
        r"\[(?:docs/)?(\w+\.md)\](?=\()", lambda link: f"[{titles.get(link[1], link[1])}]", markdown
    )
    markdown = re.sub(r"(?m)^\|.*$", _bars_in_code, markdown)
    if page.file.src_uri in TOP_PAGES:
        return markdown.replace("](docs/", "](")
    if page.file.src_uri == "index.md":
        drawing = (ROOT / "docs/assets/idea.svg").read_text(encoding="utf-8")
        return markdown.replace("<!-- idea -->", drawing)  # in the page, it has the page's colours
    return markdown.replace("](../benchmarks/", "](benchmarks/")


def on_post_build(config: MkDocsConfig) -> None:
    """Ends the build if a page has a link that leads nowhere, or fetches something from outside."""
    found = list(check.problems(Path(config.site_dir)))
    if found:
        raise PluginError("\n".join(["the site is not as it should be:", *found]))


def _bars_in_code(row: re.Match[str]) -> str:
    """A table's row whose code has bars as they are; GitHub needs backslashes before them."""
    return re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), row[0])


def _titles(nav: Any) -> dict[str, str]:
    """The title of each page in the navigation, by its file."""
    if isinstance(nav, list):
        return {page: title for part in nav for page, title in _titles(part).items()}
    if isinstance(nav, dict):
        return {
            page: title or name
            for name, part in nav.items()
            for page, title in ({part: name} if isinstance(part, str) else _titles(part)).items()
        }
    return {}


def _pictures() -> set[str]:
    """The pictures in benchmarks/ that documents show."""
    texts = [path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")]
    return {name for text in texts for name in re.findall(r"\]\(\.\./(benchmarks/[^)]*)\)", text)}
