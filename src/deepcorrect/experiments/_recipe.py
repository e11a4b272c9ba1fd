"""Recipes: one experiment as a YAML file, checked before anything runs.

Merging is done here rather than by OmegaConf because `null` must take a section out, an override
must replace a section rather than merge into it, and a path may contain `${`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from deepcorrect.data import ClassOrder
from deepcorrect.distortions import GROUPS, Distortion, Parameters, kind_of
from deepcorrect.experiments._recipe_problems import explain
from deepcorrect.experiments._sections import Section
from deepcorrect.experiments._systems import Choice, System, known_ranking
from deepcorrect.ranking import BETAS, DEFAULT_METHOD, Target
from deepcorrect.runtime import InputError, Precision, files, parse_yaml, unknown

LONGEST_CHAIN = 16
"""The most recipes that one recipe may be based on, one after the other."""

Share = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ModelSection(Section):
    """The network; see `dc.load_model`.

    Attributes:
        spec: a MODEL spec.
        weights: its weights file; null takes the source's own weights.
        state: which state dict of the weights file, if it holds several.
        classes: the number of classes, if it is not the source's usual number.
        input_size: the side of the network's input, in pixels; null takes the source's.
        resize: the shorter side of an image before the central crop; null takes the source's.
        mean: of each channel of images in [0, 1]; null takes the source's.
        std: the standard deviations, likewise.
    """

    spec: str
    weights: str | None = None
    state: str | None = None
    classes: int | None = Field(default=None, ge=1)
    input_size: int | None = Field(default=None, ge=1)
    resize: int | None = Field(default=None, ge=1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class DataSection(Section):
    """The images: DATA specs, and how many images of each to use.

    Attributes:
        train: the images for correction and fine-tuning.
        test: the images for the figures, which nothing else reads.
        validation: the images for ranking and for choosing the best epoch; without it, they are
            rows of `train`.
        validation_rows: a JSON file with rows of `train` (a list, or `{"rows": [...]}`).
        validation_images: the number of random rows of `train`, if neither of the two above is
            given.
        train_images: the size of a random subset of `train`; null takes all images.
        test_images: the size of a random subset of `test`; null takes all images.
        class_order: the order of classes whose names are numbers, `number` or `text`, if the
            network does not name its classes; null requires that both orders agree.
        batch_size: images per batch for everything but training.
        workers: the number of decoding processes; 0 decodes in the main process.
    """

    train: str
    test: str
    validation: str | None = None
    validation_rows: str | None = None
    validation_images: int = Field(default=1000, ge=2)
    train_images: int | None = Field(default=None, ge=2)
    test_images: int | None = Field(default=None, ge=1)
    class_order: ClassOrder | None = None
    batch_size: int = Field(default=250, ge=1)
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_validation(self) -> DataSection:
        if self.validation and self.validation_rows:
            raise ValueError("give validation or validation_rows, not both")
        return self


def _known_distortion(name: str) -> str:
    kind_of(name)
    return name


DistortionName = Annotated[str, AfterValidator(_known_distortion)]


class DistortionSection(Section):
    """One distortion.

    Attributes:
        levels: null takes the grid for the input size.
        clip: whether distorted images are clamped to [0, 1].
        quantize: whether they are rounded to 8 bits.
        parameters: whose severities apply; null decides by the input size.
    """

    levels: Annotated[tuple[Level, ...], Field(min_length=1)] | None = None
    clip: bool = False
    quantize: bool = False
    parameters: Parameters | None = None


class RankingSection(Section):
    """How filters are ranked.

    Attributes:
        method: one that `deepcorrect list methods` shows.
        images: the number of validation images.
        sites: names of modules, or a choice by structure such as `auto` or `stem+sums`; null takes
            all convolutions and transformers' MLPs.
        precision: `auto` uses bfloat16 if the device computes it natively.
        target: what answers are compared with.
    """

    method: str = DEFAULT_METHOD
    images: int = Field(default=500, ge=1)
    sites: tuple[str, ...] | Choice | None = None
    precision: Precision = "auto"
    target: Target = "labels"

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        return known_ranking(value)


class IdealSection(Section):
    """Ideal-correction curves.

    Attributes:
        images: the number of validation images, none of them ranked on; 0 skips the curves.
        betas: the shares of a site's filters.
    """

    images: int = Field(default=200, ge=0)
    betas: tuple[Share, ...] = BETAS


class SelectionSection(Section):
    """Choosing the best epoch.

    Attributes:
        images: the number of validation images, none of them ranked on, or a random part of them:
            over clean images and all levels, an epoch's validation shows at most half as many
            images as the epoch trains on, but of at least 64 images; 0 keeps the last epoch.
    """

    images: int = Field(default=500, ge=0)


class Recipe(Section):
    """One experiment: measure, rank, correct, measure, report.

    Filters are ranked, and systems trained and selected, on `distortions`. Systems are measured on
    `test_distortions`, which may name groups such as `imagenet_c`, and on `distortions` without
    them.

    Attributes:
        name: the run's folder is `runs/NAME` unless another is named.
        seed: of everything random.
        device: `cpu`, `cuda`, `cuda:1`; `auto` uses CUDA if it is available.
        precision: for measuring; `auto` uses bfloat16 if the device computes it natively.
        systems: a section for each system, under its name.
    """

    name: str = Field(pattern=r"^[\w-][\w.-]*$", max_length=100)
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    precision: Precision = "float32"
    model: ModelSection
    data: DataSection
    distortions: dict[DistortionName, DistortionSection] = Field(min_length=1)
    test_distortions: dict[str, DistortionSection] | None = None
    ranking: RankingSection = RankingSection()
    ideal: IdealSection = IdealSection()
    selection: SelectionSection = SelectionSection()
    systems: dict[str, System] = Field(min_length=1)

    @field_validator("distortions", "test_distortions")
    @classmethod
    def _distortions(
        cls, value: dict[str, DistortionSection] | None
    ) -> dict[str, DistortionSection] | None:
        _as_distortions(value or {})
        return value

    @field_validator("systems")
    @classmethod
    def _names(cls, value: dict[str, System]) -> dict[str, System]:
        for name in value:
            if name == "baseline" or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"{name!r} cannot name a system: use letters, digits, - and _, not 'baseline'"
                )
        return value

    @property
    def distortion_list(self) -> tuple[Distortion, ...]:
        """The distortions that systems are trained on."""
        return _as_distortions(self.distortions)

    @property
    def test_list(self) -> tuple[Distortion, ...]:
        """The distortions that systems are measured on."""
        return _as_distortions(self.test_distortions or self.distortions)

    def to_yaml(self) -> str:
        """The resolved recipe, with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)


