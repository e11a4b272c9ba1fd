"""Re-running a network behind a site, on its exported graph of tensor operations."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg
from torch.nn.utils.fusion import fuse_conv_bn_weights

from deepcorrect.computing import side_by_side
from deepcorrect.sites._find import find
from deepcorrect.sites._pass import Swap

aten = torch.ops.aten
Values = dict[Node, Any]

NORM = aten._native_batch_norm_legit_no_training.default
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
"""Operations on each value alone."""

SPATIAL = frozenset(
    {
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_bilinear2d.vec,
    }
)
"""Operations on each map alone, whatever their arguments."""

IN_PLACE = {aten.relu.default: aten.relu_.default, aten.add.Tensor: aten.add_.Tensor}


class ExportError(Exception):
    """The network cannot be re-run as a graph; `Replay` can."""


@dataclass(frozen=True)
class Step:
    """One value to compute.

    Attributes:
        node: whose value it is.
        conv: the convolution that gives it, with the batch norm `node` behind it folded in.
        by_channel: whether a swap changes one input channel of `conv`, whose output then changes
            by that channel's contribution, as it is linear.
        in_place: whether the first input may be overwritten.
        finished: values that no later step reads.
    """

    node: Node
    conv: Node | None
    by_channel: bool
    in_place: bool
    finished: tuple[Node, ...]


@dataclass(frozen=True)
class Cut:
    """What lies behind a site.

    As long as operations treat each map alone, swapping one filter changes one map. So those
    (`alone`) are computed once for all filters, with every map swapped, and a swap takes its own
    map from there. Behind them everything changes (`mixed`).

    Attributes:
        site: the node that gives the site's output.
        rerun: how to compute everything behind it.
        alone: the nodes behind it whose map i depends on the site's map i alone, in order.
        edge: of these and the site, the ones that the rest or the output reads.
        swap: how to compute the rest (`mixed`) when one map on the edge is swapped.
    """

    site: Node
    rerun: tuple[Step, ...]
    alone: tuple[Node, ...]
    edge: tuple[Node, ...]
    swap: tuple[Step, ...]


class Graph:
    """A network in inference mode as a graph of tensor operations, cut behind its sites.

    Made by `torch.export`. Passes run on exactly as many images as it was made with.

    Args:
        model: a network, wrapped or bare, in inference mode.
        images: a batch, N x C x H x W, of the size that passes will have; its values do not matter.
        sites: names of the sites to cut behind; each must run once.

    Raises:
        ExportError: the network's code cannot be exported, or not be cut at a site.
    """

    def __init__(self, model: nn.Module, images: Tensor, sites: Iterable[str]) -> None:
        self.rows = len(images)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(model, (images,), strict=False)
                program = program.run_decompositions({})
        except Exception as error:  # export may fail in any way that user code may
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"torch.export: {reason[0]}") from error
        self._nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        self.constants: Values = {}
        self._read_inputs(program)
        self._simplify_norms()
        order = {node: place for place, node in enumerate(self._nodes)}
        needed = _ancestors([self.output])
        self.cuts = {
            name: self._cut(site, sorted(_dependents([site]) & needed, key=order.__getitem__))
            for name, site in self._site_nodes(model, sites).items()
        }
        self._folded: dict[Node, tuple[Tensor, Tensor]] = {}
        self._by_input: dict[Node, Tensor] = {}
        kept = self._kept_nodes() | self.constants.keys()
        self._steps = _with_last_uses(self._nodes, lambda node: node.all_input_nodes, kept)

    def _read_inputs(self, program: torch.export.ExportedProgram) -> None:
        nodes = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        if signature.buffers_to_mutate or len(signature.user_outputs) != 1:
            raise ExportError("the network changes its buffers, or gives more than one tensor")
        for spec in signature.input_specs:
            if isinstance(spec.arg.name, str) and spec.arg.name not in nodes:
                continue
            node = nodes[spec.arg.name]
            if spec.kind == InputKind.USER_INPUT:
                self._images = node
            elif spec.target in program.state_dict:
                self.constants[node] = program.state_dict[spec.target].detach()
            elif spec.target in program.constants:
                self.constants[node] = program.constants[spec.target]
            else:
                raise ExportError(f"its input {spec.arg.name} is not a tensor")
        self.output: Node = nodes[signature.user_outputs[0]]

    def _simplify_norms(self) -> None:
        """The operation that export makes of a batch norm gives three tensors, two of them empty:
        `getitem` 0 of it becomes `F.batch_norm` itself."""
        for node in list(self._nodes):
            if node.target is not operator.getitem or node.args[1] != 0:
                continue
            norm = node.args[0]
            if isinstance(norm, Node) and norm.target is NORM:
                node.target = _batch_norm
                node.args = norm.args[:5] + norm.args[6:7]
        for node in list(self._nodes):
            if node.target is NORM and not node.users:
                self._nodes.remove(node)
                node.graph.erase_node(node)

    def _site_nodes(self, model: nn.Module, sites: Iterable[str]) -> dict[str, Node]:
        paths = {module: path for path, module in model.named_modules()}
        found: dict[str, Node] = {}
        for name, module in find(model, sites).items():
            path = paths[module]
            inside = [
                node
                for node in self._nodes
                if any(path == at[0] for at in node.meta.get("nn_module_stack", {}).values())
            ]
            if not inside or not isinstance(inside[-1].meta.get("val"), Tensor):
                raise ExportError(f"site {name!r} is not found in the exported graph")
            found[name] = inside[-1]
        return found

    def _cut(self, site: Node, behind: Sequence[Node]) -> Cut:
        if site.meta["val"].dim() != 4 or len(site.meta["val"]) != self.rows:
            raise ExportError(f"{site.name} is not N x C x H x W")
        changed, alone = {site, *behind}, {site}
        for node in behind:
            if {n for n in node.all_input_nodes if n in changed} <= alone and _map_by_map(
                node, changed
            ):
                alone.add(node)
        mixed = [node for node in behind if node not in alone]
        read = {given for node in mixed for given in node.all_input_nodes} | {self.output}
        edge = tuple(node for node in (site, *behind) if node in alone and node in read)
        return Cut(
            site,
            self._steps_of(behind, ()),
            tuple(node for node in behind if node in alone),
            edge,
            self._steps_of(mixed, edge),
        )

    def _steps_of(self, nodes: Sequence[Node], edge: Collection[Node]) -> tuple[Step, ...]:
        """How to compute `nodes`, a convolution together with its batch norm."""
        running = set(nodes)
        convs = {self.norm_behind(node): node for node in nodes}
        wanted = [node for node in nodes if self.norm_behind(node) not in running]

        def conv_of(node: Node) -> Node | None:
            by_itself = node.target in CONVOLUTIONS and self._fixed(node)
            return convs.get(node) or (node if by_itself else None)

        def reads(node: Node) -> list[Node]:
            conv = conv_of(node)
            return [_node(conv.args[0])] if conv else node.all_input_nodes

        steps = []
        for node, finished in _with_last_uses(wanted, reads, {self.output}):
            conv = conv_of(node)
            by_channel = conv is not None and conv.args[0] in edge and _plain(conv)
            first = node.args[0]
            owned = isinstance(first, Node) and first in running and first in finished
            if owned:  # not a view of something else
                owned = conv_of(first) is not None or first.target in IN_PLACE
            steps.append(Step(node, conv, by_channel, node.target in IN_PLACE and owned, finished))
        return tuple(steps)

    def _kept_nodes(self) -> set[Node]:
        """Nodes whose values a re-run may read; the others are dropped as soon as they may be."""
        kept = {self.output, self._images}
        for cut in self.cuts.values():
            computed = {step.node for step in cut.rerun} | set(cut.alone)
            kept |= {cut.site, *cut.edge}
            for step in (*cut.rerun, *cut.swap):
                node = step.conv or step.node
                kept |= {given for given in node.all_input_nodes if given not in computed}
                kept |= {step.node} if step.by_channel else set()
            for node in cut.alone:
                kept |= {given for given in node.all_input_nodes if given not in computed}
        return kept

    def _fixed(self, node: Node) -> bool:
        """Whether all but the first input are constants."""
        return all(given in self.constants for given in node.all_input_nodes[1:])

    def norm_behind(self, node: Node) -> Node | None:
        """The batch norm that alone reads a convolution, if there is one."""
        users = list(node.users)
        if node.target not in CONVOLUTIONS or len(users) != 1 or node is self.output:
            return None
        norm = users[0]
        behind = norm.target is _batch_norm and norm.args[0] is node
        return norm if behind and self._fixed(node) and self._fixed(norm) else None

    def folded(self, node: Node) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution, with the batch norm behind it folded in."""
        if node not in self._folded:
            weight = self._constant(node.args[1])
            bias = self._constant(_arg(node, 2, None))
            norm = self.norm_behind(node)
            if norm is not None:
                _, scale, shift, mean, variance, eps = norm.args
                weight, bias = fuse_conv_bn_weights(
                    weight,
                    bias,
                    self._constant(mean),
                    self._constant(variance),
                    float(eps),  # pyright: ignore[reportArgumentType]
                    self._constant(scale),
                    self._constant(shift),
                )
            if bias is None:
                bias = weight.new_zeros(len(weight))
            layout = torch.channels_last
            self._folded[node] = (
                weight.detach().contiguous(memory_format=layout),
                bias.detach(),
            )
        return self._folded[node]

    def by_input(self, node: Node) -> Tensor:
        """A convolution's folded weight for each input channel: inputs x (k k) x outputs."""
        if node not in self._by_input:
            weight = self.folded(node)[0]
            columns = weight.permute(1, 2, 3, 0).flatten(1, 2)
            self._by_input[node] = columns.contiguous()
        return self._by_input[node]

    def prepare(self, cut: Cut) -> None:
        """Folds the weights that a cut's swaps use, so that threads find them ready."""
        for step in cut.swap:
            if step.conv is not None:
                self.folded(step.conv)
                if step.by_channel:
                    self.by_input(step.conv)

    def _constant(self, value: Any) -> Any:
        return self.constants[value] if isinstance(value, Node) else value

    def record(self, images: Tensor) -> GraphPass:
        """Runs up to `rows` images, N x C x H x W, and records the pass."""
        count = len(images)
        if count < self.rows:
            images = torch.cat([images, images[:1].expand(self.rows - count, -1, -1, -1)])
        values: Values = {**self.constants, self._images: images}
        with torch.no_grad():
            for node, finished in self._steps:
                values[node] = _call(node, values.__getitem__)
                for last in finished:
                    del values[last]
        return GraphPass(self, values, count)


