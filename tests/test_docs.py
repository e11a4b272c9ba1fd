"""The documents' examples run as pasted, and what the documents name exists."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

import deepcorrect as dc
from deepcorrect.cli import COMMANDS
from deepcorrect.data import ImageSet
from deepcorrect.experiments import SECTIONS
from deepcorrect.experiments._recipe import Recipe, load_recipe
from deepcorrect.training import TrainingConfig

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md"),
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
]
IN_INIT = {"network", "corrected", "gate", "config"}  # attributes of an `AdaptedModel`


def blocks(file: str, language: str) -> list[str]:
    """The fenced code blocks of a document in one language."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readmes_python_example_runs_as_pasted_and_corrects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("README.md", "python")
    names: dict[str, object] = {}
    exec(example, names)
    before, after = re.findall(r"0\.\d{3}", capsys.readouterr().out)[:2]
    assert float(after) > float(before)
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()


def test_the_front_pages_example_runs_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("docs/index.md", "python")
    exec(example, {})
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()


def test_the_explorers_example_runs_as_pasted() -> None:
    (example,) = blocks("docs/explore.md", "python")
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["found"].before.labels[0] == "5"


def test_the_distortions_examples_run_as_pasted() -> None:
    batches, pipeline, arrays = blocks("docs/distortions.md", "python")
    names: dict[str, Any] = {}
    exec(batches, names)
    assert names["foggy"].shape == names["mixed"].shape == names["images"].shape
    exec(pipeline, names)
    assert (names["foggy"].dtype, names["batch"].shape) == (names["photo"].dtype, (8, 3, 32, 32))
    exec(arrays, names)
    assert names["corrupted"].shape == (64, 48, 3)


def test_the_checkpoints_example_runs_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = [each for each in blocks("docs/requirements.md", "python") if "weights=" in each]
    (example,) = examples
    names: dict[str, Any] = {}
    exec(example, names)
    assert "diverged.pt cannot be used: head.bias has NaN." in capsys.readouterr().out
    own, trained = names["model"].network.state_dict(), dc.load_model("digits_cnn").network
    assert all(own[name].equal(tensor) for name, tensor in trained.state_dict().items())


def test_the_gates_example_runs_as_pasted(
    digits_model: dc.Classifier, digits_test: ImageSet, digits_batch: tuple[Tensor, Tensor]
) -> None:
    examples = blocks("docs/recipes.md", "python")
    (example,) = (each for each in examples if "looks_distorted" in each)
    adapted = dc.correct(digits_model, {"features.0.0": [0, 1]})
    loader = dc.loader(digits_test.sample(40))
    names = {"dc": dc, "adapted": adapted, "loader": loader, "images": digits_batch[0]}
    names["validation"] = dc.loader(digits_test.sample(10, seed=1))
    exec(example, names)
    assert adapted.gate is None
    assert isinstance(logits := names["logits"], Tensor)
    assert logits.shape == (len(digits_batch[0]), 10)


def test_the_fair_competitors_example_runs_as_pasted(
    digits_model: dc.Classifier, digits_test: ImageSet
) -> None:
    (example,) = (each for each in blocks("docs/recipes.md", "python") if "GatedCopy" in each)
    names: dict[str, Any] = {"dc": dc, "model": digits_model}
    names["loader"] = dc.loader(digits_test.sample(40))
    exec(example, names)
    assert names["gated"].gate.config.kinds == ("gaussian_blur", "awgn")


