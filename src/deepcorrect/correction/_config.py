"""What an adapter is made of, as its file says it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepcorrect.correction._gate import GateConfig
from deepcorrect.correction._unit_config import UnitConfig


class SiteConfig(BaseModel):
    """One site: its corrected filters (ascending), its filters in all, and its unit's shape; and
    a digest of what its module held, by which it is found under another name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filters: tuple[int, ...] = Field(min_length=1)
    channels: int = Field(ge=1)
    unit: UnitConfig
    content: str = ""


class AdapterConfig(BaseModel):
    """Everything needed to rebuild an adapter; the content of `adapter_config.json`.

    Attributes:
        base: name of the network.
        schema_version: 2; adapters of version 1 fit networks with the same names only.
        fingerprint: SHA-256 of the network's layers; an adapter fits these weights only.
        sites: one entry a site, by dotted name.
        gate: which images are corrected; None corrects all.
        weights_sha256: of the safetensors file that belongs to it (set by `save`).
        config_sha256: of all of this but the notes (set by `save`).
        notes: free text by key, such as the distortions it was trained on; the card shows them.

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
