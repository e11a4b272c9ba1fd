"""The run: what its folder holds, what its figures mean, and that being killed changes neither."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, SIZE, TEST, VALIDATION, cut, tiny_cnn
from torch import Tensor

import deepcorrect as dc
from deepcorrect.correction._checkpoint import read_config
from deepcorrect.data import Preprocessing, loader, open_dataset
from deepcorrect.experiments import _train, open_run
from deepcorrect.experiments._data import open_sets
from deepcorrect.experiments._recipe import Recipe, load_recipe
from deepcorrect.experiments._run import run
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, files

SPEEDS = {"images_per_second", "relative_speed"}
RELATIVE = {"relative_latency", "relative_clean_latency", "relative_ungated_latency"}
TIMES = {"seconds", "training_seconds", "measuring_seconds", "latency", "latency_ms"}
TIMES |= RELATIVE | SPEEDS
OVERALL_SECONDS = 120
Start = Callable[..., ForkServerProcess]


@pytest.fixture(scope="module")
def recipe_file(digits_folder: Path) -> Path:
    return digits_folder / "tiny.yaml"


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="module")
def finished(finished_run: Path) -> Path:
    """The folder of a run that nothing interrupted. Tests must not change it."""
    return finished_run


@pytest.fixture(scope="module")
def results(finished: Path) -> dict[str, Any]:
    return json.loads((finished / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def figures(folder: Path) -> dict[str, Any]:
    """Everything that a run computed, times left out."""
    names = ("results.json", "history.json", "ranking.json", "ideal.json", "examples.json")
    values = {name: without_times(json.loads((folder / name).read_text())) for name in names}
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    tensors = {
        name: value.tolist()
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in files.read_tensors(path).items()
    }
    return values | {"adapter": without_times(config), "tensors": tensors}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


# --- what a finished run leaves


def test_the_folder_holds_what_the_design_promises(finished: Path) -> None:
    for name in (
        "recipe.yaml",
        "environment.json",
        "ranking.safetensors",
        "ranking.json",
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "checkpoints",
        "results.json",
        "report.html",
        "log.jsonl",
    ):
        assert (finished / name).exists(), name
    assert len(list((finished / "adapter").iterdir())) == 3
    assert not leftovers(finished)


def test_the_folders_recipe_is_the_resolved_one(finished: Path, recipe: Recipe) -> None:
    assert load_recipe(finished / "recipe.yaml") == recipe
    assert "weight_decay" in (finished / "recipe.yaml").read_text(encoding="utf-8")


def test_the_environment_names_versions_and_device(finished: Path) -> None:
    environment = json.loads((finished / "environment.json").read_text(encoding="utf-8"))
    assert environment["torch"] == torch.__version__
    assert environment["deepcorrect-torch"] == dc.__version__
    assert {"date", "python", "platform", "device", "threads", "auto_precision"} <= set(environment)


def test_the_log_is_one_json_object_a_line_in_the_runs_order(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "start",
        "measured",
        "ranked",
        "ideal",
        "trained",
        "measured",
        "chosen",
        "trained",
        "measured",
        "report",
    ]
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_the_ranking_has_the_recipes_sites_and_opens_as_one(finished: Path) -> None:
    ranking = dc.load_ranking(finished)
    assert ranking.sites == ("features.0.0", "features.3.0")
    tensors = files.read_tensors(finished / "ranking.safetensors")
    assert {name: len(values) for name, values in tensors.items()} == {
        "features.0.0": 16,
        "features.3.0": 64,
    }
    for site, values in ranking.priorities.items():
        assert torch.equal(values, tensors[site])


def test_results_have_the_documented_schema(results: dict[str, Any]) -> None:
    assert results["schema"] == 1
    assert results["model"] == "digits_cnn"
    assert results["data"].startswith("folder:")
    assert results["seed"] == 0
    assert results["seconds"] > 0
    assert list(results["systems"]) == ["baseline", "finetuned", "deepcorrect"]
    for record in results["systems"].values():
        assert {
            "trainable_parameters",
            "parameters",
            "multiply_adds",
            "images_seen",
            "distortions",
        } <= set(record)
        assert list(record["distortions"]) == ["gaussian_blur", "awgn"]
        assert record["distortions"]["awgn"]["levels"] == [40, 80]


def test_mean_top1_is_the_mean_over_clean_and_every_level(results: dict[str, Any]) -> None:
    for record in results["systems"].values():
        for curve in record["distortions"].values():
            shares = [curve["clean_top1"], *curve["top1"]]
            assert len(curve["top1"]) == len(curve["top5"]) == len(curve["levels"])
            assert curve["mean_top1"] == pytest.approx(sum(shares) / len(shares), abs=1e-12)
            assert all(low <= high for low, high in zip(curve["top1"], curve["top5"], strict=True))
            for share in shares:  # of the 40 test images
                assert share * 10 * TEST == pytest.approx(round(share * 10 * TEST), abs=1e-9)


def test_counts_are_those_of_the_networks(
    results: dict[str, Any], digits_model: Classifier
) -> None:
    network = sum(p.numel() for p in digits_model.parameters())
    systems = results["systems"]
    assert systems["baseline"]["trainable_parameters"] == 0
    assert systems["baseline"]["images_seen"] == 0
    assert systems["baseline"]["parameters"] == network
    assert systems["finetuned"]["trainable_parameters"] == network
    assert systems["finetuned"]["multiply_adds"] == systems["baseline"]["multiply_adds"]
    extra = systems["deepcorrect"]["trainable_parameters"]
    gate = 2 * (19 + 1)  # for each kind, weights of the statistics of a grey image and a bias
    assert systems["deepcorrect"]["parameters"] == network + extra + gate
    assert systems["deepcorrect"]["multiply_adds"] > systems["baseline"]["multiply_adds"]
    for name in ("finetuned", "deepcorrect"):  # two epochs of 60 images
        assert systems[name]["images_seen"] == 120


def test_the_baselines_figures_are_those_of_evaluate(
    results: dict[str, Any], recipe: Recipe, digits_model: Classifier
) -> None:
    images = open_dataset(recipe.data.test, digits_model.preprocessing)
    specs = ["gaussian_blur:1.5", "awgn:40,80"]
    grid = dc.evaluate(digits_model, loader(images, 20), specs, recipe.seed)
    assert grid.to_json() == results["systems"]["baseline"]["distortions"]


def test_the_adapter_reproduces_the_corrected_networks_figures(
    finished: Path, results: dict[str, Any], recipe: Recipe
) -> None:
    model = dc.load_model("digits_cnn")
    adapted = dc.load_adapter(model, finished / "adapter")
    images = open_dataset(recipe.data.test, model.preprocessing)
    grid = dc.evaluate(adapted, loader(images, 20), recipe.distortion_list, recipe.seed)
    assert grid.to_json() == results["systems"]["deepcorrect"]["distortions"]
    assert adapted.config.gate is not None
    notes = adapted.config.notes
    assert notes["images_seen"] == 120
    assert notes["mean_top1"]["awgn"] == grid.curves["awgn"].mean_top1


def test_the_same_seed_gives_the_same_figures_and_another_others(
    finished: Path, recipe: Recipe, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # what a caller drew before does not matter
    run(recipe, tmp_path / "same")
    assert figures(tmp_path / "same") == figures(finished)
    other = recipe.model_copy(update={"seed": 1, "ideal": recipe.ideal.model_copy()})
    run(other, tmp_path / "other")
    assert figures(tmp_path / "other")["tensors"] != figures(finished)["tensors"]


# --- killed and resumed


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes from a server that has imported what they need, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepcorrect.experiments", "torch._dynamo", "pytest"])
    return context


@pytest.fixture
def start(processes: ForkServerContext) -> Iterator[Start]:
    started: list[ForkServerProcess] = []

    def start(target: Callable[..., None], *args: Any) -> ForkServerProcess:
        process = processes.Process(target=target, args=args)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def run_until(recipe_file: Path, folder: Path, name: str = "", *, written: bool = False) -> None:
    """In a process of its own: runs, and dies at the moment that a file called `name` has all its
    content and not yet its name, or (`written`) has just got its name."""
    rename = Path.replace

    def deadly(self: Path, target: Path) -> Path:
        dies = target.name == name
        if dies and not written:
            os.kill(os.getpid(), signal.SIGKILL)
        result = rename(self, target)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = deadly  # type: ignore[method-assign]
    run(load_recipe(recipe_file), folder, resume=True)


def write_to_the_end(recipe_file: Path, folder: Path, name: str) -> None:
    run_until(recipe_file, folder, name, written=True)


def ended(process: ForkServerProcess) -> int | None:
    process.join(OVERALL_SECONDS)
    return process.exitcode


def test_killed_at_every_step_and_resumed_it_gives_the_same_figures(
    start: Start, recipe_file: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    moments = [
        (run_until, "recipe.yaml"),
        (write_to_the_end, "baseline.measured.json"),
        (run_until, "ranking.json"),
        (write_to_the_end, "ranking.json"),
        (write_to_the_end, "ideal.json"),
        (write_to_the_end, "finetuned.pt"),
        (run_until, "finetuned.pt"),
        (write_to_the_end, "deepcorrect.pt"),
        (run_until, "deepcorrect.measured.json"),
        (write_to_the_end, "adapter_model.safetensors"),
        (write_to_the_end, "adapter_config.json"),
        (run_until, "results.json"),
        (run_until, "report.html"),
    ]
    for target, name in moments:
        assert ended(start(target, recipe_file, folder, name)) == -signal.SIGKILL, name
        [found] = [[path.name for path in folder.rglob(name)]]
        assert found == ([] if target is run_until and name != "finetuned.pt" else [name])
    assert ended(start(run_until, recipe_file, folder)) == 0
    assert figures(folder) == figures(finished)
    assert (folder / "report.html").stat().st_size > 10_000


def test_killed_at_arbitrary_moments_and_resumed_it_gives_the_same_figures(
    start: Start, recipe_file: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    kills, patience = 0, 0.6
    while (process := start(run_until, recipe_file, folder)).is_alive():
        process.join(patience)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills, patience = kills + 1, patience * 1.15
        assert kills < 40
    assert process.exitcode == 0
    assert kills
    assert figures(folder) == figures(finished)


def test_what_a_killed_write_left_is_no_file_of_the_run(copied: Path, recipe: Recipe) -> None:
    before = figures(copied)
    for name in ("ranking.json", "results.json"):
        text = (copied / name).read_text(encoding="utf-8")
        (copied / name).unlink()
        (copied / f".{name}.abc_1234.tmp").write_text(text[: len(text) // 2], encoding="utf-8")
    run(recipe, copied, resume=True)
    assert figures(copied) == before
    assert not list(copied.rglob(".*.tmp"))


@pytest.mark.parametrize("name", ["results.json", "examples.json", "report.html"])
def test_a_write_that_fails_leaves_nothing_and_is_made_up_for(
    copied: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = figures(copied)
    (copied / name).unlink()
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError("the cable was pulled")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(OSError, match="cable"):
            run(recipe, copied, resume=True)
    assert not (copied / name).exists()
    assert not leftovers(copied)
    run(recipe, copied, resume=True)
    assert figures(copied) == before


def test_a_write_that_fails_keeps_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value.json"
    files.write_json(path, {"kept": True})

    def failing(self: Path, target: Path) -> Path:
        raise OSError(f"{self} cannot become {target}")

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="cannot become"):
        files.write_json(path, {"kept": False})
    assert files.read_json(path) == {"kept": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_files_get_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    files.write_text(tmp_path / "ours", "")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    "name",
    ["ranking.json", "ranking_levels.safetensors", "checkpoints/deepcorrect.pt", "history.json"],
)
def test_a_file_cut_by_somebody_else_is_never_read_as_whole(
    copied: Path, recipe: Recipe, name: str
) -> None:
    before = figures(copied)
    path = copied / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if name == "history.json":  # it is only written
        run(recipe, copied, resume=True)
        assert figures(copied) == before
        return
    with pytest.raises(InputError, match=re.escape(str(path))):
        run(recipe, copied, resume=True)


def test_a_finished_run_resumed_again_changes_no_figure(copied: Path, recipe: Recipe) -> None:
    before = figures(copied)
    times = (copied / "results.json").read_bytes()
    adapter = (copied / "adapter" / "adapter_model.safetensors").read_bytes()
    run(recipe, copied, resume=True)
    assert figures(copied) == before
    assert (copied / "results.json").read_bytes() == times
    assert (copied / "adapter" / "adapter_model.safetensors").read_bytes() == adapter


def test_a_run_is_not_written_over_without_resume(copied: Path, recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"already holds a run.*--resume.*--out"):
        run(recipe, copied)


@pytest.mark.parametrize("replaced", ["network", "set of training images", "set of test images"])
def test_a_run_of_other_weights_or_images_is_not_continued(
    copied: Path, recipe: Recipe, replaced: str
) -> None:
    path = copied / "inputs.json"
    inputs = files.read_json(path)
    assert inputs.keys() >= {"network", "set of validation images"}
    files.write_json(path, {**inputs, replaced: "0" * 64})  # as if the run had begun with others
    with pytest.raises(InputError, match=f"was made with another {replaced}: restore it"):
        run(recipe, copied, resume=True)


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(InputError, match="not empty and not a run"):
            run(recipe, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("override", "key", "was", "now"),
    [
        ("seed=5", "seed", "0", "5"),
        (
            "systems.deepcorrect.training.learning_rate=0.5",
            "systems.deepcorrect.training.learning_rate",
            "0.002",
            "0.5",
        ),
        ("distortions.awgn.levels=[40]", "distortions.awgn.levels", "[40.0, 80.0]", "[40.0]"),
    ],
)
def test_another_recipe_is_refused_by_the_key_that_changed(
    copied: Path, recipe_file: Path, override: str, key: str, was: str, now: str
) -> None:
    before = figures(copied)
    message = re.escape(f"({key} was {was}, is {now})")
    with pytest.raises(InputError, match=message):
        run(load_recipe(recipe_file, [override]), copied, resume=True)
    assert figures(copied) == before


# --- what a recipe asks for


def test_several_corrections_without_ideal_curves_or_selection(
    recipe: Recipe, recipe_file: Path, tmp_path: Path
) -> None:
    small = load_recipe(
        recipe_file,
        [
            "ideal.images=0",
            "selection.images=0",
            "data.train_images=20",
            "data.test_images=10",
            "systems={}",
            "systems.deepcorrect={method: deepcorrect, beta: {features.0.0: 0.5}}",
            "systems.deepcorrect.training={epochs: 1, batch_size: 20}",
            "systems.lite={method: deepcorrect, unit: lite, beta: {features.3.0: 0.1}}",
            "systems.lite.training={epochs: 1, batch_size: 20}",
        ],
    )
    run(small, tmp_path / "run")
    assert not (tmp_path / "run" / "ideal.json").exists()
    config = {
        name: json.loads((tmp_path / "run" / name / "adapter_config.json").read_text())
        for name in ("adapter", "adapter-lite")
    }
    assert list(config["adapter"]["sites"]) == ["features.0.0"]
    assert list(config["adapter-lite"]["sites"]) == ["features.3.0"]
    assert len(config["adapter-lite"]["sites"]["features.3.0"]["filters"]) == 6
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [epoch["score"] for epoch in history["lite"]["epochs"]] == [None]
    assert len(recipe.systems) == 2


def test_without_a_validation_set_rows_of_train_are_held_out(
    recipe_file: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"rows": list(range(0, 80, 3))}), encoding="utf-8")
    base = [
        "data.validation=null",
        "data.train_images=null",
        "ideal.images=0",
        "selection.images=2",
        "systems={tuned: {method: finetune, training: {epochs: 1, batch_size: 20}}}",
    ]
    for number, (override, left) in enumerate(
        [(f"data.validation_rows={rows}", 80 - 27), ("data.validation_images=30", 50)]
    ):
        folder = tmp_path / f"run{number}"
        run(load_recipe(recipe_file, [*base, override]), folder)
        record = json.loads((folder / "results.json").read_text())["systems"]["tuned"]
        assert record["images_seen"] == left
        assert not (folder / "ranking.json").exists()  # nothing needs one


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ranking.images=40"], "'ranking.images': given 40; validation has 40 images"),
        (["ranking.sites=[features.0.0, feature.3.0]"], "unknown site 'feature.3.0'"),
        (["systems.deepcorrect.beta={features.1.0: 0.5}"], "that ranking.sites leaves out"),
        (["systems.deepcorrect.beta={nowhere: 0.5}"], "unknown site 'nowhere'"),
        (["data.train=folder:nowhere"], "no folder nowhere"),
        (["data.validation=null", "data.validation_rows=nowhere.json"], "no file nowhere.json"),
        (["model.weights=nowhere.safetensors"], "no file nowhere.safetensors"),
        (["device=cuda:99"], "device 'cuda:99' cannot be used here"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    recipe_file: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run(load_recipe(recipe_file, overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_row_numbers_must_be_row_numbers(recipe_file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    for value, message in (
        ({"lines": [1]}, "does not hold row numbers"),
        ([], "does not hold row numbers"),
        (["1"], "does not hold row numbers"),
        ([3, 80], "row 80 is outside"),
    ):
        rows.write_text(json.dumps(value), encoding="utf-8")
        overrides = ["data.validation=null", f"data.validation_rows={rows}"]
        with pytest.raises(InputError, match=message):
            run(load_recipe(recipe_file, overrides), tmp_path / "run")


# --- several processes


def train_together(folder: Path, rank: int, world: int, port: int) -> None:
    """In a process of its own: one rank of a training on accelerate, over gloo."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        ACCELERATE_USE_CPU="true",
    )
    torch.manual_seed(0)
    images = torch.rand(24, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(CLASSES, (24,), generator=torch.Generator().manual_seed(2))
    network = Classifier(tiny_cnn(), Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3), "tiny").eval()
    adapted = dc.correct(network, {"stem": [1, 4, 6], "pointwise": [0, 11]})
    samples = torch.utils.data.TensorDataset(images, labels)
    batches = torch.utils.data.DataLoader(samples, batch_size=4, shuffle=True)
    history = dc.fit(
        adapted,
        batches,
        ["awgn:10,40"],
        validation=cut(images, labels, 12),
        checkpoint=folder / "training.pt",
        epochs=2,
        precision="float32",
    )
    files.write_tensors(folder / f"{rank}.safetensors", adapted.state_dict())
    scores = [epoch.score for epoch in history.epochs]
    files.write_json(
        folder / f"{rank}.json",
        {"scores": scores, "best": history.best, "images_seen": history.images_seen},
    )
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch was built without gloo, which processes on CPUs talk through",
)
def test_two_processes_train_one_adapter_together(start: Start, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [start(train_together, tmp_path, rank, 2, port) for rank in range(2)]
    assert [ended(process) for process in ranks] == [0, 0]
    tensors: list[dict[str, Tensor]] = [
        files.read_tensors(tmp_path / f"{rank}.safetensors") for rank in range(2)
    ]
    untrained = dc.correct(tiny_cnn(), {"stem": [1, 4, 6], "pointwise": [0, 11]})
    moved = 0
    for name, start_value in untrained.state_dict().items():
        assert torch.equal(tensors[0][name], tensors[1][name]), name
        moved += not torch.equal(tensors[0][name], start_value)
    assert moved == len(tensors[0])
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1]
    assert said[0]["images_seen"] == 2 * 24
    assert files.read_checkpoint(tmp_path / "training.pt")["images_seen"] == 48


