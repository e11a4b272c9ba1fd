"""A fine-tuned copy behind a gate: the competitor that a correction is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from deepcorrect.correction._gate import GateConfig
from deepcorrect.correction._gated_model import GatedModel
from deepcorrect.networks import (
    Branches,
    innermost,
    network_of,
    running_modules,
    shared_copy,
    uncompiled,
)
from deepcorrect.runtime import InputError


class GatedCopy(GatedModel):
    """A network and a trained copy of it, with a gate that sends each image to one of them.

    Images that look distorted get the copy's answers, and all others exactly the network's, or the
    mean of both (`GateConfig.others`). Part of what a correction with a gate is ahead of plain
    fine-tuning is due to the gate; a fine-tuned copy behind the same gate shows how large that part
    is. It takes the memory of two networks.

    `fit` trains the parameters of the copy that require gradients. `state_dict` and
    `load_state_dict` hold and take the copy's tensors alone; `gate.config` is the gate's
    configuration.

    Args:
        network: The base network, a `Classifier` or any module. It is never changed. A
            `torch.compile`d network is unwrapped first; compile the result instead.
        tuned: A copy of it, such as `finetune` returns. It is changed by training. It may have more
            modules than the network, as adapters have.
        gate: The gate; None sends every image to the copy. See `fit_gate`.

    Attributes:
        network: The user's network.
        tuned: The copy.

    Raises:
        InputError: `network` is corrected already, or `tuned` is not a copy of it or shares
            parameters with it.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> gate = dc.GateConfig(
        ...     kinds=("awgn",), weights=((1.0,) * 38,), biases=(300.0,), false_alarms=0.05
        ... )
        >>> gated = dc.GatedCopy(network, dc.finetune(network), gate)
        >>> with torch.no_grad():  # in place of training
        ...     _ = gated.tuned[0].weight.mul_(2)
        >>> noise, flat = torch.rand(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)
        >>> torch.equal(gated(noise), gated.tuned(noise)), torch.equal(gated(flat), network(flat))
        (True, True)
    """

    def __init__(
        self, network: nn.Module, tuned: nn.Module, gate: GateConfig | None = None
    ) -> None:
        super().__init__()
        network, tuned = uncompiled(network), uncompiled(tuned)
        _check(network, tuned)
        self.network, self.tuned = network, tuned
        own, twins = dict(network_of(network).named_modules()), network_of(tuned)
        base, within = shared_copy(self.gated_module)
        names = {name: within[module] for name, module in own.items() if module in within}
        place = partial(_branching, innermost(twins), base, names)
        self.corrected, places = shared_copy(network, {self.gated_module: place})
        self._place_choice(places[self.gated_module])
        # wrappers without tensors around the gated module run as the network's own
        self._running = {
            name: twins.get_submodule(name) if name in names else places[module]
            for name, module in own.items()
        }
        self.set_gate(gate)
        self.train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the copy's output for images that look distorted, and what others get.

        Raises:
            InputError: The network never calls the module that the gate and the copy stand for.
        """
        calls = self._choice.calls
        output = self._run(*args, **kwargs)
        if self._choice.calls == calls and not torch.compiler.is_compiling():
            raise InputError(
                "the network never calls its innermost module, in whose place the copy should "
                "run: fine-tune it without a gate"
            )
        return output

    def train(self, mode: bool = True) -> GatedCopy:
        """Sets the mode of the copy. In training mode every image goes to it despite a gate.

        The network keeps its own mode, and answers in inference mode.
        """
        self.training = mode
        self.tuned.train(mode)
        self._choice.training = mode
        return self

    def running_modules(self) -> dict[str, nn.Module]:
        """Returns the copy's modules by name."""
        return self._running

    def module_trees(self) -> list[dict[str, nn.Module]]:
        """Returns the modules of the copy, and of the network, as they run."""
        return [self._running, self._choice.base_modules]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of the copy that require gradients."""
        return [each for each in self.tuned.parameters() if each.requires_grad]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the copy's tensors by their names in it, without the network's."""
        return self.tuned.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads what `state_dict` returned into the copy, as `torch.nn.Module` does."""
        return self.tuned.load_state_dict(state_dict, strict, assign)


def _branching(
    twin: nn.Module, base: nn.Module, names: dict[str, nn.Module], copied: nn.Module
) -> Branches:
    """The branches of the trained copy and of the network, in the place of a module's copy."""
    del copied
    return Branches(twin, base, names)


def _check(network: nn.Module, tuned: nn.Module) -> None:
    """Checks that a network's modules are in its copy, which shares no parameter with it."""
    inner, twin = network_of(network), network_of(tuned)
    if running_modules(network).get("") is not inner:
        raise InputError("the network is corrected already: give the network itself")
    # an adapter's wrapper keeps the layer that it adapts as `base_layer`
    kinds = [
        {n: type(getattr(each, "base_layer", each)) for n, each in net.named_modules()}
        for net in (inner, twin)
    ]
    shapes = [{n: p.shape for n, p in net.named_parameters()} for net in (inner, twin)]
    theirs = {n: shapes[1].get(n, shape) for n, shape in shapes[0].items()}
    if not kinds[0].items() <= kinds[1].items() or shapes[0] != theirs:
        raise InputError(
            "the second network is not a copy of the first: its modules or the shapes of their "
            "parameters differ; give finetune(network), or a network trained from a copy"
        )
    if set(inner.parameters()) & set(twin.parameters()):
        raise InputError(
            "the copy shares parameters with the network, so that training it would change the "
            "network: give finetune(network) or copy.deepcopy(network)"
        )