def _as_distortions(sections: Mapping[str, DistortionSection]) -> tuple[Distortion, ...]:
    """The distortions of sections, one for each kind of a group."""
    return tuple(
        Distortion(kind, **section.model_dump())
        for name, section in sections.items()
        for kind in GROUPS.get(name, (name,))
    )


def shipped() -> list[str]:
    """The names of the recipes that come with the package.

    Example:
        >>> from deepcorrect.experiments import shipped
        >>> "demo" in shipped()
        True
    """
    folder = resources.files("deepcorrect.experiments") / "recipes"
    return sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if ".yaml" in item.name
    )


def load_summary(name: str) -> str:
    """What a shipped recipe is for: its first comment line.

    Example:
        >>> from deepcorrect.experiments import load_summary
        >>> load_summary("demo").endswith(".")
        True
    """
    text = (resources.files("deepcorrect.experiments") / "recipes" / f"{name}.yaml").read_text(
        "utf-8"
    )
    return text.splitlines()[0].removeprefix("# ")


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, applies `KEY=VALUE` overrides, and checks every key and value.

    Args:
        source: a YAML file, or the name of a shipped recipe. Its key `based_on` may name another
            recipe, whose values it changes.
        overrides: dotted keys and YAML values, such as `ranking.images=100` or
            `distortions.awgn.levels=[10,20]`; null takes a section out.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is not accepted. The
            message names the key, the value and what is accepted.

    Example:
        >>> from deepcorrect.experiments import load_recipe
        >>> recipe = load_recipe("demo", ["ranking.images=100", "systems.finetuned=null"])
        >>> recipe.ranking.images, list(recipe.systems)
        (100, ['finetuned_gated', 'deepcorrect'])
    """
    values = _read(str(source), [])
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"recipe {source}: {explain(error, Recipe)}") from None


def _read(source: str, chain: list[str]) -> dict[str, Any]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.exists():
            raise InputError(f"there is no recipe file {path}")
        place = str(path.resolve())
        values = files.read_yaml(path)
    elif source in shipped():
        place = source
        text = resources.files("deepcorrect.experiments") / "recipes" / f"{source}.yaml"
        values = parse_yaml(text.read_text("utf-8"), source)
    else:
        raise unknown("recipe", source, [*shipped(), "FILE.yaml"])
    if not isinstance(values, dict):
        raise InputError(f"recipe {source} is not a mapping of keys to values")
    base = values.pop("based_on", None)
    if base is None:
        return _merged({}, values)
    if place in chain:
        raise InputError(f"recipe {source} is based on itself: {' -> '.join([*chain, place])}")
    if len(chain) >= LONGEST_CHAIN:
        raise InputError(f"recipe {chain[0]} is based on more than {LONGEST_CHAIN} others")
    beside = path.parent / f"{base}"
    return _merged(_read(str(beside if beside.is_file() else base), [*chain, place]), values)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, section by section; null takes a section out.

    Sections that YAML anchors share are copied, so that a change affects only one of them.
    """
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            below = result.get(key)
            result[key] = _merged(below if isinstance(below, dict) else {}, value)
        else:
            _put(result, key, value)
    return result


def _put(section: dict[str, Any], key: str, value: Any) -> None:
    """Sets a key of a section; null takes a section under that key out."""
    if value is None and isinstance(section.get(key), dict):
        del section[key]
    else:
        section[key] = value


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"{override!r} is not KEY=VALUE, such as ranking.images=100")
    value = parse_yaml(text, f"the value of {override!r}")
    if value == text.strip() and text[-1:].isdigit():  # YAML 1.1 reads 1e-3 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        inner = place.setdefault(parent, {})
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            raise InputError(f"{override!r}: {parent!r} is a value ({inner!r}), not a section")
        place = inner
    _put(place, last, value)
