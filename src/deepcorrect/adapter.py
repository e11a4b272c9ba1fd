"""The adapter: correction units at a frozen network's sites, switched on, off, saved and loaded."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from deepcorrect import files, sites
from deepcorrect.classifier import Classifier, Wrapper, network_of
from deepcorrect.errors import InputError, first_problem
from deepcorrect.units import CorrectionUnit, UnitChoice, UnitConfig, unit_config

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


class SiteConfig(BaseModel):
    """One site: its corrected filters (ascending), its filters in all, and its unit's shape."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filters: tuple[int, ...] = Field(min_length=1)
    channels: int = Field(ge=1)
    unit: UnitConfig


class AdapterConfig(BaseModel):
    """Everything needed to rebuild an adapter; the content of `adapter_config.json`.

    Attributes:
        base: name of the network.
        fingerprint: SHA-256 of the network's tensors; an adapter fits these weights only.
        sites: one entry a site, by dotted name.
        weights_sha256: of the safetensors file that belongs to it (set by `save`).
        notes: free text by key, such as the distortions it was trained on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["deepcorrect-adapter"] = "deepcorrect-adapter"
    schema_version: Literal[1] = 1
    base: str
    fingerprint: str
    sites: dict[str, SiteConfig] = Field(min_length=1)
    weights_sha256: str = ""
    notes: dict[str, Any] = {}


class AdaptedModel(Wrapper):
    """A frozen network with correction units behind some filters of some sites.

    The network passed in keeps its weights and its behaviour: called directly it always gives
    the baseline's answers. Only a call of this object is corrected.

    Args:
        network: the base, a `Classifier` or any module; put in inference mode and frozen until
            `remove`.
        config: the sites and units.
        generator: draws the units' initial weights.

    Raises:
        InputError: a site or a filter does not exist, or the site's width is another.
    """

    def __init__(
        self, network: nn.Module, config: AdapterConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        modules = sites.find(network, config.sites)
        for name, module in modules.items():
            _check_site(name, module, config.sites[name])
        self.config = config
        self.network = network
        self.units = nn.ModuleDict()
        self._active = False
        self._enabled = True
        self._keys: dict[str, str] = {}
        parameters = next(network.parameters(), torch.zeros(()))
        self._handles = []
        for name in modules:
            site = config.sites[name]
            key = name.replace(".", "/")  # module names may not hold dots
            unit = CorrectionUnit(len(site.filters), site.unit, generator)
            unit = unit.to(parameters.device, parameters.dtype)
            # torch's own types leave this out
            self.units[key] = unit.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            self.register_buffer(
                f"filters/{key}",
                torch.tensor(site.filters, device=parameters.device),
                persistent=False,
            )
            # a bound method, not a closure: a copy of this object is corrected by its own units
            hook = functools.partial(self._correct, name, key)
            self._handles.append(modules[name].register_forward_hook(hook))
        self._training_modes = {module: module.training for module in network.modules()}
        self._frozen = {p: p.requires_grad for p in network.parameters()}
        network.requires_grad_(False)
        self.train(False)

    def _correct(
        self, name: str, key: str, module: nn.Module, args: Any, output: Tensor
    ) -> Tensor | None:
        """The forward hook of the site `name`."""
        del args
        if not self._active:
            return None
        layout = sites.layout_of(name, module, output)
        maps, channels = layout.maps(output), self.config.sites[name].channels
        if maps.shape[1] != channels:
            raise InputError(
                f"site {name!r} gives {tuple(output.shape)}: a corrected site must give "
                f"{channels} channels"
            )
        filters = self.get_buffer(f"filters/{key}")
        chosen = maps.index_select(1, filters)
        if maps.is_contiguous(memory_format=torch.channels_last):  # index_select leaves it
            chosen = chosen.contiguous(memory_format=torch.channels_last)
        corrected = self.units[key](chosen)
        return layout.output(maps.index_copy(1, filters, corrected.to(maps.dtype)), output)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output with corrections; the baseline's inside `disabled()`."""
        self._active = self._enabled
        try:
            return self.network(*args, **kwargs)
        finally:
            self._active = False

    def train(self, mode: bool = True) -> AdaptedModel:
        """Sets the units' mode. The network stays in inference mode, batch norm included."""
        super().train(mode)
        self.network.train(False)
        return self

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While the block runs, the output is bit-identical to the untouched network's."""
        before, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled = before

    def remove(self) -> nn.Module:
        """Takes the adapter off and returns the network as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for module, mode in self._training_modes.items():
            module.training = mode
        for parameter, required in self._frozen.items():
            parameter.requires_grad_(required)
        return self.network

    def save(self, folder: str | Path, notes: Mapping[str, Any] | None = None) -> Path:
        """Writes `adapter_config.json` and `adapter_model.safetensors` to `folder`.

        Both are whole or absent, and the first carries the checksum of the second.

        Args:
            folder: made if absent.
            notes: added to the configuration's notes.
        """
        folder = Path(folder)
        weights = folder / WEIGHTS_FILE
        files.write_tensors(weights, self.adapter_tensors())
        config = self.config.model_copy(
            update={
                "weights_sha256": _file_sha256(weights),
                "notes": {**self.config.notes, **(notes or {})},
            }
        )
        files.write_json(folder / CONFIG_FILE, config.model_dump(mode="json"))
        return folder

    def unit_at(self, site: str) -> tuple[CorrectionUnit, Tensor]:
        """The unit of a site, and the filters that it corrects."""
        key = site.replace(".", "/")
        unit = self.units[key]
        assert isinstance(unit, CorrectionUnit)
        return unit, self.get_buffer(f"filters/{key}")

    def adapter_tensors(self) -> dict[str, Tensor]:
        """The units' parameters and statistics, under `SITE.` and the unit's own names."""
        return {
            f"{site}/{name}": tensor
            for site in self.config.sites
            for name, tensor in self.units[site.replace(".", "/")].state_dict().items()
        }

    def load_adapter_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the units from what `adapter_tensors` gave.

        Raises:
            InputError: a tensor is missing, left over, or of another shape.
        """
        own = self.adapter_tensors()
        if set(own) != set(tensors):
            odd = sorted(set(own) ^ set(tensors))[:4]
            raise InputError(f"the adapter's tensors are not those of its units: {', '.join(odd)}")
        with torch.no_grad():
            for name, tensor in own.items():
                if tensor.shape != tensors[name].shape:
                    raise InputError(
                        f"adapter tensor {name!r} has shape {tuple(tensors[name].shape)}: "
                        f"its unit needs {tuple(tensor.shape)}"
                    )
                tensor.copy_(tensors[name])


