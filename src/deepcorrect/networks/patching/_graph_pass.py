"""A recorded pass over an exported graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from deepcorrect.networks.patching._graph import IN_PLACE, Cut, Graph, Step, Values
from deepcorrect.networks.patching._nodes import argument, as_node, call, function_of
from deepcorrect.networks.patching._pass import Swap
from deepcorrect.runtime import parallel_map


class GraphPass:
    """A recorded pass over a `Graph`; see `Pass`.

    Args:
        graph: The graph of the network.
        images: At most `graph.rows` images, N x C x H x W.

    Attributes:
        logits: The logits of the pass, N x classes.
        maps: The maps of each site, N x C x H x W.
    """

    def __init__(self, graph: Graph, images: Tensor) -> None:
        self._graph, self._count = graph, len(images)
        values: Values = {**graph.constants, graph.images: self._padded(images)}
        with torch.no_grad():
            for node, finished in graph.steps:
                values[node] = call(node, values.__getitem__)
                for last in finished:
                    del values[last]
        self._values = values
        self.logits: Tensor = values[graph.output][: self._count]
        self.maps: dict[str, Tensor] = {
            name: cut.layout.maps(values[cut.site])[: self._count]
            for name, cut in graph.cuts.items()
        }

    def from_site(self, site: str, maps: Tensor) -> Tensor:
        """See `Pass.from_site`."""
        cut = self._graph.cuts[site]
        values = {**self._values, cut.site: self._output(cut, maps)}
        for step in cut.rerun:
            values[step.node] = self._compute(step, values.__getitem__, in_place=False)
            for last in step.finished:
                del values[last]
        return values[self._graph.output][: self._count]

    def swaps(self, site: str, clean: Tensor) -> Iterator[Swap]:
        """See `Pass.swaps`. Only changed maps are run, in batches of `rows` image-filter pairs."""
        graph, cut = self._graph, self._graph.cuts[site]
        if not cut.edge:  # the answer does not depend on the site
            return
        swapped = {**self._values, cut.site: self._output(cut, clean)}
        for node in cut.alone:
            swapped[node] = call(node, swapped.__getitem__)
        changed = torch.zeros(1, dtype=torch.bool, device=clean.device)
        for node in cut.edge:
            different = cut.layout.maps(swapped[node] != self._values[node])
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
        yield from parallel_map(run, range(0, len(filters), graph.rows), clean.device)

    def _swap_rows(self, cut: Cut, swapped: Values, rows: Tensor, channels: Tensor) -> Tensor:
        """The logits of image-filter pairs, whose swapped maps on the edge are in `swapped`."""
        recorded, local, places = self._values, {}, torch.arange(len(rows), device=rows.device)
        whole = torch.equal(rows, places)  # every image once, in order: no need to gather

        def read(node: Node) -> Any:
            if node in self._graph.constants:
                return self._graph.constants[node]
            if node not in local:
                local[node] = recorded[node] if whole else _rows_of(recorded[node], rows)
                if node in cut.edge:
                    local[node] = local[node].clone() if whole else local[node]
                    own, given = (cut.layout.maps(v) for v in (local[node], swapped[node]))
                    own[places, channels] = given[rows, channels]
            return local[node]

        for step in cut.swap:
            if step.by_channel and step.conv is not None:
                source = as_node(step.conv.args[0])
                change = swapped[source][rows, channels] - recorded[source][rows, channels]
                value = recorded[step.node]
                value = value if whole else _rows_of(value, rows)
                local[step.node] = self._add_channel(step.conv, value, change, channels)
            else:
                local[step.node] = self._compute(step, read, in_place=step.in_place)
            for last in step.finished:
                local.pop(last, None)
        return read(self._graph.output)

    def _compute(self, step: Step, read: Callable[[Node], Any], *, in_place: bool) -> Any:
        node, conv = step.node, step.conv
        if conv is not None:
            weight, bias = self._graph.folded(conv)
            return function_of(conv)(read(as_node(conv.args[0])), weight, bias, *conv.args[3:])
        if in_place:
            return IN_PLACE[function_of(node)](*map_arg(node.args, read))
        return call(node, read)

    def _add_channel(self, conv: Node, value: Tensor, change: Tensor, channels: Tensor) -> Tensor:
        """Adds the contribution of one changed input channel per row to a convolution's output.

        Args:
            conv: The convolution.
            value: Its output, R x O x H x W.
            change: The change of one input channel of each row, R x H x W.
            channels: The index of that channel, (R,).
        """
        (down, across), weight = (
            as_node(conv.args[1]).meta["val"].shape[2:],
            self._graph.by_input(conv)[channels],
        )
        stride, padding, dilation = (_two(argument(conv, *at)) for at in ((3, 1), (4, 0), (5, 1)))
        rows, outputs, height, width = value.shape
        padded = F.pad(change, (padding[1], padding[1], padding[0], padding[0]))
        image, line, pixel = padded.stride()
        windows = padded.as_strided(  # copying shifted maps is ten times as fast as F.unfold
            (rows, down, across, height, width),
            (image, dilation[0] * line, dilation[1] * pixel, stride[0] * line, stride[1] * pixel),
        ).reshape(rows, down * across, height * width)
        flat = value.permute(0, 2, 3, 1).reshape(rows, height * width, outputs)
        total = torch.baddbmm(flat, windows.transpose(1, 2), weight)
        return total.view(rows, height, width, outputs).permute(0, 3, 1, 2)

    def _output(self, cut: Cut, maps: Tensor) -> Tensor:
        """The site's output with these maps, padded to the batch size of the graph."""
        return cut.layout.output(self._padded(maps), self._values[cut.site])

    def _padded(self, maps: Tensor) -> Tensor:
        """Pads maps to the batch size of the graph by repeating the first row."""
        missing = self._graph.rows - len(maps)
        return torch.cat([maps, maps[:1].expand(missing, -1, -1, -1)]) if missing else maps


def _rows_of(value: Tensor, rows: Tensor) -> Tensor:
    """A copy of `value[rows]` that keeps the memory layout, unlike plain indexing."""
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return value.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return value.index_select(0, rows)


def _two(value: Any) -> tuple[int, int]:
    """A convolution's vertical and horizontal stride, padding or dilation."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return (pair[0], pair[-1])
