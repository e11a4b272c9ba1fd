"""A network and a changed copy of it, with a gate that sends each image to one of them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from deepcorrect.correction._gate import Gate, GateConfig
from deepcorrect.correction._own_state import OwnState
from deepcorrect.networks import Branches, innermost, network_of, ungated
from deepcorrect.runtime import InputError, device_of


class GatedModel(OwnState):
    """What the corrected networks share: the user's network, a changed copy, and a gate.

    Without a gate, the copy answers every image. With one, it answers those that look distorted,
    and the network, or the mean of both, all others. In training mode, every image goes to the
    copy.

    Attributes:
        network: The user's network, which is never changed.
        subnetwork: The dotted name of the module inside `network` that is gated; empty for the
            network itself.
        corrected: A copy of the network that shares its tensors, with `Branches` in the place of
            the gated module.
        gate: The gate; None sends every image to the changed copy. See `set_gate`.
    """

    network: nn.Module
    subnetwork: str = ""
    corrected: nn.Module
    gate: Gate | None
    _choice_path: str

    def named_modules(
        self,
        memo: set[nn.Module] | None = None,
        prefix: str = "",
        remove_duplicate: bool = True,
    ) -> Generator[tuple[str, nn.Module], None, None]:
        """Yields the modules; with duplicates, each of those that share their tensors once.

        Tools that exchange tensors by all their names (`torch.func.functional_call`) would
        otherwise exchange each of them twice and leave the network with the wrong one.
        """
        seen: set[int] = set()
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            if remove_duplicate or id(module._parameters) not in seen:
                yield name, module
            seen.add(id(module._parameters))

    def ungated(self) -> AbstractContextManager[None]:
        """Sends every image to the changed copy while the block runs, whatever the gate decides."""
        return ungated(self)

    def untouched(self) -> nn.Module:
        """Returns the user's network."""
        return self.network

    @property
    def gated_module(self) -> nn.Module:
        """The module whose input a gate reads.

        It is the module that is corrected, inside any wrappers without tensors, so that its input
        does not depend on how the network is wrapped.
        """
        return innermost(network_of(self.network).get_submodule(self.subnetwork))

    def set_gate(self, config: GateConfig | None) -> None:
        """Sets the gate.

        Args:
            config: A gate such as `fit_gate` returns, or None to send every image to the changed
                copy.

        Raises:
            InputError: The gate asks for the mean of two networks' answers, where a part of the
                network is gated, whose output is no answer.
        """
        means = config is not None and config.others == "mean"
        if means and self.subnetwork:
            raise InputError(
                f"this gate averages the answers of two networks, but here {self.subnetwork!r} is "
                "only a part of the network: set the gate with others='network'"
            )
        self.gate = Gate(config).to(device_of(self.network)) if config else None
        self._choice.chooser = self.gate
        self._choice.means = means

    @property
    def _choice(self) -> Branches:
        """The replacement of the gated module, which chooses between the copy and the network."""
        # by its path, as replicas of this module (DataParallel) have modules of their own
        place = self.corrected.get_submodule(self._choice_path)
        assert isinstance(place, Branches)
        return place

    def _place_choice(self, place: nn.Module) -> None:
        """Notes which module of `corrected` is the replacement of the gated module."""
        paths = {module: path for path, module in self.corrected.named_modules()}
        self._choice_path = paths[place]

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the output of each image by the network that it is sent to.

        Raises:
            InputError: A gate is to decide, but received no images.
        """
        choice = self._choice
        calls = choice.calls
        output = self.corrected(*args, **kwargs)
        if choice.deciding and not torch.compiler.is_compiling() and choice.calls == calls:
            raise InputError(
                "the gate received no images: the network never calls the module whose input the "
                "gate should read; correct this network without a gate"
            )
        return output
