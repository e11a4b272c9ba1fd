"""The commands: their flags, and one JSON document on stdout with everything else on stderr."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import random_pixels, tiny_recipe, write_digits
from PIL import Image

import deepcorrect as dc
from deepcorrect import cli
from deepcorrect.cli import _catalogue
from deepcorrect.data import ImageSet, loader, open_dataset
from deepcorrect.networks import Classifier
from deepcorrect.runtime import files

COMMAND = Path(sys.executable).with_name("deepcorrect")
NETWORK = """
import torch
from torch import nn
from deepcorrect import Classifier, Preprocessing

def network():
    torch.manual_seed(7)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def classifier():
    names = ("ant", "bee", "cat")
    return Classifier(network(), Preprocessing(12, (0.5,) * 3, (0.2,) * 3), "insects", names)
"""


@dataclass(frozen=True)
class Said:
    """What a command gave: its exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout, which must be one JSON document."""
        return json.loads(self.out)


def command(*arguments: object) -> Said:
    """Runs the console script's `main` in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["deepcorrect", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def spawn(
    *arguments: object, changes: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Starts the installed command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(changes or {})}
    environment.pop("PYTHONUNBUFFERED", None)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)], text=True, env=environment, **options
    )


def script(*arguments: object, **options: Any) -> Said:
    """Runs the installed command in a process of its own, to its end."""
    process = spawn(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return Said(process.returncode, out or "", err or "")


@pytest.fixture(scope="module")
def digits(digits_test: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train, validation and test of digits, a class a sub-folder, and a recipe."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(digits_test, folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_recipe(folder), sort_keys=False))
    (folder / "network.py").write_text(NETWORK)
    return folder


def on(folder: Path, part: str) -> list[str]:
    return ["--model", "digits_cnn", "--data", f"folder:{folder / part}"]


@dataclass(frozen=True)
class Chain:
    """What `rank --out` and then `correct --out` said, and where they wrote."""

    ranking: Path
    ranked: Said
    adapter: Path
    corrected: Said


def correcting(digits: Path, ranking: Path, out: Path) -> Sequence[object]:
    return (
        *("correct", *on(digits, "train"), "--ranking", ranking, "--out", out),
        *("--beta", 0.25, "--unit", "rank_constrained", "--epochs", 2, "--batch-size", 20),
        *("--validation", f"folder:{digits / 'validation'}", "--learning-rate", "1e-3"),
        *("--clean-share", 0.5, "--objective", "labels=1,logits=1", "--gate", "none", "--keep"),
        *("--precision", "float32", "--seed", 3, "--json"),
    )


@pytest.fixture(scope="module")
def chain(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    ranked = command(
        *("rank", *on(digits, "validation"), "--sites", "features.0.0, features.1.0"),
        *("--distortion", "gaussian_blur:1.5", "--distortion", "awgn:40,80"),
        *("--method", "swap", "--images", 20, "--seed", 4, "--out", folder / "ranking", "--json"),
    )
    corrected = command(*correcting(digits, folder / "ranking", folder / "adapter"))
    return Chain(folder / "ranking", ranked, folder / "adapter", corrected)


# --- list, help, version


def test_help_names_every_command() -> None:
    said = command("--help")
    assert said.status == 0
    for name in (*cli.COMMANDS, "--version"):
        assert name in said.out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    said = command(name, "--help")
    assert said.status == 0
    assert "--json" in said.out


@pytest.mark.parametrize("name", ["evaluate", "rank", "correct", "transfer", "predict", "export"])
def test_every_model_command_takes_the_models_flags(name: str) -> None:
    text = command(name, "--help").out
    flags = ("--weights", "--state", "--classes", "--input-size", "--resize", "--mean", "--std")
    for flag in ("--model", "--device", *flags):
        assert flag in text
    if name not in ("transfer", "predict", "export"):
        assert "--data" in text
        assert "--seed" in text
    if name != "correct":
        assert "--adapter" in text


def test_version() -> None:
    said = command("--version")
    assert (said.status, said.out, said.err) == (0, f"{dc.__version__}\n", "")


@pytest.mark.parametrize(
    ("what", "some"),
    [
        ("models", {"digits_cnn", "cifar_allcnn", "cifar_resnet20", "alexnet"}),
        ("datasets", {"digits:test", "folder:DIR", "parquet:GLOB", "imagenet_c:DIR"}),
        ("distortions", {"gaussian_blur", "awgn"}),
        ("units", {"full", "bottleneck", "lite", "cifar", "rank_constrained", "inverted", "dense"}),
        ("methods", {"swap", "path"}),
        ("recipes", {"demo", "cifar100_resnet20"}),
    ],
)
def test_list(what: str, some: set[str]) -> None:
    said = command("list", what, "--json")
    assert said.status == 0
    assert some <= set(said.json)
    assert all(said.json.values())
    text = command("list", what).out
    assert [line.split()[0] for line in text.splitlines()] == list(said.json)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope'"),
        (["list", "nope"], "not one of 'models'"),
        (["evaluate", "--model", "digits_cnn"], "Missing option '--data'"),
        (["run"], "Missing argument 'RECIPE'"),
        (["predict", "--model", "digits_cnn"], "Missing argument"),
        (["run", "demo", "--seed", "-1"], "greater than or equal to 0"),
        (["evaluate", "--model", "x", "--data", "y", "--images", "0"], "--images"),
        (["evaluate", "--model", "x", "--data", "y", "--precision", "half"], "--precision"),
    ],
)
def test_a_wrong_call_has_status_2_and_nothing_on_stdout(
    arguments: list[str], message: str
) -> None:
    said = command(*arguments)
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert "Traceback" not in said.err


# --- evaluate


def test_evaluate_prints_one_system_as_the_library_gives_it(
    digits: Path, digits_model: Classifier
) -> None:
    said = command(
        *("evaluate", *on(digits, "test"), "--distortion", "awgn:40,80:clip,quantize"),
        *("--distortion", "gaussian_blur:1.5", "--seed", 2, "--json"),
    )
    assert said.status == 0
    images = open_dataset(f"folder:{digits / 'test'}", digits_model.preprocessing)
    specs = ["awgn:40,80:clip,quantize", "gaussian_blur:1.5"]
    grid = dc.evaluate(digits_model, loader(images), specs, seed=2)
    assert said.json["distortions"] == grid.to_json()
    assert said.json["distortions"]["awgn"]["clip"] is True
    assert said.json["trainable_parameters"] == 0
    assert said.json["test_images"] == 40


def test_evaluate_without_distortions_takes_both_grids_of_the_input_size(digits: Path) -> None:
    said = command("evaluate", *on(digits, "test"), "--images", 3, "--batch-size", 2, "--json")
    assert {name: len(curve["levels"]) for name, curve in said.json["distortions"].items()} == {
        "gaussian_blur": 6,
        "awgn": 6,
    }
    assert said.json["test_images"] == 3


def test_evaluate_prints_a_table(digits: Path) -> None:
    said = command("evaluate", *on(digits, "test"), "--distortion", "awgn:40")
    assert said.status == 0
    assert "baseline" in said.out
    assert "clean" in said.out
    assert "0.975" in said.out


def test_the_images_of_evaluate_follow_its_seed(digits: Path) -> None:
    call = ["evaluate", *on(digits, "test"), "--images", 9, "--distortion", "awgn:60", "--json"]
    assert command(*call).json == command(*call).json
    grids = [command(*call, "--seed", seed).json["distortions"] for seed in (0, 1, 2)]
    assert grids[0] != grids[1] or grids[1] != grids[2]


# --- rank, correct, evaluate --adapter


def test_rank_writes_and_prints_a_ranking(chain: Chain) -> None:
    said = chain.ranked
    assert said.status == 0
    assert f"ranking: {chain.ranking}" in said.err
    assert said.json["method"] == "swap"
    assert said.json["images"] == 20
    assert said.json["seed"] == 4
    assert said.json["sites"] == {"features.0.0": 16, "features.1.0": 32}
    ranking = dc.load_ranking(chain.ranking)
    assert [d.name for d in ranking.distortions] == ["gaussian_blur", "awgn"]
    for site, values in said.json["priorities"].items():
        assert values == ranking.priorities[site].tolist()


def test_rank_prints_a_table_of_all_convolutions(digits: Path) -> None:
    said = command(
        *("rank", *on(digits, "test"), "--distortion", "awgn:40"),
        *("--method", "random", "--images", 4),
    )
    assert said.status == 0
    for number in range(4):
        assert f"features.{number}.0" in said.out


def test_rank_through_an_adapter_finds_what_is_still_wrong(digits: Path, chain: Chain) -> None:
    call = ["rank", *on(digits, "test"), "--distortion", "awgn:40", "--images", 6, "--json"]
    said = command(*call, "--sites", "features.3.0", "--adapter", chain.adapter)
    assert said.status == 0
    bare = command(*call, "--sites", "features.3.0")
    assert said.json["priorities"] != bare.json["priorities"]


def test_correct_writes_an_adapter_and_says_what_it_did(
    chain: Chain, digits: Path, digits_model: Classifier
) -> None:
    said, ranking = chain.corrected, dc.load_ranking(chain.ranking)
    assert said.status == 0
    assert said.json["adapter"] == str(chain.adapter)
    assert said.json["epochs"] == 2
    assert said.json["images_seen"] == 160
    assert [d["name"] for d in said.json["distortions"]] == ["gaussian_blur", "awgn"]
    validation = dc.open_dataset(f"folder:{digits / 'validation'}", digits_model.preprocessing)
    adapted = dc.load_adapter(dc.load_model("digits_cnn"), chain.adapter)
    for name, system in (("baseline", digits_model), ("corrected", adapted)):
        grid = dc.evaluate(system, loader(validation), ranking.distortions, seed=3)
        assert said.json["measured"][name] == grid.to_json()
    assert "epoch 2 of 2" in said.err
    assert sorted(path.name for path in chain.adapter.parent.iterdir()) == ["adapter", "ranking"]
    sites = {name: list(site.filters) for name, site in adapted.config.sites.items()}
    assert sites == ranking.top(0.25)
    assert all(site.unit and site.unit.separable for site in adapted.config.sites.values())
    assert adapted.config.gate is None
    units = sum(p.numel() for p in adapted.units.parameters())
    assert said.json["trainable_parameters"] == units


def test_correct_in_words_and_for_other_distortions(
    digits: Path, chain: Chain, tmp_path: Path
) -> None:
    said = command(
        *("correct", *on(digits, "train"), "--ranking", chain.ranking, "--out", tmp_path / "a"),
        *("--distortion", "awgn:20", "--epochs", 1, "--images", 20, "--batch-size", 10),
        *("--gate", 0.2, "--gate-scale", 0.5, "--clean-share", 0, "--keep"),
    )
    assert said.status == 0
    assert f"adapter: {tmp_path / 'a'} (" in said.out
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["gate"]["false_alarms"] == 0.2
    assert [d["levels"] for d in config["notes"]["distortions"]] == [[20.0]]
    assert config["notes"]["images_seen"] == 16  # a fifth is held back
    assert config["notes"]["measured"]["images"] == 4


def test_correct_goes_on_where_it_was_stopped(
    digits: Path, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = files.write_checkpoint

    def stopped(path: Path, value: Any) -> None:
        written(path, value)
        raise KeyboardInterrupt

    call = correcting(digits, chain.ranking, tmp_path / "adapter")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_checkpoint", stopped)
        said = command(*call)
    assert said.status == 130
    assert said.err.splitlines()[-1].startswith("stopped")
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["training.checkpoint.pt"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]  # nothing outside --out
    said = command(*call)
    assert said.status == 0
    assert "epoch 1 of 2" not in said.err
    assert "epoch 2 of 2" in said.err
    tensors = [
        files.read_tensors(folder / "adapter_model.safetensors")
        for folder in (chain.adapter, tmp_path / "adapter")
    ]
    for name, value in tensors[0].items():
        assert torch.equal(value, tensors[1][name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_evaluate_with_an_adapter(digits: Path, chain: Chain, digits_model: Classifier) -> None:
    call = ["evaluate", *on(digits, "test"), "--distortion", "awgn:40,80", "--json"]
    said = command(*call, "--adapter", chain.adapter)
    assert said.status == 0
    assert list(said.json["systems"]) == ["baseline", "deepcorrect"]
    record = said.json["systems"]["deepcorrect"]
    assert record["images_seen"] == 160
    assert record["training_seconds"] == chain.corrected.json["training_seconds"]
    assert record["trainable_parameters"] == chain.corrected.json["trainable_parameters"]
    adapted = dc.load_adapter(dc.load_model("digits_cnn"), chain.adapter)
    images = open_dataset(f"folder:{digits / 'test'}", digits_model.preprocessing)
    for name, system in (("baseline", digits_model), ("deepcorrect", adapted)):
        grid = dc.evaluate(system, loader(images), ["awgn:40,80"])
        assert said.json["systems"][name]["distortions"] == grid.to_json()
    table = command(*call[:-1], "--adapter", chain.adapter)
    assert "baseline" in table.out
    assert "deepcorrect" in table.out


# --- predict


def test_predict_names_files_and_folders_in_order(digits: Path) -> None:
    three = digits / "test" / "3"
    one = min((digits / "test" / "1").glob("*.png"))
    said = command("predict", one, three, "--model", "digits_cnn", "--batch-size", 2, "--json")
    assert said.status == 0
    assert [answer["file"] for answer in said.json] == [
        str(one),
        *map(str, sorted(three.iterdir())),
    ]
    assert [answer["labels"] for answer in said.json] == [["1"]] + [["3"]] * 4
    text = command("predict", one, "--model", "digits_cnn").out
    file, answer = text.rstrip("\n").split("\t")
    assert file == str(one)
    assert answer.split()[0] == "1"


def test_predict_gives_the_softmax_in_falling_order(digits: Path, digits_model: Classifier) -> None:
    file = min((digits / "test" / "8").glob("*.png"))
    said = command("predict", file, "--model", "digits_cnn", "--top", 30, "--json")
    [answer] = said.json
    assert sorted(answer["labels"]) == [str(digit) for digit in range(10)]
    assert math.isclose(sum(answer["probabilities"]), 1, abs_tol=1e-5)
    sample = open_dataset(f"folder:{file.parent}", digits_model.preprocessing)[0]
    assert sample is not None
    with torch.no_grad():
        expected, order = digits_model(sample[0][None]).softmax(1)[0].sort(descending=True)
    assert answer["probabilities"] == pytest.approx(expected.tolist(), abs=2e-6)
    assert answer["labels"][:3] == [str(index) for index in order[:3].tolist()]


def test_predict_with_an_adapter_is_the_corrected_network(digits: Path, chain: Chain) -> None:
    file = min((digits / "test" / "8").glob("*.png"))
    call = ["predict", file, "--model", "digits_cnn", "--top", 3, "--json"]
    [bare], [corrected] = command(*call).json, command(*call, "--adapter", chain.adapter).json
    assert corrected["probabilities"] != bare["probabilities"]


# --- models of one's own


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture [1].png"
    Image.fromarray(random_pixels(15, 20)).save(path)
    return path


def test_a_python_files_network_with_its_preprocessing_on_the_command_line(
    digits: Path, picture: Path
) -> None:
    call = ["predict", picture, "--model", f"python:{digits / 'network.py'}:network", "--json"]
    flags = ["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--input-size", "12"]
    said = command(*call, *flags)
    assert said.status == 0
    assert said.json[0]["labels"][0] in ("0", "1", "2")
    own = command("predict", picture, "--model", f"python:{digits / 'network.py'}:classifier")
    assert (
        own.out.split("\t")[1].split()[0] == ["ant", "bee", "cat"][int(said.json[0]["labels"][0])]
    )
    missing = command(*call, "--mean", "0.5")
    assert missing.status == 1
    assert "give --input-size, --std" in missing.err
    larger = command(*call, *flags, "--resize", "14")
    assert larger.json[0]["probabilities"] != said.json[0]["probabilities"]


def test_weights_and_classes_of_a_built_in_network(tmp_path: Path, picture: Path) -> None:
    model = dc.load_model("cifar_resnet20", classes=4)
    torch.save(model.network.state_dict(), tmp_path / "four.pt")
    call = ["predict", picture, "--model", "cifar_resnet20", "--classes", 4, "--top", 9, "--json"]
    said = command(*call, "--weights", tmp_path / "four.pt")
    assert said.status == 0
    assert said.err == ""
    assert sorted(said.json[0]["labels"]) == ["0", "1", "2", "3"]
    assert "weights are random" in command(*call).err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "digit_cnn"], "did you mean 'digits_cnn'?"),
        (["--model", "timm:resnet19"], "unknown timm model 'resnet19', did you mean 'resnet18'"),
        (["--model", "python:nowhere.py:f"], "there is no file nowhere.py"),
        (["--model", "digits_cnn", "--mean", "a"], "--mean 'a' is not a number"),
        (["--model", "digits_cnn", "--std", "0"], "std"),
        (["--model", "digits_cnn", "--mean", "0.1,0.2"], "mean has 2 values"),
        (["--model", "digits_cnn", "--device", "gpu"], "device 'gpu' cannot be used"),
        (
            ["--model", "digits_cnn", "--mean", ".5,.5,.5", "--std", "1,1,1"],
            "images have 1 channel",
        ),
    ],
)
def test_what_is_wrong_with_a_model_is_said_in_one_line(
    picture: Path, flags: list[str], message: str
) -> None:
    said = command("predict", picture, *flags)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert message in said.err
    assert "Traceback" not in said.err


