"""The documentation site: what is made from the code is complete, and what is built is checked.

`make docs` builds the site and runs its notebooks; here are its parts.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import deepcorrect as dc
from deepcorrect.cli import COMMANDS, _app
from deepcorrect.correction import UnitConfig
from deepcorrect.experiments._recipe import Recipe

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

notebooks = pytest.importorskip("scripts.site.notebooks", reason="needs the extra docs")
from scripts.site import check, reference  # noqa: E402

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def test_every_public_name_is_on_a_page(pages: dict[str, str]) -> None:
    shown = set(re.findall(r"^::: deepcorrect\.(\w+)$", "\n".join(pages.values()), re.MULTILINE))
    assert shown == set(dir(dc))
    overview = pages["reference/python.md"]
    assert all(f"[`dc.{name}`][deepcorrect.{name}]" in overview for name in dir(dc))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_on_the_page(name: str, pages: dict[str, str]) -> None:
    text = pages["reference/commands.md"]
    section = text.partition(f"\n## deepcorrect {name}\n")[2].partition("\n## ")[0]
    group: Any = get_command(_app._application([]))
    for each in group.commands[name].params:
        typed = each.opts[0] if each.opts[0].startswith("-") else each.metavar
        assert re.search(rf"\n\| `[^`]*{re.escape(typed)}", section), typed
        words = reference._cell(reference._prose(each.help))
        assert words in section, each.name


def keys_of(schema: dict[str, Any], known: dict[str, Any]) -> set[str]:
    """The names of all keys in a JSON schema, at any depth."""
    found: set[str] = set()
    for part in (schema, *known.values()):
        found |= set(part.get("properties", {}))
    return found


def test_every_key_of_a_recipe_is_on_the_page(pages: dict[str, str]) -> None:
    text = pages["reference/recipe_keys.md"]
    schema = Recipe.model_json_schema()
    keys = keys_of(schema, schema["$defs"]) | UnitConfig.model_fields.keys()
    assert {"name", "validation_rows", "smoothing", "warm_up"} <= keys
    sections = {"model", "data", "distortions", "test_distortions", "ranking", "ideal"}
    sections |= {"selection", "systems", "training", "augmentation"}
    for key in keys - sections:
        assert re.search(rf"^(\| `[\w.]*\b{key}`|### {key}: )", text, re.MULTILINE), key
    for key in sections:
        assert re.search(rf"(## .*\b{key}\b|`[\w.]*\b{key}\.)", text), key


def test_defaults_and_ranges_come_from_the_schema(pages: dict[str, str]) -> None:
    text = pages["reference/recipe_keys.md"]
    row = r"^\| `training\.warm_up` \| a number at least 0, below 1\S* \| `0.15` \| the share"
    assert re.search(row.replace(r"0, below 1\S*", r"[\d.]+, below [\d.]+"), text, re.MULTILINE)
    assert "| `data.train` | text | required | the images for correction and fine-tuning. |" in text
    assert "| `ranking.target` | `labels`, `prediction`, `kl` | `labels` | what" in text


def test_the_navigation_names_every_page(pages: dict[str, str]) -> None:
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w/]+\.md", str(yaml.safe_load(text)["nav"])))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    run = {f"tutorials/{path.stem}.md" for path in TUTORIALS}
    made = run | set(pages) | {"changelog.md", "contributing.md"}
    assert written <= named, "name these pages in mkdocs.yml"
    assert named == written | made


# --- tutorials


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_a_notebook_that_checks_what_it_says(path: Path) -> None:
    import jupytext

    text = path.read_text(encoding="utf-8")
    cells = jupytext.reads(text, fmt="py:percent").cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    checks = [cell.source for cell in cells if notebooks._is_check(cell)]
    assert any("assert " in source for source in checks)
    for name in re.findall(r"\bdc\.(\w+)", text):
        assert hasattr(dc, name), name


def test_a_notebooks_page_has_its_results_and_not_its_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "KEPT", tmp_path / "kept")
    source = tmp_path / "small.py"
    source.write_text(
        "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nprint(6 * 7)\n\n"
        '# %% tags=["check"]\nassert 6 * 7 == 42\n'
    )
    (made,) = notebooks.run_all([source])
    assert made["small.md"].startswith("# Title\n\n*This page is a notebook")
    assert "```python\nprint(6 * 7)\n```\n\n``` { .text .output }\n42\n```" in made["small.md"]
    assert "assert" not in made["small.md"] + made["small.ipynb"]
    assert '"outputs": []' in made["small.ipynb"]
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_text(kept.read_text().replace("42", "43"))
    assert "43" in notebooks.run_all([source])[0]["small.md"]  # what was run is not run again


def test_an_error_in_a_notebook_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "KEPT", tmp_path / "kept")
    source = tmp_path / "wrong.py"
    source.write_text('# %% [markdown]\n# # Title\n\n# %% tags=["check"]\nassert 1 > 2, "less"\n')
    with pytest.raises(Exception, match="less"):
        notebooks.run_all([source])
    assert not (tmp_path / "kept").exists()


# --- what was built


def test_a_built_site_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    page = (
        '<a href="a/b.html#there">well</a> <a href="https://example.org">outside</a>'
        '<link rel="canonical" href="https://example.org/"><img src="p.png"><i id="own">'
    )
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "p.png").write_bytes(b"")
    (tmp_path / "a" / "b.html").write_text('<h1 id="there">x</h1><a href="../">up</a>')
    (tmp_path / "s.css").write_text("a{background:url(data:image/png;base64,x)}")
    assert list(check.problems(tmp_path)) == []

    bad = '<a href="a/b.html#gone">x</a><a href="c.html">x</a><img src="q.png">'
    bad += '<script src="https://cdn.example.org/x.js"></script>'
    (tmp_path / "index.html").write_text(bad)
    (tmp_path / "s.css").write_text("@font-face{src:url('https://fonts.example.org/x')}")
    assert list(check.problems(tmp_path)) == [
        "index.html fetches https://cdn.example.org/x.js",
        "index.html has a link that leads nowhere: a/b.html#gone",
        "index.html has a link that leads nowhere: c.html",
        "index.html has a link that leads nowhere: q.png",
        "s.css fetches https://fonts.example.org/x",
    ]
