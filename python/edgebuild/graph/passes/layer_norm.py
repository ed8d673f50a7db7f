"""Writes layer normalisation and RMS normalisation as one operator.

Takes: ``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * w + b`` along the last axis, with or without b, as LayerNormalization (opset
17); ``x / sqrt(mean(x^2) + epsilon) * w`` as RMSNormalization (opset 23) or, where the backend has it, as SimplifiedLayerNormalization. The
square may be a product or a power, the quotient a product with a reciprocal, the mean's axis kept or put back.

Refuses: means along other axes; an epsilon that is not one constant number; w and b that are not constants of one element for each
place of the last axis; no w; values inside that something else reads; types other than float32.

Numbers: rounding; engines sum in another order.
"""

import numpy as np
import onnx_ir as ir

from edgebuild.graph.arrange import Writer
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.match import (
    divided_by_root,
    last_axis_constant,
    maker,
    mean_of,
    square_of,
)
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.symbolic import sizes_of
from edgebuild.graph.values import constant_array, is_op, opset_of, supersede

SIMPLIFIED = "ai.onnx.SimplifiedLayerNormalization"
_LAYER_NORM_OPSET = 17
_RMS_NORM_OPSET = 23


class LayerNormFusion(GraphPass):
    """LayerNormalization from its parts, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "layer-norm"

    def rewrite(self, model: ir.Model) -> int:
        if opset_of(model) < _LAYER_NORM_OPSET:
            return 0
        return sum(_fuse_layer_norm(model.graph, node) for node in list(model.graph.all_nodes()))


class RmsNormFusion(GraphPass):
    """RMS normalisation from its parts, in the graph and all bodies.

    Args:
        simplified: Whether the backend has SimplifiedLayerNormalization.
    """

    def __init__(self, *, simplified: bool) -> None:
        super().__init__()
        self._simplified = simplified

    @property
    def name(self) -> str:
        return "rms-norm"

    def rewrite(self, model: ir.Model) -> int:
        if opset_of(model) >= _RMS_NORM_OPSET:
            operator = "RMSNormalization"
        elif self._simplified:
            operator = "SimplifiedLayerNormalization"
        else:
            return 0
        return sum(_fuse_rms_norm(model.graph, node, operator) for node in list(model.graph.all_nodes()))


def _fuse_layer_norm(main: ir.Graph, node: ir.Node) -> int:
    centred = divided_by_root(node.outputs[0]) if is_op(node, "Div", "Mul") else None
    if centred is None:
        return 0
    deviation, variance, epsilon = centred
    x = _minus_mean(deviation)
    squares = mean_of(variance)
    other = square_of(squares)
    if x is None or other is None or _minus_mean(other) is not x:
        return 0
    return _write(main, node, x, epsilon, "LayerNormalization")


def _minus_mean(value: ir.Value | None) -> ir.Value | None:
    """``x`` where a value is ``x - mean(x)``."""
    node = maker(value, "Sub")
    if node is None or node.inputs[0] is None:
        return None
    return node.inputs[0] if mean_of(node.inputs[1]) is node.inputs[0] else None


def _fuse_rms_norm(main: ir.Graph, node: ir.Node, operator: str) -> int:
    found = divided_by_root(node.outputs[0]) if is_op(node, "Div", "Mul") else None
    if found is None:
        return 0
    x, mean, epsilon = found
    return _write(main, node, x, epsilon, operator) if square_of(mean_of(mean)) is x else 0


def _write(main: ir.Graph, normal: ir.Node, x: ir.Value, epsilon: float, operator: str) -> int:
    """Fuses if the normal form is all that reads what is inside, and is multiplied by a constant."""
    out, sizes = normal.outputs[0], sizes_of(x)
    size = sizes[-1].number if sizes else None
    if normal.graph is None or size is None or x.dtype != ir.DataType.FLOAT or not _closed(normal, x):
        return 0
    scaled = only_reader(out)
    if scaled is None or scaled.graph is not normal.graph or not is_op(scaled, "Mul"):
        return 0
    weight = last_axis_constant(scaled, out, size)
    last, bias = scaled, None
    if weight is None:
        return 0
    if operator == "LayerNormalization":
        shifted = only_reader(scaled.outputs[0])
        if shifted is not None and is_op(shifted, "Add") and shifted.graph is normal.graph:
            bias = last_axis_constant(shifted, scaled.outputs[0], size)
            last = shifted if bias is not None else scaled
    writer = Writer(main, last)
    inputs: list[ir.Value | None] = [x, _vector(writer, weight)]
    if bias is not None:
        inputs.append(_vector(writer, bias))
    attributes: dict[str, int | float | str | list[int]] = {"axis": -1, "epsilon": float(np.float32(epsilon))}
    result = writer.node(operator, inputs, attributes, like=x, sizes=sizes)
    supersede(last.outputs[0], result)
    return 1


def _vector(writer: Writer, value: ir.Value) -> ir.Value:
    array = constant_array(value)
    if array is None or array.ndim == 1:
        return value
    return writer.constant(f"{value.name}.vector", array.reshape(-1), ir.DataType.FLOAT)


def _closed(normal: ir.Node, x: ir.Value) -> bool:
    """Whether nothing outside reads what lies between x and the normal form."""
    inside: dict[int, ir.Node] = {id(normal): normal}
    todo = [value for value in normal.inputs if value is not None and value is not x]
    while todo:
        value = todo.pop()
        node = value.producer()
        if node is None or value is x or id(node) in inside or constant_array(value, max_elements=1) is not None:
            continue
        if value.is_graph_output() or len(inside) > 16:
            return False
        inside[id(node)] = node
        todo.extend(read for read in node.inputs if read is not None and read is not x)
    return all(
        id(use.node) in inside
        for node in inside.values()
        if node is not normal
        for output in node.outputs
        for use in output.uses()
    )
