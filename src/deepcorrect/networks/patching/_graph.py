"""A network as an exported graph of tensor operations, cut after its sites."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from deepcorrect.networks import Layout, affine, find, folded, layout_of
from deepcorrect.networks.patching._batch_flow import BatchFlow, probe
from deepcorrect.networks.patching._nodes import (
    CONVOLUTIONS,
    ExportError,
    ancestors,
    argument,
    as_node,
    batch_norm,
    call,
    channel_by_channel,
    dependents,
    map_by_map,
    plain,
    with_last_uses,
)
from deepcorrect.runtime import InputError

aten = torch.ops.aten
Values = dict[Node, Any]

NORM = aten._native_batch_norm_legit_no_training.default
IN_PLACE: dict[Any, Any] = {
    aten.relu.default: aten.relu_.default,
    aten.add.Tensor: aten.add_.Tensor,
}
"""In-place forms of the operations that may overwrite their first input."""


@dataclass(frozen=True)
class Step:
    """The computation of one value.

    Attributes:
        node: The node whose value is computed.
        conv: The convolution that computes it, with the batch norm `node` after it folded in.
        by_channel: Whether a swap changes only one input channel of `conv`. The convolution is
            linear, so its output then changes by the contribution of that channel.
        in_place: Whether the first input may be overwritten where no gradient is needed.
        finished: The values that no later step reads.
    """

    node: Node
    conv: Node | None
    by_channel: bool
    in_place: bool
    finished: tuple[Node, ...]


@dataclass(frozen=True)
class Cut:
    """The part of a graph that depends on a site.

    As long as operations treat each map independently, swapping one filter changes one map. These
    operations (`alone`) are computed once for all filters, with every map swapped, and each swap
    takes its own map from the result. After the first operation that mixes maps, every value
    changes (`mixed`).

    Attributes:
        site: The node that computes the site's output.
        layout: Where the maps are in the values of `site` and of the nodes in `alone`.
        rerun: The steps that compute everything after the site.
        alone: The nodes after the site whose map i depends only on the site's map i, in order.
        edge: The nodes among `site` and `alone` that the mixed part or the output reads.
        swap: The steps that compute the mixed part when one map on the edge is swapped. Before it,
            they recompute those values from before the site that the mixed part reads and that do
            not hold one row per image.
    """

    site: Node
    layout: Layout
    rerun: tuple[Step, ...]
    alone: tuple[Node, ...]
    edge: tuple[Node, ...]
    swap: tuple[Step, ...]


class Graph:
    """A network in inference mode as a graph of tensor operations, cut after its sites.

    The graph is exported by `torch.export` for a fixed number of images per pass. Values that do
    not depend on the images, such as weights that are computed in `forward`, are constants: they
    are computed once. Which of the other values hold one row per image is found by a probe (see
    `_batch_flow`). The size of a value decides nothing, as a weight may have as many filters, or a
    position embedding as many tokens, as there are images.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: A batch, N x C x H x W, of the size of later passes, at least two images.
        sites: The names of the sites to cut after. Each must run exactly once.

    Raises:
        ExportError: The network's code cannot be exported, or cannot be cut at a site.
    """

    def __init__(self, model: nn.Module, images: Tensor, sites: Iterable[str]) -> None:
        self.rows = len(images)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(model, (images,), strict=False)
                program = program.run_decompositions({})
        except Exception as error:  # user code may raise anything during the export
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"torch.export: {reason[0]}") from error
        self._nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        self.constants: Values = {}
        self._read_inputs(program)
        self._simplify()
        self._compute_constants()
        self._flow = probe(self._nodes, self.constants, self.images, images)
        if self.output in self._flow.across_rows:
            raise ExportError("an image's answer depends on the other images of its batch")
        modules = find(model, sites)
        order = {node: place for place, node in enumerate(self._nodes)}
        needed = ancestors([self.output])
        self.cuts = {
            name: self._cut(
                site,
                _layout(name, modules[name], site, self._flow),
                sorted(dependents([site]) & needed, key=order.__getitem__),
            )
            for name, site in self._site_nodes(model, modules).items()
        }
        self._folded: dict[Node, tuple[Tensor, Tensor]] = {}
        self._by_input: dict[Node, Tensor] = {}
        kept = self._kept_nodes() | self.constants.keys()
        self.steps = with_last_uses(self._nodes, lambda node: node.all_input_nodes, kept)

    def _read_inputs(self, program: torch.export.ExportedProgram) -> None:
        nodes = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        if signature.buffers_to_mutate or len(signature.user_outputs) != 1:
            raise ExportError("the network changes its buffers or returns more than one tensor")
        for spec in signature.input_specs:
            node, name = nodes[spec.arg.name], spec.target
            if spec.kind == InputKind.USER_INPUT:
                self.images = node
            elif name in program.state_dict:
                self.constants[node] = program.state_dict[name].detach()
            elif isinstance(program.constants.get(name or ""), Tensor):
                self.constants[node] = program.constants[name or ""]
            else:
                raise ExportError(f"its input {spec.arg.name} is not a tensor")
        self.output: Node = nodes[str(next(iter(signature.user_outputs)))]

    def _simplify(self) -> None:
        """Replaces some exported operations by equivalent ones that are easier to run.

        An exported batch norm returns three tensors, two of them empty: its `getitem` 0 becomes
        `F.batch_norm`. A `view` becomes a `reshape`.
        """
        for node in list(self._nodes):
            if node.target is aten.view.default:  # the memory layout of the maps may differ
                node.target = aten.reshape.default
            if node.target is not operator.getitem or node.args[1] != 0:
                continue
            norm = as_node(node.args[0])
            if norm.target is NORM:
                node.target, node.args = batch_norm, norm.args[:5] + norm.args[6:7]
        for node in list(self._nodes):
            if node.target is NORM and not node.users:
                self._nodes.remove(node)
                node.graph.erase_node(node)

    def _compute_constants(self) -> None:
        """Computes all values that do not depend on the images, and keeps those that are read."""
        depending = dependents([self.images])
        fixed = [node for node in self._nodes if node not in depending]
        self._nodes = [node for node in self._nodes if node in depending]
        with torch.no_grad():
            for node in fixed:
                self.constants[node] = call(node, self.constants.__getitem__)
        read = {given for node in self._nodes for given in node.all_input_nodes} | {self.output}
        self.constants = {node: value for node, value in self.constants.items() if node in read}

    def _site_nodes(self, model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, Node]:
        paths = {module: path for path, module in model.named_modules()}
        found: dict[str, Node] = {}
        for name, module in modules.items():
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

    def _cut(self, site: Node, layout: Layout, behind: Sequence[Node]) -> Cut:
        treats_alone = channel_by_channel if layout.last else map_by_map
        changed, alone = {site, *behind}, {site}
        for node in behind:
            if {n for n in node.all_input_nodes if n in changed} <= alone and treats_alone(
                node, changed
            ):
                alone.add(node)
        mixed = [node for node in behind if node not in alone]
        read = {given for node in mixed for given in node.all_input_nodes} | {self.output}
        edge = tuple(node for node in (site, *behind) if node in alone and node in read)
        return Cut(
            site,
            layout,
            self._steps_of(behind, ()),
            tuple(node for node in behind if node in alone),
            edge,
            self._steps_of([*self._not_by_row(mixed, changed), *mixed], edge),
        )

    def _not_by_row(self, mixed: Sequence[Node], changed: Collection[Node]) -> list[Node]:
        """The values from before the site that `mixed` reads and that do not hold one row per
        image, with the values that they are computed from, back to those that do."""
        found: set[Node] = set()
        waiting = list(mixed)
        while waiting:
            for given in waiting.pop().all_input_nodes:
                known = given in self.constants or given in self._flow.by_row
                if not known and given not in changed and given not in found:
                    found.add(given)
                    waiting.append(given)
        return [node for node in self._nodes if node in found]

    def _steps_of(self, nodes: Sequence[Node], edge: Collection[Node]) -> tuple[Step, ...]:
        """The steps that compute `nodes`, each convolution together with its batch norm."""
        running = set(nodes)
        convs = {self.norm_behind(node): node for node in nodes}
        wanted = [node for node in nodes if self.norm_behind(node) not in running]

        def conv_of(node: Node) -> Node | None:
            by_itself = node.target in CONVOLUTIONS and self._fixed(node)
            return convs.get(node) or (node if by_itself else None)

        def reads(node: Node) -> list[Node]:
            conv = conv_of(node)
            return [as_node(conv.args[0])] if conv else node.all_input_nodes

        steps = []
        for node, finished in with_last_uses(wanted, reads, {self.output}):
            conv = conv_of(node)
            by_channel = conv is not None and conv.args[0] in edge and plain(conv)
            in_place = node.target in IN_PLACE and not node.kwargs and conv is None
            if in_place:
                first = node.args[0]
                in_place = isinstance(first, Node) and first in running and first in finished
            if in_place:
                first = as_node(node.args[0])
                # not a view of another value
                own = conv_of(first) is not None or first.target in IN_PLACE
                in_place = own and first.meta["val"].shape == node.meta["val"].shape
            steps.append(Step(node, conv, by_channel, in_place, finished))
        return tuple(steps)

    def _kept_nodes(self) -> set[Node]:
        """The nodes whose values a re-run may read; the others are freed as early as possible."""
        kept = {self.output, self.images}
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
        """Whether all inputs except the first are constants."""
        return all(given in self.constants for given in node.all_input_nodes[1:])

    def norm_behind(self, node: Node) -> Node | None:
        """The batch norm that is the only reader of a convolution, or None."""
        users = list(node.users)
        if node.target not in CONVOLUTIONS or len(users) != 1 or node is self.output:
            return None
        norm = users[0]
        behind = norm.target is batch_norm and norm.args[0] is node
        return norm if behind and self._fixed(node) and self._fixed(norm) else None

    def folded(self, node: Node) -> tuple[Tensor, Tensor]:
        """A convolution's weight and bias, with the batch norm after it folded in."""
        if node not in self._folded:
            weight = self._constant(node.args[1])
            bias = self._constant(argument(node, 2, None))
            norm = self.norm_behind(node)
            if norm is not None:
                _, scale, shift, mean, variance, eps = norm.args
                small = float(eps)  # pyright: ignore[reportArgumentType]
                statistics = self._constant(mean), self._constant(variance), small
                own = self._constant(scale), self._constant(shift)
                weight, bias = (
                    tensor.to(weight.dtype)
                    for tensor in folded(weight, bias, affine(*statistics, *own))
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
        """A convolution's folded weight by input channel: inputs x (k k) x outputs."""
        if node not in self._by_input:
            weight = self.folded(node)[0]
            columns = weight.permute(1, 2, 3, 0).flatten(1, 2)
            self._by_input[node] = columns.contiguous()
        return self._by_input[node]

    def prepare(self, cut: Cut) -> None:
        """Folds the weights that a cut's swaps use before threads share them."""
        for step in cut.swap:
            if step.conv is not None:
                self.folded(step.conv)
                if step.by_channel:
                    self.by_input(step.conv)

    def _constant(self, value: Any) -> Any:
        return self.constants[value] if isinstance(value, Node) else value


def _layout(name: str, module: nn.Module, site: Node, flow: BatchFlow) -> Layout:
    value = site.meta["val"]
    try:
        layout = layout_of(name, module, value)
    except InputError as error:
        raise ExportError(str(error)) from error
    if site in flow.across_rows:
        raise ExportError(f"{site.name} does not have one row per image")
    return layout