class GraphPass:
    """A recorded pass over a `Graph`; see `Pass`.

    Attributes:
        logits: N x classes.
        maps: each site's output, N x C x H x W.
    """

    def __init__(self, graph: Graph, values: Values, count: int) -> None:
        self._graph, self._values, self._count = graph, values, count
        self.logits: Tensor = values[graph.output][:count]
        self.maps: dict[str, Tensor] = {
            name: values[cut.site][:count] for name, cut in graph.cuts.items()
        }

    def from_site(self, site: str, maps: Tensor) -> Tensor:
        """Logits, N x classes, of the recorded pass with `site`'s output replaced by `maps`.

        Gradients flow to `maps` where it requires them.
        """
        cut = self._graph.cuts[site]
        values = {**self._values, cut.site: self._padded(maps)}
        for step in cut.rerun:
            values[step.node] = self._compute(step, values.__getitem__)
            for last in step.finished:
                del values[last]
        return values[self._graph.output][: self._count]

    def swaps(self, site: str, clean: Tensor) -> Iterator[Swap]:
        """See `Pass.swaps`. Only changed maps are run, `rows` pairs of image and filter a time."""
        graph, cut = self._graph, self._graph.cuts[site]
        swapped = {**self._values, cut.site: self._padded(clean)}
        for node in cut.alone:
            swapped[node] = _call(node, swapped.__getitem__)
        changed = torch.zeros(1, dtype=torch.bool, device=clean.device)
        for node in cut.edge:
            different = swapped[node] != self._values[node]
            changed = changed | (different.flatten(2).any(2) if different.dim() > 2 else different)
        filters, images = changed[: self._count].T.nonzero(as_tuple=True)

        def run(start: int) -> Swap:
            rows, channels = images[start : start + graph.rows], filters[start : start + graph.rows]
            count = len(rows)
            if count < graph.rows:
                rows = torch.cat([rows, rows[:1].expand(graph.rows - count)])
                channels = torch.cat([channels, channels[:1].expand(graph.rows - count)])
            logits = self._swap_rows(cut, swapped, rows, channels)
            return Swap(rows[:count], channels[:count], logits[:count])

        graph.prepare(cut)
        yield from side_by_side(run, range(0, len(filters), graph.rows), clean.device)

    def _swap_rows(self, cut: Cut, swapped: Values, rows: Tensor, channels: Tensor) -> Tensor:
        """Logits of pairs of an image and a filter, whose maps on the edge are in `swapped`."""
        recorded, local, places = self._values, {}, torch.arange(len(rows), device=rows.device)

        def read(node: Node) -> Any:
            if node in self._graph.constants:
                return self._graph.constants[node]
            if node not in local:
                local[node] = _rows_of(recorded[node], rows)
                if node in cut.edge:
                    local[node][places, channels] = swapped[node][rows, channels]
            return local[node]

        for step in cut.swap:
            if step.by_channel and step.conv is not None:
                source = step.conv.args[0]
                change = swapped[source][rows, channels] - recorded[source][rows, channels]
                value = _rows_of(recorded[step.node], rows)
                local[step.node] = self._add_channel(step.conv, value, change, channels)
            else:
                local[step.node] = self._compute(step, read)
            for last in step.finished:
                local.pop(last, None)
        return read(self._graph.output)

    def _compute(self, step: Step, read: Callable[[Node], Any]) -> Any:
        node, conv = step.node, step.conv
        if conv is not None:
            weight, bias = self._graph.folded(conv)
            return _function(conv)(read(_node(conv.args[0])), weight, bias, *conv.args[3:])
        if step.in_place:
            return IN_PLACE[node.target](*map_arg(node.args, read))
        return _call(node, read)

    def _add_channel(self, conv: Node, value: Tensor, change: Tensor, channels: Tensor) -> Tensor:
        """`value`, R x O x H x W, plus what `change`, R x H x W, adds to it as the convolution's
        input channel `channels`, (R,)."""
        (down, across), weight = (
            _node(conv.args[1]).meta["val"].shape[2:],
            self._graph.by_input(conv)[channels],
        )
        stride, padding, dilation = (_two(_arg(conv, *at)) for at in ((3, 1), (4, 0), (5, 1)))
        rows, outputs, height, width = value.shape
        padded = F.pad(change, (padding[1], padding[1], padding[0], padding[0]))
        image, line, pixel = padded.stride()
        windows = padded.as_strided(  # a copy of shifted maps: ten times as fast as F.unfold
            (rows, down, across, height, width),
            (image, dilation[0] * line, dilation[1] * pixel, stride[0] * line, stride[1] * pixel),
        ).reshape(rows, down * across, height * width)
        flat = value.permute(0, 2, 3, 1).reshape(rows, height * width, outputs)
        total = torch.baddbmm(flat, windows.transpose(1, 2), weight)
        return total.view(rows, height, width, outputs).permute(0, 3, 1, 2)

    def _padded(self, maps: Tensor) -> Tensor:
        missing = self._graph.rows - len(maps)
        return torch.cat([maps, maps[:1].expand(missing, -1, -1, -1)]) if missing else maps


