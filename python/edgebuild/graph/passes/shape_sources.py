"""Reads sizes from the graph's inputs instead of from values inside.

Exporters ask the values inside for their shape. Such a question keeps a value alive that a fusion could leave out, and equal
questions to different values look different.

Takes: a Shape of one axis, and a Gather or Slice that gives one element of a Shape, of a value inside, where the axis has the name of an
axis of an input of the graph: becomes a Shape of that input.

Refuses: several axes at once; axes without a name; opsets before 15, whose Shape has no range.

Numbers: none change; equal names are equal sizes.
"""

import numpy as np
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.symbolic import integers, sizes_of
from edgebuild.graph.values import add_initializer, is_op, opset_of, supersede


class ShapeSources(GraphPass):
    """Takes questions for sizes to the inputs of the graph, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "shape-sources"

    def rewrite(self, model: ir.Model) -> int:
        if opset_of(model) < 15:
            return 0
        places: dict[str, tuple[ir.Value, int]] = {}
        for value in model.graph.inputs:
            if isinstance(value.type, ir.TensorType):
                for axis, size in enumerate(sizes_of(value) or ()):
                    if size.name is not None:
                        places.setdefault(size.name, (value, axis))
        if not places:
            return 0
        return sum(_redirect(model.graph, node, places) for node in list(model.graph.all_nodes()))


def _redirect(main: ir.Graph, node: ir.Node, places: dict[str, tuple[ir.Value, int]]) -> int:
    if not is_op(node, "Shape", "Gather", "Slice") or node.graph is None or node.outputs[0].is_graph_output():
        return 0
    output = node.outputs[0]
    if output.dtype != ir.DataType.INT64 or not output.uses() or output.shape is None or len(output.shape) > 1:
        return 0
    asked = _asked(node)
    sizes = integers(output)
    if asked is None or sizes is None or len(sizes) != 1 or sizes[0].name not in places:
        return 0
    value, axis = places[str(sizes[0].name)]
    if is_op(node, "Shape") and node.inputs[0] is value:
        return 0
    shape = ir.node("Shape", [value], {"start": axis, "end": axis + 1})
    shape.outputs[0].type, shape.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    nodes = [shape]
    if len(output.shape) == 0:
        target = add_initializer(main, "axis", np.array([0], dtype=np.int64), ir.DataType.INT64)
        squeeze = ir.node("Squeeze", [shape.outputs[0], target])
        squeeze.outputs[0].type, squeeze.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([])
        nodes.append(squeeze)
    node.graph.insert_before(node, nodes)
    supersede(output, nodes[-1].outputs[0])
    return 1


def _asked(node: ir.Node) -> ir.Value | None:
    """The value whose shape a node tells."""
    if is_op(node, "Shape"):
        return node.inputs[0]
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    return maker.inputs[0] if maker is not None and is_op(maker, "Shape") else None
