"""The corrected network: the user's own, and a copy with units that shares its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction._checkpoint import WEIGHTS_FILE, file_sha256, write_config
from deepcorrect.correction._config import AdapterConfig, SiteConfig
from deepcorrect.correction._gate import Gate, GateConfig
from deepcorrect.correction._units import CorrectionUnit
from deepcorrect.networks import (
    Branches,
    Replace,
    Replacement,
    Wrapper,
    filter_count,
    find,
    innermost,
    layout_of,
    network_of,
    running_modules,
    shared_copy,
    uncompiled,
)
from deepcorrect.runtime import InputError, device_of, files


class CorrectedSite(Replacement):
    """A site's module, then its correction unit.

    Args:
        site: the module.
        name: its dotted name, for messages.
        config: its filters, and how many channels it has.
        unit: corrects the filters.
        device: of the unit.
    """

    filters: Tensor

    def __init__(
        self,
        site: nn.Module,
        name: str,
        config: SiteConfig,
        unit: CorrectionUnit,
        device: torch.device,
    ) -> None:
        super().__init__(site)
        self.name, self.config, self.unit = name, config, unit
        filters = torch.tensor(config.filters, device=device)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output, its maps corrected (paper, equation 6)."""
        output = self.site(*args, **kwargs)
        layout = layout_of(self.name, self.site, output)
        maps, channels = layout.maps(output), self.config.channels
        if maps.shape[1] != channels:
            raise InputError(
                f"site {self.name!r} gives {tuple(output.shape)}: a corrected site must give "
                f"{channels} channels"
            )
        return layout.output(self.unit(maps, self.filters), output)


class _Switch:
    """Whether an adapter is in use; an adapter and its copies in other adapters share it."""

    def __init__(self) -> None:
        self.on = True