def _batch_norm(
    maps: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    return F.batch_norm(maps, mean, variance, weight, bias, False, 0.0, eps)


def _call(node: Node, read: Callable[[Node], Any]) -> Any:
    return _function(node)(*map_arg(node.args, read), **map_arg(node.kwargs, read))


def _function(node: Node) -> Callable[..., Any]:
    if not callable(node.target):
        raise ExportError(f"{node.name} is not a function")
    return node.target


def _node(value: Any) -> Node:
    if not isinstance(value, Node):
        raise ExportError(f"{value!r} is not a value of the graph")
    return value


def _two(value: Any) -> tuple[int, int]:
    """A convolution's stride, padding or dilation, down and across."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return (pair[0], pair[-1])


def _plain(conv: Node) -> bool:
    """Whether a convolution has one group, and padding by numbers."""
    return _arg(conv, 6, 1) == 1 and not isinstance(_arg(conv, 4, 0), str)


def _arg(node: Node, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else default


def _rows_of(value: Tensor, rows: Tensor) -> Tensor:
    """`value[rows]`, a copy, its memory layout kept (a plain index would make it N x C x H x W)."""
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return value.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return value.index_select(0, rows)


def _dependents(nodes: Iterable[Node]) -> set[Node]:
    """All nodes that depend on these, without them."""
    found: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        for user in waiting.pop().users:
            if user.op == "call_function" and user not in found:
                found.add(user)
                waiting.append(user)
    return found


def _ancestors(nodes: Iterable[Node]) -> set[Node]:
    """All nodes that these depend on, and they."""
    found = set(nodes)
    waiting = list(found)
    while waiting:
        for given in waiting.pop().all_input_nodes:
            if given not in found:
                found.add(given)
                waiting.append(given)
    return found


def _map_by_map(node: Node, changed: Collection[Node]) -> bool:
    """Whether map i of a node's output depends on no map but i of its changed inputs."""
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
    if node.target is _batch_norm:
        return inputs == [node.args[0]]
    if node.target in CONVOLUTIONS:
        weight = _node(node.args[1]).meta["val"]
        return inputs == [node.args[0]] and len(weight) == _arg(node, 6, 1) == first.shape[1]
    if node.target is aten.mean.dim:
        axes = [axis % first.dim() for axis in node.args[1]]  # pyright: ignore
        return min(axes) >= 2
    if node.target is aten.slice.Tensor:
        return _arg(node, 1, 0) % first.dim() >= 2
    return False


def _with_last_uses(
    nodes: Sequence[Node], reads: Callable[[Node], Iterable[Node]], kept: Collection[Node]
) -> list[tuple[Node, tuple[Node, ...]]]:
    """Each node with the values that nothing reads after it, those `kept` left out."""
    finished: list[tuple[Node, tuple[Node, ...]]] = []
    later: set[Node] = set(kept)
    for node in reversed(nodes):
        inputs = dict.fromkeys(reads(node))
        finished.append((node, tuple(given for given in inputs if given not in later)))
        later |= inputs.keys()
    return finished[::-1]
