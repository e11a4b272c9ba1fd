"""Tracing which modules read the outputs of convolutions in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepcorrect.networks import forward_hooks, forward_pre_hooks, logits_of, network_of

LOOKS = frozenset({"__get__", "dim", "size", "stride", "numel", "is_contiguous"})
"""Functions that read only a tensor's shape or type, if their result is not a tensor."""


@dataclass(frozen=True)
class Trace:
    """The trace of one forward pass.

    Attributes:
        norms: By a convolution's name, the name of the batch norm that is the only reader of its
            output. Both run exactly once.
        shapes: The shape of each convolution's input by the convolution's name.
    """

    norms: Mapping[str, str]
    shapes: Mapping[str, torch.Size]

    def within(self, part: str) -> Trace:
        """The trace without norms that read a convolution across the border of a part.

        The part is a module's name; empty for the whole network.
        """
        inside = {name: f"{name}.".startswith(f"{part}." if part else "") for name in self.shapes}
        norms = {
            conv: norm
            for conv, norm in self.norms.items()
            if inside[conv] == f"{norm}.".startswith(f"{part}." if part else "")
        }
        return Trace(norms, self.shapes)


class _Reads(TorchFunctionMode):
    """Records the readers of convolutions' outputs: the name of a batch norm, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, str] = {}
        self.alive: list[Tensor] = []  # keeps the ids of these tensors from being reused
        self.readers: dict[str, set[str | None]] = {}
        self.inside: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the signature is torch's
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        looks = getattr(func, "__name__", "") in LOOKS and not any(_tensors(result))
        if not looks:
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self.made:
                    self.readers[self.made[id(tensor)]].add(self.inside)
        return result


def trace(model: nn.Module, images: Tensor) -> Trace:
    """Runs a batch and finds the batch norm directly after each convolution.

    Args:
        model: A network, wrapped or bare, in inference mode, without an adapter.
        images: A batch in the form that the model reads.
    """
    names = {module: name for name, module in network_of(model).named_modules()}
    reads, shapes, runs = _Reads(), {}, dict.fromkeys(names.values(), 0)
    sources: dict[str, set[str | None]] = {}

    def made(name: str, module: nn.Module, args: Any, output: Any) -> None:
        del module
        runs[name] += 1
        if isinstance(output, Tensor) and isinstance(args[0], Tensor):
            shapes[name] = args[0].shape
            reads.made[id(output)] = name
            reads.alive.append(output)
            reads.readers.setdefault(name, set())

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        del module, kwargs
        runs[name] += 1
        reads.inside = name
        source = reads.made.get(id(args[0])) if args else None
        sources.setdefault(name, set()).add(source)

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        del name, module, args, output
        reads.inside = None

    modules = {name: module for module, name in names.items()}
    convolutions = {n: each for n, each in modules.items() if isinstance(each, nn.Conv2d)}
    norms = {n: each for n, each in modules.items() if isinstance(each, nn.BatchNorm2d)}
    with (
        forward_hooks(convolutions, made),
        forward_pre_hooks(norms, enter),
        forward_hooks(norms, leave),
        torch.no_grad(),
        reads,
    ):
        output = logits_of(model, images)
    returned = {reads.made.get(id(tensor)) for tensor in _tensors(output)}
    consumed = {
        conv: norm
        for norm, convs in sources.items()
        for conv in convs
        if conv is not None
        and len(convs) == 1
        and reads.readers[conv] == {norm}
        and runs[conv] == runs[norm] == 1
        and conv not in returned
    }
    return Trace(consumed, shapes)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yields every tensor in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for entry in value:
            yield from _tensors(entry)