# --- other systems


@pytest.mark.parametrize("raises", [True, False])
def test_gates_are_raised_on_validation_images_after_training(
    finished: Path, recipe: Recipe, tmp_path: Path, raises: bool
) -> None:
    folder = finished
    if not raises:
        folder = tmp_path / "run"
        values = recipe.model_dump()
        values["systems"]["deepcorrect"]["choose_strength"] = False
        values["systems"].pop("finetuned")
        run(Recipe.model_validate(values | {"ideal": {"images": 0}}), folder)
    model = dc.load_model(recipe.model.spec)
    sets = open_sets(recipe, model)
    assert len(sets.choices) == VALIDATION * 10 - recipe.ranking.images
    fitted = files.read_json(folder / "checkpoints" / "deepcorrect.gate.json")
    adapted = dc.load_adapter(model, folder / "adapter")
    assert adapted.config.gate is not None
    kept = adapted.config.gate.model_dump(mode="json")
    assert kept["weights"] == fitted["weights"]
    if raises:
        adapted.set_gate(dc.GateConfig(**fitted))
        own = dc.raise_gate(adapted, dc.loader(sets.choices, 20), recipe.distortion_list)
        assert kept["biases"] == pytest.approx(own.biases, abs=1e-5)
        assert all(now <= then for now, then in zip(kept["biases"], fitted["biases"], strict=True))
    else:
        assert kept == fitted


