"""Recipes: what they merge to, and what their errors say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcorrect.distortions import GROUPS
from deepcorrect.experiments._recipe import Recipe, load_recipe, load_summary, shipped
from deepcorrect.experiments._sections import TestTimeSection, TrainedSystem
from deepcorrect.experiments._systems import (
    SECTIONS,
    CorrectionSystem,
    FinetuneSystem,
    summary,
)
from deepcorrect.experiments._test_time_systems import NormAdaptationSystem
from deepcorrect.runtime import InputError
from deepcorrect.training import TrainingConfig

Write = Callable[..., Path]

PATHS = {"data.train=parquet:train-*.parquet", "data.test=parquet:test.parquet"}
MINIMAL: dict[str, Any] = {
    "name": "small",
    "model": {"spec": "digits_cnn"},
    "data": {"train": "digits:train", "test": "digits:test"},
    "distortions": {"awgn": {"levels": [10, 20]}, "gaussian_blur": {}},
    "systems": {"deepcorrect": {"method": "deepcorrect"}, "tuned": {"method": "finetune"}},
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(value: object, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        text = value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def correction(recipe: Recipe, name: str = "deepcorrect") -> CorrectionSystem:
    system = recipe.systems[name]
    assert isinstance(system, CorrectionSystem)
    return system


def trainings(recipe: Recipe) -> dict[str, TrainingConfig]:
    systems = recipe.systems.items()
    return {name: each.training for name, each in systems if isinstance(each, TrainedSystem)}


def rate(recipe: Recipe) -> float:
    return trainings(recipe)["tuned"].learning_rate


# --- what is shipped


def test_the_demo_loads_as_it_is() -> None:
    demo = load_recipe("demo")
    assert demo.name == "demo"
    assert [d.name for d in demo.distortion_list] == ["gaussian_blur", "awgn"]
    assert [len(d.for_size(28).levels) for d in demo.distortion_list] == [6, 6]
    assert list(demo.systems) == ["finetuned", "finetuned_gated", "deepcorrect"]


@pytest.mark.parametrize("name", ["demo", "cifar100_resnet20"])
def test_the_fair_competitor_is_trained_as_the_correction_is(name: str) -> None:
    recipe = load_recipe(name, [] if name == "demo" else sorted(PATHS))
    fair = recipe.systems["finetuned_gated"]
    assert isinstance(fair, FinetuneSystem)
    own, other = fair.training, correction(recipe).training
    rate = {"learning_rate": own.learning_rate}
    assert own == other.model_copy(update=rate)
    assert fair.gate == correction(recipe).gate == 0.05


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_loads_once_it_has_its_paths(name: str) -> None:
    recipe = load_recipe(name, [] if name == "demo" else sorted(PATHS))
    assert recipe.name == name
    assert load_summary(name).endswith((".", ":"))
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name", [name for name in shipped() if name != "demo"])
def test_paths_are_not_built_in(name: str) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(name)
    assert "key 'data.train' is missing" in str(error.value)
    assert "key 'data.test' is missing" in str(error.value)


def test_the_quick_recipe_changes_only_what_it_says() -> None:
    full = load_recipe("cifar100_resnet20", sorted(PATHS))
    quick = load_recipe("cifar100_resnet20_quick", sorted(PATHS))
    assert quick.model == full.model
    assert quick.data.train_images == 2000
    assert full.data.train_images is None
    training = correction(quick).training
    assert training.epochs == 2
    assert training == correction(full).training.model_copy(update={"epochs": 2})


# --- what a file says


def test_a_minimal_recipe_gets_defaults(write: Write) -> None:
    recipe = load_recipe(write(MINIMAL))
    assert recipe.seed == 0
    assert recipe.data.validation_images == 1000
    assert recipe.ranking.method == "conductance"
    assert correction(recipe).beta == 0.5
    assert isinstance(recipe.systems["tuned"], FinetuneSystem)
    awgn, blur = recipe.distortion_list
    assert awgn.levels == (10, 20)
    assert blur.levels is None


def test_based_on_merges_section_by_section(write: Write) -> None:
    write(MINIMAL, "base.yaml")
    changes = {
        "based_on": "base.yaml",
        "name": "other",
        "data": {"test": "digits:validation"},
        "systems": {"deepcorrect": {"beta": 0.25, "training": {"epochs": 3}}},
    }
    recipe = load_recipe(write(changes))
    assert recipe.name == "other"
    assert recipe.data.train == "digits:train"
    assert recipe.data.test == "digits:validation"
    assert correction(recipe).beta == 0.25
    assert correction(recipe).training.epochs == 3
    assert list(recipe.systems) == ["deepcorrect", "tuned"]


def test_based_on_reaches_through_several_files_and_shipped_names(write: Write) -> None:
    write({"based_on": "demo", "seed": 1, "ranking": {"images": 10}}, "one.yaml")
    path = write({"based_on": "one.yaml", "ranking": {"method": "path"}}, "two.yaml")
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.ranking.images, recipe.ranking.method) == (1, 10, "path")
    assert recipe.name == "demo"


def test_sections_that_an_anchor_shares_change_apart(write: Write) -> None:
    text = """
