"""Properties of an exported graph's nodes: their functions, dependencies and effect on maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

aten = torch.ops.aten

CONVOLUTIONS = frozenset({aten.conv2d.default, aten.conv2d.padding})

ELEMENTWISE = frozenset(
    getattr(getattr(aten, name), overload)
    for overload, names in {
        "default": "relu relu6 hardtanh leaky_relu elu gelu silu mish sigmoid tanh softplus "
        "hardswish hardsigmoid abs exp log sqrt rsqrt neg clamp clamp_min clamp_max alias clone "
        "contiguous dropout _to_copy",
        "Tensor": "add sub mul div",
        "Scalar": "add sub mul div",
        "Tensor_Scalar": "pow",
    }.items()
    for name in names.split()
)
"""Operations that treat each value independently."""

SPATIAL = frozenset(
    {
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_bilinear2d.vec,
    }
)
"""Operations that treat each map independently, whatever their arguments."""


class ExportError(Exception):
    """The network cannot be re-run as a graph, but `Replay` can re-run it."""


def call(node: Node, read: Callable[[Node], Any]) -> Any:
    return function_of(node)(*map_arg(node.args, read), **map_arg(node.kwargs, read))


def function_of(node: Node) -> Callable[..., Any]:
    if not callable(node.target):
        raise ExportError(f"{node.name} is not a function")
    return node.target


def as_node(value: Any) -> Node:
    if not isinstance(value, Node):
        raise ExportError(f"{value!r} is not a value of the graph")
    return value


def argument(node: Node, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else default


def plain(conv: Node) -> bool:
    """Whether a convolution has one group and numeric padding."""
    return argument(conv, 6, 1) == 1 and not isinstance(argument(conv, 4, 0), str)


def batch_norm(
    maps: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    return F.batch_norm(maps, mean, variance, weight, bias, False, 0.0, eps)


def dependents(nodes: Iterable[Node]) -> set[Node]:
    """All nodes that depend on the given ones, without these."""
    found: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        for user in waiting.pop().users:
            if user.op == "call_function" and user not in found:
                found.add(user)
                waiting.append(user)
    return found


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """The given nodes and all nodes that they depend on."""
    found = set(nodes)
    waiting = list(found)
    while waiting:
        for given in waiting.pop().all_input_nodes:
            if given not in found:
                found.add(given)
                waiting.append(given)
    return found


def map_by_map(node: Node, changed: Collection[Node]) -> bool:
    """Whether map i of a node's output depends only on map i of its changed inputs."""
    value = node.meta.get("val")
    inputs = [given for given in node.all_input_nodes if given in changed]
    first = inputs[0].meta["val"]
    if not isinstance(value, Tensor) or value.shape[:2] != first.shape[:2]:
        return False
    if any(given.meta["val"].shape[:2] != first.shape[:2] for given in inputs):
        return False
    if node.target in SPATIAL:
        return True
    if node.target in ELEMENTWISE:
        # aligned from the right, so that channels meet channels
        return value.dim() == first.dim() and all(
            given.meta["val"].dim() == value.dim() for given in inputs
        )
    if node.target is batch_norm:
        return inputs == [node.args[0]]
    if node.target in CONVOLUTIONS:
        weight = as_node(node.args[1]).meta["val"]
        return inputs == [node.args[0]] and len(weight) == argument(node, 6, 1) == first.shape[1]
    if node.target is aten.mean.dim:
        axes = [axis % first.dim() for axis in node.args[1]]  # pyright: ignore
        return min(axes) >= 2
    if node.target is aten.slice.Tensor:
        return argument(node, 1, 0) % first.dim() >= 2
    return False


def channel_by_channel(node: Node, changed: Collection[Node]) -> bool:
    """`map_by_map` for values that have the site's shape with the channels last."""
    value = node.meta.get("val")
    inputs = [given for given in node.all_input_nodes if given in changed]
    return (
        isinstance(value, Tensor)
        and node.target in ELEMENTWISE
        and all(given.meta["val"].shape == value.shape for given in inputs)
    )


def with_last_uses(
    nodes: Sequence[Node], reads: Callable[[Node], Iterable[Node]], kept: Collection[Node]
) -> list[tuple[Node, tuple[Node, ...]]]:
    """Each node with the values that no later node reads, without those in `kept`."""
    finished: list[tuple[Node, tuple[Node, ...]]] = []
    later: set[Node] = set(kept)
    for node in reversed(nodes):
        inputs = dict.fromkeys(reads(node))
        finished.append((node, tuple(given for given in inputs if given not in later)))
        later |= inputs.keys()
    return finished[::-1]