def test_a_run_weakens_corrections_and_copies_alike(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_train, "STRENGTHS", (0.5,))
    training = {"epochs": 1, "batch_size": 20, "precision": "float32"}
    correction = recipe.model_dump()["systems"]["deepcorrect"]
    systems: dict[str, Any] = {
        "weights": {**correction, "unit": "weights", "training": training},
        "kept": {**correction, "unit": "weights", "training": training, "choose_strength": False},
        "gated": {"method": "finetune", "gate": 0.1, "training": training},
        "wise": {"method": "wise_ft", "gate": 0.1, "share": 0.5, "training": training},
    }
    folder = tmp_path / "run"
    changed = recipe.model_dump() | {"systems": systems, "ideal": {"images": 0}}
    run(Recipe.model_validate(changed), folder)
    trained = files.read_checkpoint(folder / "checkpoints" / "weights.pt")["best_state"]
    written = files.read_tensors(folder / "adapter-weights" / "adapter_model.safetensors")
    opened = open_run(folder)
    network, others = opened.model.state_dict(), opened.others
    for name, value in written.items():
        neutral = 1.0 if name.endswith("scale") else 0.0
        torch.testing.assert_close(value, neutral + 0.5 * (trained[name] - neutral))
    kept = files.read_tensors(folder / "adapter-kept" / "adapter_model.safetensors")
    assert all(torch.equal(value, trained[name]) for name, value in kept.items())
    for system in ("gated", "wise"):  # once, whatever may weaken them
        saved = files.read_checkpoint(folder / "checkpoints" / f"{system}.pt")["best_state"]
        for name, value in others[system].state_dict().items():
            if value.is_floating_point():
                between = 0.5 * (network[name] + saved[name])
                torch.testing.assert_close(value, between, msg=lambda _, name=name: name)
    assert files.read_json(folder / "checkpoints" / "gated.strength.json")["strength"] == 0.5
    assert files.read_json(folder / "checkpoints" / "wise.strength.json")["strength"] == 1


