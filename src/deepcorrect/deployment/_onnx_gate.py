"""A gate and two networks as one ONNX graph, in which each image passes one of the networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from deepcorrect.runtime import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

IMAGES, LOGITS = "images", "logits"
"""The names of the input and of the output of an exported model."""


def compose_gated(gate: ModelProto, base: ModelProto, corrected: ModelProto) -> ModelProto:
    """Composes one ONNX model of a gate and of the two networks that it chooses between.

    Each network stands in the branch of an `If`, which runs if any image is sent to it. With any
    batch size, the network's own images are gathered before, and the outputs are put in order
    afterwards; with a fixed batch size, the network runs on the whole batch. Each network keeps its
    initialisers in its own branch: ONNX Runtime lays out and fuses only convolutions whose weights
    stand beside them. Shared in the outer graph, they made a ResNet-20 take 1.8 times as long.

    Args:
        gate: A model from `images`, N x C x H x W, to a decision per image, (N,) bool: whether it
            is distorted.
        base: The model from `images` to `logits`, one row per image, for images that are not.
        corrected: The model for images that are. Its input and output have the shapes of the
            base's.

    Returns:
        The model from `images` to `logits`, with the metadata of `base`.

    Raises:
        InputError: The shape of an image's output is not fixed.
    """
    from onnx import compose, helper  # noqa: PLC0415

    source, output = base.graph.input[0], base.graph.output[0]
    any_batch = not source.type.tensor_type.shape.dim[0].HasField("dim_value")
    decision = compose.add_prefix(gate, "gate/", rename_inputs=False)
    distorted = decision.graph.output[0].name
    networks = {
        part: compose.add_prefix(model, f"{part}/", rename_inputs=any_batch).graph
        for part, model in (("corrected", corrected), ("base", base))
    }
    nodes = [*decision.graph.node, helper.make_node("Not", [distorted], ["undistorted"])]
    for part, mask in (("corrected", distorted), ("base", "undistorted")):
        nodes += _rows(part, mask) if any_batch else _whole(part, mask)
        nodes.append(_if(part, networks[part], output, any_batch))
    nodes += _merged_rows() if any_batch else _merged_batches(distorted)
    initialisers = [*decision.graph.initializer, *_constants(output, any_batch)]
    return _composed(nodes, initialisers, base, (gate, base, corrected))


def compose_mean(base: ModelProto, corrected: ModelProto) -> ModelProto:
    """Composes one ONNX model that returns what `networks.mean_answers` does of two.

    Args:
        base: The model from `images` to `logits`, N x classes.
        corrected: Another of the same input and output.

    Returns:
        The model from `images` to `logits`, with the metadata of `base`.
    """
    from onnx import TensorProto, compose, helper  # noqa: PLC0415

    nodes: list[NodeProto] = []
    initialisers = [
        helper.make_tensor("networks", TensorProto.INT64, [1], [0]),
        helper.make_tensor("log 2", TensorProto.FLOAT, [], [math.log(2)]),
    ]
    rows = []
    for part, model in (("own", base), ("other", corrected)):
        graph = compose.add_prefix(model, f"{part}/", rename_inputs=False).graph
        log, row = f"{part}/log", f"{part}/row"
        nodes += graph.node
        nodes.append(helper.make_node("LogSoftmax", [graph.output[0].name], [log], axis=1))
        nodes.append(helper.make_node("Unsqueeze", [log, "networks"], [row]))
        initialisers += graph.initializer
        rows.append(row)
    nodes.append(helper.make_node("Concat", rows, ["both"], axis=0))
    nodes.append(helper.make_node("ReduceLogSumExp", ["both", "networks"], ["sum"], keepdims=0))
    nodes.append(helper.make_node("Sub", ["sum", "log 2"], [LOGITS]))
    return _composed(nodes, initialisers, base, (base, corrected))


def _composed(
    nodes: Sequence[NodeProto],
    initialisers: Sequence[TensorProto],
    base: ModelProto,
    parts: Sequence[ModelProto],
) -> ModelProto:
    """A model with the input, the output and the metadata of `base`, of nodes of all parts."""
    from onnx import checker, helper  # noqa: PLC0415

    ends = [base.graph.input[0]], [base.graph.output[0]]
    opsets = {entry.domain: entry for model in parts for entry in model.opset_import}
    composed = helper.make_model(
        helper.make_graph(nodes, base.graph.name, *ends, initialisers),
        opset_imports=list(opsets.values()),
        ir_version=max(model.ir_version for model in parts),
        producer_name=base.producer_name,
        producer_version=base.producer_version,
    )
    composed.metadata_props.extend(base.metadata_props)
    checker.check_model(composed)
    return composed


def _rows(part: str, mask: str) -> Iterator[NodeProto]:
    """Gathers a network's images, and finds whether there are any."""
    from onnx import helper  # noqa: PLC0415

    yield helper.make_node("NonZero", [mask], [f"{part}/places"])
    yield helper.make_node("Squeeze", [f"{part}/places", "first"], [f"{part}/rows"])
    yield helper.make_node("Size", [f"{part}/rows"], [f"{part}/count"])
    yield helper.make_node("Cast", [f"{part}/count"], [f"{part}/any"], to=_bool())
    yield helper.make_node("Gather", [IMAGES, f"{part}/rows"], [f"{part}/{IMAGES}"], axis=0)