class AdaptedModel(Wrapper):
    """A network with correction units behind some filters of some sites.

    It holds the user's network as it is, and a copy of its modules that shares its parameters and
    buffers, in which the corrected sites are replaced by "site, then unit". A call runs the copy;
    a gate chooses between the copy and the network for each image. The network itself is never
    changed: not its weights, its mode, its hooks, nor which of its parameters require gradients.

    The copy is made once. It follows the network through `.to`, `load_state_dict` and training
    steps. It does not see modules that are exchanged in the network afterwards, nor hooks and flags
    (such as timm's `set_grad_checkpointing`) that are set on it afterwards: set these on
    `corrected` too, or make the adapter afterwards.

    Args:
        network: the base, a `Classifier` or any module. A `torch.compile`d network is unwrapped
            first; compile the result instead.
        config: the sites and units.
        generator: draws the units' initial weights.
        subnetwork: dotted name of the module inside that the adapter was made for; empty for the
            network itself.

    Attributes:
        network: the user's network.
        corrected: the copy with its units, in inference mode; only units have another.
        units: the correction units, by site name with `/` for `.`.
        config: what the adapter is made of.
        gate: says which images are corrected; None corrects all. See `set_gate`.

    Raises:
        InputError: a site or a filter does not exist, or the site's width is another.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]}, unit={"kind": "lite", "start": "he"})
        >>> images = torch.rand(2, 3, 16, 16)
        >>> torch.equal(adapted(images), network(images))
        False
        >>> with adapted.disable_adapter():
        ...     torch.equal(adapted(images), network(images))
        True
    """

    shared_attributes = ("_switch",)

    def __init__(
        self,
        network: nn.Module,
        config: AdapterConfig,
        generator: torch.Generator | None = None,
        subnetwork: str = "",
    ) -> None:
        super().__init__()
        network = uncompiled(network)
        running, own = running_modules(network), dict(network_of(network).named_modules())
        for name, module in find(network, config.sites).items():
            check_site(name, module, config.sites[name])
        self.config = config
        self.network = network
        self.subnetwork = subnetwork
        self.units = nn.ModuleDict()
        self._switch = _Switch()
        parameters = next(network.parameters(), torch.zeros(()))
        replace: dict[nn.Module, Replace] = {}
        for name in (name for name in own if name in config.sites):
            site = config.sites[name]
            unit = CorrectionUnit(len(site.filters), site.unit, generator)
            unit = unit.to(parameters.device, parameters.dtype)
            # torch's own types leave this out
            unit = unit.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            self.units[_key(name)] = unit
            put = partial(
                CorrectedSite, name=name, config=site, unit=unit, device=parameters.device
            )
            # of a network that has an adapter: with and without that adapter
            replace |= {own[name]: put, running[name]: put}
        self._gated = next(n for n, module in own.items() if module is self.gated_module)
        for module in {own[self._gated], running[self._gated]}:
            base, places = shared_copy(module)
            names = {name: places[each] for name, each in running.items() if each in places}
            site = replace.get(module)
            replace[module] = partial(_branching, base=base, base_modules=names, site=site)
        self.corrected, places = shared_copy(network, replace)
        for name in config.sites:
            if own[name] not in places:
                raise InputError(
                    f"site {name!r} is inside a TorchScript module, which runs without Python: "
                    "correct the network that was scripted, and script or export the result"
                )
        # what is inside TorchScript modules is shared as it is
        self._running = {name: places.get(module, module) for name, module in running.items()}
        self.gate: Gate | None = None
        self.set_gate(config.gate)
        self.train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output with corrections; inside `disable_adapter()` without."""
        if not self._switch.on:
            return self.network(*args, **kwargs)
        choice = self._choice
        if not choice.deciding or torch.compiler.is_compiling():
            return self.corrected(*args, **kwargs)
        calls = choice.calls
        output = self.corrected(*args, **kwargs)
        if choice.calls == calls:
            raise InputError(
                "the gate was shown no images: the module that should read them is never called "
                "as one in this network; correct it without a gate"
            )
        return output

    def train(self, mode: bool = True) -> AdaptedModel:
        """Sets the units' mode. In training mode every image is corrected, whatever the gate says.

        The network stays in the mode that it is in, and the rest of the copy in inference mode.
        """
        self.training = mode
        self.units.train(mode)
        self._choice.training = mode
        return self

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """While the block runs, a call is a call of the untouched network itself."""
        before, self._switch.on = self._switch.on, False
        try:
            yield
        finally:
            self._switch.on = before

    @contextmanager
    def ungated(self) -> Iterator[None]:
        """While the block runs, every image is corrected, whatever the gate would say."""
        choice = self._choice
        before, choice.choosing = choice.choosing, False
        try:
            yield
        finally:
            choice.choosing = before

    def untouched(self) -> nn.Module:
        """The user's network."""
        return self.network

    def running_modules(self) -> dict[str, nn.Module] | None:
        """The copy's modules by their names in the network; None while the adapter is disabled."""
        return self._running if self._switch.on else None

    def module_trees(self) -> list[dict[str, nn.Module]]:
        """The copy's modules, those of the images that a gate does not choose, the network's."""
        own = dict(network_of(self.network).named_modules())
        return [self._running, self._choice.base_modules, own]

    @property
    def _choice(self) -> Branches:
        """What stands in the place of the gated module."""
        place = self._running[self._gated]
        assert isinstance(place, Branches)
        return place

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The units' parameters that require gradients."""
        return [parameter for parameter in self.units.parameters() if parameter.requires_grad]

    @property
    def gated_module(self) -> nn.Module:
        """The module of the network whose input a gate reads: what the adapter was made for, inside
        any wrappers without tensors, so that it is the same input wherever the network stands."""
        return innermost(network_of(self.network).get_submodule(self.subnetwork))

    def set_gate(self, config: GateConfig | None) -> None:
        """Puts a gate on, such as `fit_gate` returns, or takes it off with None."""
        self.config = self.config.model_copy(update={"gate": config})
        self.gate = Gate(config).to(device_of(self.network)) if config else None
        self._choice.chooser = self.gate

    def save_pretrained(self, folder: str | Path, notes: Mapping[str, Any] | None = None) -> Path:
        """Writes `adapter_config.json`, `adapter_model.safetensors` and a model card, `README.md`.

        Each is whole or absent, and the first carries the checksums of the second and of itself.

        Args:
            folder: made if absent.
            notes: added to the configuration's notes; the model card shows those that it knows.

        Returns:
            The folder.
        """
        folder = Path(folder)
        weights = folder / WEIGHTS_FILE
        files.write_tensors(weights, self.state_dict())
        config = self.config.model_copy(
            update={
                "weights_sha256": file_sha256(weights),
                "notes": {**self.config.notes, **(notes or {})},
            }
        )
        write_config(folder, config)
        return folder

    def unit_at(self, site: str) -> tuple[CorrectionUnit, Tensor]:
        """The unit of a site, and the filters that it corrects, (filters,)."""
        place = self._running[site]
        while isinstance(place, Replacement) and not isinstance(place, CorrectedSite):
            place = place.site  # a gate stands in the place of a network that is one site
        assert isinstance(place, CorrectedSite)
        return place.unit, place.filters

    def state_dict(
        self,
        *args: Any,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """The adapter's tensors: the units' parameters and statistics, under `SITE/` and the unit's
        own names. The network's tensors are not among them."""
        del args
        found: dict[str, Any] = {} if destination is None else destination
        for site in self.config.sites:
            state = self.units[_key(site)].state_dict(keep_vars=keep_vars)
            found |= {f"{prefix}{site}/{name}": tensor for name, tensor in state.items()}
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Sets the units from what `state_dict` returned.

        Args:
            state_dict: tensors under `SITE/` and the unit's own names.
            strict: whether it must have all of them and nothing else.
            assign: not accepted: the units keep their own tensors.

        Returns:
            The names that were missing and those that were left over, as `torch.nn.Module` does.

        Raises:
            InputError: a tensor is missing, left over, or of another shape.
        """
        if assign:
            raise InputError("assign=True is not supported: the tensors are copied into the units")
        own = self.state_dict()
        missing = sorted(own.keys() - state_dict.keys())
        left_over = sorted(state_dict.keys() - own.keys())
        if strict and (missing or left_over):
            odd = sorted([*missing, *left_over])[:4]
            raise InputError(f"the adapter's tensors are not those of its units: {', '.join(odd)}")
        with torch.no_grad():
            for name in own.keys() & state_dict.keys():
                given, tensor = state_dict[name], own[name]
                if tensor.shape != given.shape:
                    raise InputError(
                        f"adapter tensor {name!r} has shape {tuple(given.shape)}: "
                        f"its unit needs {tuple(tensor.shape)}"
                    )
                tensor.copy_(given)
        return nn.modules.module._IncompatibleKeys(missing, left_over)


def check_site(name: str, module: nn.Module, site: SiteConfig) -> None:
    """Raises InputError unless a site's module has the channels and filters that are corrected."""
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


def _branching(
    copied: nn.Module, base: nn.Module, base_modules: dict[str, nn.Module], site: Replace | None
) -> Branches:
    """The choice between a module and its corrected copy, which may be a site itself."""
    return Branches(site(copied) if site else copied, base, base_modules)


def _key(site: str) -> str:
    """A site's name as a module's, which may not hold dots."""
    return site.replace(".", "/")
