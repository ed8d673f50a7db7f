"""Writes a projection of flattened rows as one of rows: Reshape, Gemm, Reshape becomes MatMul and Add.

Takes: ``Reshape(Gemm(Reshape(x), W, b))`` where the first Reshape flattens all axes of x but the last, W is constant, and the second one
gives x's leading axes back; torch's MultiheadAttention is written so.

Refuses: a Gemm with transA, with alpha or beta other than 1, a bias that is not ``(N)`` or not constant, or another reader of a value in
between; axes that can't be told to be equal.

Numbers: none change: the same products of the same rows.
"""

import numpy as np
import onnx_ir as ir

from edgebuild.graph.arrange import Writer, linear_of
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.symbolic import product, sizes_of
from edgebuild.graph.values import is_op, supersede


class RowProjections(GraphPass):
    """MatMul and Add for Gemm between Reshapes, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "row-projections"

    def rewrite(self, model: ir.Model) -> int:
        return sum(_unflatten(model.graph, node) for node in list(model.graph.all_nodes()))


def _unflatten(main: ir.Graph, gemm: ir.Node) -> int:
    if not is_op(gemm, "Gemm") or gemm.graph is None or gemm.inputs[0] is None:
        return 0
    first, last = gemm.inputs[0].producer(), only_reader(gemm.outputs[0])
    linear = linear_of(gemm.outputs[0])
    if first is None or last is None or linear is None or not is_op(first, "Reshape") or not is_op(last, "Reshape"):
        return 0
    if first.graph is not gemm.graph or last.graph is not gemm.graph or only_reader(gemm.inputs[0]) is not gemm:
        return 0
    rows, flat, result = sizes_of(first.inputs[0]), sizes_of(gemm.inputs[0]), sizes_of(last.outputs[0])
    if rows is None or flat is None or result is None or first.inputs[0] is None or len(rows) < 3:
        return 0
    # All of x's axes but the last become rows if the last one stays.
    if len(flat) != 2 or rows[-1] != flat[-1] or rows[-1].number in (None, 0):
        return 0
    if result[:-1] != rows[:-1] or result[-1].number != linear.weight.shape[1]:
        return 0
    if product(rows[:-1]).factor == 0:
        return 0
    x, out = first.inputs[0], last.outputs[0]
    writer = Writer(main, last)
    dtype = out.dtype or x.dtype or ir.DataType.FLOAT
    name = gemm.outputs[0].name or "projection"
    weight = writer.constant(f"{name}.weight", np.ascontiguousarray(linear.weight), dtype)
    value = writer.node("MatMul", [x, weight], like=x, sizes=result)
    if linear.bias is not None:
        value = writer.node("Add", [value, writer.constant(f"{name}.bias", linear.bias, dtype)], like=x, sizes=result)
    supersede(out, value)
    return 1
