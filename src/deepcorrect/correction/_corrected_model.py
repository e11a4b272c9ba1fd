"""The corrected network: the user's network, and a copy with units that shares its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction._checkpoint import WEIGHTS_FILE, file_sha256, write_config
from deepcorrect.correction._config import AdapterConfig
from deepcorrect.correction._corrected_site import CorrectedSite, check_site
from deepcorrect.correction._filter_weights import FilterWeights
from deepcorrect.correction._gate import GateConfig
from deepcorrect.correction._gated_copy import GatedCopy
from deepcorrect.correction._gated_model import GatedModel
from deepcorrect.correction._tensors import check_names, check_values
from deepcorrect.correction._units import CorrectionUnit
from deepcorrect.networks import (
    Branches,
    Replace,
    Replacement,
    find,
    layout_rule,
    network_of,
    original,
    running_modules,
    shared_copy,
    uncompiled,
)
from deepcorrect.runtime import InputError, Suspension, files

LONGEST_SAVE = 60
"""For how many seconds `save_pretrained` waits for another process that saves to the folder."""


class AdaptedModel(GatedModel):
    """A network with correction units after some filters of some sites.

    It holds the user's network unchanged, and a copy of the network's modules that shares its
    parameters and buffers. In the copy, some filters of each corrected site have weights of their
    own, or a unit follows them, or both. A call runs the copy; with a gate, each image is sent to
    the copy or to the network. The network itself is never changed: its weights, its mode, its
    hooks and its `requires_grad` flags stay as they are.

    The copy is made once. It follows the network through `.to`, `load_state_dict` and training
    steps. It does not follow modules that are exchanged in the network afterwards, nor hooks and
    flags (such as timm's `set_grad_checkpointing`) that are set on the network afterwards: set
    these on `corrected` too, or make the adapter afterwards.

    Args:
        network: The base network, a `Classifier` or any module. A `torch.compile`d network is
            unwrapped first; compile the result instead.
        config: The sites and their units.
        generator: The source of the units' initial weights.
        subnetwork: The dotted name of the module inside `network` that the adapter was made for;
            empty for the network itself.

    Attributes:
        network: The user's network.
        corrected: The copy with its units, in inference mode except for the units.
        units: The correction units by site name, with `/` in place of `.`.
        weights: The weights that filters have of their own, by the same names.
        config: The configuration of the adapter.
        gate: The gate that decides which images are corrected; None corrects all images. See
            `set_gate`.

    Raises:
        InputError: A site or a filter does not exist, or a site has another number of channels.

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

    shared_attributes = ("_disabled",)  # with the copies of this adapter in other adapters

    def __init__(
        self,
        network: nn.Module,
        config: AdapterConfig,
        generator: torch.Generator | None = None,
        subnetwork: str = "",
    ) -> None:
        super().__init__()
        network = uncompiled(network)
        if any(isinstance(module, GatedCopy) for module in network.modules()):
            raise InputError(
                "a fine-tuned copy behind a gate is not corrected as a whole: correct its "
                "`network` or its `tuned`"
            )
        running, own = running_modules(network), dict(network_of(network).named_modules())
        for name, module in find(network, config.sites).items():
            check_site(name, module, config.sites[name], own)
        self.config = config
        self.network = network
        self.subnetwork = subnetwork
        self.units, self.weights = nn.ModuleDict(), nn.ModuleDict()
        self._disabled = Suspension()
        self._ran: set[str] = set()
        parameters = next(network.parameters(), torch.zeros(()))
        replace: dict[nn.Module, Replace] = {}
        for name in (name for name in own if name in config.sites):
            site = config.sites[name]
            rule = layout_rule(name, own[name], site.channels)
            about: dict[str, Any] = {"name": name, "config": site, "rule": rule, "ran": self._ran}
            about |= {"unit": None, "weights": None}
            if site.unit is not None:
                unit = CorrectionUnit(len(site.filters), site.unit, generator)
                unit = unit.to(parameters.device, parameters.dtype)
                # torch's type annotations lack this overload
                unit = unit.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
                about["unit"] = self.units[_key(name)] = unit
            if site.weights:
                own_weights = FilterWeights(original(own[name]), len(site.filters))
                about["weights"] = self.weights[_key(name)] = own_weights
            put = partial(CorrectedSite, device=parameters.device, **about)
            # if the network has an adapter already, both its copy and its own module are replaced
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
        # modules inside TorchScript modules are not copied but shared
        self._running = {name: places.get(module, module) for name, module in running.items()}
        self._place_choice(self._running[self._gated])
        self.set_gate(config.gate)
        self.train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the corrected output; inside `disable_adapter()` the network's own output."""
        if self._disabled.active:
            return self.network(*args, **kwargs)
        output = self._run(*args, **kwargs)
        whole = not torch.compiler.is_compiling() and not self._choice.deciding
        if whole and len(self._ran) < len(self.config.sites):
            self._refuse_idle_sites()
        return output

    def _refuse_idle_sites(self) -> None:
        idle = ", ".join(repr(name) for name in self.config.sites if name not in self._ran)
        raise InputError(
            f"the network did not call {idle}, so that nothing was corrected there: it reads the "
            "layer's weights itself, or calls the layer only in training; name other sites"
        )

    def train(self, mode: bool = True) -> AdaptedModel:
        """Sets the mode of the units. In training mode every image is corrected despite a gate.

        The network keeps its own mode, and the rest of the copy stays in inference mode.
        """
        self.training = mode
        self.units.train(mode)
        self._choice.training = mode
        return self

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Makes a call run the untouched network itself while the block runs.

        Other threads that call this network meanwhile get corrected outputs.
        """
        with self._disabled.block():
            yield

    def _replicate_for_data_parallel(self) -> AdaptedModel:
        replica: Any = super()._replicate_for_data_parallel()
        replica._disabled = self._disabled.as_seen_here()
        return replica

    def running_modules(self) -> dict[str, nn.Module] | None:
        """Returns the copy's modules by name, or None while the adapter is disabled."""
        return None if self._disabled.active else self._running

    def module_trees(self) -> list[dict[str, nn.Module]]:
        """Returns the modules of the copy, of the uncorrected branch, and of the network."""
        own = dict(network_of(self.network).named_modules())
        return [self._running, self._choice.base_modules, own]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of units and of filters' own weights that require gradients."""
        parts = (*self.weights.parameters(), *self.units.parameters())
        return [parameter for parameter in parts if parameter.requires_grad]

    def set_gate(self, config: GateConfig | None) -> None:
        """Sets the gate.

        Args:
            config: A gate such as `fit_gate` returns, or None to correct every image.
        """
        self.config = self.config.model_copy(update={"gate": config})
        super().set_gate(config)

    def save_pretrained(
        self,
        folder: str | Path,
        notes: Mapping[str, Any] | None = None,
        *,
        half: bool = False,
    ) -> Path:
        """Writes `adapter_config.json`, `adapter_model.safetensors` and a model card, `README.md`.

        Each file is written completely or not at all. The configuration contains the checksums of
        the tensors and of itself. A process that is saving to the same folder is waited for.

        Args:
            folder: The folder, created if it does not exist.
            notes: Additions to the notes of the configuration. The model card shows the keys that
                it knows.
            half: Whether floating-point tensors are written in half precision, which takes half
                the space. `load_adapter` returns them in the network's precision.

        Returns:
            The folder.

        Raises:
            InputError: A value is too large for half precision, or another process works in the
                folder for a minute.
        """
        folder = Path(folder)
        weights = folder / WEIGHTS_FILE
        tensors = self.state_dict()
        tensors = _halved(tensors) if half else tensors
        with files.locked(folder, wait=LONGEST_SAVE):
            files.write_tensors(weights, tensors)
            config = self.config.model_copy(
                update={
                    "weights_sha256": file_sha256(weights),
                    "notes": {**self.config.notes, **(notes or {})},
                }
            )
            write_config(folder, config)
        return folder

    def corrected_site(self, site: str) -> CorrectedSite:
        """Returns the module that corrects a site."""
        place = self._running[site]
        while isinstance(place, Replacement) and not isinstance(place, CorrectedSite):
            place = place.site  # the branches of a gate, where the whole network is one site
        assert isinstance(place, CorrectedSite)
        return place

    def state_dict(
        self,
        *args: Any,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Returns the adapter's tensors: of the units, and of the weights that filters own.

        The keys are `SITE/` followed by the unit's own names, and `SITE/weights.` followed by those
        of the `FilterWeights`. The network's tensors are not included.
        """
        del args
        found: dict[str, Any] = {} if destination is None else destination
        for site in self.config.sites:
            for parts, start in ((self.weights, "/weights."), (self.units, "/")):
                if _key(site) in parts:
                    state = parts[_key(site)].state_dict(keep_vars=keep_vars)
                    found |= {f"{prefix}{site}{start}{name}": each for name, each in state.items()}
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copies the tensors that `state_dict` returned into the units.

        Args:
            state_dict: The tensors by name.
            strict: Whether the keys must match exactly.
            assign: Must be False: the units keep their own tensors.

        Returns:
            The missing and the unexpected keys, as `torch.nn.Module.load_state_dict` does.

        Raises:
            InputError: A tensor is missing, unexpected or of another shape, or has values that are
                not finite. Nothing is copied then.
        """
        if assign:
            raise InputError("assign=True is not supported: the tensors are copied into the units")
        own = self.state_dict()
        missing = sorted(own.keys() - state_dict.keys())
        left_over = sorted(state_dict.keys() - own.keys())
        if strict:
            check_names(own, state_dict, "")
        check_values(own, state_dict)  # of all, before the first is copied
        with torch.no_grad():
            for name in own.keys() & state_dict.keys():
                own[name].copy_(state_dict[name])
        return nn.modules.module._IncompatibleKeys(missing, left_over)


def _branching(
    copied: nn.Module, base: nn.Module, base_modules: dict[str, nn.Module], site: Replace | None
) -> Branches:
    """The branches of a module and of its corrected copy, which may itself be a site."""
    return Branches(site(copied) if site else copied, base, base_modules)


def _key(site: str) -> str:
    """A site's name as a module name, which must not contain dots."""
    return site.replace(".", "/")


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in half precision, where they are of floating point.

    Raises:
        InputError: A value is too large for half precision.
    """
    halved = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    for name, tensor in halved.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"{name} has values above 65,504, which half precision cannot hold: save the "
                "adapter without half=True"
            )
    return halved