name: anchored
model: {spec: digits_cnn}
data: {train: digits:train, test: digits:test}
distortions: {awgn: &levels {levels: [10]}, gaussian_blur: *levels}
systems:
  finetuned: {method: finetune, training: &training {epochs: 4, augmentation: {flip: true}}}
  deepcorrect: {method: deepcorrect, training: *training}
  third: {method: finetune, training: {<<: *training, epochs: 6}}
"""
    overrides = [
        "systems.finetuned.training.epochs=9",
        "systems.finetuned.training.augmentation.flip=false",
        "distortions.awgn.levels=[5, 6]",
    ]
    path = write(text)
    recipe = load_recipe(path, overrides)
    found = trainings(recipe).values()
    assert [training.epochs for training in found] == [9, 4, 6]
    assert [training.augmentation.flip for training in found] == [
        False,
        True,
        True,
    ]
    assert recipe.distortions["gaussian_blur"].levels == (10,)
    based = write(
        {"based_on": path.name, "systems": {"third": {"training": {"epochs": 1}}}}, "b.yml"
    )
    recipe = load_recipe(based, overrides[:1])
    assert [training.epochs for training in trainings(recipe).values()] == [9, 4, 1]


# --- KEY=VALUE


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("ranking.images=100", lambda r: r.ranking.images, 100),
        ("systems.tuned.training.learning_rate=1e-3", rate, 1e-3),
        ("systems.tuned.training.learning_rate=.5", rate, 0.5),
        ("distortions.awgn.levels=[1, 2.5]", lambda r: r.distortions["awgn"].levels, (1, 2.5)),
        ("distortions.awgn.levels=null", lambda r: r.distortions["awgn"].levels, None),
        ("distortions.awgn.clip=true", lambda r: r.distortions["awgn"].clip, True),
        ("name='1e5'", lambda r: r.name, "1e5"),
        ("name=inf", lambda r: r.name, "inf"),
        ("systems.deepcorrect.beta=5e-1", lambda r: r.systems["deepcorrect"].beta, 0.5),
        ("data.test=folder:a=b", lambda r: r.data.test, "folder:a=b"),
        ("ranking.sites=[features.0.0]", lambda r: r.ranking.sites, ("features.0.0",)),
        ("ranking.sites=stem+sums", lambda r: r.ranking.sites, "stem+sums"),
        ("model.mean=[0.5]", lambda r: r.model.mean, (0.5,)),
        ("data.train_images=", lambda r: r.data.train_images, None),
        ("ideal={images: 0}", lambda r: r.ideal.images, 0),
        (
            "systems.deepcorrect.unit={kind: full, width: 8}",
            lambda r: r.systems["deepcorrect"].unit,
            {"kind": "full", "width": 8},
        ),
        (
            "systems.deepcorrect.beta={features.0.0: 0.5}",
            lambda r: r.systems["deepcorrect"].beta,
            {"features.0.0": 0.5},
        ),
        ("distortions.gaussian_blur.levels=[1]", lambda r: len(r.distortion_list), 2),
    ],
)
def test_overrides(
    write: Write, override: str, read: Callable[[Recipe], Any], expected: Any
) -> None:
    assert read(load_recipe(write(MINIMAL), [override])) == expected


def test_an_override_of_null_takes_a_section_out() -> None:
    recipe = load_recipe("demo", ["systems.finetuned=null", "distortions.awgn="])
    assert list(recipe.systems) == ["finetuned_gated", "deepcorrect"]
    assert [each.name for each in recipe.distortion_list] == ["gaussian_blur"]


def test_overrides_reach_sections_that_are_absent_or_null_and_the_last_wins(write: Write) -> None:
    path = write({**MINIMAL, "ranking": None})
    recipe = load_recipe(path, ["ranking.images=3", "ranking.images=4", "selection.images=5"])
    assert recipe.ranking.images == 4
    assert recipe.selection.images == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "'seed' is not KEY=VALUE, such as ranking.images=100"),
        ("=3", "'=3' is not KEY=VALUE"),
        ("seed=[1", "the value of 'seed=[1' is not YAML"),
        ("name.first=x", "'name.first=x': 'name' is a value ('small'), not a section"),
    ],
)
def test_what_is_no_override_is_said(write: Write, override: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load_recipe(write(MINIMAL), [override])


# --- errors: the key, the value, what is accepted


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        # unknown keys, at every depth
        ("sead=1", ["unknown key 'sead' (given 1)", "accepted: name, seed, device"]),
        ("data.tests=x", ["unknown key 'data.tests' (given 'x')", "accepted: train, test"]),
        ("distortions.awgn.level=3", ["'distortions.awgn.level'", "levels, clip, quantize"]),
        (
            "systems.deepcorrect.bta=0.5",
            [
                "unknown key 'systems.deepcorrect.bta' (given 0.5)",
                "method, training, gate, gate_scale, others, choose_strength, beta, budget, unit",
            ],
        ),
        ("systems.tuned.beta=0.5", ["unknown key 'systems.tuned.beta'", "method, training"]),
        (
            "systems.tuned.training.lr=0.1",
            ["unknown key 'systems.tuned.training.lr' (given 0.1)", "epochs, batch_size"],
        ),
        (
            "systems.tuned.training.augmentation.spin=1",
            ["'systems.tuned.training.augmentation.spin'", "rotation, shift, zoom, flip"],
        ),
        # wrong types
        ("seed=one", ["key 'seed': given 'one'", "valid integer"]),
        ("data.batch_size=2.5", ["key 'data.batch_size': given 2.5", "valid integer"]),
        ("model=digits_cnn", ["key 'model': given 'digits_cnn'", "valid dictionary"]),
        ("distortions.awgn.levels=5", ["key 'distortions.awgn.levels': given 5", "tuple"]),
        ("distortions.awgn.levels=[a]", ["'distortions.awgn.levels.0': given 'a'", "number"]),
        ("distortions.awgn=10", ["key 'distortions.awgn': given 10", "valid dictionary"]),
        ("systems.tuned=3", ["key 'systems.tuned", "given 3"]),
        ("systems.deepcorrect.unit=3", ["'systems.deepcorrect.unit", "given 3"]),
        ("systems.tuned.training.epochs=many", ["training.epochs': given 'many'", "integer"]),
        ("systems.tuned.training.epochs=null", ["training.epochs': given None", "integer"]),
        # impossible values
        ("seed=-1", ["key 'seed': given -1", "greater than or equal to 0"]),
        ("name=a/b", ["key 'name': given 'a/b'", "pattern"]),
        ("precision=half", ["key 'precision': given 'half'", "'auto', 'float32' or 'bfloat16'"]),
        ("ranking.method=best", ["key 'ranking.method': given 'best'", "swap", "path"]),
        ("ranking.images=0", ["key 'ranking.images': given 0", "greater than or equal to 1"]),
        ("ideal.betas=[0.5, 2]", ["key 'ideal.betas.1': given 2", "less than or equal to 1"]),
        ("distortions={}", ["key 'distortions': given {}", "at least 1"]),
        ("distortions.awgm={}", ["'distortions.awgm", "awgm", "did you mean 'awgn'"]),
        ("distortions.awgn.levels=[-3]", ["levels.0': given -3", "greater than or equal to 0"]),
        ("distortions.awgn.levels=[]", ["'distortions.awgn.levels': given []", "at least 1"]),
        ("systems={}", ["key 'systems': given {}", "at least 1"]),
        ("systems.tuned.method=magic", ["key 'systems.tuned.method': given 'magic'", "'finetune'"]),
        ("systems.other={}", ["key 'systems.other.method' is missing", "'deepcorrect'"]),
        ("systems.baseline={method: finetune}", ["'baseline' cannot name a system"]),
        ("systems.deepcorrect.beta=0", ["key 'systems.deepcorrect.beta': given 0", "above 0"]),
        ("systems.deepcorrect.beta=1.5", ["given 1.5", "at most 1"]),
        ("systems.deepcorrect.beta={a: 2}", ["'systems.deepcorrect.beta': given {'a': 2}"]),
        ("systems.deepcorrect.gate_scale=2", ["gate_scale': given 2", "less than or equal to 1"]),
        (
            "systems.deepcorrect.training.objective={images: 1}",
            ["'systems.deepcorrect", "front_end"],
        ),
        ("systems.deepcorrect.gate_scale=0.5", ["'systems.deepcorrect", "give gate, too"]),
        ("systems.tuned.gate_scale=0.5", ["'systems.tuned", "give gate, too"]),
        ("systems.tuned.gate=1", ["'systems.tuned.gate': given 1", "less than 1"]),
        ("systems.tent={method: tent, gate: 0.05}", ["unknown key 'systems.tent.gate'"]),
        ("systems.deepcorrect.unit=huge", ["unknown correction unit 'huge'", "bottleneck"]),
        ("systems.deepcorrect.unit={size: 3}", ["unit option size=3", "kernel_size"]),
        ("systems.tuned.training.epochs=0", ["training.epochs': given 0", "or equal to 1"]),
        ("systems.tuned.training.learning_rate=.inf", ["given inf", "finite number"]),
        ("systems.tuned.training.learning_rate=nan", ["training.learning_rate': given 'nan'"]),
        ("systems.tuned.training.optimizer=lion", ["given 'lion'", "'sgd', 'adamw' or 'muon'"]),
        ("systems.tuned.training.clean_share=1.1", ["clean_share': given 1.1", "equal to 1"]),
        ("systems.tuned.training.objective={logit: 1}", ["'logit' is not one of labels, logits"]),
        ("systems.tuned.training.objective={labels: 0}", ["needs a weight above 0"]),
        ("data.validation_rows=rows.json", []),
        ("data={train: a, test: b, validation: c, validation_rows: d}", ["not both"]),
    ],
)
def test_errors_name_the_key_the_value_and_what_is_accepted(
    write: Write, override: str, parts: list[str]
) -> None:
    path = write(MINIMAL)
    if not parts:
        load_recipe(path, [override])
        return
    with pytest.raises(InputError) as error:
        load_recipe(path, [override])
    message = str(error.value)
    for part in parts:
        assert part in message
    assert message.startswith(f"recipe {path}: ")
    assert "\n" not in message


def test_every_problem_is_named_at_once(write: Write) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(write({**MINIMAL, "seed": -1, "sead": 2, "model": {}}))
    for part in ("key 'seed'", "unknown key 'sead'", "key 'model.spec' is missing"):
        assert part in str(error.value)


# --- what is no recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [small", "is not YAML"),
        ("- a\n- b\n", "is not a mapping of keys to values"),
        ("", "is not a mapping of keys to values"),
        ("just words", "is not a mapping of keys to values"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
        ("{1: 2}", "key '1': given 1; Keys should be strings"),
        ("based_on: nowhere.yaml", "there is no recipe file nowhere.yaml"),
        ("based_on: dem", "unknown recipe 'dem', did you mean 'demo'?"),
    ],
)
def test_what_is_no_recipe_is_said(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load_recipe(write(text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no recipe file .*nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=r"unknown recipe 'demi', did you mean 'demo'\?"):
        load_recipe("demi")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "folder.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "binary.yaml")


def test_a_recipe_based_on_itself_is_refused(write: Write) -> None:
    path = write({"based_on": "recipe.yaml"})
    with pytest.raises(InputError, match="based on itself"):
        load_recipe(path)
    write({"based_on": "two.yaml"}, "one.yaml")
    path = write({"based_on": "one.yaml"}, "two.yaml")
    with pytest.raises(InputError, match=r"based on itself: .*two\.yaml -> .*one\.yaml"):
        load_recipe(path)


# --- to_yaml


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["systems.deepcorrect.unit={kind: lite, dilations: [1, 2]}", "model.mean=[0.5]"],
        ["systems.deepcorrect.beta={features.0.0: 0.5}", "ranking.sites=[features.0.0]"],
        ["systems.tuned.training.objective={labels: 1, logits: 0.5}", "seed=3"],
        ["name='2024'", "data.train='null'", "systems.tuned.training.learning_rate=1e-05"],
    ],
)
def test_the_resolved_recipe_is_an_equal_recipe(write: Write, overrides: list[str]) -> None:
    recipe = load_recipe(write(MINIMAL), overrides)
    again = load_recipe(write(recipe.to_yaml(), "resolved.yaml"))
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert "based_on" not in recipe.to_yaml()


def test_systems_may_be_measured_on_other_distortions(write: Write) -> None:
    path = write({**MINIMAL, "test_distortions": {"imagenet_c": {"levels": [1, 3]}, "awgn": {}}})
    recipe = load_recipe(path)
    assert [each.name for each in recipe.distortion_list] == ["awgn", "gaussian_blur"]
    assert [each.name for each in recipe.test_list] == [*GROUPS["imagenet_c"], "awgn"]
    assert {each.levels for each in recipe.test_list[:-1]} == {(1, 3)}
    assert load_recipe(write(MINIMAL)).test_list == load_recipe(write(MINIMAL)).distortion_list
    with pytest.raises(InputError, match="fogg"):
        load_recipe(write({**MINIMAL, "test_distortions": {"fogg": {}}}))


def test_methods_bring_their_own_objectives(write: Write) -> None:
    systems = {
        "a": {"method": "stability"},
        "b": {"method": "augmix", "training": {"epochs": 3}},
        "c": {"method": "stability", "training": {"objective": {"stability": 0.1}}},
        "d": {"method": "lora"},
    }
    found = trainings(load_recipe(write({**MINIMAL, "systems": systems})))
    assert [each.objective for each in found.values()] == [
        {"clean_labels": 1, "stability": 1},
        {"labels": 1, "consistency": 12},
        {"stability": 0.1},
        TrainingConfig().objective,
    ]
    assert found["b"].epochs == 3


def test_a_system_may_have_a_ranking_of_its_own(write: Write) -> None:
    systems = {"a": {"method": "deepcorrect", "ranking": "random"}}
    assert correction(load_recipe(write({**MINIMAL, "systems": systems})), "a").ranking == "random"
    systems["a"]["ranking"] = "best"
    with pytest.raises(InputError, match=r"systems\.a\.ranking.*best.*conductance"):
        load_recipe(write({**MINIMAL, "systems": systems}))


@pytest.mark.parametrize(
    ("given", "prior"), [({}, 0), ({"images": 32}, 32), ({"images": 32, "prior": 8}, 8)]
)
def test_the_prior_of_few_images_is_as_many(
    write: Write, given: dict[str, Any], prior: float
) -> None:
    systems = {"a": {"method": "norm_adaptation", **given}}
    recipe = load_recipe(write({**MINIMAL, "systems": systems}))
    found = recipe.systems["a"]
    assert isinstance(found, NormAdaptationSystem)
    assert found.prior == prior


def test_every_method_is_a_system_with_a_summary() -> None:
    for method, section in SECTIONS.items():
        assert summary(method).endswith(".")
        made = section.model_validate({"method": method})
        assert isinstance(made, TrainedSystem) != isinstance(made, TestTimeSection)


def test_null_takes_a_section_of_the_base_out(write: Write) -> None:
    base = write(MINIMAL)
    changes = {"based_on": base.name, "distortions": {"gaussian_blur": None}}
    recipe = load_recipe(write(changes, "b.yaml"))
    assert list(recipe.distortions) == ["awgn"]
    assert recipe.systems == load_recipe(base).systems