class Chooses(Protocol):
    """Anything that names the filters to correct at each site, such as a `Ranking`."""

    def top(self, beta: float | Mapping[str, Any], unit: UnitChoice) -> dict[str, list[int]]: ...


def correct(
    model: nn.Module,
    ranking: Chooses | Mapping[str, Sequence[int]],
    beta: float | Mapping[str, Any] = 0.5,
    unit: UnitChoice = "bottleneck",
    seed: int = 0,
) -> AdaptedModel:
    """Puts a correction unit behind the worst filters of each ranked site.

    Args:
        model: the network to correct. It is frozen while it is adapted, and never changed.
        ranking: whose first filters are corrected; or the filters themselves, by site.
        beta: the corrected share of each site's filters, above 0 and up to 1; one for all sites,
            or one a site (sites left out are not corrected). Or `{"budget": {"parameters": X}}` or
            `{"budget": {"multiply_adds": X}}`: as many filters of each site as are worth most
            within the budget for all units, X up to 1 being a share of the network's own cost.
            Not used with filters given directly.
        unit: `full`, `bottleneck`, `lite`, `cifar` or `rank_constrained`; or a mapping with a
            `kind` and changes to it, such as `{"kind": "full", "separable": True}`; or a
            `UnitConfig` for every site.
        seed: draws the units' initial weights.

    Returns:
        The adapted network. Untrained, it starts as the baseline unless the unit says otherwise.

    Raises:
        InputError: beta, the unit, a site or a filter is not accepted.
    """
    if isinstance(ranking, Mapping):
        chosen = {name: sorted({int(i) for i in filters}) for name, filters in ranking.items()}
    else:
        chosen = ranking.top(beta, unit)
    if not chosen:
        raise InputError("no site is to be corrected: name at least one")
    for name, filters in chosen.items():
        if not filters:
            raise InputError(
                f"no filter of {name!r} is to be corrected: name one, or drop the site"
            )
    modules = sites.find(model, chosen)
    entries = {
        name: SiteConfig(
            filters=tuple(chosen[name]),
            channels=filter_count(name, module),
            unit=unit_config(unit, position),
        )
        for position, (name, module) in enumerate(modules.items())
    }
    name = model.name if isinstance(model, Classifier) else type(network_of(model)).__name__
    config = AdapterConfig(base=name, fingerprint=fingerprint(model), sites=entries)
    return AdaptedModel(model, config, torch.Generator().manual_seed(seed))


