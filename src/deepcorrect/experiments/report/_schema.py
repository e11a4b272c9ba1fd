"""What a run's JSON files must be for a report, as models: the keys, the types and the ranges."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_validator,
)

from deepcorrect.runtime import InputError, first_problem

PNG = b"\x89PNG\r\n\x1a\n"
FIGURES = r"^analysis/[A-Za-z0-9_][A-Za-z0-9_.-]*\.png$"


def _is_png(text: str) -> str:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content.startswith(PNG):
        raise ValueError("an example is a PNG image in base 64")
    return text


Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]
System = Annotated[str, Field(min_length=1, max_length=200)]
Kind = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=100_000)]
Shares = tuple[Share, ...]


class _Part(BaseModel):
    """A part of a file, which may have further keys."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Curve(_Part):
    levels: tuple[Positive, ...] = Field(min_length=1)
    top1: Shares
    clean_top1: Share
    mean_top1: Share

    @model_validator(mode="after")
    def _one_each(self) -> _Curve:
        if len(self.levels) != len(self.top1):
            raise ValueError("there is one accuracy for each level")
        return self


class _Record(_Part):
    trainable_parameters: Count
    parameters: Count
    multiply_adds: Count
    images_seen: Count
    training_seconds: Positive
    test_images: Count = 0
    latency_ms: Positive | None = None
    relative_latency: Positive | None = None
    relative_clean_latency: Positive | None = None
    relative_ungated_latency: Positive | None = None
    fused: bool | None = None
    threads: Count | None = None
    distortions: dict[Kind, _Curve]


class Results(_Part):
    """`results.json`."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Text = "run"
    model: Text
    data: Text
    seed: int
    seconds: Positive = 0.0
    systems: dict[System, _Record]


class _Epoch(_Part):
    number: Count
    loss: float
    score: Share | None
    seconds: Positive


class _Training(_Part):
    epochs: tuple[_Epoch, ...]
    best: Count
    images_seen: Count

    @model_validator(mode="after")
    def _kept(self) -> _Training:
        numbers = [epoch.number for epoch in self.epochs]
        if numbers != list(range(len(numbers))) or (numbers and self.best not in numbers):
            raise ValueError("epochs are numbered from 0, and the best is one of them")
        return self


class Histories(RootModel[dict[System, _Training]]):
    """`history.json`."""

    model_config = ConfigDict(strict=True)


class _Cell(_Part):
    png: Annotated[str, AfterValidator(_is_png)]
    answers: dict[System, Text]


class _Row(_Part):
    label: Text
    cells: tuple[_Cell, ...]


class _Strip(_Part):
    levels: tuple[Positive, ...]
    rows: tuple[_Row, ...]

    @model_validator(mode="after")
    def _one_each(self) -> _Strip:
        if any(len(row.cells) != len(self.levels) for row in self.rows):
            raise ValueError("there is one picture for each level")
        return self


class Examples(_Part):
    """`examples.json`."""

    systems: tuple[System, ...]
    distortions: dict[Kind, _Strip]

    @model_validator(mode="after")
    def _answered(self) -> Examples:
        strips = self.distortions.values()
        cells = [cell for strip in strips for row in strip.rows for cell in row.cells]
        if any(set(self.systems) - set(cell.answers) for cell in cells):
            raise ValueError("every system answers to every picture")
        return self


class Environment(RootModel[dict[Text, Any]]):
    """`environment.json`."""

    model_config = ConfigDict(strict=True)


class Ideal(_Part):
    """`ideal.json`."""

    betas: tuple[Share, ...] = Field(min_length=1)
    levels: dict[Kind, tuple[Positive, ...]]
    distorted_top1: dict[Kind, Shares]
    top1: dict[Text, dict[Kind, tuple[Shares, ...]]]
    area: dict[Text, float]
    images: Count

    @model_validator(mode="after")
    def _rectangular(self) -> Ideal:
        expected = {kind: len(levels) for kind, levels in self.levels.items()}
        found = {kind: len(shares) for kind, shares in self.distorted_top1.items()}
        sites = [{kind: len(rows) for kind, rows in each.items()} for each in self.top1.values()]
        rows = [row for site in self.top1.values() for kind in site.values() for row in kind]
        if any(each != expected for each in (found, *sites)) or not all(expected.values()):
            raise ValueError("there is one row for each level of each distortion")
        if self.area.keys() != self.top1.keys():
            raise ValueError("every site has an area")
        if any(len(row) != len(self.betas) for row in rows):
            raise ValueError("there is one accuracy for each beta")
        return self


class _Spread(_Part):
    before: float | None
    after: float | None
    gain: float | None
    improved: Share | None


class _Everywhere(_Part):
    all: _Spread


class _MapsOf(_Part):
    psnr: _Everywhere
    ssim: _Everywhere


class _Maps(_Part):
    images: Count
    distortions: dict[Kind, _MapsOf]


class _AgainstOf(_Part):
    baseline: Shares = Field(min_length=1)
    learned: Shares = Field(min_length=1)
    ideal: Shares = Field(min_length=1)
    recovered: float | None


class _Against(_Part):
    images: Count
    clean_top1: Share
    learned_clean_top1: Share
    distortions: dict[Kind, _AgainstOf]


class _NearOf(_Part):
    untouched: dict[System, Annotated[Shares, Field(min_length=1)]]
    own: dict[System, Annotated[Shares, Field(min_length=1)]]


class _Near(_Part):
    images: Count
    classes: tuple[Text, ...]
    clean: dict[System, Share]
    distortions: dict[Kind, _NearOf]

    @model_validator(mode="after")
    def _of_all(self) -> _Near:
        for near in self.distortions.values():
            if self.clean.keys() - near.untouched.keys() or self.clean.keys() - near.own.keys():
                raise ValueError("every system has features of every distortion")
        return self


class Analysis(_Part):
    """`analysis.json`."""

    subject: System
    maps: dict[System, _Maps]
    ideal: dict[System, _Against]
    features: _Near
    learning: dict[System, Any]
    beta: tuple[Any, ...] | None = None
    figures: tuple[Annotated[str, Field(pattern=FIGURES)], ...]

    @model_validator(mode="after")
    def _drawn(self) -> Analysis:
        parts = [f"maps-{name}" for name in self.maps] + [f"ideal-{name}" for name in self.ideal]
        parts += ["features", *["learning"] * bool(self.learning), *["beta"] * bool(self.beta)]
        if {f"analysis/{part}.png" for part in parts} - set(self.figures):
            raise ValueError("every part that was analysed has a picture")
        return self


def check(path: Path, value: Any, model: type[BaseModel]) -> None:
    """Checks the content of a file.

    Args:
        path: The file, for messages.
        value: Its content.
        model: What it must be.

    Raises:
        InputError: It is something else.
    """
    try:
        model.model_validate(_with_tuples(value))
    except ValidationError as error:
        where, _, message = first_problem(error)
        raise InputError(f"{path} is not what a run writes: {where}: {message}") from None


def _with_tuples(value: Any) -> Any:
    """Lists as tuples, as strict models want them."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
