"""Folds the addition of a constant into the bias of the operator before it.

Takes: ``Conv(x, W[, B]) + c`` and ConvTranspose with one element of c for each output channel, or one for all; ``Gemm(a, b[, C]) + c`` with
c for each column, or one for all; ``MatMul(x, W) + c`` of two axes each, with constant W, which becomes Gemm. Products with more axes stay
MatMul and Add: the engine runs them as they are, and a Gemm would need Reshapes around it.

Refuses: a product that something else reads; a c of another shape; a bias that is not constant; Gemm with a factor beta other than 1 or a
constant with rows; sums that overflow the type.

Numbers: two roundings become one.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.passes.conv_batch_norm import FLOATS, rounded
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.values import (
    add_initializer,
    constant_array,
    float_attribute,
    input_at,
    int_attribute,
    is_op,
    supersede,
)


class BiasFolding(GraphPass):
    """Folds constants into the biases of Conv, ConvTranspose, Gemm and two-dimensional MatMul, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "bias"

    def rewrite(self, model: ir.Model) -> int:
        return sum(_fold(model.graph, node) for node in list(model.graph.all_nodes()))


def _fold(main: ir.Graph, add: ir.Node) -> int:
    if not is_op(add, "Add") or add.graph is None:
        return 0
    for index in (0, 1):
        product, constant = add.inputs[index], constant_array(add.inputs[1 - index])
        node = product.producer() if product is not None else None
        if product is None or node is None or constant is None or only_reader(product) is not add:
            continue
        if node.graph is not add.graph or not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        bias = _bias(node, product, constant)
        if bias is None:
            return 0
        dtype = product.dtype or ir.DataType.FLOAT
        array = rounded(bias, dtype)
        if array is None:
            return 0
        value = add_initializer(main, f"{add.outputs[0].name or 'sum'}.bias", array, dtype)
        if is_op(node, "MatMul"):
            result = _gemm(node, value)
            result.type, result.shape = product.type, product.shape
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, value)
            result = product
        supersede(add.outputs[0], result)
        return 1
    return 0


def _gemm(node: ir.Node, bias: ir.Value) -> ir.Value:
    gemm = ir.node("Gemm", [node.inputs[0], node.inputs[1], bias])
    assert node.graph is not None
    node.graph.insert_after(node, gemm)
    return gemm.outputs[0]


def _bias(node: ir.Node, product: ir.Value, constant: npt.NDArray[np.generic]) -> npt.NDArray[np.float64] | None:
    """The new bias, one element an output channel or column; None if it is none."""
    weight = constant_array(input_at(node, 1))
    if weight is None or product.dtype not in FLOATS or product.shape is None:
        return None
    rank = len(product.shape)
    if is_op(node, "Conv", "ConvTranspose"):
        group = int_attribute(node, "group", 1)
        if group is None or weight.ndim < 3 or weight.ndim != rank:
            return None
        channels = weight.shape[0] if is_op(node, "Conv") else weight.shape[1] * group
        added = _along(constant, rank, 1, channels)
    else:
        if rank != 2 or weight.ndim != 2:
            return None
        transposed = is_op(node, "Gemm") and int_attribute(node, "transB", 0)
        channels = weight.shape[0] if transposed else weight.shape[1]
        added = _along(constant, rank, 1, channels)
        if is_op(node, "Gemm") and float_attribute(node, "beta", 1.0) != 1.0:
            return None
        if is_op(node, "MatMul") and (
            node.inputs[0] is None or node.inputs[0].shape is None or len(node.inputs[0].shape) != 2
        ):
            return None
    old_value = input_at(node, 2) if not is_op(node, "MatMul") else None
    old = constant_array(old_value)
    if added is None or (old_value is not None and (old is None or old.shape != (channels,))):
        return None
    return added if old is None else added + old.astype(np.float64)


def _along(constant: npt.NDArray[np.generic], rank: int, axis: int, size: int) -> npt.NDArray[np.float64] | None:
    """A constant that varies along one axis only, as one element for each place of it."""
    if constant.ndim > rank or constant.dtype.kind not in "fV":
        return None
    full = constant.astype(np.float64).reshape((1,) * (rank - constant.ndim) + constant.shape)
    if any(length != 1 for place, length in enumerate(full.shape) if place != axis):
        return None
    if full.shape[axis] not in (1, size):
        return None
    return np.ascontiguousarray(np.broadcast_to(full.ravel(), (size,)))