def load(model: nn.Module, folder: str | Path) -> AdaptedModel:
    """Puts a saved adapter onto the network it was made for.

    Args:
        model: the network, built and loaded as it was when the adapter was trained.
        folder: what `AdaptedModel.save` wrote.

    Raises:
        InputError: a file is missing or not whole, or the network is another one.
    """
    folder = Path(folder)
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"{folder} holds no whole adapter: it has no {WEIGHTS_FILE}")
    if _file_sha256(weights) != config.weights_sha256:
        raise InputError(
            f"{weights} is not the file that {CONFIG_FILE} describes (its checksum differs): "
            "the adapter was cut off while it was saved, or changed since; save or copy it again"
        )
    modules = dict(network_of(model).named_modules())
    for name, site in config.sites.items():
        if name not in modules:
            raise InputError(
                f"the adapter in {folder} is for the network {config.base!r}: "
                f"this one has no site {name!r}"
            )
        _check_site(name, modules[name], site)
    if fingerprint(model) != config.fingerprint:
        raise InputError(
            f"the adapter in {folder} was trained for {config.base!r} with other weights: "
            "load the network with the weights it was made for"
        )
    adapted = AdaptedModel(model, config)
    try:
        adapted.load_adapter_tensors(files.read_tensors(weights))
    except InputError:
        adapted.remove()
        raise
    return adapted


def read_config(folder: str | Path) -> AdapterConfig:
    """Reads a saved adapter's configuration.

    Raises:
        InputError: there is none, or it is not one.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no adapter: it has no {CONFIG_FILE}")
    try:
        return AdapterConfig.model_validate(files.read_json(path))
    except ValidationError as error:
        where, _, message = first_problem(error)
        raise InputError(f"{path} is not an adapter's configuration: {where}: {message}") from None


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of the network's floating-point tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network_of(model).state_dict().items()):
        if tensor.is_floating_point():
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def filter_count(name: str, module: nn.Module) -> int:
    """Number of filters of the site `name`.

    Raises:
        InputError: the module does not say.
    """
    for attribute in ("out_channels", "num_features", "num_channels", "out_features"):
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            return value
    raise InputError(
        f"site {name!r} is a {type(module).__name__}, whose number of filters is not known: "
        "name a convolution, a linear layer or a normalisation layer"
    )


def _check_site(name: str, module: nn.Module, site: SiteConfig) -> None:
    channels = filter_count(name, module)
    if channels != site.channels:
        raise InputError(
            f"site {name!r} has {channels} filters; the adapter was made for {site.channels}"
        )
    if list(site.filters) != sorted(set(site.filters)) or not (
        site.filters[0] >= 0 and site.filters[-1] < channels
    ):
        raise InputError(
            f"the filters to correct at {name!r} must be ascending, each once, "
            f"from 0 to {channels - 1}; given: {site.filters}"
        )


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