def _whole(part: str, mask: str) -> Iterator[NodeProto]:
    """Finds whether a network has any images."""
    from onnx import TensorProto, helper  # noqa: PLC0415

    yield helper.make_node("Cast", [mask], [f"{part}/ones"], to=TensorProto.INT32)
    yield helper.make_node("ReduceMax", [f"{part}/ones"], [f"{part}/most"], keepdims=0)
    yield helper.make_node("Cast", [f"{part}/most"], [f"{part}/any"], to=_bool())


def _if(part: str, network: GraphProto, output: ValueInfoProto, any_batch: bool) -> NodeProto:
    """Runs a network if it has any images; otherwise its output is empty, or zeros."""
    from onnx import TensorProto, helper  # noqa: PLC0415

    kind = output.type.tensor_type.elem_type
    shape = _output_shape(output)
    count = 0 if any_batch else shape[0]
    given = helper.make_tensor_value_info(network.output[0].name, kind, [None, *shape[1:]])
    then = helper.make_graph(network.node, part, [], [given], network.initializer)
    size = helper.make_tensor("shape", TensorProto.INT64, [len(shape)], [count, *shape[1:]])
    zero = helper.make_tensor("zero", kind, [1], [0])
    otherwise = helper.make_graph(
        [
            helper.make_node("Constant", [], [f"{part}/shape"], value=size),
            helper.make_node("ConstantOfShape", [f"{part}/shape"], [f"{part}/none"], value=zero),
        ],
        f"not {part}",
        [],
        [helper.make_tensor_value_info(f"{part}/none", kind, [None, *shape[1:]])],
    )
    return helper.make_node(
        "If", [f"{part}/any"], [f"{part}/output"], then_branch=then, else_branch=otherwise
    )


def _merged_rows() -> Iterator[NodeProto]:
    """Puts the rows of both networks in the order of the images."""
    from onnx import helper  # noqa: PLC0415

    parts = ("corrected", "base")
    yield helper.make_node("Concat", [f"{part}/rows" for part in parts], ["order"], axis=0)
    yield helper.make_node("Concat", [f"{part}/output" for part in parts], ["unordered"], axis=0)
    yield helper.make_node("Unsqueeze", ["order", "last"], ["indices"])
    yield helper.make_node("ScatterND", ["unordered", "indices", "unordered"], [LOGITS])


def _merged_batches(distorted: str) -> Iterator[NodeProto]:
    """Takes each row from the network that the image was sent to."""
    from onnx import helper  # noqa: PLC0415

    yield helper.make_node("Reshape", [distorted, "column"], ["rows"])
    yield helper.make_node("Where", ["rows", "corrected/output", "base/output"], [LOGITS])


def _constants(output: ValueInfoProto, any_batch: bool) -> list[TensorProto]:
    """The initialisers of the nodes around the networks."""
    from onnx import TensorProto, helper  # noqa: PLC0415

    column = [-1, *[1] * (len(_output_shape(output)) - 1)]
    values = {"first": [0], "last": [-1]} if any_batch else {"column": column}
    return [
        helper.make_tensor(name, TensorProto.INT64, [len(value)], value)
        for name, value in values.items()
    ]


def _output_shape(output: ValueInfoProto) -> list[int]:
    """The output's shape, in which a size of 0 stands for any number of images."""
    dims = output.type.tensor_type.shape.dim
    if not dims or not all(dim.HasField("dim_value") for dim in dims[1:]):
        raise InputError(
            "the network's output for an image has no fixed shape, which a gate in one ONNX file "
            "needs: export to .pt2, or correct this network without a gate"
        )
    return [dim.dim_value for dim in dims]


def _bool() -> int:
    from onnx import TensorProto  # noqa: PLC0415

    return TensorProto.BOOL