# --- run and report


@pytest.fixture(scope="module")
def ran(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A run by the installed command in a process of its own, and what it said."""
    folder = tmp_path_factory.mktemp("ran") / "run"
    said = script(
        *("run", digits / "tiny.yaml", "--out", folder, "--seed", 6, "--device", "cpu"),
        *("ideal.images=0", "systems.finetuned.training.epochs=1", "--json"),
    )
    return folder, said


def test_run_prints_its_results_as_one_document(ran: tuple[Path, Said]) -> None:
    folder, said = ran
    assert said.status == 0
    assert said.json == json.loads((folder / "results.json").read_text())
    assert said.json["seed"] == 6
    assert (folder / "report.html").is_file()
    assert "measured: system deepcorrect" in said.err
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["device"] == "cpu"
    assert recipe["systems"]["finetuned"]["training"]["epochs"] == 1


def test_run_resumed_prints_the_table_and_the_paths(ran: tuple[Path, Said]) -> None:
    folder, _ = ran
    refused = command("run", folder / "recipe.yaml", "--out", folder)
    assert refused.status == 1
    assert "already holds a run" in refused.err
    said = command("run", folder / "recipe.yaml", "--out", folder, "--resume")
    assert said.status == 0
    for part in ("baseline", "finetuned", "deepcorrect", "awgn", "gaussian_blur"):
        assert part in said.out
    last = said.out.splitlines()[-2:]
    assert last == [f"results: {folder / 'results.json'}", f"report:  {folder / 'report.html'}"]


def test_a_runs_folder_is_named_after_its_recipe(
    ran: tuple[Path, Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ran[0], tmp_path / "runs" / "tiny")
    said = command("run", ran[0] / "recipe.yaml", "--resume")
    assert said.status == 0
    assert f"results: {Path('runs') / 'tiny' / 'results.json'}" in said.out


def test_report_writes_the_page_again(ran: tuple[Path, Said], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(ran[0], folder)
    (folder / "report.html").unlink()
    said = command("report", folder, "--json")
    assert said.json == {"report": str(folder / "report.html")}
    assert (folder / "report.html").stat().st_size > 10_000
    assert command("report", folder).out == f"report: {folder / 'report.html'}\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "there is no folder"),
        (lambda folder: folder, "has no results.json"),
    ],
)
def test_report_needs_a_run(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    said = command("report", make(tmp_path))
    assert (said.status, said.out) == (1, "")
    assert message in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "unknown recipe 'nope'. Accepted: cifar100_resnet20"),
        (["demo", "epochs"], "'epochs' is not KEY=VALUE"),
        (["demo", "seed=-1"], "key 'seed': given -1"),
        (["demo", "rankin.images=5"], "unknown key 'rankin' (given {'images': 5}); accepted:"),
        (["demo", "systems.deepcorrect.beta=1.5"], "'systems.deepcorrect.beta': given 1.5"),
    ],
)
def test_run_refuses_a_bad_recipe_in_one_line(arguments: list[str], message: str) -> None:
    said = command("run", *arguments)
    assert (said.status, said.out) == (1, "")
    assert message in said.err
    assert said.err.startswith("error: ")


# --- --debug, and the process's own face


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(place: int) -> None:
    arguments = ["report", "nowhere", "--json"]
    arguments.insert(place, "--debug")
    said = command(*arguments)
    assert (said.status, said.out) == (1, "")
    assert "Traceback (most recent call last)" in said.err
    assert said.err.splitlines()[-1].startswith("error: there is no folder nowhere")
    assert "Traceback" not in command("report", "nowhere").err


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(what: str) -> dict[str, str]:
        raise RuntimeError("the wheel came off")

    monkeypatch.setattr(_catalogue, "entries", broken)
    said = command("list", "recipes")
    assert said.status == 1
    assert said.err == "error: RuntimeError: the wheel came off (--debug shows where)\n"

    def greedy(what: str) -> dict[str, str]:
        raise MemoryError

    monkeypatch.setattr(_catalogue, "entries", greedy)
    assert command("list", "recipes").err.startswith("error: out of memory")


def test_the_installed_command() -> None:
    said = script("list", "units", "--json", "--debug")
    assert said.status == 0
    assert said.err == ""
    assert "bottleneck" in said.json