def test_the_correct_examples_run_as_pasted(
    digits_test: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, loader = dc.load_model("digits_cnn"), dc.loader(digits_test.sample(60), 20)
    short = {'"gaussian_blur", "awgn"': '"awgn:80"', "epochs=10": "epochs=1"}
    for example in blocks("docs/correct.md", "python"):
        text = example
        for long, quick in short.items():
            text = text.replace(long, quick)
        text = text.replace("distortions=", "epochs=1, distortions=")
        names: dict[str, Any] = {"dc": dc, "model": model, "loader": loader}
        exec(text, names)
        assert names["adapted"].gate is not None


@pytest.mark.parametrize("file", DOCUMENTS)
def test_documents_use_names_that_exist(file: str) -> None:
    """In examples and in the text: `dc.NAME`, `deepcorrect.ROOM.NAME`, `adapted.NAME`."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for name in re.findall(r"\bdc\.(\w+)", text):
        assert hasattr(dc, name), name
    for name in re.findall(r"\badapted\.(\w+)", text):
        assert hasattr(dc.AdaptedModel, name) or name in IN_INIT, name
    for room, name in re.findall(r"\bdeepcorrect\.(\w+)(?:\.(\w+))?", text):
        if room in {"json", "png"}:  # the ending of a file
            continue
        if hasattr(dc, room) and not name:
            continue
        module = importlib.import_module(f"deepcorrect.{room}")
        assert not name or hasattr(module, name), f"deepcorrect.{room}.{name}"


def test_the_table_of_commands_is_complete() -> None:
    text = (ROOT / "docs/command_line.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"| `deepcorrect {command} " in text


def test_the_papers_recipe_in_the_docs_is_the_papers() -> None:
    text, *_ = blocks("docs/recipes.md", "yaml")
    given = TrainingConfig.model_validate(yaml.safe_load(text)["training"])
    assert given.model_copy(update={"precision": "float32", "channels_last": False}) == dc.PAPER


def test_the_systems_of_the_docs_are_sections_of_a_recipe() -> None:
    """Each section on a competitor shows its system, with nothing given that has a default."""
    _, *texts = blocks("docs/recipes.md", "yaml")
    shown = [yaml.safe_load(text)["systems"] for text in texts]
    assert shown
    demo = load_recipe("demo").model_dump()
    for systems in shown:
        found = Recipe.model_validate({**demo, "systems": systems}).systems
        assert list(found) == list(systems)


def test_every_section_and_method_of_a_recipe_is_introduced() -> None:
    """The reference page that is made from the schema has every key, see `test_site.py`."""
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for key in Recipe.model_fields:
        assert re.search(rf"^\|.*`{key}`.* \|", text, re.MULTILINE), key
    for method in SECTIONS:
        assert f"\n| `{method}` | " in text, method


def test_every_key_of_the_results_is_documented() -> None:
    text = (ROOT / "docs/files.md").read_text(encoding="utf-8")
    kept = (ROOT / "benchmarks/results/demo/results.json").read_text(encoding="utf-8")
    results = json.loads(kept)
    for key in results:
        assert f"`{key}`" in text or f"`{key}." in text, key
    for system in results["systems"].values():
        for key in system:
            assert f"`.{key}`" in text or f"`.{key}." in text, key
        for curve in system["distortions"].values():
            for key in curve:
                assert f".{key}`" in text, key


@pytest.mark.parametrize("file", DOCUMENTS)
def test_links_between_documents_lead_somewhere(file: str) -> None:
    path = ROOT / file
    for target in re.findall(r"\]\((?!http)([^)]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        if is_made(page):
            continue
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def is_made(page: Path) -> bool:
    """Whether a page is made when the site is built, which checks the links to it."""
    folder = page.parent.resolve()
    is_tutorial = folder == ROOT / "docs/tutorials" and page.with_suffix(".py").is_file()
    return is_tutorial or folder == ROOT / "docs/reference"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_contributing_names_rooms_and_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.])[\w.]+/(?:\w+/)*(?:\w+\.(?:py|yaml|json))?", text))
    named -= {"checkpoints/", "adapter/"}  # of a run's folder
    named -= {"site/"}  # which `make docs` makes
    assert {
        "networks/patching/_nodes.py",
        "experiments/report/",
        "cli/",
        "tests/test_rooms.py",
    } <= named
    package = ROOT / "src" / "deepcorrect"
    for name in named:
        assert any((folder / name).exists() for folder in (package, ROOT)), name


def test_benchmarks_are_named_as_they_are_started() -> None:
    texts = [
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("docs/tutorials/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
        ROOT / "Makefile",
    ]
    named = {
        name
        for path in texts
        for name in re.findall(r"(?<=-m )benchmarks\.[\w.]*\w", path.read_text(encoding="utf-8"))
    }
    assert "benchmarks.evidence.grid" in named
    for name in named:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name
