"""The adapter: correction units at a frozen network's sites, switched on, off, saved and loaded."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect import networks
from deepcorrect.correction._checkpoint import (
    WEIGHTS_FILE,
    file_sha256,
    write_config,
)
from deepcorrect.correction._config import AdapterConfig, SiteConfig
from deepcorrect.correction._gate import Gate, GateConfig, input_images
from deepcorrect.correction._units import CorrectionUnit
from deepcorrect.networks import (
    Wrapper,
    innermost,
    network_of,
    uncompiled,
)
from deepcorrect.runtime import InputError, PerThread, device_of, files


class AdaptedModel(Wrapper):
    """A frozen network with correction units behind some filters of some sites.

    The network passed in keeps its weights and its behaviour: called directly it always gives
    the baseline's answers. Only a call of this object is corrected.

    Args:
        network: the base, a `Classifier` or any module; put in inference mode and frozen until
            `remove`. Of a compiled one the network as it was is taken: compile this object.
        config: the sites and units.
        generator: draws the units' initial weights.
        inside: the name of the module inside that the adapter was made for; empty for the network
            itself.

    Raises:
        InputError: a site or a filter does not exist, or the site's width is another.
    """

    def __init__(
        self,
        network: nn.Module,
        config: AdapterConfig,
        generator: torch.Generator | None = None,
        inside: str = "",
    ) -> None:
        super().__init__()
        network = uncompiled(network)
        modules = networks.find(network, config.sites)
        for name, module in modules.items():
            check_site(name, module, config.sites[name])
        self.config = config
        self.network = network
        self.units = nn.ModuleDict()
        self.gate: Gate | None = None
        self.inside = inside
        self._active: PerThread[bool] = PerThread()
        self._enabled = True
        self._gating = True
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
            hook = functools.partial(self._correct, name)
            self._handles.append(modules[name].register_forward_hook(hook))
        self._handles.append(
            self.gated_module.register_forward_pre_hook(self._read, with_kwargs=True)
        )
        self.set_gate(config.gate)
        self._training_modes = {module: module.training for module in network.modules()}
        self._frozen = {p: p.requires_grad for p in network.parameters()}
        self._freeze(True)
        self.train(False)

    def _correct(self, name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """The forward hook of the site `name`."""
        del args
        if not self._active.get():
            return None
        layout = networks.layout_of(name, module, output)
        maps, channels = layout.maps(output), self.config.sites[name].channels
        if maps.shape[1] != channels:
            raise InputError(
                f"site {name!r} gives {tuple(output.shape)}: a corrected site must give "
                f"{channels} channels"
            )
        unit, filters = self.unit_at(name)
        corrected = unit(maps, filters)
        if self._gate_in_use is not None:
            corrected = self._gate_in_use.choose(corrected, maps)
        return layout.output(corrected, output)

    def _read(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """The hook before the network: the gate looks at the images."""
        del module
        if self._active.get() and self._gate_in_use is not None:
            self._gate_in_use.read(input_images(args, kwargs))

    @property
    def _gate_in_use(self) -> Gate | None:
        """The gate, unless every image is to be corrected, as it is in training."""
        return self.gate if self._gating and not self.training else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output with corrections; the baseline's inside `disabled()`."""
        self._active.set(self._enabled)
        try:
            return self.network(*args, **kwargs)
        finally:
            self._active.clear()
            if self.gate is not None:
                self.gate.forget()

    def train(self, mode: bool = True) -> AdaptedModel:
        """Sets the units' mode. The network stays in inference mode, batch norm included."""
        super().train(mode)
        self.network.train(False)
        return self

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """While the block runs, the output is bit-identical to the untouched network's.

        Its parameters require gradients where they did, as torch may multiply by frozen weights in
        another order.
        """
        before, self._enabled = self._enabled, False
        self._freeze(False)
        try:
            yield
        finally:
            self._enabled = before
            self._freeze(before)

    @contextmanager
    def ungated(self) -> Iterator[None]:
        """While the block runs, every image is corrected, whatever the gate would say."""
        before, self._gating = self._gating, False
        try:
            yield
        finally:
            self._gating = before

    @property
    def gated_module(self) -> nn.Module:
        """The module whose input a gate reads: what the adapter was made for, without what only
        wraps it, so that it is the same input wherever the network stands."""
        return innermost(network_of(self.network).get_submodule(self.inside))

    def set_gate(self, config: GateConfig | None) -> None:
        """Puts a gate on, such as `fit_gate` gives, or takes it off; `save` keeps it."""
        self.config = self.config.model_copy(update={"gate": config})
        self.gate = Gate(config).to(device_of(self.network)) if config else None

    def remove(self) -> nn.Module:
        """Takes the adapter off and returns the network as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for module, mode in self._training_modes.items():
            module.training = mode
        self._freeze(False)
        self._frozen = {}
        return self.network

    def _freeze(self, frozen: bool) -> None:
        """Freezes the network, or lets its parameters require gradients where they did."""
        for parameter, required in self._frozen.items():
            parameter.requires_grad_(required and not frozen)

    def save_pretrained(self, folder: str | Path, notes: Mapping[str, Any] | None = None) -> Path:
        """Writes `adapter_config.json`, `adapter_model.safetensors` and a model card, `README.md`.

        Each is whole or absent, and the first carries the checksums of the second and of itself.

        Args:
            folder: made if absent.
            notes: added to the configuration's notes; `deepcorrect.cards.card` says which of them
                the card shows.
        """
        folder = Path(folder)
        weights = folder / WEIGHTS_FILE
        files.write_tensors(weights, self.adapter_tensors())
        config = self.config.model_copy(
            update={
                "weights_sha256": file_sha256(weights),
                "notes": {**self.config.notes, **(notes or {})},
            }
        )
        write_config(folder, config)
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


def check_site(name: str, module: nn.Module, site: SiteConfig) -> None:
    channels = networks.filter_count(name, module)
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
