"""The flow of values through a network in one forward pass: its operations and module calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from deepcorrect.networks._classifier import Wrapper, logits_of, running_modules
from deepcorrect.networks._hooks import forward_hooks, forward_pre_hooks
from deepcorrect.runtime import InputError

PRODUCTS = frozenset({"convolution", "mm", "addmm", "bmm", "baddbmm"})
"""Operations that multiply values by weights or by each other, under their names in ATen."""


@dataclass(frozen=True)
class Operation:
    """One operation whose result depends on the images.

    Attributes:
        name: Its name in ATen, without the underscore of in-place forms.
        reads: The operations whose results it reads, by their place in the flow, in the order of
            its arguments.
        shapes: The shapes of these results.
        shape: The shape of its result; that of the first of several.
        weight: The shape of a convolution's weight, or None.
        within: The module calls that it happens in, by their place, the outermost first.
        before: A bit for each operation that it depends on, and for itself.
    """

    name: str
    reads: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    weight: tuple[int, ...] | None
    within: tuple[int, ...]
    before: int


@dataclass
class ModuleCall:
    """One call of a module.

    Attributes:
        name: The module's dotted name.
        within: The calls around it, by their place, the outermost first.
        value: The operation whose result it returns, or None.
    """

    name: str
    within: tuple[int, ...]
    value: int | None = None


@dataclass
class Flow:
    """The operations and module calls of one forward pass, in order.

    Operation 0 stands for the images.
    """

    operations: list[Operation] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)

    def readers(self) -> dict[int, list[int]]:
        """The operations that read each operation's result."""
        found: dict[int, list[int]] = {place: [] for place in range(len(self.operations))}
        for place, operation in enumerate(self.operations):
            for read in dict.fromkeys(operation.reads):
                found[read].append(place)
        return found

    def run_once(self) -> set[str]:
        """The names of the modules that run exactly once."""
        counts = Counter(call.name for call in self.calls)
        return {name for name, count in counts.items() if count == 1}


class _Record(TorchDispatchMode):
    """Records every operation on values that depend on the images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        start = Operation("images", (), (), tuple(images.shape), None, (), 1)
        self.flow = Flow([start])
        self.open: list[int] = []
        self.places = WeakTensorKeyDictionary({images: 0})

    def place(self, value: Any) -> int | None:
        """The operation whose result a value is."""
        return self.places.get(value) if isinstance(value, Tensor) else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the signature is torch's
        del types
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [(self.places[tensor], tensor) for tensor in tensors if tensor in self.places]
        shapes = tuple(tuple(tensor.shape) for _, tensor in known)
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if known and made:
            name = func.overloadpacket.__name__.rstrip("_")
            reads = tuple(place for place, _ in known)
            operations = self.flow.operations
            before = 1 << len(operations)
            for place in reads:
                before |= operations[place].before
            weight = tuple(args[1].shape) if name == "convolution" else None
            shape = tuple(made[0].shape)
            for tensor in made:
                self.places[tensor] = len(operations)
            operations.append(
                Operation(name, reads, shapes, shape, weight, tuple(self.open), before)
            )
        return result


def flow_of(model: nn.Module, images: Tensor) -> Flow:
    """Records the flow of values through a network in one forward pass.

    Corrections are left out: the flow is that of the untouched network.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: N x C x H x W.

    Raises:
        InputError: The network does not run while its operations are recorded.
    """
    while isinstance(model, Wrapper) and model.untouched() is not model:
        model = model.untouched()
    images = images.clone()
    record = _Record(images)
    calls = record.flow.calls

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        del module, args, kwargs
        calls.append(ModuleCall(name, tuple(record.open)))
        record.open.append(len(calls) - 1)

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        del name, module, args
        calls[record.open.pop()].value = record.place(output)

    modules = running_modules(model)
    try:
        with (
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),  # parts that torch.compile compiled
            forward_pre_hooks(modules, enter),
            forward_hooks(modules, leave),
            record,
        ):
            logits_of(model, images)
    except Exception as error:  # user code may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network's operations cannot be recorded ({reason}): name the sites yourself"
        ) from error
    return record.flow
