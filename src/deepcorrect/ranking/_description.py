"""The description of a ranking as its file holds it, and the checks when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from deepcorrect.distortions import LevelledDistortion
from deepcorrect.runtime import InputError, first_problem

Target = Literal["labels", "prediction", "kl"]
"""What answers are measured against; the last two need no labels."""

SCHEMA = 3

Count = Annotated[int, Field(ge=1, lt=2**63)]
Cost = Annotated[int, Field(ge=0, lt=2**63)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class NetworkSize:
    """The size of a ranked network; budgets are shares of it.

    Attributes:
        parameters: of the whole network.
        multiply_adds: of its convolutions and linear layers, for one image.

    Example:
        >>> from deepcorrect.ranking import NetworkSize
        >>> NetworkSize(1000, 50_000).parameters
        1000
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    parameters: Cost
    multiply_adds: Cost


class LevelsOf(_Part):
    """A distortion and its levels."""

    name: str
    levels: tuple[float, ...] = Field(min_length=1)
    clip: bool
    quantize: bool

    def distortion(self) -> LevelledDistortion:
        """The distortion.

        Raises:
            InputError: There is no such distortion, or a level is not one of its levels.
        """
        return LevelledDistortion(**self.model_dump())


class Description(_Part):
    """What a ranking's file says beside its priorities; see `Ranking` for the attributes.

    Attributes:
        schema_version: 3; 2 where an earlier version wrote three files that belong together.
        sites: the number of each site's filters.
    """

    schema_version: Literal[2, 3] = Field(alias="schema", default=SCHEMA)
    method: str = Field(min_length=1)
    distortions: tuple[LevelsOf, ...] = Field(min_length=1)
    sites: dict[str, Count] = Field(min_length=1)
    images: Count
    seconds: float = Field(ge=0)
    seed: int = Field(ge=0, lt=2**63)
    target: Target
    maps: dict[str, tuple[Count, Count]]
    weights: dict[str, Count] = {}
    gains: bool
    network: NetworkSize | None


def read_description(text: str, source: str) -> Description:
    """Reads a description from its JSON text.

    Args:
        text: the text.
        source: the file that it comes from, for messages.

    Raises:
        InputError: it is not a ranking's description.
    """
    try:
        found = Description.model_validate_json(text)
    except ValidationError as error:
        where, _, message = first_problem(error)
        raise InputError(f"{source} does not describe a ranking: {where}: {message}") from None
    for name, extra in (("maps", found.maps), ("weights", found.weights)):
        unknown = [site for site in extra if site not in found.sites]
        if unknown:
            raise InputError(
                f"{source} does not describe a ranking: {name}: {unknown[0]!r} is no ranked site"
            )
    return found


def check_priorities(by_level: Mapping[str, Tensor], levels: int, source: str) -> None:
    """Checks that every site has finite priorities, one row for each level.

    Raises:
        InputError: A tensor has another shape, is not of floating point, or has a value that is not
            finite.
    """
    for site, values in by_level.items():
        if values.dim() != 2 or len(values) != levels or not values.shape[1]:
            raise InputError(
                f"{source} has priorities of shape {tuple(values.shape)} at {site!r}, where "
                f"(levels, filters) are needed, and there are {levels} levels"
            )
        if values.dtype not in (torch.float32, torch.float64):
            kind = str(values.dtype).removeprefix("torch.")
            raise InputError(f"{source} has {kind} priorities at {site!r}: they are float64")
        if not bool(values.isfinite().all()):
            raise InputError(f"{source} has priorities at {site!r} that are NaN or infinite")


def checksum(text: str, by_level: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a description and of the priorities that it describes."""
    digest = hashlib.sha256(text.encode())
    for site in sorted(by_level):
        values = by_level[site].detach().cpu().contiguous()
        digest.update(f"\n{site} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
