"""Replaces what is asked about static axes by constants.

Takes: Shape and Size of a value whose axes in question are static; Gather and Slice of a Shape where the axes picked are
static though others are not.

Refuses: symbolic axes, also of equal name; indices out of range (the engine shall say so at run time); Gather and Slice
along several axes or with steps; results that are outputs of a graph (those need a node that makes them).

Numbers: none change; a model whose values contradict its declared shapes never worked.

Why not onnxscript's symbolic folding: as of 0.7.2 it turns a scalar into a 1-D tensor in inlined branches (node case
``affine_grid_2d_expanded``) and raises on ``split_to_sequence_1``.
"""

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.values import add_initializer, constant_array, input_at, int_attribute, is_op, remove_node

Dim = int | None


class ShapeFolding(GraphPass):
    """Folds Shape, Size, and Gather or Slice of Shape, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "shape-folding"

    def rewrite(self, model: ir.Model) -> int:
        folded = 0
        for node in list(model.graph.all_nodes()):
            if not is_op(node, "Shape", "Size", "Gather", "Slice") or node.outputs[0].is_graph_output():
                continue
            array = _evaluate(node)
            if array is None or not node.outputs[0].uses():
                continue
            output = node.outputs[0]
            wanted, output.name = output.name or "shape", None
            value = add_initializer(model.graph, wanted, array, ir.DataType.INT64)
            ir.convenience.replace_all_uses_with(output, value)
            remove_node(node)
            folded += 1
        return folded


def _evaluate(node: ir.Node) -> npt.NDArray[np.int64] | None:
    if node.op_type == "Shape":
        return _vector(_dims_of_shape(node))
    if node.op_type == "Size":
        source = node.inputs[0]
        dims = _dims(source)
        return None if dims is None or None in dims else np.array(math.prod(d or 0 for d in dims), dtype=np.int64)
    source = node.inputs[0]
    maker = source.producer() if source is not None else None
    if maker is None or not is_op(maker, "Shape"):
        return None
    dims = _dims_of_shape(maker)
    if dims is None:
        return None
    return _gather(node, dims) if node.op_type == "Gather" else _slice(node, dims)


def _dims(value: ir.Value | None) -> list[Dim] | None:
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def _dims_of_shape(shape: ir.Node) -> list[Dim] | None:
    dims = _dims(shape.inputs[0])
    start, end = int_attribute(shape, "start", 0), int_attribute(shape, "end", 1 << 31)
    if dims is None or start is None or end is None:
        return None
    rank = len(dims)
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, 0), rank)
    return dims[start:end]


def _vector(dims: list[Dim] | None) -> npt.NDArray[np.int64] | None:
    return None if dims is None or None in dims else np.array(dims, dtype=np.int64).reshape(-1)


def _gather(node: ir.Node, dims: list[Dim]) -> npt.NDArray[np.int64] | None:
    indices = constant_array(input_at(node, 1), max_elements=64)
    if indices is None or int_attribute(node, "axis", 0) not in (0, -1):
        return None
    picked: list[Dim] = []
    for index in indices.ravel().tolist():
        if not -len(dims) <= index < len(dims):
            return None
        picked.append(dims[index])
    vector = _vector(picked)
    return None if vector is None else vector.reshape(indices.shape)


def _slice(node: ir.Node, dims: list[Dim]) -> npt.NDArray[np.int64] | None:
    if len(node.inputs) < 3:  # before opset 10 the limits are attributes
        return None
    bounds = [constant_array(input_at(node, index), max_elements=1) for index in (1, 2)]
    for index, neutral in ((3, (0, -1)), (4, (1,))):
        if input_at(node, index) is not None:
            extra = constant_array(input_at(node, index), max_elements=1)
            if extra is None or extra.size != 1 or int(extra.item()) not in neutral:
                return None
    start, end = bounds
    if start is None or end is None or start.size != 1 or end.size != 1:
        return None
    return _vector(dims[int(start.item()) : int(end.item())])
