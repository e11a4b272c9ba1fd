"""Checks a site that was built: links lead somewhere, and no page asks anything of another host.

MkDocs checks the links of Markdown pages. This checks what was written in the end, so also links in
docstrings, tables that were made, and pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {
    "script": "src",
    "img": "src",
    "source": "src",
    "iframe": "src",
    "video": "src",
    "link": "href",
}
"""Elements whose address a browser fetches by itself."""

NOT_FETCHED = {"canonical", "prev", "next", "alternate"}
"""Relations of `link` that a browser only notes."""


class _Page(HTMLParser):
    """The anchors, links and fetched addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in FETCHED and FETCHED[tag] in values and values.get("rel") not in NOT_FETCHED:
            self.fetched.append(values[FETCHED[tag]])


def problems(site: Path) -> Iterator[str]:
    """What is wrong with the pages and style sheets of a built site, one line each.

    Args:
        site: The folder that MkDocs wrote.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    pages = {path.resolve(): _Page(text) for path, text in texts.items()}
    for path, page in pages.items():
        place = path.relative_to(site.resolve())
        if place.name == "404.html":
            continue  # its addresses begin at the root of a host
        for address in page.fetched:
            if _is_outside(address):
                yield f"{place} fetches {address}"
        for address in [*page.links, *page.fetched]:
            if not _is_outside(address) and not _leads_somewhere(address, path, pages):
                yield f"{place} has a link that leads nowhere: {address}"
    for path in sorted(site.rglob("*.css")):
        for address in re.findall(r"url\(\s*['\"]?([^'\")]+)", path.read_text(encoding="utf-8")):
            if _is_outside(address) and not address.startswith("data:"):
                yield f"{path.relative_to(site)} fetches {address}"


def _is_outside(address: str) -> bool:
    return bool(urlsplit(address).scheme or urlsplit(address).netloc)


def _leads_somewhere(address: str, path: Path, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(address)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return False
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].anchors
