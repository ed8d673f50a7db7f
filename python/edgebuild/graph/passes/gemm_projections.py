"""Writes a projection of rows with a bias as one Gemm of flattened rows: what a quantiser wants, not what fusions want.

ONNX Runtime makes Reshape, Gemm, Reshape of MatMul and Add when it loads a graph, and it does so before it looks for Q/DQ: a MatMul with
Q/DQ on its inputs and none behind it then becomes a float Gemm of dequantised weights. Written as Gemm beforehand, the same Q/DQ give QGemm with
the bias inside and float output. Measured with 1.31.1 on two feed-forward layers of MiniLM's size, VNNI, over float: 3.1 times as fast, with
Q/DQ behind each MatMul 2.75 times, with none 0.7 times. In float both forms take the same time. Without a bias MatMul is the better form.

The opposite of ``row_projections``; not part of ``optimize``, to be run on a graph that is about to be quantised.

Takes: ``MatMul(x, W) + b`` with x of three axes and more, constant ``W (K, N)`` and constant ``b (N)``, float32. Projections of one x share
one Reshape.

Refuses: a product that something else reads; constants of other shapes; axes of unknown number.

Numbers: rounding.
"""

import numpy as np
import onnx_ir as ir

from edgebuild.graph.arrange import Writer
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.symbolic import Size, constant_target, product, sizes_of
from edgebuild.graph.values import constant_array, is_op, opset_of, supersede

_SHAPE_RANGE_OPSET = 15


class GemmProjections(GraphPass):
    """Gemm between Reshapes for MatMul and Add, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "gemm-projections"

    def rewrite(self, model: ir.Model) -> int:
        if opset_of(model) < _SHAPE_RANGE_OPSET:
            return 0
        flattened: dict[tuple[int, int], ir.Value] = {}
        return sum(_flatten(model.graph, node, flattened) for node in list(model.graph.all_nodes()))


def _flatten(main: ir.Graph, matmul: ir.Node, flattened: dict[tuple[int, int], ir.Value]) -> int:
    if not is_op(matmul, "MatMul") or matmul.graph is None or matmul.inputs[0] is None:
        return 0
    x, weight, add = matmul.inputs[0], constant_array(matmul.inputs[1]), only_reader(matmul.outputs[0])
    sizes = sizes_of(x)
    if sizes is None or len(sizes) < 3 or x.dtype != ir.DataType.FLOAT or weight is None or weight.ndim != 2:
        return 0
    if add is None or not is_op(add, "Add") or add.graph is not matmul.graph:
        return 0
    others = [value for value in add.inputs if value is not matmul.outputs[0]]
    bias = constant_array(others[0]) if len(others) == 1 else None
    depth, width = weight.shape
    if bias is None or bias.shape != (width,) or sizes[-1].number != depth or 0 in weight.shape:
        return 0
    key = (id(matmul.graph), id(x))
    first, writer = Writer(main, matmul), Writer(main, add)
    if key not in flattened:
        rows = first.integers(f"{x.name}.rows", [-1, depth])
        flat = [product(sizes[:-1]), Size(depth)]
        flattened[key] = first.node("Reshape", [x, rows], like=x, sizes=flat)
    out = add.outputs[0]
    row_sizes = [product(sizes[:-1]), Size(width)]
    gemm = writer.node("Gemm", [flattened[key], matmul.inputs[1], others[0]], like=x, sizes=row_sizes)
    result = [*sizes[:-1], Size(width)]
    target = constant_target(row_sizes, result)
    if target is not None:
        shape = writer.integers(f"{out.name}.target", target)
    else:
        shape = _computed_target(writer, x, len(sizes), width)
    supersede(out, writer.node("Reshape", [gemm, shape], like=x, sizes=result))
    return 1


def _computed_target(writer: Writer, x: ir.Value, rank: int, width: int) -> ir.Value:
    leading = writer.node("Shape", [x], {"start": 0, "end": rank - 1}, sizes=[Size(rank - 1)], dtype=ir.DataType.INT64)
    last = writer.constant("width", np.array([width], np.int64), ir.DataType.INT64)
    return writer.node("Concat", [leading, last], {"axis": 0}, sizes=[Size(rank)], dtype=ir.DataType.INT64)
