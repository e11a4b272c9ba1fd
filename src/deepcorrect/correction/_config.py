"""The configuration of an adapter, as stored in its file."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepcorrect.correction._gate import GateConfig
from deepcorrect.correction._unit_config import UnitConfig, own_parameters, unit_costs
from deepcorrect.networks import Sketch

LARGEST_SKETCH = 1 << 25
"""The largest number of values of the noise that a block is recognised by."""


class SiteConfig(BaseModel):
    """The configuration of one corrected site.

    Attributes:
        filters: The corrected filters, ascending.
        channels: The number of all filters of the site.
        unit: The shape of the site's correction unit; None for no unit.
        weights: The number of weights that each filter has of its own; 0 if the network's are used.
        content: The digest of the module's tensors and geometry, by which the site is recognised
            under another name.
        sketch: How large the maps of a block are, by which it is distinguished from the layers
            inside it; None for a single layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    filters: tuple[int, ...] = Field(min_length=1)
    channels: int = Field(ge=1)
    unit: UnitConfig | None = None
    weights: int = Field(default=0, ge=0)
    content: str = ""
    sketch: Sketch | None = None

    @model_validator(mode="after")
    def _corrects(self) -> SiteConfig:
        if self.unit is None and not self.weights:
            raise ValueError("a site needs a unit, weights of its own, or both")
        if self.sketch is not None:
            shape, values = self.sketch.shape, (self.sketch.mean, self.sketch.size)
            if min(shape) < 1 or math.prod(shape) > LARGEST_SKETCH:
                raise ValueError(f"a sketch of noise of the shape {shape} is never drawn")
            if not all(map(math.isfinite, values)):
                raise ValueError("a sketch has finite values")
        return self

    @property
    def parameters(self) -> int:
        """The number of parameters of the site's unit and of its filters' own weights."""
        count = len(self.filters)
        own = own_parameters(count, self.weights) if self.weights else 0
        return own + (unit_costs(self.unit, count).parameters if self.unit else 0)

    @property
    def corrected_by(self) -> str:
        """What corrects the filters, in words."""
        parts = ["weights"] * bool(self.weights) + ["unit"] * bool(self.unit)
        return " and ".join(parts)


class AdapterConfig(BaseModel):
    """Everything that is needed to rebuild an adapter; the content of `adapter_config.json`.

    Attributes:
        format: The name of the file format.
        schema_version: The version of the format, 2. Adapters of version 1 fit only networks with
            the same module names.
        base: The name of the network.
        fingerprint: The SHA-256 of the network's layers. An adapter fits only these weights.
        sites: One entry per corrected site, by dotted name.
        gate: The gate that decides which images are corrected; None corrects all images.
        weights_sha256: The checksum of the safetensors file, set by `save_pretrained`.
        config_sha256: The checksum of this configuration without the notes, set by
            `save_pretrained`.
        notes: Further information by key, such as the distortions of the training. The model card
            shows the keys that it knows.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> config = dc.correct(network, {"0": [1, 5]}, unit="lite").config
        >>> config.base, config.sites["0"].filters, config.sites["0"].channels
        ('Sequential', (1, 5), 8)
        >>> dc.AdapterConfig.model_validate(config.model_dump(mode="json")) == config
        True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["deepcorrect-adapter"] = "deepcorrect-adapter"
    schema_version: Literal[1, 2] = 2
    base: str
    fingerprint: str
    sites: dict[str, SiteConfig] = Field(min_length=1)
    gate: GateConfig | None = None
    weights_sha256: str = ""
    config_sha256: str = ""
    notes: dict[str, Any] = {}

    @property
    def parameters(self) -> int:
        """The number of the adapter's parameters."""
        return sum(site.parameters for site in self.sites.values())