def test_every_system_runs_is_measured_and_reported(recipe: Recipe, tmp_path: Path) -> None:
    training = {"epochs": 1, "batch_size": 20, "precision": "float32"}
    correction = recipe.model_dump()["systems"]["deepcorrect"] | {"training": training}
    systems: dict[str, Any] = {
        "at_random": {**correction, "ranking": "random"},
        "first": {"method": "finetune", "trains": "first", "parameters": 0.3, "training": training},
        "norms": {"method": "finetune", "trains": "norms", "training": training},
        "gated": {"method": "finetune", "gate": 0.1, "training": training},
        "stability": {"method": "stability", "gate": 0.1, "training": training},
        "augmix": {"method": "augmix", "training": training},
        "wise": {"method": "wise_ft", "training": training},
        "adapter": {"method": "conv_adapter", "gate": 0.1, "training": training},
        "maps": {"method": "feature_correction", "images": None, "training": training},
        "lora": {"method": "lora", "gate": 0.1, "training": training},
        "front_end": {"method": "front_end", "depth": 1, "training": training},
        "norm_adaptation": {"method": "norm_adaptation", "prior": 4},
        "statistics": {"method": "norm_adaptation", "images": 3},
        "tent": {"method": "tent"},
        "eata": {"method": "eata", "sure": 1},
        "restoration": {"method": "restoration"},
    }
    values = recipe.model_dump() | {"systems": systems, "ideal": {"images": 0}}
    measured_on = {"gaussian_blur": {"levels": [1]}, "awgn": {"levels": [30]}}
    changed = Recipe.model_validate(values | {"test_distortions": measured_on})
    found = json.loads(run(changed, tmp_path / "run").read_text(encoding="utf-8"))["systems"]
    assert list(found) == ["baseline", *systems]
    base = found["baseline"]
    for name, record in found.items():
        assert record["distortions"]["awgn"]["levels"] == [30], name
        for key in ("relative_speed", "latency_ms", "relative_latency", "relative_clean_latency"):
            assert record[key] > 0, (name, key)
        assert record["fused"] == (name not in ("tent", "eata", "restoration")), name
        assert ("relative_ungated_latency" in record) == ("gate" in systems.get(name, {})), name
        assert (record["runtime"], record["threads"]) == ("torch", torch.get_num_threads()), name
        assert 0 <= record["distortions"]["awgn"]["mean_ece"] <= 1, name
        trained = name in systems and "training" in systems[name]
        assert (record["trainable_parameters"] > 0) == trained, name
        assert record["images_seen"] == (60 if trained else 0), name
    assert found["gated"]["trainable_parameters"] == base["parameters"]
    same = ("first", "norms", "gated", "stability", "augmix", "wise", "lora", "tent", "restoration")
    for name in same:
        assert found[name]["multiply_adds"] == base["multiply_adds"], name
    clean = {name: found[name]["distortions"]["awgn"]["clean_top1"] for name in found}
    assert clean["restoration"] == clean["baseline"], "clean images are left alone"
    shown = json.loads((tmp_path / "run" / "examples.json").read_text())["distortions"]["awgn"]
    for row in shown["rows"]:
        answers = row["cells"][0]["answers"]
        assert answers["restoration"] == answers["baseline"], "examples tell it the level, too"
    own, main = (dc.load_ranking(tmp_path / "run" / part) for part in ("rankings/random", "."))
    assert (own.method, main.method) == ("random", recipe.ranking.method)
    config = read_config(tmp_path / "run" / "adapter-at_random")
    for site, each in config.sites.items():
        chosen = own.priorities[site].argsort(descending=True)[: len(each.filters)]
        assert sorted(chosen.tolist()) == list(each.filters), site
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in systems)
